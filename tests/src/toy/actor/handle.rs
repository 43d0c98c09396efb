//! The tests' side of an actor.

use std::{
    fmt::Write as _,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::SocketAddr,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{Put, Take};
use crate::{
    process::{PATIENCE, Running, Watch},
    toy::{ACTOR, calls::wait_for, program, streams::wait},
};

/// One actor; it ends when this is dropped.
pub(crate) struct Actor {
    control: BufReader<UnixStream>,
    pid: u32,
    /// Process of an actor that was not forked.
    _process: Option<Running>,
}

/// One message, or piece of a stream, that was received.
pub(crate) struct Got {
    /// The call's result, or the element's length.
    pub(crate) length: usize,
    /// Its bytes, as many as fitted into the buffer.
    pub(crate) bytes: Vec<u8>,
}

impl Actor {
    /// Starts an actor without sockets.
    pub(crate) fn start() -> Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = Command::new(program());
        command.arg(ACTOR).stdin(OwnedFd::from(theirs));
        let process = Running::start("actor", command, Watch::Stdout)?;
        Ok(Self {
            control: BufReader::new(ours),
            pid: process.pid(),
            _process: Some(process),
        })
    }

    /// Returns its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Makes the actor fork. The child has the same descriptors. `path` is used for a socket for a moment.
    pub(crate) fn fork(&mut self, path: &Path) -> Result<Self> {
        let listener = UnixListener::bind(path)?;
        let pid = self.call(&format!("fork {}", path.display()), &[])?;
        let control = listener.accept()?.0;
        std::fs::remove_file(path)?;
        Ok(Self {
            control: BufReader::new(control),
            pid: pid.parse()?,
            _process: None,
        })
    }

    /// Passes the descriptor `key` to another actor. `path` is used for a socket for a moment.
    pub(crate) fn give(&mut self, key: u32, other: &mut Self, path: &Path) -> Result<()> {
        other.call(&format!("await {}", path.display()), &[])?;
        self.call(&format!("give {key} {}", path.display()), &[])?;
        other.call(&format!("given {key}"), &[])?;
        Ok(std::fs::remove_file(path)?)
    }

    /// Runs a command that makes a socket. Returns the socket's address.
    pub(crate) fn make(&mut self, command: &str) -> Result<SocketAddr> {
        Ok(self.call(command, &[])?.parse()?)
    }

    /// Connects with data in the first segment. Returns the socket's address and the number of bytes sent.
    pub(crate) fn fast_open(
        &mut self,
        key: u32,
        server: SocketAddr,
        bytes: &[u8],
    ) -> Result<(SocketAddr, usize)> {
        let words = self.call(&format!("fastopen {key} {server}"), bytes)?;
        let (address, sent) = words.split_once(' ').context("no count")?;
        Ok((address.parse()?, sent.parse()?))
    }

    /// Runs a command. Returns the words of its reply.
    pub(crate) fn call(&mut self, command: &str, bytes: &[u8]) -> Result<String> {
        self.begin(command, bytes)?;
        Ok(self.finish(|| Ok(()))?.0)
    }

    /// Receives. Returns nothing if there is no message, or if the connection has an error.
    pub(crate) fn take(
        &mut self,
        key: u32,
        call: Take,
        flags: i32,
        named: bool,
        sizes: &[usize],
    ) -> Result<Result<Vec<Got>, io::Error>> {
        let named = if named { "named" } else { "nameless" };
        let sizes = words(sizes);
        self.begin(&format!("take {key} {call:?} {flags} {named} {sizes}"), &[])?;
        let (text, bytes) = match self.finish(|| Ok(())) {
            Ok(reply) => reply,
            Err(error) => return Ok(Err(error.downcast::<io::Error>()?)),
        };
        let mut rest = bytes.as_slice();
        let mut all = Vec::new();
        let sizes: Vec<usize> = sizes.split(',').flat_map(str::parse).collect();
        for (at, element) in text.split(',').enumerate() {
            let length: usize = element.parse()?;
            let room = if call == Take::Recvmmsg {
                sizes[at]
            } else {
                usize::MAX
            };
            let (own, behind) = rest.split_at(length.min(room).min(rest.len()));
            rest = behind;
            all.push(Got {
                length,
                bytes: own.to_vec(),
            });
        }
        Ok(Ok(all))
    }

    /// Sends, in segments of these lengths. Returns the number of bytes sent, or an error of the connection. Runs
    /// `meanwhile` while it waits.
    pub(crate) fn put(
        &mut self,
        key: u32,
        sending: &Sending<'_>,
        bytes: &[u8],
        meanwhile: impl FnMut() -> Result<()>,
    ) -> Result<Result<usize, io::Error>> {
        let Sending {
            call,
            flags,
            to,
            segment,
            others,
            cuts,
        } = sending;
        let to = to.map_or_else(|| "-".to_owned(), |to| to.to_string());
        let cuts = words(cuts);
        self.begin(
            &format!("put {key} {call:?} {flags} {to} {segment} {others} {cuts}"),
            bytes,
        )?;
        match self.finish(meanwhile) {
            Ok((words, _)) => Ok(Ok(words.parse()?)),
            Err(error) => Ok(Err(error.downcast::<io::Error>()?)),
        }
    }

    /// Sends a command; [`Self::finish`] waits for its reply.
    pub(crate) fn begin(&mut self, command: &str, bytes: &[u8]) -> Result<()> {
        let mut text = format!("{command} {}\n", bytes.len()).into_bytes();
        text.extend(bytes);
        let control = self.control.get_mut();
        control.write_all(&text).context("telling an actor")
    }

    /// Waits for the reply to the command, and runs `meanwhile` again and again until it arrives.
    pub(crate) fn finish(
        &mut self,
        mut meanwhile: impl FnMut() -> Result<()>,
    ) -> Result<(String, Vec<u8>)> {
        let deadline = Instant::now() + PATIENCE;
        while !wait_for(&mut [wait(self.control.get_ref().as_fd(), libc::POLLIN)], 1)? {
            meanwhile()?;
            ensure!(Instant::now() < deadline, "an actor does not answer");
        }
        let mut line = String::new();
        self.control.read_line(&mut line)?;
        let line = line.trim_end();
        let (words, length) = line.rsplit_once(' ').context("the actor has ended")?;
        let mut bytes = vec![0; length.parse()?];
        self.control.read_exact(&mut bytes)?;
        match words.split_once(' ') {
            Some(("ok", words)) => Ok((words.to_owned(), bytes)),
            Some(("error", number)) => Err(io::Error::from_raw_os_error(number.parse()?).into()),
            _ => bail!("the actor said {line}"),
        }
    }
}

/// Parameters of a send.
pub(crate) struct Sending<'a> {
    /// Call that sends.
    pub(crate) call: Put,
    /// `MSG_*` flags.
    pub(crate) flags: i32,
    /// Address of the receiver, if the socket is not connected.
    pub(crate) to: Option<SocketAddr>,
    /// Size of the datagrams into which the kernel splits the bytes; 0: it does not split.
    pub(crate) segment: u16,
    /// Number of other control messages before the one for `segment`.
    pub(crate) others: usize,
    /// Lengths of the segments; one more takes the rest.
    pub(crate) cuts: &'a [usize],
}

fn words(numbers: &[usize]) -> String {
    let mut text = String::new();
    for number in numbers {
        let comma = if text.is_empty() { "" } else { "," };
        write!(text, "{comma}{number}").expect("writing to a string does not fail");
    }
    if text.is_empty() {
        text.push('-');
    }
    text
}

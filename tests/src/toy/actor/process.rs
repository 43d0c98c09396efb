//! The actor's process: its descriptors, and one command for each line of its control socket.

use std::{
    collections::HashMap,
    io::{self, BufRead as _, BufReader, IoSlice, IoSliceMut, Read as _, Write as _},
    net::{Shutdown, SocketAddr},
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    process,
    str::FromStr,
    sync::Barrier,
    thread,
};

use anyhow::Result;
use socket2::{Domain, SockAddr, Socket, Type};

use super::{
    Put, Take,
    calls::{self, TCP_FASTOPEN_NO_COOKIE},
};
use crate::toy::calls as plain;

/// A reply: words and bytes.
type Reply = (String, Vec<u8>);

/// Runs commands until the control socket, which is its standard input, is closed.
pub(crate) fn act() -> Result<()> {
    let control = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    obey(control, Process::default())
}

fn obey(control: UnixStream, mut process: Process) -> Result<()> {
    let mut input = BufReader::new(control);
    let mut line = String::new();
    loop {
        line.clear();
        if input.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let words: Vec<_> = line.trim_end().split(' ').collect();
        let (length, words) = words.split_last().unwrap_or((&"0", &[]));
        let mut bytes = vec![0; length.parse()?];
        input.read_exact(&mut bytes)?;
        if let ["fork", path] = words {
            match calls::fork()? {
                0 => {
                    drop(input);
                    let done = UnixStream::connect(path)
                        .map_err(Into::into)
                        .and_then(|control| obey(control, process));
                    process::exit(i32::from(done.is_err()));
                }
                pid => reply(input.get_mut(), Ok((pid.to_string(), Vec::new())))?,
            }
            continue;
        }
        let done = process.act(words, &bytes);
        reply(input.get_mut(), done)?;
    }
}

fn reply(control: &mut UnixStream, done: io::Result<Reply>) -> Result<()> {
    let text = match done {
        Ok((words, bytes)) => {
            let mut text = format!("ok {words} {}\n", bytes.len()).into_bytes();
            text.extend(bytes);
            text
        }
        Err(error) => match error.raw_os_error() {
            Some(number) => format!("error {number} 0\n").into_bytes(),
            None => return Err(error.into()),
        },
    };
    Ok(control.write_all(&text)?)
}

#[derive(Default)]
struct Process {
    sockets: HashMap<String, OwnedFd>,
    /// Socket over which descriptors are passed.
    door: Option<UnixListener>,
}

impl Process {
    fn act(&mut self, words: &[&str], bytes: &[u8]) -> io::Result<Reply> {
        let nothing = (String::new(), Vec::new());
        match *words {
            ["udp", key, address] => self.bind(key, Type::DGRAM, parse(address)?),
            ["listen", key, address] => self.bind(key, Type::STREAM, parse(address)?),
            ["accept", key, listener] => {
                let socket = Socket::from(self.fd(listener)?.try_clone_to_owned()?);
                self.keep(key, socket.accept()?.0)
            }
            ["connect", key, server] => {
                let server: SocketAddr = parse(server)?;
                let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
                socket.connect(&server.into())?;
                self.keep(key, socket)
            }
            ["fastopen", key, server] => {
                let server: SocketAddr = parse(server)?;
                let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
                let fd = socket.as_fd();
                plain::set_option(fd, libc::IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 1)?;
                let sent = calls::sendto(fd, bytes, libc::MSG_FASTOPEN, Some(server))?;
                let (address, _) = self.keep(key, socket)?;
                Ok((format!("{address} {sent}"), Vec::new()))
            }
            ["join", key, peer] => {
                let socket = self.socket(key)?;
                socket.connect(&SockAddr::from(parse::<SocketAddr>(peer)?))?;
                Ok(nothing)
            }
            ["option", key, level, option, value] => {
                let (level, option, value) = (parse(level)?, parse(option)?, parse(value)?);
                plain::set_option(self.fd(key)?, level, option, value)?;
                Ok(nothing)
            }
            ["linger", key] => calls::reset_at_close(self.fd(key)?).map(|()| nothing),
            ["shutdown", key] => {
                self.socket(key)?.shutdown(Shutdown::Write)?;
                Ok(nothing)
            }
            ["close", key] => {
                self.sockets.remove(key);
                Ok(nothing)
            }
            ["dup", key, other] => {
                let copy = self.fd(key)?.try_clone_to_owned()?;
                self.sockets.insert(other.to_owned(), copy);
                Ok(nothing)
            }
            ["await", path] => {
                self.door = Some(UnixListener::bind(path)?);
                Ok(nothing)
            }
            ["give", key, path] => {
                calls::give(&UnixStream::connect(path)?, self.fd(key)?)?;
                Ok(nothing)
            }
            ["given", key] => {
                let door = self.door.take();
                let door = door.ok_or_else(|| io::Error::other("nobody awaited"))?;
                let fd = calls::given(&door.accept()?.0)?;
                self.sockets.insert(key.to_owned(), fd);
                Ok(nothing)
            }
            ["take", key, call, flags, named, sizes] => take(
                self.fd(key)?,
                parse(call)?,
                parse(flags)?,
                named == "named",
                &list(sizes)?,
            ),
            ["put", key, call, flags, to, segment, others, cuts] => {
                let to = if to == "-" { None } else { Some(parse(to)?) };
                let (call, flags) = (parse(call)?, parse(flags)?);
                let sent = put(
                    self.fd(key)?,
                    call,
                    flags,
                    to,
                    (parse(segment)?, parse(others)?),
                    &list(cuts)?,
                    bytes,
                )?;
                Ok((sent.to_string(), Vec::new()))
            }
            ["many", call, groups] => self.many(parse(call)?, groups, bytes).map(|()| nothing),
            _ => Err(io::Error::other(format!("unknown command: {words:?}"))),
        }
    }

    fn bind(&mut self, key: &str, sort: Type, address: SocketAddr) -> io::Result<Reply> {
        let socket = Socket::new(Domain::for_address(address), sort, None)?;
        socket.bind(&address.into())?;
        if sort == Type::STREAM {
            socket.listen(8)?;
        }
        self.keep(key, socket)
    }

    fn keep(&mut self, key: &str, socket: Socket) -> io::Result<Reply> {
        let address = socket.local_addr()?.as_socket();
        let address = address.ok_or_else(|| io::Error::other("no IP address"))?;
        calls::limit_waits(socket.as_fd())?;
        self.sockets.insert(key.to_owned(), socket.into());
        Ok((address.to_string(), Vec::new()))
    }

    fn fd(&self, key: &str) -> io::Result<BorrowedFd<'_>> {
        let fd = self.sockets.get(key);
        fd.map(OwnedFd::as_fd)
            .ok_or_else(|| io::Error::other(format!("no socket {key}")))
    }

    fn socket(&self, key: &str) -> io::Result<Socket> {
        Ok(Socket::from(self.fd(key)?.try_clone_to_owned()?))
    }

    /// Lets one thread for each group send its messages, each in one call, all at the same time:
    /// `KEY:LENGTH,.../KEY:LENGTH,...`.
    fn many(&self, call: Put, groups: &str, mut bytes: &[u8]) -> io::Result<()> {
        let mut work = Vec::new();
        for group in groups.split('/') {
            let (key, lengths) = group.split_once(':').unwrap_or((group, ""));
            let mut messages = Vec::new();
            for length in list(lengths)? {
                let (message, rest) = bytes.split_at(length);
                messages.push(message);
                bytes = rest;
            }
            work.push((self.fd(key)?, messages));
        }
        let start = Barrier::new(work.len());
        let send = |fd: BorrowedFd<'_>, messages: &[&[u8]]| -> io::Result<()> {
            start.wait();
            for message in messages {
                // The elements of `sendmmsg` are separate sends; a send of another thread may come between them.
                let cuts: &[usize] = if call == Put::Sendmmsg { &[] } else { &[2] };
                let sent = put(fd, call, 0, None, (0, 0), cuts, message)?;
                if sent != message.len() {
                    return Err(io::Error::other("a message in two calls"));
                }
            }
            Ok(())
        };
        thread::scope(|scope| {
            let threads: Vec<_> = work
                .iter()
                .map(|(fd, messages)| scope.spawn(|| send(*fd, messages)))
                .collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().expect("sending does not panic"))
        })
    }
}

fn take(
    fd: BorrowedFd<'_>,
    call: Take,
    flags: i32,
    named: bool,
    sizes: &[usize],
) -> io::Result<Reply> {
    let mut spaces: Vec<_> = sizes.iter().map(|size| vec![0; *size]).collect();
    let mut segments: Vec<_> = spaces
        .iter_mut()
        .map(|space| IoSliceMut::new(space))
        .collect();
    let received = match call {
        Take::Read => vec![plain::read(fd, &mut segments[0])?],
        Take::Readv => vec![plain::readv(fd, &mut segments)?],
        Take::Recvfrom => vec![plain::recvfrom(fd, &mut segments[0], flags, named)?.0],
        Take::Recvmsg => vec![calls::recvmsg(fd, &mut segments, flags, named)?],
        Take::Recvmmsg => calls::recvmmsg(fd, &mut segments, flags, named)?,
        Take::Preadv2 => vec![calls::preadv2(fd, &mut segments)?],
    };
    let mut bytes = Vec::new();
    if call == Take::Recvmmsg {
        for (space, length) in spaces.iter().zip(&received) {
            bytes.extend(&space[..space.len().min(*length)]);
        }
    } else {
        let space = spaces.concat();
        bytes.extend(&space[..space.len().min(received[0])]);
    }
    let words: Vec<_> = received.iter().map(usize::to_string).collect();
    Ok((words.join(","), bytes))
}

/// Makes one call. Returns the number of bytes sent.
fn put(
    fd: BorrowedFd<'_>,
    call: Put,
    flags: i32,
    to: Option<SocketAddr>,
    (segment, others): (u16, usize),
    cuts: &[usize],
    bytes: &[u8],
) -> io::Result<usize> {
    let mut segments = Vec::new();
    let mut rest = bytes;
    for cut in cuts {
        let (slice, behind) = rest.split_at((*cut).min(rest.len()));
        segments.push(IoSlice::new(slice));
        rest = behind;
    }
    if !rest.is_empty() || segments.is_empty() {
        segments.push(IoSlice::new(rest));
    }
    match call {
        Put::Write => plain::write(fd, bytes),
        Put::Writev => plain::writev(fd, &segments),
        Put::Sendto => calls::sendto(fd, bytes, flags, to),
        Put::Sendmsg => calls::sendmsg(fd, &segments, flags, to, segment, others),
        Put::Sendmmsg => Ok(calls::sendmmsg(fd, &segments, flags, to)?.iter().sum()),
        Put::Pwritev2 => calls::pwritev2(fd, &segments),
    }
}

fn list(text: &str) -> io::Result<Vec<usize>> {
    text.split(',')
        .filter(|word| !word.is_empty() && *word != "-")
        .map(parse)
        .collect()
}

fn parse<T: FromStr>(text: &str) -> io::Result<T> {
    let parsed = text.parse();
    parsed.map_err(|_unfit| io::Error::other(format!("what is `{text}`?")))
}

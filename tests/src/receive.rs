//! The agent's `receive` as the program under test: senders on one side, outputs on the other. No root is needed.

use std::{
    fs::{self, File},
    io::{Read, Write as _},
    net::{Ipv4Addr, TcpListener},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use bytes::{Bytes, BytesMut};
use dnstap_proto::{
    DnstapRef, MessageRef, Timestamp,
    frame_streams::{Client, ClientState, DNSTAP_CONTENT_TYPE, ReadError, Reader, Writer},
    message::Type,
};
use serde_json::Value;

use crate::{
    environment,
    process::{PATIENCE, Running, Watch},
};

/// A running `receive`.
pub(crate) struct Agent {
    pub(crate) process: Running,
    pub(crate) input: Socket,
    summary: PathBuf,
}

impl Agent {
    /// Starts it with one Unix socket of its own and one output.
    pub(crate) fn start(folder: &Path, name: &str, more: &[&str], output: &str) -> Result<Self> {
        Self::start_in(&[], folder, name, more, output)
    }

    /// Does the same with these variables in the environment.
    pub(crate) fn start_in(
        variables: &[(&str, &str)],
        folder: &Path,
        name: &str,
        more: &[&str],
        output: &str,
    ) -> Result<Self> {
        let input = Socket::Unix(folder.join(format!("{name}.in")));
        let summary = folder.join(format!("{name}.json"));
        let mut command = Command::new(environment::agent()?);
        command
            .envs(variables.iter().copied())
            .args(["receive", "-l", &input.argument(), "-o", output])
            .args(more)
            .arg("--summary-json")
            .arg(&summary)
            .stdin(Stdio::null());
        let mut process = Running::start(name, command, Watch::Stderr)?;
        let sockets = 1 + more.iter().filter(|word| **word == "-l").count();
        for _ in 0..sockets {
            process.wait_for("listening", |line| line.contains("listening on"))?;
        }
        Ok(Self {
            process,
            input,
            summary,
        })
    }

    /// Returns the socket to which senders connect.
    pub(crate) fn socket(&self) -> Result<&Path> {
        match &self.input {
            Socket::Unix(path) => Ok(path),
            Socket::Tcp(_) => bail!("not a unix socket"),
        }
    }

    /// Ends it regularly and returns its summary.
    pub(crate) fn stop(self) -> Result<Value> {
        let summary = self.summary.clone();
        let finished = self.process.stop(libc::SIGTERM)?;
        let said = finished.lines.join("\n");
        ensure!(finished.status.success(), "{}\n{said}", finished.status);
        Ok(serde_json::from_slice(&fs::read(summary)?)?)
    }

    /// Like [`Self::stop`], if its collector does not accept its messages.
    pub(crate) fn stop_with_failure(self) -> Result<Value> {
        let summary = self.summary.clone();
        let finished = self.process.stop(libc::SIGTERM)?;
        ensure!(finished.status.code() == Some(74), "{}", finished.status);
        Ok(serde_json::from_slice(&fs::read(summary)?)?)
    }
}

/// Sends numbered messages.
pub(crate) struct Sender {
    stream: UnixStream,
    client: Client,
    sent: u64,
}

impl Sender {
    pub(crate) fn connect(to: &Path) -> Result<Self> {
        let mut stream = UnixStream::connect(to)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut out = Vec::new();
        let client = Client::connect(DNSTAP_CONTENT_TYPE, &mut out)?;
        stream.write_all(&out)?;
        let mut sender = Self {
            stream,
            client,
            sent: 0,
        };
        sender.hear_until(ClientState::Open)?;
        Ok(sender)
    }

    pub(crate) fn send_up_to(&mut self, due: u64) -> Result<()> {
        let mut frames = Vec::new();
        while self.sent < due {
            numbered(self.sent, &mut frames);
            self.sent += 1;
        }
        Ok(self.stream.write_all(&frames)?)
    }

    pub(crate) fn finish(mut self) -> Result<u64> {
        let mut out = Vec::new();
        self.client.stop(&mut out);
        self.stream.write_all(&out)?;
        self.hear_until(ClientState::Finished)?;
        Ok(self.sent)
    }

    fn hear_until(&mut self, state: ClientState) -> Result<()> {
        let mut input = BytesMut::new();
        while self.client.state() != state {
            let mut space = [0; 512];
            let read = self.stream.read(&mut space)?;
            ensure!(read > 0, "closed before {state:?}");
            input.extend_from_slice(&space[..read]);
            let mut out = Vec::new();
            self.client.receive(&mut input, &mut out)?;
            self.stream.write_all(&out)?;
        }
        Ok(())
    }
}

/// A sender that is running.
pub(crate) struct Stream {
    over: Arc<AtomicBool>,
    sending: JoinHandle<Result<u64>>,
}

impl Stream {
    /// Sends this many messages per millisecond from now on.
    pub(crate) fn start(mut sender: Sender, rate: u64) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&over);
        let sending = thread::spawn(move || {
            let began = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                sender.send_up_to(u64::try_from(began.elapsed().as_millis())? * rate)?;
                thread::sleep(Duration::from_millis(2)); // the rate
            }
            sender.finish()
        });
        Self { over, sending }
    }

    /// Ends it regularly. Returns the number of messages that it has sent.
    pub(crate) fn end(self) -> Result<u64> {
        self.over.store(true, Ordering::Relaxed);
        self.sending
            .join()
            .map_err(|_panic| anyhow!("the sender panicked"))?
    }
}

/// Writes a file of numbered messages of many sizes, up to the largest possible.
pub(crate) fn source(folder: &Path, messages: u64) -> Result<PathBuf> {
    let path = folder.join("source.fstrm");
    let mut frames = Vec::new();
    for number in 0..messages {
        numbered(number, &mut frames);
    }
    let mut writer = Writer::new(File::create(&path)?, DNSTAP_CONTENT_TYPE)?;
    writer.write_frames(&frames)?;
    writer.finish()?;
    Ok(path)
}

/// Appends a frame with this number in its time, and with a size that depends on it.
pub(crate) fn numbered(number: u64, frames: &mut Vec<u8>) {
    let size = match number {
        4_321 => 65_535,
        _ => 12 + usize::try_from(number * 7 % 200).unwrap_or(0),
    };
    let bytes = vec![0; size];
    let message = MessageRef {
        query_time: Some(Timestamp {
            seconds: number,
            nanoseconds: 0,
        }),
        query_message: Some(&bytes),
        ..MessageRef::new(Type::ClientQuery)
    };
    DnstapRef {
        identity: None,
        version: None,
        extra: None,
        message,
    }
    .append_frame(frames);
}

pub(crate) fn number_of(payload: &[u8]) -> Result<u64> {
    use prost::Message as _;
    let dnstap = dnstap_proto::Dnstap::decode(payload)?;
    Ok(dnstap.message.context("a message")?.query_time_sec())
}

/// Returns the frames of a complete file.
pub(crate) fn payloads(file: &Path) -> Result<Vec<Bytes>> {
    let (frames, end) = payloads_up_to_the_end(File::open(file)?)?;
    end.with_context(|| format!("reading {}", file.display()))?;
    Ok(frames)
}

/// Returns the frames of a file up to its end, and whether it ended with STOP.
pub(crate) fn payloads_up_to_the_end(
    source: impl Read,
) -> Result<(Vec<Bytes>, Result<(), ReadError>)> {
    let mut frames = Vec::new();
    for frame in Reader::new(source, DNSTAP_CONTENT_TYPE)? {
        match frame {
            Ok(frame) => frames.push(frame.payload),
            Err(error) => return Ok((frames, Err(error))),
        }
    }
    Ok((frames, Ok(())))
}

/// Address on which a collector listens.
pub(crate) enum Socket {
    Unix(PathBuf),
    Tcp(u16),
}

impl Socket {
    pub(crate) fn new(folder: &Path, tcp: bool) -> Result<Self> {
        if !tcp {
            return Ok(Self::Unix(folder.join("collector")));
        }
        let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        Ok(Self::Tcp(probe.local_addr()?.port()))
    }

    /// Returns the address in the form for `-o` and `--listen`.
    pub(crate) fn argument(&self) -> String {
        match self {
            Self::Unix(path) => format!("unix:{}", path.display()),
            Self::Tcp(port) => format!("tcp:127.0.0.1:{port}"),
        }
    }
}

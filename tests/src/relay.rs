//! A relay between a sender of dnstap and its collector. It stores the bytes of the sender, so that they can be
//! compared with what arrives.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use bytes::Bytes;
use socket2::Socket as Connection;

use crate::receive::{Socket, payloads_up_to_the_end};

/// One connection to a collector.
pub(crate) struct Relay {
    /// Address to which the sender connects.
    pub(crate) front: Socket,
    said: Arc<Mutex<Said>>,
}

/// Bytes that the sender has written, and the time of its last write.
struct Said {
    bytes: Vec<u8>,
    last: Instant,
}

impl Relay {
    /// Waits for a sender, at a socket of the same kind as the collector's. The socket's file is in `folder`.
    pub(crate) fn start(folder: &Path, collector: &Socket) -> Result<Self> {
        let said = Arc::new(Mutex::new(Said {
            bytes: Vec::new(),
            last: Instant::now(),
        }));
        let kept = Arc::clone(&said);
        let (front, pass): (_, Box<dyn FnOnce() -> io::Result<()> + Send>) = match collector {
            Socket::Unix(collector) => {
                let (path, collector) = (folder.join("front"), collector.clone());
                let listener = UnixListener::bind(&path)?;
                let pass = move || {
                    let (sender, _) = listener.accept()?;
                    pass(
                        &sender.into(),
                        &UnixStream::connect(collector)?.into(),
                        &kept,
                    )
                };
                (Socket::Unix(path), Box::new(pass))
            }
            Socket::Tcp(port) => {
                let collector = (Ipv4Addr::LOCALHOST, *port);
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
                let front = Socket::Tcp(listener.local_addr()?.port());
                let pass = move || {
                    let (sender, _) = listener.accept()?;
                    pass(
                        &sender.into(),
                        &TcpStream::connect(collector)?.into(),
                        &kept,
                    )
                };
                (front, Box::new(pass))
            }
        };
        thread::spawn(pass);
        Ok(Self { front, said })
    }

    /// Returns the frames that the sender has written, and the time since its last write.
    pub(crate) fn said(&self) -> Result<(Vec<Bytes>, Duration)> {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let (frames, _end) = payloads_up_to_the_end(&said.bytes[..])?;
        Ok((frames, said.last.elapsed()))
    }
}

/// Forwards the bytes of both sides until both have ended.
fn pass(sender: &Connection, collector: &Connection, said: &Mutex<Said>) -> io::Result<()> {
    let (answers, to) = (collector.try_clone()?, sender.try_clone()?);
    thread::spawn(move || copy(&answers, &to, |_bytes| ()));
    copy(sender, collector, |bytes| {
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        said.bytes.extend_from_slice(bytes);
        said.last = Instant::now();
    })
}

fn copy(mut from: &Connection, mut to: &Connection, keep: impl Fn(&[u8])) -> io::Result<()> {
    let mut buffer = vec![0; 65_536];
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            return to.shutdown(Shutdown::Write);
        }
        keep(&buffer[..length]);
        to.write_all(&buffer[..length])?;
    }
}

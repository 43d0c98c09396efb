//! The tests' side of the puppet: one method for each command.

use std::{
    fmt::Write as _,
    io,
    net::SocketAddr,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{By, Way};
use crate::{
    environment::Skip,
    process::{Running, Watch},
    toy::{PUPPET, program},
};

/// A running puppet. Its sockets are numbered in the order of their creation.
pub(crate) struct Puppet(Running);

impl Puppet {
    /// Starts a puppet without sockets.
    pub(crate) fn start() -> Result<Self> {
        let mut command = Command::new(program());
        command.arg(PUPPET).stdin(Stdio::piped());
        Running::start("puppet", command, Watch::Stdout).map(Self)
    }

    /// Returns its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// Makes it use `io_uring`. A [`Skip`] if the kernel refuses.
    pub(crate) fn set_up_ring(&mut self) -> Result<()> {
        match self.call("ring") {
            Ok(_) => Ok(()),
            Err(error) => bail!(Skip(format!("this kernel refuses io_uring: {error:#}"))),
        }
    }

    /// Binds a UDP socket. Returns its number and its address.
    pub(crate) fn udp(&mut self, address: &str) -> Result<(usize, SocketAddr)> {
        socket(&self.call(&format!("udp {address}"))?)
    }

    /// Binds many UDP sockets.
    pub(crate) fn udp_many(
        &mut self,
        address: &str,
        count: usize,
    ) -> Result<Vec<(usize, SocketAddr)>> {
        (0..count).map(|_| self.udp(address)).collect()
    }

    /// Binds a TCP listener. Returns its number and its address.
    pub(crate) fn listen(&mut self, address: &str) -> Result<(usize, SocketAddr)> {
        socket(&self.call(&format!("listen {address}"))?)
    }

    /// Like [`Self::listen`], for Multipath TCP. Fails with `EPROTONOSUPPORT` or `ENOPROTOOPT` if the kernel does not
    /// support it.
    pub(crate) fn listen_multipath(&mut self, address: &str) -> Result<(usize, SocketAddr)> {
        socket(&self.call(&format!("listen-multipath {address}"))?)
    }

    /// Accepts a connection. Returns the number of its socket.
    pub(crate) fn accept(&mut self, listener: usize) -> Result<usize> {
        Ok(socket(&self.call(&format!("accept {listener}"))?)?.0)
    }

    /// Connects a new TCP socket. Returns its number and its address.
    pub(crate) fn connect(&mut self, server: SocketAddr) -> Result<(usize, SocketAddr)> {
        socket(&self.call(&format!("connect {server}"))?)
    }

    /// Ends a socket's connection and connects it again. Returns its new address.
    pub(crate) fn connect_again(
        &mut self,
        socket: usize,
        server: SocketAddr,
    ) -> Result<SocketAddr> {
        Ok(self.call(&format!("again {socket} {server}"))?.parse()?)
    }

    /// Receives into a buffer of `size` bytes, with `MSG_*` flags if the call has them. Returns the call's result.
    pub(crate) fn receive(
        &mut self,
        socket: usize,
        by: By,
        size: usize,
        flags: i32,
    ) -> Result<usize> {
        Ok(self
            .call(&format!("receive {socket} {by:?} {size} {flags}"))?
            .parse()?)
    }

    /// Begins a receive through `io_uring`. It happens when a message arrives while the puppet waits in `read` for its
    /// next command.
    pub(crate) fn begin_receive(&mut self, socket: usize, size: usize) -> Result<()> {
        self.call(&format!("begin {socket} {size}")).map(drop)
    }

    /// Waits for the end of that receive. Returns its result.
    pub(crate) fn end_receive(&mut self) -> Result<usize> {
        Ok(self.call("collect")?.parse()?)
    }

    /// Sends bytes. Datagrams go to the sender of the last received one.
    pub(crate) fn send(&mut self, socket: usize, by: By, bytes: &[u8]) -> Result<()> {
        let sent: usize = self
            .call(&format!("send {socket} {by:?} {}", hex(bytes)))?
            .parse()?;
        ensure!(sent == bytes.len(), "sent {sent} of {} bytes", bytes.len());
        Ok(())
    }

    /// Connects a bound UDP socket to a peer.
    pub(crate) fn join(&mut self, socket: usize, peer: SocketAddr) -> Result<()> {
        self.call(&format!("join {socket} {peer}")).map(drop)
    }

    /// Takes a copy of a descriptor of another process, with `pidfd_getfd`. Returns the number of its socket.
    pub(crate) fn fetch(&mut self, pid: u32, descriptor: i32) -> Result<usize> {
        Ok(socket(&self.call(&format!("fetch {pid} {descriptor}"))?)?.0)
    }

    /// Opens a raw socket for UDP, which gets a copy of each packet for this address.
    pub(crate) fn raw(&mut self, address: &str) -> Result<usize> {
        Ok(socket(&self.call(&format!("raw {address}"))?)?.0)
    }

    /// Receives what is there, up to `size` bytes. Returns its length.
    pub(crate) fn take(&mut self, socket: usize, way: Way, size: usize) -> Result<usize> {
        Ok(self
            .call(&format!("take {socket} {way:?} {size}"))?
            .parse()?)
    }

    /// Sends bytes on a connected socket.
    pub(crate) fn put(&mut self, socket: usize, way: Way, bytes: &[u8]) -> Result<()> {
        let sent: usize = self
            .call(&format!("put {socket} {way:?} {}", hex(bytes)))?
            .parse()?;
        ensure!(sent == bytes.len(), "sent {sent} of {} bytes", bytes.len());
        Ok(())
    }

    /// Sends bytes on a connection in one `writev` of two segments. The first has `first` bytes.
    pub(crate) fn send_in_two(&mut self, socket: usize, first: usize, bytes: &[u8]) -> Result<()> {
        let sent: usize = self
            .call(&format!("two {socket} {first} {}", hex(bytes)))?
            .parse()?;
        ensure!(sent == bytes.len(), "sent {sent} of {} bytes", bytes.len());
        Ok(())
    }

    /// Sends bytes on a connection through a much smaller send buffer. Returns the number of calls.
    pub(crate) fn send_in_parts(
        &mut self,
        socket: usize,
        buffer: usize,
        bytes: &[u8],
    ) -> Result<usize> {
        Ok(self
            .call(&format!("parts {socket} {buffer} {}", hex(bytes)))?
            .parse()?)
    }

    /// Connects to `server` with TCP Fast Open, with or without its cookie, and sends bytes. Returns the number of the
    /// socket, its address, and the number of calls.
    pub(crate) fn fast_open(
        &mut self,
        server: SocketAddr,
        cookie: bool,
        bytes: &[u8],
    ) -> Result<(usize, SocketAddr, usize)> {
        let cookie = if cookie { "with" } else { "without" };
        let answer = self.call(&format!("fastopen {server} {cookie} {}", hex(bytes)))?;
        let (made, calls) = answer.rsplit_once(' ').context("no count")?;
        let (number, address) = socket(made)?;
        Ok((number, address, calls.parse()?))
    }

    fn call(&mut self, command: &str) -> Result<String> {
        self.0.tell(command)?;
        let line = self.0.wait_for(command, |_| true)?;
        match line.split_once(' ') {
            Some(("ok", words)) => Ok(words.to_owned()),
            _ if line == "ok" => Ok(String::new()),
            Some(("error", number)) => {
                let error = io::Error::from_raw_os_error(number.parse()?);
                Err(error).with_context(|| command.chars().take(60).collect::<String>())
            }
            _ => bail!("the puppet said {line}"),
        }
    }
}

fn socket(words: &str) -> Result<(usize, SocketAddr)> {
    let (number, address) = words.split_once(' ').context("no address")?;
    Ok((number.parse()?, address.parse()?))
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to a string does not fail");
    }
    text
}

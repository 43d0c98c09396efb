//! The puppet: a process that makes one socket call at a time, exactly as it is told, for rare behaviour of servers:
//! buffers that are too small, peeks, sockets that do not ask for the sender, `io_uring`, TCP Fast Open.
//!
//! ```text
//! test ── "receive 0 Recvfrom 512 0" ──► puppet
//!      ◄─ "ok 37" | "error ERRNO" ──────
//! ```
//!
//! [`Puppet`] is the test's side. The puppet stores the sender of the last received datagram, and sends to it.

mod handle;
mod process;
mod ring;

use std::str::FromStr;

use anyhow::{Result, bail};

pub(crate) use self::{handle::Puppet, process::obey};

/// Calls that receive and send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// `read` and `write`.
    Read,
    /// `recvfrom` without an address, which is `recv`; `send`.
    Recv,
    /// `recvfrom` with an address; `sendto`.
    Recvfrom,
    /// `recvmsg` without an address; `sendmsg`.
    Recvmsg,
    /// `io_uring`: `RECVMSG` with an address and `SENDMSG` for datagrams, `RECV` and `SEND` for streams.
    Ring,
}

impl FromStr for By {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let all = [
            Self::Read,
            Self::Recv,
            Self::Recvfrom,
            Self::Recvmsg,
            Self::Ring,
        ];
        match all.into_iter().find(|by| format!("{by:?}") == text) {
            Some(by) => Ok(by),
            None => bail!("no call `{text}`"),
        }
    }
}

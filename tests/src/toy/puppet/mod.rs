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
mod ways;

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

/// Ways to receive or to send that are no socket calls, or that no DNS server is known to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// `preadv2` and `pwritev2` at no offset.
    Preadv2,
    /// `splice` between the socket and a pipe.
    Splice,
    /// `vmsplice` into a pipe, and `splice` from there to the socket.
    Vmsplice,
    /// `tee` from a pipe to another, and `splice` from there to the socket.
    Tee,
    /// `sendfile` from a file to the socket.
    Sendfile,
    /// `io_submit` of one read or write.
    Aio,
    /// `send` with `MSG_ZEROCOPY`.
    ZeroCopy,
    /// `getsockopt` with `TCP_ZEROCOPY_RECEIVE`, into its buffer for what fills no page.
    MappedReceive,
    /// `io_uring`: `READ` and `WRITE`.
    RingRead,
    /// `io_uring`: `READV` and `WRITEV`.
    RingReadv,
    /// `io_uring`: `READ_FIXED` and `WRITE_FIXED`, with a registered buffer.
    RingFixed,
    /// `io_uring`: `SEND_ZC`.
    RingZeroCopy,
    /// `io_uring`: `SENDMSG_ZC`.
    RingMessageZeroCopy,
    /// `io_uring`: `RECV` that goes on, into buffers that were provided.
    RingMultishot,
    /// `io_uring`: `SPLICE` between the socket and a pipe.
    RingSplice,
    /// `io_uring` with a kernel thread that looks for work (`IORING_SETUP_SQPOLL`): `RECV` and `SEND` without any system
    /// call.
    RingPolled,
}

impl Way {
    /// All ways.
    pub(crate) const ALL: [Self; 16] = [
        Self::Preadv2,
        Self::Splice,
        Self::Vmsplice,
        Self::Tee,
        Self::Sendfile,
        Self::Aio,
        Self::ZeroCopy,
        Self::MappedReceive,
        Self::RingRead,
        Self::RingReadv,
        Self::RingFixed,
        Self::RingZeroCopy,
        Self::RingMessageZeroCopy,
        Self::RingMultishot,
        Self::RingSplice,
        Self::RingPolled,
    ];

    /// Returns whether it receives.
    pub(crate) fn receives(self) -> bool {
        !matches!(
            self,
            Self::Vmsplice
                | Self::Tee
                | Self::Sendfile
                | Self::ZeroCopy
                | Self::RingZeroCopy
                | Self::RingMessageZeroCopy
        )
    }

    /// Returns whether it sends.
    pub(crate) fn sends(self) -> bool {
        !matches!(self, Self::MappedReceive | Self::RingMultishot)
    }

    /// Returns whether it is one of `io_uring`.
    pub(crate) fn is_of_ring(self) -> bool {
        matches!(
            self,
            Self::RingRead
                | Self::RingReadv
                | Self::RingFixed
                | Self::RingZeroCopy
                | Self::RingMessageZeroCopy
                | Self::RingMultishot
                | Self::RingSplice
                | Self::RingPolled
        )
    }
}

impl FromStr for Way {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match Self::ALL.into_iter().find(|way| format!("{way:?}") == text) {
            Some(way) => Ok(way),
            None => bail!("no way `{text}`"),
        }
    }
}

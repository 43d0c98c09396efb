//! The actor: a process that makes socket calls on command, for generated programs. Unlike the puppet it forks, passes
//! descriptors to others, writes with several threads at the same time, and takes and returns bytes as they are.
//!
//! ```text
//! test ── "take KEY CALL FLAGS NAME SIZES 0\n" ────────► actor
//!      ◄─ "ok LENGTH,... LENGTH\nBYTES" ────────────────
//!         "error ERRNO 0\n"
//! ```
//!
//! [`Actor`] is the test's side. Descriptors have keys that the test chooses; a forked actor has those of its parent.

mod calls;
mod handle;
mod process;

use std::str::FromStr;

use anyhow::{Result, bail};

pub(crate) use self::{
    calls::{UDP_CORK, UDP_GRO, UDP_SEGMENT},
    handle::{Actor, Sending},
    process::act,
};
pub(crate) use super::calls::set_option;

/// Call that receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Take {
    /// `read`, into the first segment.
    Read,
    /// `readv`.
    Readv,
    /// `recvfrom`, into the first segment.
    Recvfrom,
    /// `recvmsg`.
    Recvmsg,
    /// `recvmmsg`, an element for each segment.
    Recvmmsg,
    /// `preadv2` at no offset.
    Preadv2,
}

impl Take {
    /// All calls.
    pub(crate) const ALL: [Self; 6] = [
        Self::Read,
        Self::Readv,
        Self::Recvfrom,
        Self::Recvmsg,
        Self::Recvmmsg,
        Self::Preadv2,
    ];

    /// Returns whether it has flags, such as `MSG_PEEK`.
    pub(crate) fn has_flags(self) -> bool {
        matches!(self, Self::Recvfrom | Self::Recvmsg | Self::Recvmmsg)
    }

    /// Returns whether it takes only one segment.
    pub(crate) fn is_flat(self) -> bool {
        matches!(self, Self::Read | Self::Recvfrom)
    }
}

impl FromStr for Take {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match Self::ALL
            .into_iter()
            .find(|call| format!("{call:?}") == text)
        {
            Some(call) => Ok(call),
            None => bail!("no call `{text}`"),
        }
    }
}

/// Call that sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// `write`.
    Write,
    /// `writev`.
    Writev,
    /// `sendto`.
    Sendto,
    /// `sendmsg`.
    Sendmsg,
    /// `sendmmsg`, an element for each segment.
    Sendmmsg,
    /// `pwritev2` at no offset.
    Pwritev2,
}

impl Put {
    /// All calls.
    pub(crate) const ALL: [Self; 6] = [
        Self::Write,
        Self::Writev,
        Self::Sendto,
        Self::Sendmsg,
        Self::Sendmmsg,
        Self::Pwritev2,
    ];

    /// Returns whether it has flags and an address.
    pub(crate) fn has_flags(self) -> bool {
        matches!(self, Self::Sendto | Self::Sendmsg | Self::Sendmmsg)
    }

    /// Returns whether it sends only one segment.
    pub(crate) fn is_flat(self) -> bool {
        matches!(self, Self::Write | Self::Sendto)
    }
}

impl FromStr for Put {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match Self::ALL
            .into_iter()
            .find(|call| format!("{call:?}") == text)
        {
            Some(call) => Ok(call),
            None => bail!("no call `{text}`"),
        }
    }
}

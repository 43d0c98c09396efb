//! The toy server: a process that answers each DNS query with a copy of it, through exactly the socket calls that it is
//! told to use. It is this program, started with the hidden argument [`ARGUMENT`].
//!
//! Real servers use one or two of the ten calls each; the toy uses them all, with several segments, batches, peeks,
//! connected and unconnected sockets, partial reads and writes.
//!
//! ```text
//! toy ── stdout ──► "endpoint UDP V4 connected 127.0.0.1:4242" ... "ready"
//!     ◄─ stdin ──── "serve N"
//!     ── stdout ──► "served N batch B"          (B: most messages that one call received)
//! ```

pub(crate) mod actor;
mod calls;
mod client;
mod datagrams;
mod puppet;
mod segments;
mod server;
mod streams;
mod workers;

use std::{fmt, net::SocketAddr, str::FromStr};

use anyhow::{Result, bail};

pub(crate) use self::{
    actor::act,
    client::Toy,
    puppet::{By, Puppet, Way, obey},
    server::serve,
    workers::{Workers, go_on, link, raise},
};

/// First argument that makes this program the toy server; the second names the [`Calls`].
pub(crate) const ARGUMENT: &str = "toy-server";

/// First argument that makes this program a [`Puppet`]'s process.
pub(crate) const PUPPET: &str = "toy-puppet";

/// First argument that makes this program an [`actor::Actor`]'s process.
pub(crate) const ACTOR: &str = "toy-actor";

/// First argument that makes this program a [`Workers`]' first process.
pub(crate) const WORKERS: &str = "toy-workers";

/// First argument that makes this program a [`Workers`]' worker; the others name its descriptors.
pub(crate) const WORKER: &str = "toy-worker";

/// First argument that makes this program a process without sockets that waits for the end of its input.
pub(crate) const IDLE: &str = "toy-idle";

/// Returns the path for starting this program again. It is not the path of its file, which a build may replace in the
/// meantime.
pub(crate) fn program() -> &'static str {
    "/proc/self/exe"
}

/// The pair of calls that a toy uses for all its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Calls {
    /// `read` and `write`.
    Plain,
    /// `readv` and `writev`, three segments.
    Vector,
    /// `recvfrom` and `sendto`; TCP reads the length, then exactly the message.
    Address,
    /// `recvmsg` and `sendmsg`, several segments.
    Message,
    /// `recvmmsg` and `sendmmsg`, several segments of several messages.
    Batch,
}

impl Calls {
    /// All pairs.
    pub(crate) const ALL: [Self; 5] = [
        Self::Plain,
        Self::Vector,
        Self::Address,
        Self::Message,
        Self::Batch,
    ];
}

impl fmt::Display for Calls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Plain => "read/write",
            Self::Vector => "readv/writev",
            Self::Address => "recvfrom/sendto",
            Self::Message => "recvmsg/sendmsg",
            Self::Batch => "recvmmsg/sendmmsg",
        })
    }
}

impl FromStr for Calls {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match Self::ALL
            .into_iter()
            .find(|calls| calls.to_string() == text)
        {
            Some(calls) => Ok(calls),
            None => bail!("no calls `{text}`"),
        }
    }
}

/// Sort of socket of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    /// TCP listener.
    Tcp,
    /// UDP socket that answers any client.
    Udp,
    /// UDP socket that peeks at its first datagram and connects itself to the sender.
    UdpConnected,
}

/// Address family of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// `127.0.0.1`.
    V4,
    /// `::1`.
    V6,
    /// An IPv6 socket at `::ffff:127.0.0.1`, which speaks IPv4.
    Mapped,
}

/// Endpoint on which the toy listens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Endpoint {
    /// Sort of socket.
    pub(crate) sort: Sort,
    /// Its address family.
    pub(crate) family: Family,
    /// Address for clients.
    pub(crate) address: SocketAddr,
}

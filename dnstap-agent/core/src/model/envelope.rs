//! What is known about a message besides its bytes.

use dnstap_proto::SocketProtocol;

use super::Endpoint;

/// Direction of a message, seen from the tapped process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The process received it.
    Received,
    /// The process sent it.
    Sent,
}

/// Transport of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// One message in each datagram.
    Udp,
    /// A byte stream with 2-byte lengths.
    Tcp,
    /// DNS over TLS. A probe in the server sees the message, the socket does not.
    Dot,
    /// DNS over HTTP/2, with or without TLS. A probe in the server sees the message, the socket
    /// does not.
    Doh,
}

impl Protocol {
    /// Returns whether sockets show messages of this transport.
    #[must_use]
    pub const fn is_plain(self) -> bool {
        matches!(self, Self::Udp | Self::Tcp)
    }

    /// Returns the protocol in dnstap.
    #[must_use]
    pub const fn in_dnstap(self) -> SocketProtocol {
        match self {
            Self::Udp => SocketProtocol::Udp,
            Self::Tcp => SocketProtocol::Tcp,
            Self::Dot => SocketProtocol::Dot,
            Self::Doh => SocketProtocol::Doh,
        }
    }
}

/// Address family after IPv4-mapped addresses became IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    Inet,
    /// IPv6.
    Inet6,
}

/// Context of a message. It travels with the message from decoding to the encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Time from `CLOCK_MONOTONIC` in nanoseconds. A message of a TCP stream has the time of the
    /// call that completed it.
    pub ktime_ns: u64,
    /// Inode number of the socket; 0 if a probe in the server saw the message.
    pub socket: u64,
    /// Transport.
    pub protocol: Protocol,
    /// Direction.
    pub direction: Direction,
    /// Address family.
    pub family: Family,
    /// The process's end.
    pub local: Endpoint,
    /// The other end.
    pub peer: Endpoint,
    /// Process, thread and hook.
    pub origin: Origin,
    /// Ends that the PROXY header names; the peer is then the proxy itself.
    pub proxied: Option<Proxied>,
    /// Whether this is a UDP socket that is not connected: any host can send to it.
    pub unconnected: bool,
}

/// Origin of a message in the tapped process. For a TCP message: where it was completed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Process id.
    pub tgid: u32,
    /// Thread id.
    pub tid: u32,
    /// Number of the hook, as in [`dnstap_ebpf::EventHeader::hook`].
    pub hook: u8,
    /// Program id of the process, as in [`dnstap_ebpf::EventHeader::program_id`].
    pub program_id: u32,
}

/// The two ends of a connection, as a PROXY header names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proxied {
    /// Family of both ends.
    pub family: Family,
    /// Address and port that the client connected to.
    pub local: Endpoint,
    /// Address and port of the client.
    pub peer: Endpoint,
}

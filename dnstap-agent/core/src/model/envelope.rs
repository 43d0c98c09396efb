//! What is known about a message besides its bytes.

use super::Endpoint;

/// Which way a message went, seen from the tapped process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The process received it.
    Received,
    /// The process sent it.
    Sent,
}

/// Transport of the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// One message in each datagram.
    Udp,
    /// A byte stream with 2-byte lengths.
    Tcp,
}

/// Address family after IPv4-mapped addresses became IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    Inet,
    /// IPv6.
    Inet6,
}

/// What is known about a message besides its bytes. Travels with it from here to the encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// `CLOCK_MONOTONIC` in nanoseconds. A message of a TCP stream carries the time of the call that completed it.
    pub ktime_ns: u64,
    /// Inode number of the socket.
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
    /// Who saw it.
    pub origin: Origin,
    /// The ends that a proxy tells, which is the peer itself then.
    pub proxied: Option<Proxied>,
    /// Whether this is a UDP socket that is not connected: any host can send to it.
    pub unconnected: bool,
}

/// Where in the tapped process a message was seen; of a message of a TCP stream, where it was completed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Process id.
    pub tgid: u32,
    /// Thread id.
    pub tid: u32,
    /// Which hook, as in [`dnstap_ebpf::EventHeader::hook`].
    pub hook: u8,
    /// What the process runs, as in [`dnstap_ebpf::EventHeader::program_id`].
    pub program_id: u32,
}

/// The two ends of the connection that a proxy passes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proxied {
    /// Family of both.
    pub family: Family,
    /// Where the client connected to.
    pub local: Endpoint,
    /// The client.
    pub peer: Endpoint,
}

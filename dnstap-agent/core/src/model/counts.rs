//! Amounts that the stages hold at one moment.

use crate::counters::counters;

counters! {
    /// What the stages hold that is neither delivered nor counted as lost.
    pub struct Pending {
        /// Chunks of datagrams.
        chunks,
        /// Bytes of TCP streams.
        bytes,
        /// Queries without response.
        queries,
        /// Messages that wait to be named, or for what the server says about them.
        held,
        /// Messages among them that wait for what the server says.
        unremarked,
        /// What a server has said about messages that have not come.
        remarks,
        /// Whole messages of which it is not known yet whether their connection is encrypted.
        copies,
    }
}

counters! {
    /// Sockets that are remembered at one moment, by what was found out about them. UDP sockets on ports known for DNS are not:
    /// nothing has to be found out.
    pub struct SocketCounts {
        /// TCP connections that have shown DNS.
        tcp_dns,
        /// TCP connections in the clear that carry something else.
        tcp_not_dns,
        /// TCP connections that are encrypted.
        tcp_encrypted,
        /// TCP connections that have shown nothing yet.
        tcp_unknown,
        /// UDP sockets on other ports that have shown DNS.
        udp_dns,
        /// UDP sockets on other ports that carry something else.
        udp_not_dns,
        /// UDP sockets on other ports that have shown nothing yet.
        udp_unknown,
    }
}

//! Peers of received datagrams. They are stored when the kernel takes the datagram from the queue, and used when the
//! `socket` hook sees its length. Both happen within one receive call of one thread.

use dnstap_ebpf::EventHeader;

use crate::kernel::sock::{Address, set_sender};

/// A socket address in the kernel's form. Only the address of `family` is valid.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct Peer {
    pub ipv6: [u32; 4],
    pub ipv4: u32,
    pub family: u16,
    pub port_be: u16,
}

/// Completes `header` with the peer of the datagram that the thread has just received.
#[inline(always)]
pub(crate) fn take(peer: &Peer, header: &mut EventHeader) {
    // The peer stays until it is overwritten: before every receive for which this is called, `recvmsg4` or `recvmsg6`
    // has run.
    // SAFETY: the sixteen bytes that open the structure, aligned like it.
    let ipv6 = unsafe { core::ptr::from_ref(peer).cast::<Address>().read() };
    set_sender(header, peer.family, peer.port_be, peer.ipv4, ipv6);
}

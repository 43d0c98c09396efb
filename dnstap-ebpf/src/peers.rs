//! Peers of received datagrams, between the moment when the kernel takes the datagram from the queue
//! and the moment when the `socket` hook sees its length, both within one receive call of one thread.

use dnstap_ebpf::EventHeader;

use crate::{
    sock::{Address, set_sender},
    threads::{self, State},
};

/// A socket address as the kernel holds it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct Peer {
    pub ipv6: [u32; 4],
    pub ipv4: u32,
    pub family: u16,
    pub port_be: u16,
}

/// Keeps the peer of the datagram that the current thread is receiving, if its process is tapped.
#[inline(always)]
pub(crate) fn keep(peer: impl FnOnce() -> Peer) {
    // Without a state the message is delivered without peer and counted.
    if let Some((_, Some(state))) = threads::current() {
        state.peer = peer();
    }
}

/// Completes `header` with the peer of the datagram that the thread of `state` has just received.
#[inline(always)]
pub(crate) fn take(state: &State, header: &mut EventHeader) {
    let peer = &state.peer;
    // Stays until overwritten: every receive for which `take` is called has passed `keep` before.
    // SAFETY: the sixteen bytes that open the structure, aligned like it.
    let ipv6 = unsafe { core::ptr::from_ref(peer).cast::<Address>().read() };
    set_sender(header, peer.family, peer.port_be, peer.ipv4, ipv6);
}

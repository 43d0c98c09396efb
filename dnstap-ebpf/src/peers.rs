//! Peers of datagrams received on unconnected sockets, between the moment when the kernel takes the datagram from the queue
//! and the moment when the `socket` hook sees its length, both within one receive call of one thread.

use aya_ebpf::{macros::map, maps::LruHashMap};
use dnstap_ebpf::EventHeader;

use crate::{sock::set_peer, target::Thread};

/// A socket address as the kernel holds it.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Peer {
    pub ipv6: [u32; 4],
    pub ipv4: u32,
    pub family: u16,
    pub port_be: u16,
}

/// Thread -> peer of the datagram that it is receiving.
#[map]
static PEERS: LruHashMap<u64, Peer> = LruHashMap::with_max_entries(4096, 0);

/// Keeps the peer of the datagram that `thread` is receiving.
#[inline(always)]
pub(crate) fn keep(thread: Thread, peer: &Peer) {
    // An LRU map makes room; if it cannot, the message is delivered without peer and counted.
    let _ = PEERS.insert(thread.key(), peer, 0);
}

/// Completes `header` with the peer of the datagram that `thread` has just received.
#[inline(always)]
pub(crate) fn take(thread: Thread, header: &mut EventHeader) {
    // SAFETY: the entry belongs to this thread.
    if let Some(peer) = unsafe { PEERS.get(thread.key()) } {
        let ipv6 = peer.ipv6;
        // SAFETY: four integers are sixteen bytes, in network order already.
        let ipv6 = unsafe { core::mem::transmute::<[u32; 4], [u8; 16]>(ipv6) };
        set_peer(
            header,
            peer.family,
            peer.port_be,
            peer.ipv4.to_ne_bytes(),
            ipv6,
        );
        // Stays until overwritten: every receive for which `take` is called has passed `keep` before.
    }
}

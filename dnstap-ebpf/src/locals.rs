//! Local addresses of datagrams received on wildcard sockets, between the moment when the kernel is done with the packet and
//! the moment when the `fentry` hook sees the message, both within one receive call of one thread.

use aya_ebpf::{macros::map, maps::LruHashMap};
use dnstap_ebpf::{AF_INET, AF_INET6, EventHeader};

use crate::{
    sock::{map_ipv4, set_ipv4},
    target::Thread,
};

/// Destination of a packet.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Local {
    /// 4 or 16 bytes.
    pub address: [u8; 16],
    /// `AF_INET` or `AF_INET6`.
    pub family: u64,
}

/// Thread -> destination of the datagram that it is receiving.
#[map]
static LOCALS: LruHashMap<u64, Local> = LruHashMap::with_max_entries(4096, 0);

/// Keeps the destination of the datagram that `thread` is receiving.
#[inline(always)]
pub(crate) fn keep(thread: Thread, local: &Local) {
    // An LRU map makes room; if it cannot, the message is delivered with the wildcard address.
    let _ = LOCALS.insert(thread.key(), local, 0);
}

/// Completes `header` with the destination of the datagram that `thread` has just received.
#[inline(always)]
pub(crate) fn take(thread: Thread, header: &mut EventHeader) {
    // SAFETY: the entry belongs to this thread.
    if let Some(local) = unsafe { LOCALS.get(thread.key()) } {
        if local.family == u64::from(AF_INET6) {
            header.local_addr = local.address;
        } else {
            let ipv4 = [
                local.address[0],
                local.address[1],
                local.address[2],
                local.address[3],
            ];
            if header.family == AF_INET {
                set_ipv4(&mut header.local_addr, ipv4);
            } else {
                map_ipv4(&mut header.local_addr, ipv4);
            }
        }
        // The next receive of this thread on a wildcard socket overwrites it, if the program runs; it must not be found by one
        // for which it did not.
        let _ = LOCALS.remove(thread.key());
    }
}

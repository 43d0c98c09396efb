//! Places in the streams of Multipath TCP (RFC 8684).
//!
//! Its sequence numbers are in `struct mptcp_sock`, which has others in each kernel. So the bytes that pass are counted here. What passes
//! unseen makes no gap by itself: [`leap`] makes one.

use aya_ebpf::{helpers::generated::bpf_get_prandom_u32, macros::map, maps::LruHashMap};

use crate::kernel::sock::Direction;

/// Socket inode and direction ([`key`]) -> place; wraps. As many connections as there are sockets.
///
/// A stream begins somewhere, as one of TCP does. So one that had to make room goes on far from where it was, which is a gap: nearby, its next
/// bytes would count as some that have been seen.
#[map]
static MULTIPATH: LruHashMap<u64, u32> = LruHashMap::with_max_entries(32_768, 0);

/// More than a message, so that nothing takes it for the rest of one.
const LEAP: u32 = 1 << 20;

/// Counts `length` bytes that have passed on `socket`, and returns where they begin. Several threads at once may get the same place: such
/// streams are framed call by call.
#[inline(always)]
pub(crate) fn advance(socket: u64, direction: Direction, length: u32) -> u32 {
    let key = key(socket, direction);
    let Some(place) = MULTIPATH.get_ptr_mut(key) else {
        // SAFETY: takes no arguments.
        let start = unsafe { bpf_get_prandom_u32() };
        // If an LRU map cannot make room, the next message makes a gap.
        let _ = MULTIPATH.insert(key, start.wrapping_add(length), 0);
        return start;
    };
    // SAFETY: the entry's memory stays valid while the program runs.
    unsafe {
        let start = *place;
        *place = start.wrapping_add(length);
        start
    }
}

/// Bytes have passed on `socket` that were not counted, in one direction or the other. Both get a gap, as calls do not always tell.
#[inline(always)]
pub(crate) fn leap(socket: u64) {
    advance(socket, Direction::Received, LEAP);
    advance(socket, Direction::Sent, LEAP);
}

/// Forgets a connection that has ended.
#[inline(always)]
pub(crate) fn forget(socket: u64) {
    for direction in [Direction::Received, Direction::Sent] {
        // A stream of which no message was seen has no entry.
        let _ = MULTIPATH.remove(key(socket, direction));
    }
}

#[inline(always)]
fn key(socket: u64, direction: Direction) -> u64 {
    socket << 1 | direction as u64
}

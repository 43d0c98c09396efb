//! Positions in the streams of Multipath TCP (RFC 8684).
//!
//! Its sequence numbers are in `struct mptcp_sock`, whose members differ between kernels. So the programs count the
//! bytes that pass. Bytes that pass unseen make no gap by themselves: [`leap`] makes one.

use aya_ebpf::{helpers::generated::bpf_get_prandom_u32, macros::map, maps::LruHashMap};

use crate::kernel::sock::Direction;

/// Socket inode and direction ([`key`]) -> position, which wraps. It has room for as many connections as `SOCKETS` has
/// for sockets.
///
/// A stream begins at a random position, like a TCP stream. If an entry was removed to make room, its stream continues
/// far from its old position, and that is a gap. At a nearby position the next bytes would be taken for bytes that have
/// been seen already.
#[map]
static MULTIPATH: LruHashMap<u64, u32> = LruHashMap::with_max_entries(32_768, 0);

/// More bytes than a message has, so that the bytes behind the leap are not taken for the rest of a message.
const LEAP: u32 = 1 << 20;

/// Counts `length` bytes that have passed on `socket`, and returns the position of the first one. Several threads at
/// the same time may get the same position; such streams are framed call by call.
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

/// Makes a gap in both directions of `socket`, because bytes have passed that were not counted. The direction is not
/// always known from the call.
#[inline(always)]
pub(crate) fn leap(socket: u64) {
    advance(socket, Direction::Received, LEAP);
    advance(socket, Direction::Sent, LEAP);
}

/// Removes a connection that has ended.
#[inline(always)]
pub(crate) fn forget(socket: u64) {
    for direction in [Direction::Received, Direction::Sent] {
        // A stream without a seen message has no entry.
        let _ = MULTIPATH.remove(key(socket, direction));
    }
}

#[inline(always)]
fn key(socket: u64, direction: Direction) -> u64 {
    socket << 1 | direction as u64
}

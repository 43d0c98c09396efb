//! What is known of each socket: the agent's verdict, and how many of its messages were dropped here. Of a TCP connection, also that
//! it is one of ours, from its first message to its end.

use aya_ebpf::{bindings::BPF_NOEXIST, macros::map, maps::LruHashMap};
use dnstap_ebpf::{SocketState, VERDICT_NOT_DNS, VERDICT_UNKNOWN};

/// Socket inode -> state. The oldest entries make room: a forgotten verdict costs copies, and a connection's end is not told.
#[map]
static SOCKETS: LruHashMap<u64, SocketState> = LruHashMap::with_max_entries(16_384, 0);

/// Nothing is known.
const UNKNOWN: SocketState = SocketState {
    verdict: VERDICT_UNKNOWN,
    lost: 0,
    unfinished: 0,
};

/// State of the socket with inode `socket`, of which a message has passed. A connection (`stream`) is remembered from then on.
#[inline(always)]
pub(crate) fn state(socket: u64, stream: bool) -> SocketState {
    // SAFETY: two integers, each written whole; a torn pair is harmless.
    if let Some(state) = unsafe { SOCKETS.get(socket) } {
        return *state;
    }
    if stream {
        // If an LRU map cannot make room, the agent is not told of the connection's end.
        let _ = SOCKETS.insert(socket, UNKNOWN, BPF_NOEXIST as u64);
    }
    UNKNOWN
}

/// Whether anything is known of the socket with inode `socket`.
#[inline(always)]
pub(crate) fn is_known(socket: u64) -> bool {
    // SAFETY: the value is not looked at.
    unsafe { SOCKETS.get(socket) }.is_some()
}

/// Forgets the socket with inode `socket`. Whether anything was known.
#[inline(always)]
pub(crate) fn forget(socket: u64) -> bool {
    SOCKETS.remove(socket).is_ok()
}

/// Whether the agent wants nothing of a socket in this `state`.
#[inline(always)]
pub(crate) fn is_skipped(state: SocketState) -> bool {
    state.verdict == VERDICT_NOT_DNS
}

/// Records that a message of `socket` was dropped, for the next one that gets through to tell.
#[inline(always)]
pub(crate) fn note_loss(socket: u64) {
    if let Some(state) = SOCKETS.get_ptr_mut(socket) {
        // SAFETY: the entry's memory stays valid while the program runs; a lost race miscounts `lost` but still changes it.
        unsafe { (*state).lost = (*state).lost.wrapping_add(1) };
    } else {
        // An LRU map makes room; if it cannot, the TCP sequence number still tells of the loss.
        let _ = SOCKETS.insert(socket, SocketState { lost: 1, ..UNKNOWN }, 0);
    }
}

/// Notes whether the last send of the UDP socket `socket` left a datagram for the next one to end.
#[inline(always)]
pub(crate) fn note_unfinished(socket: u64, unfinished: bool) {
    if let Some(state) = SOCKETS.get_ptr_mut(socket) {
        // SAFETY: the entry's memory stays valid while the program runs.
        unsafe { (*state).unfinished = u32::from(unfinished) };
    } else if unfinished {
        // If an LRU map cannot make room, the end of the datagram is taken for one of its own.
        let _ = SOCKETS.insert(
            socket,
            SocketState {
                unfinished: 1,
                ..UNKNOWN
            },
            0,
        );
    }
}

//! State of each socket: the agent's verdict, and the number of its messages that were dropped in the kernel. A TCP
//! connection has an entry from its first message to its end, so that its end is reported.

use aya_ebpf::{bindings::BPF_NOEXIST, macros::map, maps::LruHashMap};
use dnstap_ebpf::{SocketState, VERDICT_NOT_DNS, VERDICT_UNKNOWN};

/// Socket inode -> state. When the map is full, the oldest entries are removed. A removed verdict costs copies, and the
/// end of a removed connection is not reported.
#[map]
static SOCKETS: LruHashMap<u64, SocketState> = LruHashMap::with_max_entries(16_384, 0);

/// State of a socket without an entry.
const UNKNOWN: SocketState = SocketState {
    verdict: VERDICT_UNKNOWN,
    lost: 0,
    unfinished: 0,
};

/// Returns the state of the socket with inode `socket`, on which a message has passed. A connection (`stream`) gets an
/// entry if it has none.
#[inline(always)]
pub(crate) fn state(socket: u64, stream: bool) -> SocketState {
    // SAFETY: two integers, each written whole; a torn pair is harmless.
    if let Some(state) = unsafe { SOCKETS.get(socket) } {
        return *state;
    }
    if stream {
        // If an LRU map cannot make room, the end of the connection is not reported.
        let _ = SOCKETS.insert(socket, UNKNOWN, BPF_NOEXIST as u64);
    }
    UNKNOWN
}

/// Returns whether the socket with inode `socket` has an entry.
#[inline(always)]
pub(crate) fn is_known(socket: u64) -> bool {
    // SAFETY: the value is not read.
    unsafe { SOCKETS.get(socket) }.is_some()
}

/// Removes the entry of the socket with inode `socket`. Returns whether there was one.
#[inline(always)]
pub(crate) fn forget(socket: u64) -> bool {
    SOCKETS.remove(socket).is_ok()
}

/// Returns whether the agent wants no messages of a socket in this `state`.
#[inline(always)]
pub(crate) fn is_skipped(state: SocketState) -> bool {
    state.verdict == VERDICT_NOT_DNS
}

/// Records that a message of `socket` was dropped. The next delivered message of the socket reports it.
#[inline(always)]
pub(crate) fn note_loss(socket: u64) {
    if let Some(state) = SOCKETS.get_ptr_mut(socket) {
        // SAFETY: the entry's memory stays valid while the program runs. If two programs race, `lost` gets a wrong
        // value, but it still changes.
        unsafe { (*state).lost = (*state).lost.wrapping_add(1) };
    } else {
        // An LRU map makes room. If it cannot, the TCP sequence number still shows the loss.
        let _ = SOCKETS.insert(socket, SocketState { lost: 1, ..UNKNOWN }, 0);
    }
}

/// Records whether the last send of the UDP socket `socket` left a datagram that the next send ends.
#[inline(always)]
pub(crate) fn note_unfinished(socket: u64, unfinished: bool) {
    if let Some(state) = SOCKETS.get_ptr_mut(socket) {
        // SAFETY: the entry's memory stays valid while the program runs.
        unsafe { (*state).unfinished = u32::from(unfinished) };
    } else if unfinished {
        // If an LRU map cannot make room, the end of the datagram is taken for a whole datagram.
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

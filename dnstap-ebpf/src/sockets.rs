//! What is known of each socket: the agent's verdict, and how many of its messages were dropped here.

use aya_ebpf::{macros::map, maps::LruHashMap};
use dnstap_ebpf::{SocketState, VERDICT_NOT_DNS, VERDICT_UNKNOWN};

/// Socket inode -> state. The oldest entries make room: a forgotten verdict costs deliveries that the agent judges again.
#[map]
static SOCKETS: LruHashMap<u64, SocketState> = LruHashMap::with_max_entries(16_384, 0);

/// State of the socket with inode `socket`.
#[inline(always)]
pub(crate) fn state(socket: u64) -> SocketState {
    // SAFETY: two integers, each written whole; a torn pair is harmless.
    unsafe { SOCKETS.get(socket) }
        .copied()
        .unwrap_or(SocketState {
            verdict: VERDICT_UNKNOWN,
            lost: 0,
        })
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
        let _ = SOCKETS.insert(
            socket,
            SocketState {
                verdict: VERDICT_UNKNOWN,
                lost: 1,
            },
            0,
        );
    }
}

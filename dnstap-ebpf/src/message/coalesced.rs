//! Several datagrams that a socket hands over as one (`UDP_GRO`), between the moment when the kernel copies them to the process and the
//! moment when hook `socket` or `fentry` sees the message, both within one receive call of one thread.

use dnstap_ebpf::{EVENT_COALESCED, EventHeader};

use crate::thread::threads::State;

/// What [`take`] returns without state: not known.
const UNKNOWN: u64 = u64::MAX;

/// Keeps that what the thread of `state` is receiving is `length` bytes of datagrams of `segment` bytes each, but for the last.
#[inline(always)]
pub(crate) fn keep(state: &mut State, segment: u16, length: u32) {
    state.coalesced = u64::from(length) << 32 | u64::from(segment);
}

/// What the thread of `state` has just received, for [`complete`]. To be called by whatever sees the end of a receive: the next one must
/// not find it.
#[inline(always)]
pub(crate) fn take(state: Option<&mut State>) -> u64 {
    let Some(state) = state else {
        return UNKNOWN;
    };
    let kept = state.coalesced;
    if kept != 0 {
        state.coalesced = 0;
    }
    kept
}

/// Completes the header of a received datagram with what was kept. That nothing was means that it is one.
#[inline(always)]
pub(crate) fn complete(header: &mut EventHeader, kept: u64) {
    if header.flags & EVENT_COALESCED != 0 && kept != UNKNOWN {
        header.flags &= !EVENT_COALESCED;
        header.segment = kept as u16;
        header.arrived_len = (kept >> 32) as u32;
    }
}

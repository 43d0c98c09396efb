//! Several datagrams that a socket hands over as one (`UDP_GRO`), between the moment when the kernel copies them to the process and the
//! moment when hook `socket` or `fentry` sees the message, both within one receive call of one thread.

use dnstap_ebpf::{EVENT_COALESCED, EventHeader, MISSING};

use crate::{kernel::config::config, thread::threads::State};

/// What is not known: whether it is one datagram.
pub(crate) const UNKNOWN: u64 = u64::MAX;

/// What is known to be one datagram.
pub(crate) const ONE: u64 = 0;

/// Keeps that what the thread of `state` is receiving is `length` bytes of datagrams of `segment` bytes each, but for the last.
#[inline(always)]
pub(crate) fn keep(state: &mut State, segment: u16, length: u32) {
    state.coalesced = u64::from(length) << 32 | u64::from(segment);
}

/// What the thread of `state` has just received, for [`complete`]: [`ONE`], [`UNKNOWN`], or what was kept. To be called by each program that
/// sees the end of a receive: the next one must not find it.
#[inline(always)]
pub(crate) fn take(state: Option<&mut State>) -> u64 {
    let Some(state) = state else {
        return UNKNOWN;
    };
    let kept = state.coalesced;
    if kept != ONE {
        state.coalesced = ONE;
    } else if config!(iter_ubuf) == MISSING as usize {
        // Before Linux 6.0 small datagrams may lie in one piece together, for which the tracepoint does not fire: nothing tells.
        return UNKNOWN;
    }
    kept
}

/// Completes the header of a received datagram with what was kept.
#[inline(always)]
pub(crate) fn complete(header: &mut EventHeader, kept: u64) {
    if header.flags & EVENT_COALESCED != 0 && kept != UNKNOWN {
        header.flags &= !EVENT_COALESCED;
        header.segment = kept as u16;
        header.arrived_len = (kept >> 32) as u32;
    }
}

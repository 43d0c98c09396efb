//! Remembers that a receive returned several datagrams as one message (`UDP_GRO`). The kernel shows this when it copies
//! them to the process; hook `socket` or `fentry` sees the message later. Both happen within one receive call of one
//! thread.

use dnstap_ebpf::{EVENT_COALESCED, EventHeader, MISSING};

use crate::{kernel::config::config, thread::threads::State};

/// It is not known whether the message is one datagram.
pub(crate) const UNKNOWN: u64 = u64::MAX;

/// The message is one datagram.
pub(crate) const ONE: u64 = 0;

/// Remembers that the thread of `state` is receiving `length` bytes of datagrams; each has `segment` bytes, except the
/// last.
#[inline(always)]
pub(crate) fn keep(state: &mut State, segment: u16, length: u32) {
    state.coalesced = u64::from(length) << 32 | u64::from(segment);
}

/// Returns what the thread of `state` has just received, for [`complete`]: [`ONE`], [`UNKNOWN`], or the value that
/// [`keep`] stored. Every program that sees the end of a receive must call this, because the value must not be found by
/// the next receive.
#[inline(always)]
pub(crate) fn take(state: Option<&mut State>) -> u64 {
    let Some(state) = state else {
        return UNKNOWN;
    };
    let kept = state.coalesced;
    if kept != ONE {
        state.coalesced = ONE;
    } else if config!(iter_ubuf) == MISSING as usize {
        // Before Linux 6.0 small datagrams may be together in one piece of memory. The tracepoint does not fire for
        // them, so their number is not known.
        return UNKNOWN;
    }
    kept
}

/// Completes the header of a received datagram with the value from [`take`].
#[inline(always)]
pub(crate) fn complete(header: &mut EventHeader, kept: u64) {
    if header.flags & EVENT_COALESCED != 0 && kept != UNKNOWN {
        header.flags &= !EVENT_COALESCED;
        header.segment = kept as u16;
        header.arrived_len = (kept >> 32) as u32;
    }
}

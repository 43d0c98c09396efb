//! The message that a program is sending, in map memory.
//!
//! It is there for the verifier's sake. What a loop carries in registers or on the stack, the verifier tracks as ranges that
//! differ with every path through the body, so that no two states at the loop's head are alike and their number multiplies
//! with each round: one million instructions are used up in the fifth ("BPF program is too large", all kernels). Map memory
//! it does not track; states meet again at the loop's head, and the cost only adds up. Hence the volatile accesses: the
//! compiler must not keep the values in registers.

use core::ptr;

use aya_ebpf::{macros::map, maps::PerCpuArray};
use dnstap_ebpf::{Counter, EventHeader, IPPROTO_TCP, MAX_CHUNKS, MAX_PERF_CHUNK, SCRATCH_SLOTS};

use crate::{
    kernel::config::PREFIX,
    message::{
        call::Call,
        payload::{Payload, Vectors},
    },
};

/// One for each program that can be in use at once on a CPU.
#[map]
static WORK: PerCpuArray<Work> = PerCpuArray::with_max_entries(SCRATCH_SLOTS, 0);

/// Which program uses a slot of `WORK` and of the perf scratch memory. A program does not run twice on one CPU at once.
#[derive(Clone, Copy)]
pub(crate) enum Slot {
    Send = 0,
    Receive = 1,
    Send6 = 2,
    Receive6 = 3,
    SecondSend = 4,
    SecondReceive = 5,
    SecondSend6 = 6,
    SecondReceive6 = 7,
}

impl Slot {
    /// Whether the program gathers messages of many segments. One that stands by need not (`thread/once.rs`), which halves the time that attaching
    /// takes: it counts them.
    #[inline(always)]
    pub(crate) fn gathers(self) -> bool {
        (self as u32) < Self::SecondSend as u32
    }
}

/// Largest message whose bytes are read straight to where they go: from one segment, or from two, of which the first may fill little of a
/// record.
const LARGEST_STRAIGHT: u64 = (MAX_CHUNKS * (MAX_PERF_CHUNK - PREFIX)) as u64;
const LARGEST_STRAIGHT_IN_TWO: u64 = ((MAX_CHUNKS - 1) * (MAX_PERF_CHUNK - PREFIX)) as u64;

/// A message on its way.
#[repr(C)]
pub(crate) struct Work {
    /// Complete but for the chunk.
    pub header: EventHeader,
    /// Bytes not yet sent.
    left: u64,
    payload: Payload,
    /// The call that a batch belongs to (`sys_exit` only).
    call: Call,
    /// Index of the next message of the batch, and their number.
    pub next: u64,
    pub messages: u64,
    /// What the call returned.
    pub result: u64,
    /// Bytes of a batch on a TCP socket from the next message on.
    pub rest: u64,
    /// Payload bytes in the record that is being gathered.
    gathered: u64,
    scattered: u64,
    taken: u64,
    /// What passes here on its way from a type that the verifier knows to a number.
    pub untyped: u64,
    walk: Walk,
}

/// A way back over segments: the segment before which it has come to, the bytes still to go, and the segments passed.
#[derive(Clone, Copy)]
#[repr(C)]
struct Walk {
    segment: u64,
    bytes: u64,
    passed: u64,
}

/// The work of `slot` on this CPU.
#[inline(always)]
pub(crate) fn of<'a>(slot: Slot) -> Option<&'a mut Work> {
    // SAFETY: the slot has one user at a time.
    unsafe { WORK.get_ptr_mut(slot as u32)?.as_mut() }
}

/// A value that the verifier and the compiler know nothing of.
#[inline(always)]
pub(crate) fn forget(value: &u64) -> u64 {
    // SAFETY: a live reference.
    unsafe { ptr::read_volatile(value) }
}

/// Stores a value where [`forget`] reads it.
#[inline(always)]
pub(crate) fn keep(place: &mut u64, value: u64) {
    // SAFETY: a live reference.
    unsafe { ptr::write_volatile(place, value) };
}

impl Work {
    /// The call that a batch belongs to.
    #[inline(always)]
    pub(crate) fn call(&self) -> Call {
        // SAFETY: a live reference; `set_call` wrote it, and all zeroes, the value before that, is a call as well.
        unsafe { ptr::read_volatile(&raw const self.call) }
    }

    /// Sets the call that a batch belongs to.
    #[inline(always)]
    pub(crate) fn set_call(&mut self, call: Call) {
        // SAFETY: a live reference.
        unsafe { ptr::write_volatile(&raw mut self.call, call) };
    }

    /// Begins with a message whose `header` is complete and whose bytes are at `payload`.
    #[inline(always)]
    pub(crate) fn begin(&mut self, payload: Payload) {
        self.header.chunk_offset = 0;
        keep(&mut self.left, u64::from(self.header.message_len));
        keep(&mut self.payload.base, payload.base);
        keep(&mut self.payload.length, payload.length);
        keep(&mut self.payload.vector, payload.vector);
        keep(&mut self.payload.segments, payload.segments);
        keep(&mut self.gathered, 0);
        // Where no segment has been looked at, the first is among those to come. TCP may have the length prefix as one of its own.
        let unread = payload.length == 0 && payload.segments != 0;
        let others = payload.segments.wrapping_sub(u64::from(unread));
        let expected = u64::from(self.header.protocol == IPPROTO_TCP);
        let length = u64::from(self.header.message_len);
        let is_scattered = if payload.length < length {
            others > expected || length > LARGEST_STRAIGHT_IN_TWO
        } else {
            length > LARGEST_STRAIGHT
        };
        keep(&mut self.scattered, u64::from(is_scattered));
    }

    /// Whether the message lies in more segments than one, and a length prefix, or is large.
    #[inline(always)]
    pub(crate) fn is_scattered(&self) -> bool {
        forget(&self.scattered) != 0
    }

    /// Bytes of the message not yet sent.
    #[inline(always)]
    pub(crate) fn left(&self) -> u64 {
        forget(&self.left)
    }

    /// Payload bytes in the record that is being gathered.
    #[inline(always)]
    pub(crate) fn gathered(&self) -> u64 {
        forget(&self.gathered)
    }

    /// Sets [`Self::gathered`].
    #[inline(always)]
    pub(crate) fn set_gathered(&mut self, bytes: u64) {
        keep(&mut self.gathered, bytes);
    }

    /// Begins a way back of `bytes` bytes from the start of `segment`.
    #[inline(always)]
    pub(crate) fn begin_walk(&mut self, segment: u64, bytes: u64) {
        keep(&mut self.walk.segment, segment);
        keep(&mut self.walk.bytes, bytes);
        keep(&mut self.walk.passed, 0);
    }

    /// Where the way back has come to: segment, and bytes still to go from its start.
    #[inline(always)]
    pub(crate) fn walk(&self) -> (u64, u64) {
        (forget(&self.walk.segment), forget(&self.walk.bytes))
    }

    /// Goes on to the start of the segment before.
    #[inline(always)]
    pub(crate) fn walk_to(&mut self, segment: u64, bytes: u64) {
        keep(&mut self.walk.segment, segment);
        keep(&mut self.walk.bytes, bytes);
        let passed = self.walked_segments() + 1;
        keep(&mut self.walk.passed, passed);
    }

    /// Segments passed on the way back.
    #[inline(always)]
    pub(crate) fn walked_segments(&self) -> u64 {
        forget(&self.walk.passed)
    }

    /// Segments behind the current one.
    #[inline(always)]
    pub(crate) fn segments_behind(&self) -> u64 {
        forget(&self.payload.segments)
    }

    /// Bytes left of the current segment, whether or not they belong to the message.
    #[inline(always)]
    pub(crate) fn room(&self) -> u64 {
        forget(&self.payload.length)
    }

    /// Gives up on the message. Nothing says how much of its segments was transferred.
    #[inline(always)]
    pub(crate) fn abandon(&mut self) {
        keep(&mut self.left, 0);
        keep(&mut self.payload.length, 0);
        keep(&mut self.payload.segments, 0);
    }

    /// Address and length of what is left of the current segment, at most what is left of the message.
    #[inline(always)]
    pub(crate) fn segment(&self) -> (u64, u64) {
        let (length, left) = (forget(&self.payload.length), self.left());
        (
            forget(&self.payload.base),
            if length < left { length } else { left },
        )
    }

    /// Where the rest of the current segment is.
    #[inline(always)]
    pub(crate) fn base(&self) -> u64 {
        forget(&self.payload.base)
    }

    /// Consumes what is left of the current segment, at most `most` bytes and what is left of the message. The bytes consumed.
    #[inline(always)]
    pub(crate) fn take_up_to(&mut self, most: u64) -> u64 {
        // By way of memory, so that the verifier meets one state behind each choice.
        let (_, length) = self.segment();
        keep(&mut self.taken, if length < most { length } else { most });
        let length = forget(&self.taken);
        self.consume(length);
        length
    }

    /// `length` bytes of the current segment have been read.
    #[inline(always)]
    pub(crate) fn consume(&mut self, length: u64) {
        let left = self.left().wrapping_sub(length);
        keep(&mut self.left, left);
        let base = forget(&self.payload.base).wrapping_add(length);
        keep(&mut self.payload.base, base);
        let rest = forget(&self.payload.length).wrapping_sub(length);
        keep(&mut self.payload.length, rest);
    }

    /// Goes on to the next segment. [`Counter::Truncated`] if there is none: the call reported more than it could hold.
    #[inline(always)]
    pub(crate) fn next_segment(&mut self, vectors: Vectors) -> Result<(), Counter> {
        let segments = self.segments_behind();
        if segments == 0 {
            return Err(Counter::Truncated);
        }
        let vector = forget(&self.payload.vector);
        let (base, length) = vectors.segment(vector)?;
        keep(&mut self.payload.base, base);
        keep(&mut self.payload.length, length);
        keep(&mut self.payload.vector, vector.wrapping_add(16));
        keep(&mut self.payload.segments, segments - 1);
        Ok(())
    }
}

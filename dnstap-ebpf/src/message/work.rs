//! The message that a program is sending, in map memory.
//!
//! It is there because of the verifier. The verifier tracks the values that a loop keeps in registers or on the stack
//! as ranges, which differ with every path through the body. So no two states at the head of the loop are equal, and
//! their number multiplies with each round: the limit of one million instructions is reached in the fifth round ("BPF
//! program is too large", all kernels). The verifier does not track map memory: states become equal again at the head
//! of the loop, and the cost only adds up. The accesses are volatile because the compiler must not keep the values in
//! registers.

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

/// One element for each program that can run on a CPU at the same time as the others.
#[map]
static WORK: PerCpuArray<Work> = PerCpuArray::with_max_entries(SCRATCH_SLOTS, 0);

/// Program that uses a slot of `WORK` and of the perf scratch memory. A program does not run twice on one CPU at once.
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
    /// Returns whether the program gathers messages of many segments. The second program of a hook (`thread/once.rs`)
    /// does not need this: it counts such messages as dropped. That halves the time that attaching takes.
    #[inline(always)]
    pub(crate) fn gathers(self) -> bool {
        (self as u32) < Self::SecondSend as u32
    }
}

/// Largest message whose bytes are read straight into the records: from one segment, or from two, where the first may
/// fill only a small part of a record.
const LARGEST_STRAIGHT: u64 = (MAX_CHUNKS * (MAX_PERF_CHUNK - PREFIX)) as u64;
const LARGEST_STRAIGHT_IN_TWO: u64 = ((MAX_CHUNKS - 1) * (MAX_PERF_CHUNK - PREFIX)) as u64;

/// A message that is being sent.
#[repr(C)]
pub(crate) struct Work {
    /// Header of the message, complete except for the chunk.
    pub header: EventHeader,
    /// Bytes not yet sent.
    left: u64,
    payload: Payload,
    /// The call of a batch (`sys_exit` only).
    call: Call,
    /// Index of the next message of the batch, and their number.
    pub next: u64,
    pub messages: u64,
    /// Return value of the call.
    pub result: u64,
    /// Number of bytes of a batch on a TCP socket from the next message on.
    pub rest: u64,
    /// Payload bytes in the record that is being gathered.
    gathered: u64,
    scattered: u64,
    taken: u64,
    /// Place through which a value passes to lose the type that the verifier knows, and become a number.
    pub untyped: u64,
    walk: Walk,
}

/// State of a walk back over segments: the segment that was reached, the bytes that are still to go before its start,
/// and the number of segments passed.
#[derive(Clone, Copy)]
#[repr(C)]
struct Walk {
    segment: u64,
    bytes: u64,
    passed: u64,
}

/// Returns the work of `slot` on this CPU.
#[inline(always)]
pub(crate) fn of<'a>(slot: Slot) -> Option<&'a mut Work> {
    // SAFETY: the slot has one user at a time.
    unsafe { WORK.get_ptr_mut(slot as u32)?.as_mut() }
}

/// Reads a value from memory, so that neither the verifier nor the compiler knows anything about it.
#[inline(always)]
pub(crate) fn volatile_load(value: &u64) -> u64 {
    // SAFETY: a live reference.
    unsafe { ptr::read_volatile(value) }
}

/// Stores a value where [`volatile_load`] reads it.
#[inline(always)]
pub(crate) fn volatile_store(place: &mut u64, value: u64) {
    // SAFETY: a live reference.
    unsafe { ptr::write_volatile(place, value) };
}

impl Work {
    /// Returns the call of a batch.
    #[inline(always)]
    pub(crate) fn call(&self) -> Call {
        // SAFETY: a live reference. `set_call` wrote the call; before that it is all zeroes, which is a valid call,
        // too.
        unsafe { ptr::read_volatile(&raw const self.call) }
    }

    /// Sets the call of a batch.
    #[inline(always)]
    pub(crate) fn set_call(&mut self, call: Call) {
        // SAFETY: a live reference.
        unsafe { ptr::write_volatile(&raw mut self.call, call) };
    }

    /// Begins with a message whose `header` is complete and whose bytes are at `payload`.
    #[inline(always)]
    pub(crate) fn begin(&mut self, payload: Payload) {
        self.header.chunk_offset = 0;
        volatile_store(&mut self.left, u64::from(self.header.message_len));
        volatile_store(&mut self.payload.base, payload.base);
        volatile_store(&mut self.payload.length, payload.length);
        volatile_store(&mut self.payload.vector, payload.vector);
        volatile_store(&mut self.payload.segments, payload.segments);
        volatile_store(&mut self.gathered, 0);
        // If no segment has been read yet, the first one is among `segments`. TCP may have the length prefix as a
        // segment of its own.
        let unread = payload.length == 0 && payload.segments != 0;
        let others = payload.segments.wrapping_sub(u64::from(unread));
        let expected = u64::from(self.header.protocol == IPPROTO_TCP);
        let length = u64::from(self.header.message_len);
        let is_scattered = if payload.length < length {
            others > expected || length > LARGEST_STRAIGHT_IN_TWO
        } else {
            length > LARGEST_STRAIGHT
        };
        volatile_store(&mut self.scattered, u64::from(is_scattered));
    }

    /// Returns whether the message is large or has more segments than one and a length prefix.
    #[inline(always)]
    pub(crate) fn is_scattered(&self) -> bool {
        volatile_load(&self.scattered) != 0
    }

    /// Returns the number of bytes of the message that are not yet sent.
    #[inline(always)]
    pub(crate) fn left(&self) -> u64 {
        volatile_load(&self.left)
    }

    /// Returns the number of payload bytes in the record that is being gathered.
    #[inline(always)]
    pub(crate) fn gathered(&self) -> u64 {
        volatile_load(&self.gathered)
    }

    /// Sets [`Self::gathered`].
    #[inline(always)]
    pub(crate) fn set_gathered(&mut self, bytes: u64) {
        volatile_store(&mut self.gathered, bytes);
    }

    /// Begins a walk back of `bytes` bytes from the start of `segment`.
    #[inline(always)]
    pub(crate) fn begin_walk(&mut self, segment: u64, bytes: u64) {
        volatile_store(&mut self.walk.segment, segment);
        volatile_store(&mut self.walk.bytes, bytes);
        volatile_store(&mut self.walk.passed, 0);
    }

    /// Returns the position of the walk back: the segment, and the bytes that are still to go before its start.
    #[inline(always)]
    pub(crate) fn walk(&self) -> (u64, u64) {
        (
            volatile_load(&self.walk.segment),
            volatile_load(&self.walk.bytes),
        )
    }

    /// Goes back to the start of the previous segment.
    #[inline(always)]
    pub(crate) fn walk_to(&mut self, segment: u64, bytes: u64) {
        volatile_store(&mut self.walk.segment, segment);
        volatile_store(&mut self.walk.bytes, bytes);
        let passed = self.walked_segments() + 1;
        volatile_store(&mut self.walk.passed, passed);
    }

    /// Returns the number of segments that the walk back has passed.
    #[inline(always)]
    pub(crate) fn walked_segments(&self) -> u64 {
        volatile_load(&self.walk.passed)
    }

    /// Returns the number of segments behind the current one.
    #[inline(always)]
    pub(crate) fn segments_behind(&self) -> u64 {
        volatile_load(&self.payload.segments)
    }

    /// Returns the number of bytes left in the current segment, whether or not they belong to the message.
    #[inline(always)]
    pub(crate) fn room(&self) -> u64 {
        volatile_load(&self.payload.length)
    }

    /// Gives up on the message. It is not known how much of its segments was transferred.
    #[inline(always)]
    pub(crate) fn abandon(&mut self) {
        volatile_store(&mut self.left, 0);
        volatile_store(&mut self.payload.length, 0);
        volatile_store(&mut self.payload.segments, 0);
    }

    /// Returns address and length of the rest of the current segment, but not more than the rest of the message.
    #[inline(always)]
    pub(crate) fn segment(&self) -> (u64, u64) {
        let (length, left) = (volatile_load(&self.payload.length), self.left());
        (
            volatile_load(&self.payload.base),
            if length < left { length } else { left },
        )
    }

    /// Returns the address of the rest of the current segment.
    #[inline(always)]
    pub(crate) fn base(&self) -> u64 {
        volatile_load(&self.payload.base)
    }

    /// Consumes the rest of the current segment, but at most `most` bytes, and not more than the rest of the message.
    /// Returns the number of bytes consumed.
    #[inline(always)]
    pub(crate) fn take_up_to(&mut self, most: u64) -> u64 {
        // The value passes through memory, so that the verifier has one state after the two choices.
        let (_, length) = self.segment();
        volatile_store(&mut self.taken, if length < most { length } else { most });
        let length = volatile_load(&self.taken);
        self.consume(length);
        length
    }

    /// Consumes `length` bytes of the current segment, which have been read.
    #[inline(always)]
    pub(crate) fn consume(&mut self, length: u64) {
        let left = self.left().wrapping_sub(length);
        volatile_store(&mut self.left, left);
        let base = volatile_load(&self.payload.base).wrapping_add(length);
        volatile_store(&mut self.payload.base, base);
        let rest = volatile_load(&self.payload.length).wrapping_sub(length);
        volatile_store(&mut self.payload.length, rest);
    }

    /// Goes on to the next segment. [`Counter::Truncated`] if there is none: the call reported more bytes than its
    /// segments can hold.
    #[inline(always)]
    pub(crate) fn next_segment(&mut self, vectors: Vectors) -> Result<(), Counter> {
        let segments = self.segments_behind();
        if segments == 0 {
            return Err(Counter::Truncated);
        }
        let vector = volatile_load(&self.payload.vector);
        let (base, length) = vectors.segment(vector)?;
        volatile_store(&mut self.payload.base, base);
        volatile_store(&mut self.payload.length, length);
        volatile_store(&mut self.payload.vector, vector.wrapping_add(16));
        volatile_store(&mut self.payload.segments, segments - 1);
        Ok(())
    }
}

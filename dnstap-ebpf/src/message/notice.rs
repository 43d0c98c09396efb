//! Puts notices together and sends them: what the probes of functions saw ([`dnstap_ebpf::RecordKind::Notice`]).
//!
//! A notice is built in memory of its thread, because newer kernels may preempt a thread in such a program and run the
//! program for another thread on the same CPU. Then it is copied to the ring. It wakes nobody.
//!
//! The number of bytes so far is in map memory, and each offset and length passes a mask. So the verifier sees a limit,
//! and no loop carries a range in a register.

use core::ptr;

use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_F_CURRENT_CPU, BPF_RB_NO_WAKEUP},
    helpers::{
        bpf_ktime_get_ns, bpf_perf_event_output,
        generated::{bpf_probe_read_user, bpf_probe_read_user_str, bpf_ringbuf_output},
    },
    macros::map,
    maps::LruHashMap,
};
use dnstap_ebpf::{
    AF_INET, Counter, EventHeader, Function, IPPROTO_UDP, NOTICE_BYTES, NoticeHead, RecordKind,
    TRANSPORT_PERF,
};

use crate::{
    kernel::{config::config, counters::count, target::Thread},
    message::emit::{EVENTS_PERF, EVENTS_RING, has_room_for_probes, own_place},
};

/// Bytes for a payload. A part begins below [`NOTICE_BYTES`] and has fewer bytes than that.
const ROOM: usize = 2 * NOTICE_BYTES;

/// Masks for offsets and lengths. They are statics so that the compiler does not know their values: it would remove a
/// mask that has no effect, and the verifier would not know the limit.
static BITS: u64 = NOTICE_BYTES as u64 - 1;
static TOTAL_BITS: u64 = ROOM as u64 - 1;

/// Longest string that is read, with its zero byte.
const STRING: u32 = 1_024;

/// A notice that is being put together.
#[repr(C, align(8))]
pub(crate) struct Notice {
    /// Bytes of the payload so far.
    used: u64,
    header: EventHeader,
    payload: [u8; ROOM],
}

/// Memory for notices, by thread. The agent sets the size.
#[map]
static NOTICES: LruHashMap<u64, Notice> = LruHashMap::with_max_entries(1024, 0);

// SAFETY: integers, for which zero is a value.
static EMPTY: Notice = unsafe { core::mem::zeroed() };

/// Returns the memory for a notice of this thread, with `head` bytes in front.
#[inline(always)]
pub(crate) fn begin<'a>(thread: Thread, head: u64) -> Result<&'a mut Notice, Counter> {
    let key = u64::from(thread.tgid) << 32 | u64::from(thread.tid);
    let place = own_place(&NOTICES, key, &EMPTY).ok_or(Counter::ProbeRingFull)?;
    // SAFETY: the entry belongs to this thread, which runs one program at a time.
    let notice = unsafe { &mut *place };
    notice.header.tgid = thread.tgid;
    notice.header.tid = thread.tid;
    notice.header.program_id = thread.program_id;
    notice.set_used(head);
    Ok(notice)
}

impl Notice {
    /// Returns the place of the head.
    #[inline(always)]
    pub(crate) fn head<T>(&mut self) -> *mut T {
        (&raw mut self.payload).cast()
    }

    #[inline(always)]
    fn used(&self) -> u64 {
        // SAFETY: a live reference.
        unsafe { ptr::from_ref(&self.used).read_volatile() }
    }

    #[inline(always)]
    fn set_used(&mut self, used: u64) {
        // SAFETY: a live reference.
        unsafe { ptr::from_mut(&mut self.used).write_volatile(used) };
    }

    /// Returns the number of bytes of the payload so far.
    #[inline(always)]
    pub(crate) fn len(&self) -> u64 {
        self.used()
    }

    /// Returns whether `length` more bytes fit.
    #[inline(always)]
    pub(crate) fn has_room(&self, length: u64) -> bool {
        length < NOTICE_BYTES as u64 && self.used() + length < NOTICE_BYTES as u64
    }

    /// Appends bytes of the server's memory. They must fit ([`Self::has_room`]).
    #[inline(always)]
    pub(crate) fn append(&mut self, address: u64, length: u64) -> Result<(), Counter> {
        let (at, length) = (self.used() & bits(), length & bits());
        // SAFETY: offset and length are each at most half of the payload.
        let error = unsafe {
            let to = (&raw mut self.payload).cast::<u8>().add(at as usize);
            bpf_probe_read_user(to.cast(), length as u32, address as *const _)
        };
        if error != 0 {
            return Err(Counter::ProbeFault);
        }
        self.set_used(at + length);
        Ok(())
    }

    /// Appends a number.
    #[inline(always)]
    pub(crate) fn append_u16(&mut self, number: u16) {
        let at = self.used() & bits();
        // SAFETY: the offset is at most half of the payload.
        unsafe {
            let to = (&raw mut self.payload).cast::<u8>().add(at as usize);
            to.write_volatile(number as u8);
            to.add(1).write_volatile((number >> 8) as u8);
        }
        self.set_used(at + 2);
    }

    /// Appends a string of the server's memory with its zero byte. Returns its length; 0 if it cannot be read, or if
    /// there is little room.
    #[inline(always)]
    pub(crate) fn append_string(&mut self, address: u64) -> u16 {
        let at = self.used() & bits();
        if at > NOTICE_BYTES as u64 - u64::from(STRING) {
            return 0;
        }
        // SAFETY: the offset is at most half of the payload, and the string is shorter than the other half.
        let length = unsafe {
            let to = (&raw mut self.payload).cast::<u8>().add(at as usize);
            bpf_probe_read_user_str(to.cast(), STRING, address as *const _)
        };
        if length <= 0 {
            return 0;
        }
        let length = length as u64 & bits();
        self.set_used(at + length);
        length as u16
    }

    /// Sends the notice.
    #[inline(always)]
    pub(crate) fn send<C: EbpfContext>(
        &mut self,
        ctx: &C,
        function: Function,
    ) -> Result<(), Counter> {
        // SAFETY: the pointer is to a static.
        let used = self.used() & unsafe { (&raw const TOTAL_BITS).read_volatile() };
        let header = &mut self.header;
        // SAFETY: takes no arguments.
        header.ktime_ns = unsafe { bpf_ktime_get_ns() };
        header.kind = RecordKind::Notice as u8;
        header.family = AF_INET;
        header.protocol = IPPROTO_UDP;
        header.message_len = used as u32;
        header.chunk_len = used as u32;
        let head = self.head::<NoticeHead>();
        // SAFETY: the payload begins with the head.
        unsafe {
            (&raw mut (*head).function).write(function as u32);
            (&raw mut (*head).length).write(used as u32);
        }
        let bytes = size_of::<EventHeader>() as u64 + used;
        let record = ptr::from_mut(&mut self.header);
        let error = if config!(transport) == TRANSPORT_PERF as usize {
            // SAFETY: the payload behind the header has at least that many bytes.
            unsafe {
                bpf_perf_event_output(
                    ctx.as_ptr(),
                    ptr::from_ref(&EVENTS_PERF).cast_mut().cast(),
                    BPF_F_CURRENT_CPU,
                    record.cast(),
                    bytes,
                )
            }
        } else if !has_room_for_probes() {
            return Err(Counter::ProbeRingFull);
        } else {
            // SAFETY: as above.
            unsafe {
                bpf_ringbuf_output(
                    ptr::from_ref(&EVENTS_RING).cast_mut().cast(),
                    record.cast(),
                    bytes,
                    BPF_RB_NO_WAKEUP as u64,
                )
            }
        };
        if error != 0 {
            return Err(Counter::ProbeRingFull);
        }
        count(Counter::Records);
        Ok(())
    }
}

/// Returns the mask for an offset or a length.
#[inline(always)]
fn bits() -> u64 {
    // SAFETY: the pointer is to a static.
    unsafe { (&raw const BITS).read_volatile() }
}

//! The way to user space: one record per chunk, in the BPF ring buffer or the perf ring buffer.
//!
//! User memory is read straight into the BPF ring's reservation. A perf record is copied by the kernel from contiguous
//! memory, which is a scratch slot here. Nothing waits: a full ring drops the message, and says so.

use core::ptr;

use aya_ebpf::{
    EbpfContext,
    bindings::{
        BPF_F_CURRENT_CPU, BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP,
        BPF_RINGBUF_HDR_SZ,
    },
    helpers::{
        bpf_get_smp_processor_id, bpf_ktime_get_ns, bpf_perf_event_output,
        generated::bpf_probe_read_user,
    },
    macros::map,
    maps::{Array, PerfEventByteArray, RingBuf},
};
use aya_log_ebpf::debug;
use dnstap_ebpf::{
    Counter, EventHeader, IPPROTO_TCP, MAX_CHUNKS, MAX_PERF_CHUNK, MAX_RING_CHUNK, RING_CLASSES,
    TRANSPORT_PERF,
};

use crate::{
    config::{PERF_CLASS, clamp_to_class, config},
    counters::{add, count, count_whole},
    memory, sockets,
    work::{Slot, Vectors, Work},
};

/// Room before the payload for the length prefix of a TCP message that was written as a segment of its own.
pub(crate) const PREFIX: usize = 2;

const HEADER: usize = size_of::<EventHeader>();

/// The BPF ring buffer. The agent sets the size.
#[map]
static EVENTS_RING: RingBuf = RingBuf::with_byte_size(4096, 0);

/// The perf ring buffers, one per CPU.
#[map]
static EVENTS_PERF: PerfEventByteArray = PerfEventByteArray::new(0);

/// Where a perf record is put together.
#[repr(C, align(8))]
struct Scratch {
    header: EventHeader,
    payload: [u8; MAX_PERF_CHUNK],
}

/// `SLOTS` slots for each possible CPU (the agent sets the size), because the values of per-CPU arrays are limited to
/// 32 KiB. A slot has one user at a time: a program does not run twice on one CPU at once.
#[map]
static SCRATCH: Array<Scratch> = Array::with_max_entries(1, 0);

/// `-ENOSPC`: what `bpf_perf_event_output` returns when the buffer is full.
const NO_SPACE: i64 = -28;

/// Slots for each CPU.
const SLOTS: u32 = dnstap_ebpf::SCRATCH_SLOTS;

/// Sends the message in `work` and counts what became of it.
#[inline(always)]
pub(crate) fn message<C: EbpfContext>(ctx: &C, slot: Slot, vectors: Vectors, work: &mut Work) {
    for _ in 0..MAX_CHUNKS {
        chunk(ctx, slot, vectors, work);
        if work.left() == 0 {
            return;
        }
    }
    lost(work.header.socket, Counter::TooManyChunks);
}

/// Sends the next chunk of the message in `work`. Counts the message when it is complete, or given up.
#[inline(always)]
pub(crate) fn chunk<C: EbpfContext>(ctx: &C, slot: Slot, vectors: Vectors, work: &mut Work) {
    match try_chunk(ctx, slot, vectors, work) {
        Ok(()) => {}
        Err(reason) => {
            lost(work.header.socket, reason);
            debug!(
                ctx,
                "dropped {} bytes of socket {}: reason {}",
                work.header.message_len,
                work.header.socket,
                reason as u32
            );
            work.abandon();
        }
    }
}

/// Tells that the connection of `socket` has ended ([`EventHeader`]).
#[inline(always)]
pub(crate) fn end<C: EbpfContext>(ctx: &C, socket: u64, family: u8) {
    let header = EventHeader {
        // SAFETY: takes no arguments.
        ktime_ns: unsafe { bpf_ktime_get_ns() },
        socket,
        family,
        protocol: IPPROTO_TCP,
        // SAFETY: integers, for which zero is a value.
        ..unsafe { core::mem::zeroed() }
    };
    let sent = if config!(transport) == TRANSPORT_PERF as usize {
        // SAFETY: the header lives on the stack, to its whole length.
        let error = unsafe {
            bpf_perf_event_output(
                ctx.as_ptr(),
                ptr::from_ref(&EVENTS_PERF).cast_mut().cast(),
                BPF_F_CURRENT_CPU,
                ptr::from_ref(&header).cast_mut().cast(),
                HEADER as u64,
            )
        };
        error == 0
    } else if let Some(mut record) = EVENTS_RING.reserve::<EventHeader>(0) {
        record.write(header);
        record.submit(BPF_RB_NO_WAKEUP as u64);
        true
    } else {
        false
    };
    if sent {
        count(Counter::Records);
    }
}

/// Counts a message of `socket` as seen, and as dropped for `reason`.
#[inline(always)]
pub(crate) fn lost(socket: u64, reason: Counter) {
    count(Counter::Seen);
    count(reason);
    sockets::note_loss(socket);
}

#[inline(always)]
fn try_chunk<C: EbpfContext>(
    ctx: &C,
    slot: Slot,
    vectors: Vectors,
    work: &mut Work,
) -> Result<(), Counter> {
    let perf = config!(transport) == TRANSPORT_PERF as usize;
    let largest = (if perf { MAX_PERF_CHUNK } else { MAX_RING_CHUNK } - PREFIX) as u64;
    let (mut base, mut length) = work.segment();
    if length == 0 {
        work.next_segment(vectors)?;
        (base, length) = work.segment();
    }
    let mut prefix = None;
    if work.header.protocol == IPPROTO_TCP && length == PREFIX as u64 && work.left() > PREFIX as u64
    {
        // The length prefix as a segment of its own: it goes with the segment behind it.
        // SAFETY: bytes.
        prefix = Some(unsafe { memory::user::<[u8; PREFIX]>(base, 0)? });
        work.consume(PREFIX as u64);
        work.next_segment(vectors)?;
        (base, length) = work.segment();
    }
    if length > largest {
        length = largest;
    }
    let chunk_len = length as u32 + if prefix.is_some() { PREFIX as u32 } else { 0 };
    if chunk_len != 0 {
        work.header.chunk_len = chunk_len;
        let chunk = Chunk {
            prefix,
            base,
            length,
        };
        if perf {
            perf_record(ctx, slot, &work.header, &chunk)
        } else {
            ring_record(&work.header, &chunk)
        }?;
        add(Counter::Bytes, u64::from(chunk_len));
        work.header.chunk_offset += chunk_len;
    }
    work.consume(length);
    let is_last = work.left() == 0;
    if is_last && work.header.chunk_offset == chunk_len {
        count_whole();
        return Ok(());
    }
    if chunk_len != 0 {
        count(Counter::Records);
    }
    if is_last {
        count(Counter::Seen);
        count(Counter::Emitted);
    }
    Ok(())
}

/// Payload of one record.
struct Chunk {
    /// Length prefix that goes before the rest.
    prefix: Option<[u8; PREFIX]>,
    /// Address of the rest in user memory.
    base: u64,
    /// Bytes of the rest.
    length: u64,
}

impl Chunk {
    /// Writes header and payload to `record`, which holds the header and what `class` allows, prefix included.
    ///
    /// # Safety
    ///
    /// `record` must be writable for that many bytes and aligned to 8.
    #[inline(always)]
    unsafe fn write(
        &self,
        record: *mut EventHeader,
        class: usize,
        header: &EventHeader,
    ) -> Result<(), Counter> {
        // SAFETY: header and prefix lie at constant offsets within the record; `clamp_to_class` bounds the rest to what is
        // left behind the prefix.
        unsafe {
            record.write(*header);
            let mut payload = record.add(1).cast::<u8>();
            if let Some(prefix) = self.prefix {
                payload.cast::<[u8; PREFIX]>().write(prefix);
                payload = payload.add(PREFIX);
            }
            let length = clamp_to_class(self.length, class);
            if bpf_probe_read_user(payload.cast(), length as u32, self.base as *const _) == 0 {
                Ok(())
            } else {
                Err(Counter::UserFault)
            }
        }
    }
}

/// Sends a chunk in the smallest record of the BPF ring buffer that holds it.
#[inline(always)]
fn ring_record(header: &EventHeader, chunk: &Chunk) -> Result<(), Counter> {
    macro_rules! smallest {
        ($($class:literal),*) => {
            $(if chunk.length <= (RING_CLASSES[$class] - PREFIX) as u64 {
                return reserve::<$class>(header, chunk);
            })*
        };
    }
    smallest!(0, 1, 2, 3, 4, 5, 6);
    reserve::<7>(header, chunk)
}

#[inline(always)]
fn reserve<const CLASS: usize>(header: &EventHeader, chunk: &Chunk) -> Result<(), Counter> {
    let Some(mut record) = EVENTS_RING.reserve_bytes(HEADER + RING_CLASSES[CLASS], 0) else {
        return Err(Counter::RingFull);
    };
    // SAFETY: the reservation is that large, and aligned to 8 by the kernel.
    let written = unsafe { chunk.write(record.as_mut_ptr().cast(), CLASS, header) };
    if written.is_ok() {
        // A wake-up costs the server microseconds (an inter-processor interrupt and a run-queue lock), so the reader is woken
        // when much is waiting, by the record that passes the mark or another multiple of it; otherwise it comes by itself, on
        // its timer. So it does when two CPUs pass the mark at once and neither sees that.
        let waiting = EVENTS_RING.query(BPF_RB_AVAIL_DATA as u64);
        let mark = config!(wakeup_bytes) as u64;
        let passed = waiting >= mark && waiting & (mark - 1) < in_ring::<CLASS>();
        let wakeup = if passed {
            BPF_RB_FORCE_WAKEUP
        } else {
            BPF_RB_NO_WAKEUP
        };
        record.submit(wakeup as u64);
    } else {
        record.discard(BPF_RB_NO_WAKEUP as u64);
    }
    written
}

/// Bytes that a record takes in the BPF ring buffer, with the kernel's own header.
const fn in_ring<const CLASS: usize>() -> u64 {
    (HEADER + RING_CLASSES[CLASS]).next_multiple_of(8) as u64 + BPF_RINGBUF_HDR_SZ as u64
}

/// Sends a chunk through the perf ring buffer of this CPU.
#[inline(always)]
fn perf_record<C: EbpfContext>(
    ctx: &C,
    slot: Slot,
    header: &EventHeader,
    chunk: &Chunk,
) -> Result<(), Counter> {
    // SAFETY: takes no arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let scratch = SCRATCH
        .get_ptr_mut(cpu * SLOTS + slot as u32)
        .ok_or(Counter::KernelFault)?;
    // SAFETY: the slot is ours while the program runs, and holds `PERF_CLASS`; the record is what was written to it.
    unsafe {
        chunk.write(scratch.cast(), PERF_CLASS, header)?;
        let prefix = if chunk.prefix.is_some() {
            PREFIX as u64
        } else {
            0
        };
        let error = bpf_perf_event_output(
            ctx.as_ptr(),
            ptr::from_ref(&EVENTS_PERF).cast_mut().cast(),
            BPF_F_CURRENT_CPU,
            scratch.cast(),
            HEADER as u64 + prefix + clamp_to_class(chunk.length, PERF_CLASS),
        );
        match error {
            0 => Ok(()),
            NO_SPACE => Err(Counter::RingFull),
            _ => Err(Counter::NoRing),
        }
    }
}

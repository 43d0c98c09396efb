//! Sends messages to user space: one record per chunk, in the BPF ring buffer or the perf ring buffer.
//!
//! User memory is read straight into the reservation in the BPF ring. The kernel copies a perf record from contiguous
//! memory, which is a scratch slot here. No program waits: if the ring is full, the message is dropped and counted.

use core::ptr;

use aya_ebpf::{
    EbpfContext,
    bindings::{
        BPF_F_CURRENT_CPU, BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP,
        BPF_RINGBUF_HDR_SZ,
    },
    helpers::{
        bpf_get_smp_processor_id, bpf_ktime_get_ns, bpf_perf_event_output,
        generated::{bpf_probe_read_user, bpf_ringbuf_output},
    },
    macros::map,
    maps::{Array, LruHashMap, PerfEventByteArray, RingBuf},
};
use aya_log_ebpf::debug;
use dnstap_ebpf::{
    Counter, DIRECTION_RECEIVED, EVENT_FILLED, EventHeader, GATHERED_CHUNKS, GATHERED_SEGMENTS,
    IPPROTO_TCP, IPPROTO_UDP, MAX_CHUNKS, MAX_NAME, MAX_PERF_CHUNK, MAX_RING_CHUNK, REMARK_HEAD,
    REMARK_PREFIX, RING_CLASSES, RecordKind, TRANSPORT_PERF,
};

use crate::{
    kernel::{
        config::{PERF_CLASS, PREFIX, clamp_to_class, config},
        counters::{add, count, count_whole},
        memory, sockets,
    },
    message::{
        payload::Vectors,
        work::{Slot, Work},
    },
};

const HEADER: usize = size_of::<EventHeader>();

/// The BPF ring buffer. The agent sets the size.
#[map]
pub(crate) static EVENTS_RING: RingBuf = RingBuf::with_byte_size(4096, 0);

/// One value: 1 while the reader sleeps longer than its interval. The next record wakes it then.
#[map]
static ASLEEP: Array<u32> = Array::with_max_entries(1, 0);

/// The perf ring buffers, one per CPU.
#[map]
pub(crate) static EVENTS_PERF: PerfEventByteArray = PerfEventByteArray::new(0);

/// Memory in which a perf record is built.
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

/// A record of a scattered message is sent when it holds at least this many bytes; no read gets more than this. The
/// number is half of what fits, and all of its bits are ones, so that it can be a mask.
const HALF_RECORD: u64 = 16_383;

const _: () = assert!(2 * HALF_RECORD as usize <= MAX_PERF_CHUNK - PREFIX);

/// Number of slots for each CPU.
const SLOTS: u32 = dnstap_ebpf::SCRATCH_SLOTS;

/// Sends the message in `work` and counts the outcome.
///
/// `until_sent` is a macro and not a function with a closure. The compiler makes a function of a closure and passes it
/// a pointer to its captures. Reads from the caller's stack keep newer verifiers (seen on 7.2) from seeing that two
/// states are equal.
#[inline(always)]
pub(crate) fn message<C: EbpfContext>(ctx: &C, slot: Slot, vectors: Vectors, work: &mut Work) {
    let mut sent = Err(Counter::TooManyChunks);
    // Sends record after record, up to `$most`.
    macro_rules! until_sent {
        ($most:expr, $record:ident) => {
            for _ in 0..$most {
                if let Err(reason) = $record(ctx, slot, vectors, work) {
                    sent = Err(reason);
                    break;
                }
                if work.left() == 0 {
                    sent = Ok(());
                    break;
                }
            }
        };
    }
    if slot.gathers() && work.is_scattered() {
        until_sent!(GATHERED_CHUNKS, try_gather);
    } else {
        until_sent!(MAX_CHUNKS, try_chunk);
    }
    if let Err(reason) = sent {
        give_up(ctx, work, reason);
    }
}

/// Sends the next record of the message in `work`. Counts the message when it is complete or given up.
#[inline(always)]
pub(crate) fn step<C: EbpfContext>(ctx: &C, slot: Slot, vectors: Vectors, work: &mut Work) {
    let sent = if slot.gathers() && work.is_scattered() {
        try_gather(ctx, slot, vectors, work)
    } else {
        try_chunk(ctx, slot, vectors, work)
    };
    if let Err(reason) = sent {
        give_up(ctx, work, reason);
    }
}

/// Counts the message in `work` as lost for `reason`.
#[inline(always)]
fn give_up<C: EbpfContext>(ctx: &C, work: &mut Work, reason: Counter) {
    lost(&work.header, reason);
    debug!(
        ctx,
        "dropped {} bytes of socket {}: reason {}",
        work.header.message_len,
        work.header.socket,
        reason as u32
    );
    work.abandon();
}

/// Reports that the connection of `socket` has ended ([`RecordKind::ConnectionEnd`]).
#[inline(always)]
pub(crate) fn end<C: EbpfContext>(ctx: &C, socket: u64, family: u8) {
    let header = EventHeader {
        // SAFETY: takes no arguments.
        ktime_ns: unsafe { bpf_ktime_get_ns() },
        socket,
        family,
        protocol: IPPROTO_TCP,
        kind: RecordKind::ConnectionEnd as u8,
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

/// Remark ([`dnstap_ebpf::Remark`]) that is to be sent, with the addresses of prefix and zone in
/// the server's memory.
pub(crate) struct Said {
    pub message_type: u32,
    pub message_len: u32,
    pub transport: u32,
    pub prefix: u64,
    /// At most [`REMARK_PREFIX`].
    pub prefix_len: u16,
    pub zone: u64,
    /// At most [`MAX_NAME`].
    pub zone_len: u16,
}

/// Record of a remark in the ring, with room for a zone of `ZONE` bytes.
#[repr(C)]
struct RemarkRecord<const ZONE: usize> {
    header: EventHeader,
    head: RemarkHead,
    zone: [u8; ZONE],
}

/// Part of a [`dnstap_ebpf::Remark`] in front of the zone.
#[repr(C)]
struct RemarkHead {
    message_type: u32,
    message_len: u32,
    transport: u32,
    prefix_len: u16,
    zone_len: u16,
    prefix: [u8; REMARK_PREFIX],
}

const _: () = assert!(size_of::<RemarkHead>() == REMARK_HEAD);

/// Room for most zones.
const SHORT_ZONE: usize = 64;
/// Room for any zone.
const LONG_ZONE: usize = MAX_NAME + 1;

/// Masks for lengths. They are statics so that the compiler does not know their values: it would
/// remove a mask that has no effect, and the verifier would not know the limit of the length.
static PREFIX_BITS: u64 = 2 * REMARK_PREFIX as u64 - 1;
static SHORT_BITS: u64 = SHORT_ZONE as u64 - 1;
static LONG_BITS: u64 = LONG_ZONE as u64 - 1;

/// Buffers for perf records of remarks, one per thread. One per CPU would not be enough: newer
/// kernels may preempt a thread in such a program and run the program for another thread.
#[map]
static REMARKS: LruHashMap<u64, RemarkRecord<LONG_ZONE>> = LruHashMap::with_max_entries(1024, 0);

// SAFETY: integers, for which zero is a value.
static EMPTY: RemarkRecord<LONG_ZONE> = unsafe { core::mem::zeroed() };

/// Sends a remark. It does not wake the reader, which waits for messages.
#[inline(always)]
pub(crate) fn remark<C: EbpfContext>(
    ctx: &C,
    header: &EventHeader,
    said: &Said,
) -> Result<(), Counter> {
    if config!(transport) == TRANSPORT_PERF as usize {
        return perf_remark(ctx, header, said);
    }
    if !has_room_for_probes() {
        return Err(Counter::ProbeRingFull);
    }
    if (said.zone_len as usize) < SHORT_ZONE {
        ring_remark::<SHORT_ZONE>(header, said, &SHORT_BITS)
    } else {
        ring_remark::<LONG_ZONE>(header, said, &LONG_BITS)
    }
}

/// Returns a thread's entry of a map in which threads put records together. Makes it if there is none.
#[inline(always)]
pub(super) fn own_place<T>(map: &LruHashMap<u64, T>, key: u64, empty: &T) -> Option<*mut T> {
    if let Some(place) = map.get_ptr_mut(key) {
        return Some(place);
    }
    // If the insertion fails, there is no entry.
    let _ = map.insert(key, empty, 0);
    map.get_ptr_mut(key)
}

/// Returns whether the ring takes a record of a probe. They use at most half of it (`wakeup_bytes` is a
/// quarter), so that they do not displace messages.
#[inline(always)]
pub(super) fn has_room_for_probes() -> bool {
    EVENTS_RING.query(BPF_RB_AVAIL_DATA as u64) <= 2 * config!(wakeup_bytes) as u64
}

#[inline(always)]
fn ring_remark<const ZONE: usize>(
    header: &EventHeader,
    said: &Said,
    bits: &u64,
) -> Result<(), Counter> {
    let bytes = size_of::<RemarkRecord<ZONE>>();
    let Some(mut record) = EVENTS_RING.reserve_bytes(bytes, 0) else {
        return Err(Counter::ProbeRingFull);
    };
    // SAFETY: the reservation has that size, and the kernel aligns it to 8.
    let written = unsafe { write_remark::<ZONE>(record.as_mut_ptr().cast(), header, said, bits) };
    if written.is_ok() {
        record.submit(BPF_RB_NO_WAKEUP as u64);
        count(Counter::Records);
    } else {
        record.discard(BPF_RB_NO_WAKEUP as u64);
    }
    written
}

#[inline(always)]
fn perf_remark<C: EbpfContext>(ctx: &C, header: &EventHeader, said: &Said) -> Result<(), Counter> {
    let key = u64::from(header.tgid) << 32 | u64::from(header.tid);
    let place = own_place(&REMARKS, key, &EMPTY).ok_or(Counter::ProbeRingFull)?;
    // SAFETY: the pointer is to an entry of the map that only this thread uses.
    unsafe { write_remark::<LONG_ZONE>(place, header, said, &LONG_BITS)? };
    // SAFETY: the pointer is to a static.
    let mask = unsafe { (&raw const LONG_BITS).read_volatile() };
    let bytes = (HEADER + REMARK_HEAD) as u64 + (u64::from(said.zone_len) & mask);
    // SAFETY: the entry has at least that many bytes.
    let error = unsafe {
        bpf_perf_event_output(
            ctx.as_ptr(),
            ptr::from_ref(&EVENTS_PERF).cast_mut().cast(),
            BPF_F_CURRENT_CPU,
            place.cast(),
            bytes,
        )
    };
    if error == 0 {
        count(Counter::Records);
        Ok(())
    } else {
        Err(Counter::ProbeRingFull)
    }
}

/// Memory in which threads build perf records of whole messages, as [`REMARKS`].
#[map]
static COPIES: LruHashMap<u64, Scratch> = LruHashMap::with_max_entries(1, 0);

// SAFETY: integers, for which zero is a value.
static EMPTY_SCRATCH: Scratch = unsafe { core::mem::zeroed() };

/// Sends a whole message, which is in one piece at `base` in the server's memory. `header` is complete.
#[inline(always)]
pub(crate) fn whole<C: EbpfContext>(
    ctx: &C,
    header: &EventHeader,
    base: u64,
) -> Result<(), Counter> {
    let chunk = Chunk {
        prefix: None,
        base,
        length: u64::from(header.message_len),
    };
    let sent = if config!(transport) == TRANSPORT_PERF as usize {
        perf_whole(ctx, header, &chunk)
    } else if has_room_for_probes() {
        ring_record(header, &chunk)
    } else {
        Err(Counter::RingFull)
    };
    match sent {
        Ok(()) => {
            count(Counter::Records);
            Ok(())
        }
        Err(Counter::UserFault) => Err(Counter::ProbeFault),
        Err(_) => Err(Counter::ProbeRingFull),
    }
}

#[inline(always)]
fn perf_whole<C: EbpfContext>(ctx: &C, header: &EventHeader, chunk: &Chunk) -> Result<(), Counter> {
    if chunk.length > (MAX_PERF_CHUNK - PREFIX) as u64 {
        return Err(Counter::RingFull);
    }
    let key = u64::from(header.tgid) << 32 | u64::from(header.tid);
    let place = own_place(&COPIES, key, &EMPTY_SCRATCH).ok_or(Counter::RingFull)?;
    // SAFETY: the pointer is to an entry of the map that only this thread uses. It holds `PERF_CLASS`.
    unsafe { chunk.write(place.cast(), PERF_CLASS, header)? };
    perf_output(
        ctx,
        place,
        HEADER as u64 + clamp_to_class(chunk.length, PERF_CLASS),
    )
}

/// Writes a remark. `bits`: mask for the length of a zone that fits into the record.
///
/// # Safety
///
/// `record` must be writable and aligned to 8.
#[inline(always)]
unsafe fn write_remark<const ZONE: usize>(
    record: *mut RemarkRecord<ZONE>,
    header: &EventHeader,
    said: &Said,
    bits: &u64,
) -> Result<(), Counter> {
    // SAFETY: all pointers are to members of the record or to statics. At most `PREFIX_BITS` (127)
    // bytes are read to the prefix, which has 64: the zone behind it has at least 64 more. At most
    // `bits` bytes are read to the zone.
    unsafe {
        (&raw mut (*record).header).write(*header);
        let head = &raw mut (*record).head;
        (&raw mut (*head).message_type).write(said.message_type);
        (&raw mut (*head).message_len).write(said.message_len);
        (&raw mut (*head).transport).write(said.transport);
        (&raw mut (*head).prefix_len).write(said.prefix_len);
        (&raw mut (*head).zone_len).write(said.zone_len);
        let prefix_len = u64::from(said.prefix_len) & (&raw const PREFIX_BITS).read_volatile();
        let zone_len = u64::from(said.zone_len) & ptr::from_ref(bits).read_volatile();
        let prefix = (&raw mut (*head).prefix).cast();
        let zone = (&raw mut (*record).zone).cast();
        if bpf_probe_read_user(prefix, prefix_len as u32, said.prefix as *const _) != 0
            || bpf_probe_read_user(zone, zone_len as u32, said.zone as *const _) != 0
        {
            return Err(Counter::ProbeFault);
        }
    }
    Ok(())
}

/// Counts the message that `header` describes as seen, and as dropped for `reason`.
///
/// The next message of the socket reports the loss, because a stream now has a gap, or a query is missing whose
/// response may still come. The loss of a received datagram is not reported: it makes no gap, and any host can send a
/// datagram that gets lost.
#[inline(always)]
pub(crate) fn lost(header: &EventHeader, reason: Counter) {
    count(Counter::Seen);
    count(reason);
    if header.protocol == IPPROTO_TCP || header.direction != DIRECTION_RECEIVED {
        sockets::note_loss(header.socket);
    }
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
        // The length prefix is a segment of its own. It is sent together with the segment behind it.
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
        if length == work.left() && length == work.room() {
            note_filled(work, vectors);
        }
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
    }
    work.consume(length);
    note_sent(work, chunk_len);
    Ok(())
}

/// Counts a chunk of `length` bytes of the message in `work`, and the message if this is its last chunk.
#[inline(always)]
fn note_sent(work: &mut Work, length: u32) {
    add(Counter::Bytes, u64::from(length));
    work.header.chunk_offset += length;
    let is_last = work.left() == 0;
    if is_last && work.header.chunk_offset == length {
        count_whole();
        return;
    }
    if length != 0 {
        count(Counter::Records);
    }
    if is_last {
        count(Counter::Seen);
        count(Counter::Emitted);
    }
}

/// Sends the next segments of the message in `work` in one record: up to [`GATHERED_SEGMENTS`] segments, and no more
/// once half of the record is full.
#[inline(always)]
fn try_gather<C: EbpfContext>(
    ctx: &C,
    slot: Slot,
    vectors: Vectors,
    work: &mut Work,
) -> Result<(), Counter> {
    let record = scratch(slot)?;
    // SAFETY: the slot is ours while the program runs.
    let payload = unsafe { (&raw mut (*record).payload).cast::<u8>() };
    work.set_gathered(0);
    for _ in 0..GATHERED_SEGMENTS {
        let (left, gathered) = (work.left(), work.gathered());
        if left == 0 || gathered > HALF_RECORD {
            break;
        }
        if work.room() == 0 {
            work.next_segment(vectors)?;
        }
        let (base, length) = (work.base(), work.take_up_to(HALF_RECORD));
        // The verifier must see that the segment's offset and its length are each at most half of the payload.
        let (at, length) = (gathered & half_mask(), length & half_mask());
        // SAFETY: offset and length are each at most half of the payload.
        let error = unsafe {
            bpf_probe_read_user(
                payload.add(at as usize).cast(),
                length as u32,
                base as *const _,
            )
        };
        if error != 0 {
            return Err(Counter::UserFault);
        }
        work.set_gathered(at.wrapping_add(length));
    }
    if work.gathered() == 0 {
        // All segments were empty.
        return Ok(());
    }
    if work.left() == 0 && work.room() == 0 {
        note_filled(work, vectors);
    }
    // The value is read again each time. If the compiler keeps only the low half of a copy, the verifiers of some
    // kernels lose its bounds.
    work.header.chunk_len = work.gathered() as u32;
    // SAFETY: as above.
    unsafe { copy_header(&raw mut (*record).header, &work.header) };
    if config!(transport) == TRANSPORT_PERF as usize {
        perf_output(ctx, record, record_bytes(work))?;
    } else {
        ring_output(record, work)?;
    }
    note_sent(work, work.header.chunk_len);
    Ok(())
}

/// Returns the size of the gathered record in bytes.
#[inline(always)]
fn record_bytes(work: &Work) -> u64 {
    HEADER as u64 + clamp_to_class(work.gathered(), PERF_CLASS)
}

/// Copies a header word by word. If the compiler cannot prove that two places do not overlap, it calls a function that
/// copies single bytes, and the verifier walks through each of them.
///
/// # Safety
///
/// `record` must be writable and aligned.
#[inline(always)]
unsafe fn copy_header(record: *mut EventHeader, header: &EventHeader) {
    let (to, from) = (record.cast::<u64>(), ptr::from_ref(header).cast::<u64>());
    for word in 0..HEADER / 8 {
        // SAFETY: within the header; its integers fill its words.
        unsafe { to.add(word).write_volatile(from.add(word).read_volatile()) };
    }
}

/// Returns [`HALF_RECORD`] as a mask whose value the compiler does not know. With a known mask, it would remove
/// operations that it knows to change nothing.
#[inline(always)]
fn half_mask() -> u64 {
    static MASK: u64 = HALF_RECORD;
    // SAFETY: the pointer is to a static.
    unsafe { (&raw const MASK).read_volatile() }
}

/// Marks a received datagram that fills the last segment to its end. This is not needed for the kernel's own `msghdr`,
/// whose flags say whether the datagram was cut.
#[inline(always)]
fn note_filled(work: &mut Work, vectors: Vectors) {
    if vectors == Vectors::User
        && work.header.protocol == IPPROTO_UDP
        && work.header.direction == DIRECTION_RECEIVED
        && work.segments_behind() == 0
    {
        work.header.flags |= EVENT_FILLED;
    }
}

/// Payload of one record.
struct Chunk {
    /// Length prefix that is sent before the rest.
    prefix: Option<[u8; PREFIX]>,
    /// Address of the rest in user memory.
    base: u64,
    /// Bytes of the rest.
    length: u64,
}

impl Chunk {
    /// Writes header and payload to `record`, which has room for the header and the payload of `class`, including the
    /// prefix.
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
    // SAFETY: the reservation has that size, and the kernel aligns it to 8.
    let written = unsafe { chunk.write(record.as_mut_ptr().cast(), CLASS, header) };
    if written.is_ok() {
        record.submit(wakeup(in_ring::<CLASS>()));
    } else {
        record.discard(BPF_RB_NO_WAKEUP as u64);
    }
    written
}

/// Sends the gathered record through the BPF ring buffer, which copies it.
#[inline(always)]
fn ring_output(record: *mut Scratch, work: &Work) -> Result<(), Counter> {
    let taken = (record_bytes(work) + u64::from(BPF_RINGBUF_HDR_SZ)).next_multiple_of(8);
    let wakeup = wakeup(taken);
    // SAFETY: a slot of `SCRATCH`, which is larger than any record; the verifier checks.
    let error = unsafe {
        bpf_ringbuf_output(
            ptr::from_ref(&EVENTS_RING).cast_mut().cast(),
            record.cast(),
            record_bytes(work),
            wakeup,
        )
    };
    if error == 0 {
        Ok(())
    } else {
        Err(Counter::RingFull)
    }
}

/// Returns the flag that tells the kernel whether a record that takes `bytes` in the BPF ring buffer wakes the reader.
///
/// A wake-up costs the server microseconds (an inter-processor interrupt and a run-queue lock). So only the record that
/// passes the mark, or a multiple of it, wakes the reader. Otherwise the reader wakes up by its timer. This also
/// happens when two CPUs pass the mark at the same time and neither of them notices it. A reader that sleeps because
/// nothing came is woken by the next record.
#[inline(always)]
fn wakeup(bytes: u64) -> u64 {
    let waiting = EVENTS_RING.query(BPF_RB_AVAIL_DATA as u64);
    let mark = config!(wakeup_bytes) as u64;
    if waiting >= mark && waiting & (mark - 1) < bytes || is_asleep() {
        BPF_RB_FORCE_WAKEUP as u64
    } else {
        BPF_RB_NO_WAKEUP as u64
    }
}

/// Returns whether the reader sleeps, and clears the flag: only one record wakes it, not each one that comes before it
/// runs.
#[inline(always)]
fn is_asleep() -> bool {
    let Some(asleep) = ASLEEP.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: a live, aligned value of the map, which is read and written whole. If two CPUs read it at the same time,
    // both wake the reader.
    unsafe {
        let is_asleep = asleep.read_volatile() != 0;
        if is_asleep {
            asleep.write_volatile(0);
        }
        is_asleep
    }
}

/// Returns the number of bytes that a record takes in the BPF ring buffer, including the kernel's own header.
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
    let record = scratch(slot)?;
    // SAFETY: the slot is ours while the program runs, and holds `PERF_CLASS`.
    unsafe { chunk.write(record.cast(), PERF_CLASS, header)? };
    let prefix = if chunk.prefix.is_some() {
        PREFIX as u64
    } else {
        0
    };
    perf_output(
        ctx,
        record,
        HEADER as u64 + prefix + clamp_to_class(chunk.length, PERF_CLASS),
    )
}

/// Returns the memory in which the program that uses `slot` builds a perf record.
#[inline(always)]
fn scratch(slot: Slot) -> Result<*mut Scratch, Counter> {
    // SAFETY: takes no arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    SCRATCH
        .get_ptr_mut(cpu * SLOTS + slot as u32)
        .ok_or(Counter::KernelFault)
}

/// Sends the first `bytes` bytes of `record`.
#[inline(always)]
fn perf_output<C: EbpfContext>(ctx: &C, record: *mut Scratch, bytes: u64) -> Result<(), Counter> {
    // SAFETY: memory of a map, which is larger than any record; the verifier checks.
    let error = unsafe {
        bpf_perf_event_output(
            ctx.as_ptr(),
            ptr::from_ref(&EVENTS_PERF).cast_mut().cast(),
            BPF_F_CURRENT_CPU,
            record.cast(),
            bytes,
        )
    };
    match error {
        0 => Ok(()),
        NO_SPACE => Err(Counter::RingFull),
        _ => Err(Counter::NoRing),
    }
}

//! The perf ring buffer: one memory-mapped buffer per CPU, read in the order of the records' times.
//!
//! Layout: `include/uapi/linux/perf_event.h`. The kernel moves `data_head` behind each record that
//! it has finished. The reader moves `data_tail` behind the records that it has taken. A
//! `PERF_RECORD_SAMPLE` with `PERF_SAMPLE_RAW` is {header, u32 size, bytes}.
#![expect(
    unsafe_code,
    reason = "perf_event_open(2) and the kernel's memory that is mapped for it"
)]

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use aya_obj::generated::{
    PERF_FLAG_FD_CLOEXEC, perf_event_attr, perf_event_mmap_page,
    perf_event_sample_format::PERF_SAMPLE_RAW, perf_event_type::PERF_RECORD_SAMPLE,
    perf_sw_ids::PERF_COUNT_SW_BPF_OUTPUT, perf_type_id::PERF_TYPE_SOFTWARE,
};

use super::ring::Ring;
use crate::host::clock::monotonic_ns;

/// Nanoseconds by which a record may appear in one buffer after a later one was seen in another:
/// the time between a hook's clock reading and the end of its record, including a possible
/// interruption.
const SETTLE_NS: u64 = 1_000_000;

/// `struct perf_event_header`.
const RECORD_HEADER: usize = 8;

/// The buffers of all CPUs.
pub(super) struct PerfRing {
    buffers: Vec<PerfBuffer>,
    /// Buffer for a record that wraps around the end of its ring.
    joined: Vec<u8>,
}

impl PerfRing {
    /// Opens a buffer of `bytes` (a power of two of pages) on each of `cpus`, and passes each
    /// buffer's descriptor to `register`. The kernel wakes the reader when a quarter of a buffer is
    /// filled.
    pub(super) fn open(
        cpus: &[u32],
        bytes: usize,
        mut register: impl FnMut(u32, &OwnedFd) -> io::Result<()>,
    ) -> io::Result<Self> {
        let mut buffers = Vec::with_capacity(cpus.len());
        for &cpu in cpus {
            let buffer = PerfBuffer::open(cpu, bytes)?;
            register(cpu, &buffer.fd)?;
            buffers.push(buffer);
        }
        Ok(Self {
            buffers,
            joined: Vec::new(),
        })
    }
}

impl Ring for PerfRing {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.buffers
            .iter()
            .map(|buffer| buffer.fd.as_fd())
            .collect()
    }

    fn used(&mut self) -> u64 {
        let waiting = self.buffers.iter_mut().map(|buffer| {
            buffer.refresh();
            buffer.head.saturating_sub(buffer.tail)
        });
        waiting.max().unwrap_or_default()
    }

    fn drain(&mut self, last: bool, take: &mut dyn FnMut(&[u8])) {
        let until = if last {
            u64::MAX
        } else {
            monotonic_ns().saturating_sub(SETTLE_NS)
        };
        for buffer in &mut self.buffers {
            buffer.refresh();
        }
        // There are few buffers, and runs from one of them are long. So records are taken from the
        // oldest buffer until another one is older.
        loop {
            let mut oldest: Option<(u64, usize)> = None;
            let mut next_oldest = until;
            for (index, buffer) in self.buffers.iter_mut().enumerate() {
                let Some(time) = buffer.next_time() else {
                    continue;
                };
                match oldest {
                    Some((first, _)) if time >= first => next_oldest = next_oldest.min(time),
                    _ => {
                        if let Some((first, _)) = oldest {
                            next_oldest = next_oldest.min(first);
                        }
                        oldest = Some((time, index));
                    }
                }
            }
            let Some((time, index)) = oldest else { break };
            if time > until {
                break;
            }
            let buffer = &mut self.buffers[index];
            while buffer.next_time().is_some_and(|time| time <= next_oldest) {
                take(buffer.sample(&mut self.joined));
                buffer.advance();
            }
        }
        for buffer in &self.buffers {
            buffer.release();
        }
    }
}

/// The buffer of one CPU.
struct PerfBuffer {
    fd: OwnedFd,
    /// The control page, then `size` bytes of records.
    map: NonNull<u8>,
    size: usize,
    page: usize,
    /// Position of this reader, and position of the kernel when it was last read.
    tail: u64,
    head: u64,
}

// SAFETY: the mapping belongs to this value alone; what the kernel shares is accessed atomically.
unsafe impl Send for PerfBuffer {}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "descriptors, page sizes and offsets within a buffer are small; positions wrap"
)]
impl PerfBuffer {
    fn open(cpu: u32, size: usize) -> io::Result<Self> {
        // SAFETY: plain data for which zero is the default of every member.
        let mut attr: perf_event_attr = unsafe { std::mem::zeroed() };
        attr.size = size_of::<perf_event_attr>() as u32;
        attr.type_ = PERF_TYPE_SOFTWARE as u32;
        attr.config = PERF_COUNT_SW_BPF_OUTPUT as u64;
        attr.sample_type = PERF_SAMPLE_RAW as u64;
        attr.__bindgen_anon_1.sample_period = 1;
        attr.set_watermark(1);
        attr.__bindgen_anon_2.wakeup_watermark = u32::try_from(size / 4).unwrap_or(u32::MAX);
        let cpu =
            i32::try_from(cpu).map_err(|_large| io::Error::from(io::ErrorKind::InvalidInput))?;
        // SAFETY: `attr` outlives the call; the result is checked.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                &raw const attr,
                -1,
                cpu,
                -1,
                PERF_FLAG_FD_CLOEXEC,
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor that the kernel has just given us.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        // SAFETY: takes no pointers.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        // SAFETY: a new shared mapping of the descriptor; checked below.
        let map = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                page + size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_fd().as_raw_fd(),
                0,
            )
        };
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let map = NonNull::new(map.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self {
            fd,
            map,
            size,
            page,
            tail: 0,
            head: 0,
        })
    }

    /// Returns the kernel's `data_head` or our `data_tail`.
    fn position(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: aligned members of the control page, which stays mapped as long as `self`.
        unsafe { AtomicU64::from_ptr(self.map.as_ptr().add(offset).cast()) }
    }

    /// Reads the kernel's position.
    fn refresh(&mut self) {
        self.head = self
            .position(std::mem::offset_of!(perf_event_mmap_page, data_head))
            .load(Ordering::Acquire);
    }

    /// Frees the room of the records taken.
    fn release(&self) {
        self.position(std::mem::offset_of!(perf_event_mmap_page, data_tail))
            .store(self.tail, Ordering::Release);
    }

    /// Skips to the next sample. Returns the time in the first eight bytes of its record.
    fn next_time(&mut self) -> Option<u64> {
        while self.tail < self.head {
            if self.word(0) == PERF_RECORD_SAMPLE as u32 {
                // The record starts 4 bytes behind the header, so its first member straddles two words.
                return Some(
                    u64::from(self.word(RECORD_HEADER + 4))
                        | u64::from(self.word(RECORD_HEADER + 8)) << 32,
                );
            }
            // The hook already knows of a PERF_RECORD_LOST by the return value of
            // bpf_perf_event_output.
            self.advance();
        }
        None
    }

    /// Returns the current sample's bytes.
    fn sample<'a>(&'a self, joined: &'a mut Vec<u8>) -> &'a [u8] {
        let length = (self.word(RECORD_HEADER) as usize)
            .min(self.record_len().saturating_sub(RECORD_HEADER + 4));
        let start = self.index(RECORD_HEADER + 4);
        if start + length <= self.size {
            return self.bytes(start, length);
        }
        joined.clear();
        joined.extend_from_slice(self.bytes(start, self.size - start));
        joined.extend_from_slice(self.bytes(0, start + length - self.size));
        joined
    }

    /// Moves on to the next record.
    fn advance(&mut self) {
        self.tail += self.record_len().max(RECORD_HEADER) as u64;
    }

    /// Returns `perf_event_header.size` of the current record.
    fn record_len(&self) -> usize {
        (self.word(4) >> 16) as usize
    }

    /// Returns the 32 bits at `offset` in the current record. Records are aligned to 8, so these
    /// bits never wrap.
    fn word(&self, offset: usize) -> u32 {
        self.bytes(self.index(offset), 4)
            .first_chunk()
            .map_or(0, |bytes| u32::from_ne_bytes(*bytes))
    }

    /// Returns the index in the buffer of `offset` in the current record.
    fn index(&self, offset: usize) -> usize {
        (self.tail as usize).wrapping_add(offset) & (self.size - 1)
    }

    fn bytes(&self, start: usize, length: usize) -> &[u8] {
        debug_assert!(start + length <= self.size);
        // SAFETY: within the mapping, and the kernel writes there only after `release` has moved `data_tail` past it.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(self.page + start), length) }
    }
}

impl Drop for PerfBuffer {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `open`, to which nothing refers any more.
        unsafe { libc::munmap(self.map.as_ptr().cast(), self.page + self.size) };
    }
}

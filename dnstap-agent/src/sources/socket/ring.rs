//! The interface of the two kinds of ring. The reader asks only whether there are records now, or
//! within some milliseconds.
//!
//! The kernel wakes the reader when a ring is filled to its watermark, not for each record.
//! Otherwise the reader reads the ring after each interval.
#![expect(
    unsafe_code,
    reason = "the kernel's memory that is mapped for the ring's positions"
)]

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, RawFd},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::{MapData, RingBuf};

/// A source of records: header and payload, for [`dnstap_core::record::Record::parse`].
pub(super) trait Ring: Send {
    /// Returns the descriptors by which the kernel wakes the reader.
    fn descriptors(&self) -> Vec<BorrowedFd<'_>>;

    /// Passes on records and frees their room, as [`Source::drain`](crate::sources::Source::drain)
    /// describes: no more than the ring holds, and in order across several buffers.
    fn drain(&mut self, last: bool, take: &mut dyn FnMut(&[u8]));

    /// Returns the waiting bytes; if there are several buffers, those in the fullest.
    fn used(&mut self) -> u64;
}

/// The BPF ring buffer. It also reads the positions of both sides, for which aya has no function.
pub(super) struct BpfRing {
    ring: RingBuf<MapData>,
    bytes: u64,
    positions: Positions,
}

impl BpfRing {
    /// Creates a ring of this many bytes.
    pub(super) fn new(ring: RingBuf<MapData>, bytes: u32) -> io::Result<Self> {
        let positions = Positions::map(ring.as_raw_fd())?;
        Ok(Self {
            ring,
            bytes: bytes.into(),
            positions,
        })
    }
}

/// The two pages in front of a BPF ring buffer's data. Each begins with a position: the consumer's
/// and the producer's (`kernel/bpf/ringbuf.c`, `struct bpf_ringbuf`).
struct Positions {
    map: NonNull<u8>,
    page: usize,
}

// SAFETY: the mapping belongs to this value alone; what the kernel shares is accessed atomically.
unsafe impl Send for Positions {}

impl Positions {
    fn map(fd: RawFd) -> io::Result<Self> {
        let page = super::page_size() as usize;
        // SAFETY: a new shared mapping of the descriptor, to read only; checked below.
        let map = unsafe {
            libc::mmap(
                ptr::null_mut(),
                2 * page,
                libc::PROT_READ,
                libc::MAP_SHARED,
                fd,
                0,
            )
        };
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let map = NonNull::new(map.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { map, page })
    }

    fn consumed(&self) -> u64 {
        self.position(0)
    }

    fn waiting(&self) -> u64 {
        let consumed = self.consumed();
        self.position(1).saturating_sub(consumed)
    }

    fn position(&self, page: usize) -> u64 {
        // SAFETY: the start of one of the two mapped pages, where the kernel has an `unsigned long`.
        unsafe { AtomicU64::from_ptr(self.map.as_ptr().add(page * self.page).cast()) }
            .load(Ordering::Acquire)
    }
}

impl Drop for Positions {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`, to which nothing refers any more.
        unsafe { libc::munmap(self.map.as_ptr().cast(), 2 * self.page) };
    }
}

impl Ring for BpfRing {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.ring.as_fd()]
    }

    fn used(&mut self) -> u64 {
        self.positions.waiting()
    }

    fn drain(&mut self, _last: bool, take: &mut dyn FnMut(&[u8])) {
        let Self {
            ring,
            bytes,
            positions,
        } = self;
        let take_one = || match ring.next() {
            Some(record) => {
                take(&record);
                true
            }
            None => false,
        };
        take_at_most(*bytes, || positions.consumed(), take_one);
    }
}

/// Takes one record after the other until there is none, or until this many bytes are `consumed`.
fn take_at_most(bytes: u64, consumed: impl Fn() -> u64, mut take_one: impl FnMut() -> bool) {
    let end = consumed().saturating_add(bytes);
    while consumed() < end && take_one() {}
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn records_that_come_as_fast_as_they_are_taken_do_not_keep_the_reader() {
        let (position, taken) = (Cell::new(u64::MAX - 10_000), Cell::new(0));
        let endless = || {
            position.set(position.get() + 100);
            taken.set(taken.get() + 1);
            true
        };
        take_at_most(4_096, || position.get(), endless);
        assert_eq!(taken.get(), 41);
        take_at_most(4_096, || position.get(), || false);
        assert_eq!(taken.get(), 41, "there is none");
    }
}

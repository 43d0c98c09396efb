//! Describes where the bytes of a message are in memory.

use dnstap_ebpf::Counter;

use crate::kernel::memory;

/// Memory that holds the `iovec`s of further segments. A constant for each hook.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vectors {
    /// In the memory of the process.
    User,
    /// In the kernel's copy.
    Kernel,
}

impl Vectors {
    /// Returns address and length of the segment that the `iovec` at `vector` describes.
    #[inline(always)]
    pub(crate) fn segment(self, vector: u64) -> Result<(u64, u64), Counter> {
        let [base, length]: [u64; 2] = self.read(vector)?;
        Ok((base, length))
    }

    /// Reads the integers at `address`.
    #[inline(always)]
    pub(crate) fn read<T: Integers>(self, address: u64) -> Result<T, Counter> {
        // SAFETY: integers, for which any bytes are a value.
        unsafe {
            match self {
                Self::User => memory::user(address, 0),
                Self::Kernel => memory::kernel(address as *const u8, 0),
            }
        }
    }
}

/// Types of which any bytes are a value.
pub(crate) trait Integers {}
impl Integers for u16 {}
impl Integers for [u64; 2] {}

/// User memory that holds a message: the current segment, and the place of the `iovec`s of the segments after it.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Payload {
    /// Address of the current segment.
    pub base: u64,
    /// Bytes left in it.
    pub length: u64,
    /// Address of the `iovec` of the next segment.
    pub vector: u64,
    /// Number of segments from `vector` on.
    pub segments: u64,
}

impl Payload {
    /// Returns address and length of the first segment.
    #[inline(always)]
    pub(crate) fn first_segment(&self, vectors: Vectors) -> Result<(u64, u64), Counter> {
        if self.length != 0 || self.segments == 0 {
            return Ok((self.base, self.length));
        }
        vectors.segment(self.vector)
    }
}

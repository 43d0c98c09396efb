//! Read-only data that the agent fills in before load: configuration, structure offsets, size classes.
//!
//! The map behind it is frozen, so the verifier reads the values as constants and removes the code that they exclude:
//! one object serves every kernel and both rings. Reads are volatile, because the compiler must not use the placeholder
//! values as constants.

use core::ptr;

use dnstap_ebpf::{Config, MAX_PERF_CHUNK, RING_CLASSES};

/// Configuration. It has a symbol name so that the agent can overwrite its value.
#[unsafe(no_mangle)]
// SAFETY: all members are `u32`, for which zero is a value.
pub(crate) static CONFIG: Config = unsafe { core::mem::zeroed() };

/// Room before the payload for the length prefix of a TCP message, if the prefix was written as a segment of its own.
pub(crate) const PREFIX: usize = 2;

/// Index of the perf record's payload limit in [`LIMITS`], behind the limits of the ring's classes.
pub(crate) const PERF_CLASS: usize = RING_CLASSES.len();

/// Payload limits of the ring's size classes and of a perf record, without the room for a length prefix.
static LIMITS: [u64; PERF_CLASS + 1] = {
    let mut limits = [(MAX_PERF_CHUNK - PREFIX) as u64; PERF_CLASS + 1];
    let mut class = 0;
    while class < RING_CLASSES.len() {
        limits[class] = (RING_CLASSES[class] - PREFIX) as u64;
        class += 1;
    }
    limits
};

/// Reads one member of the configuration: `config!(transport)`, `config!(offsets.sock_family)`.
macro_rules! config {
    ($($member:ident).+) => {
        crate::kernel::config::read(&raw const crate::kernel::config::CONFIG.$($member).+)
    };
}
pub(crate) use config;

/// Volatile read of a member of [`CONFIG`].
#[inline(always)]
pub(crate) fn read(member: *const u32) -> usize {
    // SAFETY: `config!` makes the pointer from a live static.
    unsafe { ptr::read_volatile(member) as usize }
}

/// Clamps `length` to the room of a record of `class`.
///
/// The compiler already knows the bound from the comparison that chose the class, and would drop a plain `min`. The
/// verifier does not know it, because the compared register is often a copy of the one that is passed. It refuses the
/// read with "R2 unbounded memory access". Seen on 5.10 to 6.18 with LLVM 22.
#[inline(always)]
pub(crate) fn clamp_to_class(length: u64, class: usize) -> u64 {
    // SAFETY: `class` is a constant index of the array at every caller.
    let limit = unsafe { ptr::read_volatile((&raw const LIMITS).cast::<u64>().add(class)) };
    if length > limit { limit } else { length }
}

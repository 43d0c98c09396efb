//! Per-CPU counters of what happened to each message that a hook saw.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use dnstap_ebpf::{COUNTER_SLOTS, Counter, WHOLE_SLOT};

#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTER_SLOTS, 0);

/// Adds one.
#[inline(always)]
pub(crate) fn count(counter: Counter) {
    add(counter, 1);
}

/// Counts a message that was seen and sent in one record, as nearly all are: one addition for three counters.
#[inline(always)]
pub(crate) fn count_whole() {
    add_to(WHOLE_SLOT, 1);
}

/// Adds `amount`.
#[inline(always)]
pub(crate) fn add(counter: Counter, amount: u64) {
    add_to(counter as u32, amount);
}

#[inline(always)]
fn add_to(slot: u32, amount: u64) {
    if let Some(value) = COUNTERS.get_ptr_mut(slot) {
        // SAFETY: a live, aligned slot of this CPU.
        unsafe { add_atomically(value, amount) };
    }
}

/// Adds `amount` to `*value` in one instruction, because another hook's program may preempt an fexit program on the
/// same CPU in the middle of the addition. `core`'s atomics have no `fetch_add` on this target, which lacks
/// compare-and-swap before 5.12.
///
/// # Safety
///
/// `value` must be a live, aligned `u64` that all other code changes only atomically.
#[inline(always)]
pub(crate) unsafe fn add_atomically(value: *mut u64, amount: u64) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: BPF_ATOMIC | BPF_ADD of 64 bits, in all kernels; the caller vouches for the address.
    unsafe {
        core::arch::asm!("lock *(u64 *)({value} + 0) += {amount}", value = in(reg) value, amount = in(reg) amount);
    };
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: never runs; lets the programs be checked on the host.
    unsafe {
        *value += amount;
    };
}

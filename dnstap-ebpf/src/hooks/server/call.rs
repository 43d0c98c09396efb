//! What all probes for notices do at the start and at the end of a call.

use aya_ebpf::{
    macros::map,
    maps::{HashMap, LruHashMap},
    programs::ProbeContext,
};
use dnstap_ebpf::{Counter, Function, Probed, fault_key};

use crate::{
    kernel::{
        counters::count,
        memory,
        target::{self, Thread},
    },
    thread::threads,
};

/// Facts about the probed processes, by thread group id.
#[map]
pub(super) static PROBED: HashMap<u32, Probed> = HashMap::with_max_entries(4096, 0);

/// Unreadable calls by process and function ([`fault_key`]). Each process has its own counts, so that one process
/// cannot stop the probes of others.
#[map]
static NOTICE_FAULTS: LruHashMap<u64, u64> = LruHashMap::with_max_entries(1024, 0);

/// Number of arguments of a function that are in registers, and bytes between the stack pointer at its start and the
/// first of the other arguments: the System V ABI for x86-64, where the return address is there, and the AAPCS64.
#[cfg(any(bpf_target_arch = "x86_64", target_arch = "x86_64"))]
const PASSED: (usize, u64) = (6, 8);
#[cfg(any(bpf_target_arch = "aarch64", target_arch = "aarch64"))]
const PASSED: (usize, u64) = (8, 0);

/// A call in a tapped process.
#[derive(Clone, Copy)]
pub(super) struct Call {
    pub(super) thread: Thread,
    pub(super) probed: Probed,
}

/// Returns the call, if it is one of a tapped process that is probed, and counts it.
#[inline(always)]
pub(super) fn enter() -> Option<Call> {
    let key = threads::possible()?;
    let tgid = (key >> 32) as u32;
    let thread = Thread {
        tgid,
        tid: key as u32,
        program_id: target::program_id(tgid)?,
    };
    // SAFETY: the agent writes the value before it attaches the probes of the process.
    let probed = *unsafe { PROBED.get(tgid) }?;
    count(Counter::ProbeCalls);
    Some(Call { thread, probed })
}

/// Counts what became of a call.
#[inline(always)]
pub(super) fn leave(call: Call, function: Function, result: Result<(), Counter>) {
    let Err(reason) = result else {
        return;
    };
    count(reason);
    if !matches!(reason, Counter::ProbeFault) {
        return;
    }
    let key = fault_key(call.thread.tgid, function);
    if let Some(faults) = NOTICE_FAULTS.get_ptr_mut(key) {
        // SAFETY: the pointer is to a live, aligned value of the map. If two threads count at the same time, one count
        // may be lost.
        unsafe { faults.write_volatile(faults.read_volatile() + 1) };
    } else {
        // If the insertion fails, only the sum over all processes counts the call.
        let _ = NOTICE_FAULTS.insert(key, 1, 0);
    }
}

/// Reads a `T` from the server's memory.
///
/// # Safety
///
/// Any bytes must be a valid `T`.
#[inline(always)]
pub(super) unsafe fn read<T>(address: u64) -> Result<T, Counter> {
    // SAFETY: the caller vouches for `T`.
    unsafe { memory::user(address, 0) }.map_err(|_| Counter::ProbeFault)
}

/// Returns argument `n`, a constant, of the function that was called. Arguments are integers and pointers. `grown`: bytes
/// by which the stack has grown since the start of the function.
#[inline(always)]
pub(super) fn argument(ctx: &ProbeContext, n: usize, grown: u32) -> Result<u64, Counter> {
    if n < PASSED.0 {
        ctx.arg(n).ok_or(Counter::ProbeFault)
    } else {
        on_stack(ctx, n, grown)
    }
}

/// The same of an argument that is in no register.
#[inline(always)]
pub(super) fn on_stack(ctx: &ProbeContext, n: usize, grown: u32) -> Result<u64, Counter> {
    let (registers, above) = PASSED;
    let place = u64::from(grown) + above + 8 * (n - registers) as u64;
    // SAFETY: a number.
    unsafe { read(stack_pointer(ctx).wrapping_add(place)) }
}

/// Returns the stack pointer of the thread.
#[inline(always)]
fn stack_pointer(ctx: &ProbeContext) -> u64 {
    // SAFETY: the context points to the thread's registers.
    let registers = unsafe { &*ctx.regs };
    #[cfg(any(bpf_target_arch = "x86_64", target_arch = "x86_64"))]
    return registers.rsp;
    #[cfg(any(bpf_target_arch = "aarch64", target_arch = "aarch64"))]
    return registers.sp;
}

//! Each message once, although two programs stand ready for it on a kernel that may preempt a thread amid a program.
//!
//! The kernel does not run a tracing program on a CPU on which it already runs (`prog->active`; fexit since 5.12, raw tracepoints
//! since 6.1). On a preemptible kernel that is not only recursion: a thread that is preempted in the middle of the program keeps it
//! "active", and every message of the threads that get the CPU meanwhile would go unseen (57 of 40,000 on an emulated 7.2). So
//! there each hook is attached twice. The first program delivers each message for which it is run, and leaves a mark; the second, which
//! runs behind it, takes the mark away and does nothing, or, if there is none, delivers the message. The agent attaches them in the
//! order that makes them run so: raw tracepoints run their programs in the order of attachment, trampolines in the opposite one
//! (`hlist_add_head` in kernel/bpf/trampoline.c; the tests on each kernel would see every message twice if it changed).
//!
//! Left over: a message for which neither can run, and one for which the first cannot as the next one after one for which the second could not
//! (the mark is still there). The smaller of the two programs' counts of runs that the kernel left out bounds both.

/// Which of the two programs of a hook runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    First,
    Second,
}

/// Whether the message that a thread is transferring is for this program to deliver. `mark` is the thread's ([`crate::thread::threads`]).
/// Without one the second program delivers it once more: rather twice than never.
#[inline(always)]
pub(crate) fn claim(turn: Turn, mark: Option<&mut u32>) -> bool {
    let Some(mark) = mark else {
        return true;
    };
    let delivered = turn == Turn::Second && *mark != 0;
    *mark = u32::from(turn == Turn::First);
    !delivered
}

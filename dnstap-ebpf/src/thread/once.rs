//! Delivers each message once, although each hook has two programs on a kernel that may preempt a thread in the middle
//! of a program.
//!
//! The kernel does not run a tracing program on a CPU on which it already runs (`prog->active`; fexit since 5.12, raw
//! tracepoints since 6.1). On a preemptible kernel this is not only recursion. A thread that is preempted in the middle
//! of the program keeps it "active", so the messages of all threads that run on the CPU meanwhile would be missed (57
//! of 40,000 on an emulated 7.2). So each hook is attached twice there. The first program delivers each message for
//! which it runs, and leaves a mark. The second program runs after it. If there is a mark, it only removes the mark; if
//! there is none, it delivers the message. The agent attaches the programs in the order that makes them run in this
//! order: raw tracepoints run their programs in the order of attachment, trampolines in the opposite order
//! (`hlist_add_head` in kernel/bpf/trampoline.c; if it changed, the tests on each kernel would see every message
//! twice).
//!
//! Two kinds of messages are still missed: a message for which neither program can run, and a message for which the
//! first program cannot run while the mark of the message before is still there, because the second program could not
//! run for that one. The kernel counts the runs that it left out for each program; the smaller of the two counts is an
//! upper bound for both kinds.

/// One of the two programs of a hook.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    First,
    Second,
}

/// Returns whether this program must deliver the message that a thread is transferring. `mark` is the mark of the
/// thread ([`crate::thread::threads`]). Without one the second program delivers the message again: twice is better than
/// never.
#[inline(always)]
pub(crate) fn claim(turn: Turn, mark: Option<&mut u32>) -> bool {
    let Some(mark) = mark else {
        return true;
    };
    let delivered = turn == Turn::Second && *mark != 0;
    *mark = u32::from(turn == Turn::First);
    !delivered
}

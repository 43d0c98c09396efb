//! Each message once, although two programs stand ready for it.
//!
//! The kernel does not run a tracing program on a CPU on which it already runs (`prog->active`; fexit since 5.12, raw tracepoints
//! since 6.1). On a preemptible kernel that is not only recursion: a thread that is preempted in the middle of the program keeps it
//! "active", and every message of the threads that get the CPU meanwhile would go unseen (57 of 40,000 on an emulated 7.2). So
//! each hook is attached twice. Whichever of the two programs runs first for a message delivers it, and leaves its mark for the
//! other, which takes the mark away and does nothing. (Raw tracepoints run their programs in the order of attachment, trampolines in
//! the opposite one.) A mark of its own tells a program that the other one was not run for the message before.
//!
//! Left over: a message for which one program finds the other's mark from a message before, and the other is not run. Both must be
//! "active" on the CPU at nearly the same time for that; the kernel's count of runs that it left out bounds it.

use aya_ebpf::{macros::map, maps::LruHashMap};

use crate::target::Thread;

/// Which of the two programs of a hook runs.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Turn {
    First = 1,
    Second = 2,
}

/// No mark.
const NONE: u32 = 0;

/// Thread -> the [`Turn`] that delivered its last message, until the other program has seen it.
#[map]
static MARKS: LruHashMap<u64, u32> = LruHashMap::with_max_entries(4096, 0);

/// Whether the message that `thread` is transferring is for this program to deliver.
#[inline(always)]
pub(crate) fn claim(turn: Turn, thread: Thread) -> bool {
    let Some(mark) = MARKS.get_ptr_mut(thread.key()) else {
        // If the map cannot take it, the other program delivers the message once more: rather twice than never.
        let _ = MARKS.insert(thread.key(), turn as u32, 0);
        return true;
    };
    // SAFETY: the entry belongs to this thread, which runs one program at a time.
    unsafe {
        let mine = *mark == NONE || *mark == turn as u32;
        *mark = if mine { turn as u32 } else { NONE };
        mine
    }
}

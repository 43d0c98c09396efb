//! Which processes are tapped.

use aya_ebpf::{helpers::bpf_get_current_pid_tgid, macros::map, maps::HashMap};

/// Thread group id in the initial PID namespace -> 1.
#[map]
static TARGETS: HashMap<u32, u32> = HashMap::with_max_entries(1024, 0);

/// A thread of a tapped process.
#[derive(Clone, Copy)]
pub(crate) struct Thread {
    pub tgid: u32,
    pub tid: u32,
}

impl Thread {
    /// Both ids in one key, as `bpf_get_current_pid_tgid` gives them.
    #[inline(always)]
    pub(crate) fn key(self) -> u64 {
        (u64::from(self.tgid) << 32) | u64::from(self.tid)
    }
}

/// The current thread, if its process is tapped. The first question of every hook.
#[inline(always)]
pub(crate) fn current() -> Option<Thread> {
    let id = bpf_get_current_pid_tgid();
    let thread = Thread {
        tgid: (id >> 32) as u32,
        tid: id as u32,
    };
    // SAFETY: the value is not looked at.
    unsafe { TARGETS.get(thread.tgid) }.map(|_| thread)
}

//! Which processes are tapped.
//!
//! The agent names the first ones; from there the set keeps itself: what a tapped process forks is tapped before it runs, what
//! executes a file of another name is not, and what has ended is forgotten.

use aya_ebpf::{
    helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::map,
    maps::HashMap,
};
use dnstap_ebpf::{Counter, NAME_JOINS, NAME_LEN, image};

use crate::{
    counters::count,
    once::{self, Turn},
    threads,
};

/// Thread group id in the initial PID namespace -> [`dnstap_ebpf::EventHeader::image`].
#[map]
static TARGETS: HashMap<u32, u32> = HashMap::with_max_entries(4096, 0);

/// Name of an executable -> [`dnstap_ebpf::NAME_STAYS`] or [`NAME_JOINS`].
#[map]
static NAMES: HashMap<[u8; NAME_LEN], u32> = HashMap::with_max_entries(256, 0);

/// A thread of a tapped process.
#[derive(Clone, Copy)]
pub(crate) struct Thread {
    pub tgid: u32,
    pub tid: u32,
    pub image: u32,
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
    let tgid = (id >> 32) as u32;
    // SAFETY: an integer, written whole.
    let image = *unsafe { TARGETS.get(tgid) }?;
    Some(Thread {
        tgid,
        tid: id as u32,
        image,
    })
}

/// Whether process `tgid` is tapped.
#[inline(always)]
pub(crate) fn contains(tgid: u32) -> bool {
    // SAFETY: the value is not looked at.
    unsafe { TARGETS.get(tgid) }.is_some()
}

/// Taps the process `child`, which the process of `parent` has just forked.
#[inline(always)]
pub(crate) fn fork(parent: Thread, child: u32) {
    if TARGETS.insert(child, parent.image, 0).is_err() {
        count(Counter::Unfollowed);
    }
}

/// The current process has begun to execute another file.
#[inline(always)]
pub(crate) fn exec(turn: Turn) {
    let id = bpf_get_current_pid_tgid();
    let tgid = (id >> 32) as u32;
    let Ok(name) = bpf_get_current_comm() else {
        return;
    };
    // SAFETY: an integer, written whole.
    match unsafe { NAMES.get(name) } {
        Some(&NAME_JOINS) => {
            // SAFETY: takes no arguments.
            let image = image(tgid, unsafe { bpf_ktime_get_ns() });
            let thread = Thread {
                tgid,
                tid: id as u32,
                image,
            };
            if once::claim(turn, threads::of(thread)) && TARGETS.insert(tgid, image, 0).is_err() {
                count(Counter::Unfollowed);
            }
        }
        Some(_) => {}
        None => forget(tgid),
    }
}

/// Process `tgid` is not tapped any more.
#[inline(always)]
pub(crate) fn forget(tgid: u32) {
    // Most processes never were.
    let _ = TARGETS.remove(tgid);
}

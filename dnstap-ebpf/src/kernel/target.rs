//! Which processes are tapped.
//!
//! The agent names the first ones; from there the set keeps itself: what a tapped process forks is tapped before it runs, what
//! executes a file of another name is not, unless it belongs to a unit that is followed; and what has ended is forgotten.

use aya_ebpf::{
    helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::map,
    maps::{Array, HashMap, LruHashMap},
};
use dnstap_ebpf::{
    CHANGED_BY_AGENT, CHANGED_BY_PROGRAMS, Counter, NAME_JOINS, NAME_LEN, POSSIBLE_SLOTS,
    PROGRAM_STAYS, possible_slot, program_id as new_program_id,
};

use crate::kernel::counters::{add_atomically, count};

/// Thread group id in the initial PID namespace -> [`dnstap_ebpf::EventHeader::program_id`].
#[map]
static TARGETS: HashMap<u32, u32> = HashMap::with_max_entries(4096, 0);

/// Name of an executable -> [`dnstap_ebpf::NAME_STAYS`] or [`NAME_JOINS`].
#[map]
static NAMES: HashMap<[u8; NAME_LEN], u32> = HashMap::with_max_entries(256, 0);

/// [`possible_slot`] -> 1 if a process of that slot was ever in `TARGETS`. A look-up in an array costs next to nothing, and
/// spares the other processes of the host the one in a hash table.
#[map]
static POSSIBLE: Array<u64> = Array::with_max_entries(POSSIBLE_SLOTS, 0);

/// How often `TARGETS` was changed: by the agent, and by the programs.
#[map]
static CHANGES: Array<u64> = Array::with_max_entries(2, 0);

/// [`dnstap_ebpf::EventHeader::program_id`] of what has joined by its name -> that name: the agent may be told of a process when it is gone.
#[map]
static RUNS: LruHashMap<u32, [u8; NAME_LEN]> = LruHashMap::with_max_entries(1024, 0);

/// A thread of a tapped process.
#[derive(Clone, Copy)]
pub(crate) struct Thread {
    pub tgid: u32,
    pub tid: u32,
    pub program_id: u32,
}

/// Whether process `tgid` may be tapped; mostly a quick no.
#[inline(always)]
pub(crate) fn may_contain(tgid: u32) -> bool {
    POSSIBLE
        .get(possible_slot(tgid))
        .is_some_and(|slot| *slot != 0)
}

/// A number that changes, to one it never had, whenever what was known of a tapped process may no longer hold.
#[inline(always)]
pub(crate) fn changes() -> u64 {
    let counted = |slot| CHANGES.get(slot).copied().unwrap_or(0);
    counted(CHANGED_BY_AGENT) << 32 | (counted(CHANGED_BY_PROGRAMS) + 1)
}

/// What process `tgid` runs, if it is tapped.
#[inline(always)]
pub(crate) fn program_id(tgid: u32) -> Option<u32> {
    // SAFETY: an integer, written whole.
    unsafe { TARGETS.get(tgid) }.copied()
}

/// Whether process `tgid` is tapped.
#[inline(always)]
pub(crate) fn contains(tgid: u32) -> bool {
    may_contain(tgid) && program_id(tgid).is_some()
}

/// Taps the process `child`, which the process of `parent` has just forked.
#[inline(always)]
pub(crate) fn fork(parent: Thread, child: u32) {
    insert(child, parent.program_id);
}

/// The current process has begun to execute another file. `claim`: whether this is for the program that asks to do; of the thread that
/// `bpf_get_current_pid_tgid` names so.
#[inline(always)]
pub(crate) fn exec(claim: impl FnOnce(u64) -> bool) {
    let key = bpf_get_current_pid_tgid();
    let tgid = (key >> 32) as u32;
    let Ok(name) = bpf_get_current_comm() else {
        return;
    };
    let stays = if may_contain(tgid) {
        program_id(tgid).unwrap_or(0) & PROGRAM_STAYS
    } else {
        0
    };
    // SAFETY: an integer, written whole.
    let known = unsafe { NAMES.get(name) }.copied();
    if known == Some(NAME_JOINS) || (known.is_none() && stays != 0) {
        if claim(key) {
            // SAFETY: takes no arguments.
            let program_id = new_program_id(tgid, unsafe { bpf_ktime_get_ns() }) | stays;
            // Without it, its name is that of its process, as long as there is one.
            let _ = RUNS.insert(program_id, name, 0);
            insert(tgid, program_id);
        }
    } else if known.is_none() {
        forget(tgid);
    }
}

/// Process `tgid` is not tapped any more.
#[inline(always)]
pub(crate) fn forget(tgid: u32) {
    // Most processes never were.
    if may_contain(tgid) && TARGETS.remove(tgid).is_ok() {
        note_change();
    }
}

/// Process `tgid` is tapped from now on, and runs `program_id`.
#[inline(always)]
fn insert(tgid: u32, program_id: u32) {
    if let Some(slot) = POSSIBLE.get_ptr_mut(possible_slot(tgid)) {
        // SAFETY: a live, aligned entry, to which everybody writes the same.
        unsafe { slot.write_volatile(1) };
    }
    if TARGETS.insert(tgid, program_id, 0).is_err() {
        count(Counter::Unfollowed);
    }
    note_change();
}

/// What is remembered of tapped processes outside of `TARGETS` does not hold any more.
#[inline(always)]
fn note_change() {
    if let Some(changes) = CHANGES.get_ptr_mut(CHANGED_BY_PROGRAMS) {
        // SAFETY: a live, aligned entry that only programs change, and only so.
        unsafe { add_atomically(changes, 1) };
    }
}

//! Set of the tapped processes.
//!
//! The agent adds the first ones. From then on the programs maintain the set. A process that a tapped process forks is
//! added before it runs. A process that executes a file of another name is removed, unless it belongs to a unit that is
//! followed. A process that has ended is removed.

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

/// [`possible_slot`] -> 1 if a process of that slot was ever in `TARGETS`. A look-up in an array costs almost nothing,
/// and saves the other processes of the host a look-up in a hash table.
#[map]
static POSSIBLE: Array<u64> = Array::with_max_entries(POSSIBLE_SLOTS, 0);

/// Numbers of changes of `TARGETS`: by the agent, and by the programs.
#[map]
static CHANGES: Array<u64> = Array::with_max_entries(2, 0);

/// [`dnstap_ebpf::EventHeader::program_id`] of a program that joined by its name -> that name. The process may have
/// ended before the agent learns of it.
#[map]
static RUNS: LruHashMap<u32, [u8; NAME_LEN]> = LruHashMap::with_max_entries(1024, 0);

/// A thread of a tapped process.
#[derive(Clone, Copy)]
pub(crate) struct Thread {
    pub tgid: u32,
    pub tid: u32,
    pub program_id: u32,
}

/// Returns whether process `tgid` may be tapped. It is a quick "no" for most processes.
#[inline(always)]
pub(crate) fn may_contain(tgid: u32) -> bool {
    POSSIBLE
        .get(possible_slot(tgid))
        .is_some_and(|slot| *slot != 0)
}

/// Returns a number that changes, to a value that it never had before, whenever cached facts about a tapped process may
/// have become wrong.
#[inline(always)]
pub(crate) fn changes() -> u64 {
    let counted = |slot| CHANGES.get(slot).copied().unwrap_or(0);
    counted(CHANGED_BY_AGENT) << 32 | (counted(CHANGED_BY_PROGRAMS) + 1)
}

/// Returns the program id of process `tgid`, if it is tapped.
#[inline(always)]
pub(crate) fn program_id(tgid: u32) -> Option<u32> {
    // SAFETY: an integer, written whole.
    unsafe { TARGETS.get(tgid) }.copied()
}

/// Returns whether process `tgid` is tapped.
#[inline(always)]
pub(crate) fn contains(tgid: u32) -> bool {
    may_contain(tgid) && program_id(tgid).is_some()
}

/// Adds the process `child`, which the process of `parent` has just forked.
#[inline(always)]
pub(crate) fn fork(parent: Thread, child: u32) {
    insert(child, parent.program_id);
}

/// Updates the set when the current process has begun to execute another file. `claim` tells whether the calling
/// program handles this event; its argument is the thread as `bpf_get_current_pid_tgid` returns it.
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
            // Without this entry, the agent takes the name from the process while the process exists.
            let _ = RUNS.insert(program_id, name, 0);
            insert(tgid, program_id);
        }
    } else if known.is_none() {
        forget(tgid);
    }
}

/// Removes process `tgid` from the tapped processes.
#[inline(always)]
pub(crate) fn forget(tgid: u32) {
    // Most processes were never tapped, and cost only the quick check.
    if may_contain(tgid) && TARGETS.remove(tgid).is_ok() {
        note_change();
    }
}

/// Adds process `tgid`, which runs `program_id`.
#[inline(always)]
fn insert(tgid: u32, program_id: u32) {
    if let Some(slot) = POSSIBLE.get_ptr_mut(possible_slot(tgid)) {
        // SAFETY: a live, aligned entry, to which all programs write the same value.
        unsafe { slot.write_volatile(1) };
    }
    if TARGETS.insert(tgid, program_id, 0).is_err() {
        count(Counter::Unfollowed);
    }
    note_change();
}

/// Invalidates what other maps store about tapped processes.
#[inline(always)]
fn note_change() {
    if let Some(changes) = CHANGES.get_ptr_mut(CHANGED_BY_PROGRAMS) {
        // SAFETY: a live, aligned entry that only programs change, and only with this function.
        unsafe { add_atomically(changes, 1) };
    }
}

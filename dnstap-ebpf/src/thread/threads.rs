//! The current thread, if its process is tapped, and what the programs keep of it from one of their runs to the next: one entry,
//! found once in each run and written in place.
//!
//! A look-up costs the server more than most of what a program does, and a new entry several times that. So the entry also
//! remembers that the process is tapped, until the set of tapped processes changes ([`crate::kernel::target`]).

use aya_ebpf::{helpers::bpf_get_current_pid_tgid, macros::map, maps::LruHashMap};

use crate::{
    kernel::target::{self, Thread},
    thread::{locals::Local, peers::Peer},
};

/// Of one thread. All zero: nothing kept.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct State {
    /// Not 0 between the first program's run and the second's ([`crate::thread::once`]).
    pub mark: u32,
    /// Index of the next element of the `recvmmsg` or `sendmmsg` that the thread is in; 0: it is in none.
    pub next: u32,
    /// Address of that call's array.
    pub batch: u64,
    /// What the kernel reported for the element before.
    pub previous: u32,
    /// What the process runs ([`dnstap_ebpf::EventHeader::program_id`]), as of `changes`.
    program_id: u32,
    /// State of the set of tapped processes in which this process was found in it.
    changes: u64,
    /// What several datagrams are that are being received as one ([`crate::message::coalesced`]).
    pub coalesced: u64,
    /// Who sent the datagram that is being received ([`crate::thread::peers`]).
    pub peer: Peer,
    /// Where it was sent to ([`crate::thread::locals`]).
    pub local: Local,
}

/// Thread, as `bpf_get_current_pid_tgid` names it -> its state.
#[map]
static THREADS: LruHashMap<u64, State> = LruHashMap::with_max_entries(4096, 0);

/// The current thread, if its process is tapped, and its state: the first question of every hook. There is no state if the map
/// has no room, which an LRU map makes.
#[inline(always)]
pub(crate) fn current<'a>() -> Option<(Thread, Option<&'a mut State>)> {
    tapped(possible()?)
}

/// The current thread, as `bpf_get_current_pid_tgid` names it, if its process may be tapped: the part of [`current`] that is cheap.
#[inline(always)]
pub(crate) fn possible() -> Option<u64> {
    let key = bpf_get_current_pid_tgid();
    target::may_contain((key >> 32) as u32).then_some(key)
}

/// The rest of [`current`], for the thread that [`possible`] has named.
#[inline(always)]
pub(crate) fn tapped<'a>(key: u64) -> Option<(Thread, Option<&'a mut State>)> {
    let (tgid, tid) = ((key >> 32) as u32, key as u32);
    // Before the set itself is asked: a change in between then shows the next time.
    let changes = target::changes();
    if let Some(place) = THREADS.get_ptr_mut(key) {
        // SAFETY: the entry belongs to this thread, which runs one program at a time.
        let state = unsafe { &mut *place };
        if state.changes == changes {
            let program_id = state.program_id;
            return Some((
                Thread {
                    tgid,
                    tid,
                    program_id,
                },
                Some(state),
            ));
        }
    }
    let program_id = target::program_id(tgid)?;
    let mut state = of(key);
    if let Some(state) = &mut state {
        state.changes = changes;
        state.program_id = program_id;
    }
    Some((
        Thread {
            tgid,
            tid,
            program_id,
        },
        state,
    ))
}

/// The state of the current thread, which [`possible`] has named, if there is one. It may be of a process that is not tapped any more.
#[inline(always)]
pub(crate) fn known<'a>(key: u64) -> Option<&'a mut State> {
    // SAFETY: the entry belongs to this thread, which runs one program at a time.
    unsafe { THREADS.get_ptr_mut(key)?.as_mut() }
}

/// The state of the current thread, which `bpf_get_current_pid_tgid` names `key`; made if there is none.
#[inline(always)]
pub(crate) fn of<'a>(key: u64) -> Option<&'a mut State> {
    let place = if let Some(place) = THREADS.get_ptr_mut(key) {
        place
    } else {
        // SAFETY: integers, for which zero is a value.
        let empty = unsafe { core::mem::zeroed::<State>() };
        // A failure shows in the next line.
        let _ = THREADS.insert(key, empty, 0);
        THREADS.get_ptr_mut(key)?
    };
    // SAFETY: the entry belongs to this thread, which runs one program at a time.
    unsafe { place.as_mut() }
}

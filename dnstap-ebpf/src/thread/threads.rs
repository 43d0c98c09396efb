//! Finds the current thread, if its process is tapped, and the state that the programs store for it between their runs.
//! There is one entry per thread. Each run looks it up once and changes it in place.
//!
//! A look-up costs the server more than most other work of a program, and a new entry several times that. So the entry
//! also stores that the process is tapped, until the set of tapped processes changes ([`crate::kernel::target`]).

use aya_ebpf::{helpers::bpf_get_current_pid_tgid, macros::map, maps::LruHashMap};

use crate::{
    kernel::target::{self, Thread},
    thread::{locals::Local, peers::Peer},
};

/// State of one thread. All zero: nothing is stored.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct State {
    /// Mark of [`crate::thread::once`]: not 0 between the run of the first program and that of the second.
    pub mark: u32,
    /// Index of the next element of the thread's current `recvmmsg` or `sendmmsg`; 0: there is none.
    pub next: u32,
    /// Address of that call's array.
    pub batch: u64,
    /// Length that the kernel reported for the previous element.
    pub previous: u32,
    /// Program id of the process ([`dnstap_ebpf::EventHeader::program_id`]), valid as of `changes`.
    program_id: u32,
    /// Value of [`target::changes`] when this process was found in the set of tapped processes.
    changes: u64,
    /// Size of the datagrams that are being received as one message ([`crate::message::coalesced`]).
    pub coalesced: u64,
    /// Sender of the datagram that is being received ([`crate::thread::peers`]).
    pub peer: Peer,
    /// Local address to which that datagram was sent ([`crate::thread::locals`]).
    pub local: Local,
}

/// Thread, as `bpf_get_current_pid_tgid` returns it -> its state.
#[map]
static THREADS: LruHashMap<u64, State> = LruHashMap::with_max_entries(4096, 0);

/// Returns the current thread and its state if its process is tapped. Every hook asks this first. There is no state if
/// the map has no room, but an LRU map makes room.
#[inline(always)]
pub(crate) fn current<'a>() -> Option<(Thread, Option<&'a mut State>)> {
    tapped(possible()?)
}

/// Returns the current thread, as `bpf_get_current_pid_tgid` returns it, if its process may be tapped. This is the
/// cheap part of [`current`].
#[inline(always)]
pub(crate) fn possible() -> Option<u64> {
    let key = bpf_get_current_pid_tgid();
    target::may_contain((key >> 32) as u32).then_some(key)
}

/// Does the rest of [`current`], for the thread that [`possible`] has returned.
#[inline(always)]
pub(crate) fn tapped<'a>(key: u64) -> Option<(Thread, Option<&'a mut State>)> {
    let (tgid, tid) = ((key >> 32) as u32, key as u32);
    // The number is read before the set, so that a change in between is noticed in the next run.
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

/// Returns the state of the current thread, which [`possible`] has returned, if there is one. The process may not be
/// tapped any more.
#[inline(always)]
pub(crate) fn known<'a>(key: u64) -> Option<&'a mut State> {
    // SAFETY: the entry belongs to this thread, which runs one program at a time.
    unsafe { THREADS.get_ptr_mut(key)?.as_mut() }
}

/// Returns the state of the current thread, for which `bpf_get_current_pid_tgid` returns `key`. Makes the state if
/// there is none.
#[inline(always)]
pub(crate) fn of<'a>(key: u64) -> Option<&'a mut State> {
    let place = if let Some(place) = THREADS.get_ptr_mut(key) {
        place
    } else {
        // SAFETY: integers, for which zero is a value.
        let empty = unsafe { core::mem::zeroed::<State>() };
        // If the insertion fails, the next look-up finds nothing.
        let _ = THREADS.insert(key, empty, 0);
        THREADS.get_ptr_mut(key)?
    };
    // SAFETY: the entry belongs to this thread, which runs one program at a time.
    unsafe { place.as_mut() }
}

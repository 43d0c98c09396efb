//! What the programs keep of a thread from one of their runs to the next: one entry, found once in each run and written in place.
//!
//! A new entry in a hash map costs several times what a look-up costs, and each map of its own a look-up more.

use aya_ebpf::{macros::map, maps::LruHashMap};

use crate::{locals::Local, peers::Peer, target::Thread};

/// Of one thread. All zero: nothing kept.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct State {
    /// Not 0 between the first program's run and the second's ([`crate::once`]).
    pub mark: u32,
    /// Index of the next element of the `recvmmsg` or `sendmmsg` that the thread is in; 0: it is in none.
    pub next: u32,
    /// Address of that call's array.
    pub batch: u64,
    /// What the kernel reported for the element before.
    pub previous: u32,
    reserved: u32,
    /// Who sent the datagram that is being received ([`crate::peers`]).
    pub peer: Peer,
    /// Where it was sent to ([`crate::locals`]).
    pub local: Local,
}

/// Thread -> its state.
#[map]
static THREADS: LruHashMap<u64, State> = LruHashMap::with_max_entries(4096, 0);

/// The state of the current thread, made if there is none. `None` if the map has no room, which an LRU map makes.
#[inline(always)]
pub(crate) fn of<'a>(thread: Thread) -> Option<&'a mut State> {
    let key = thread.key();
    let place = if let Some(place) = THREADS.get_ptr_mut(key) {
        place
    } else {
        // SAFETY: integers, for which zero is a value.
        let empty = unsafe { core::mem::zeroed::<State>() };
        // What becomes of it, the next line sees.
        let _ = THREADS.insert(key, empty, 0);
        THREADS.get_ptr_mut(key)?
    };
    // SAFETY: the entry belongs to this thread, which runs one program at a time.
    unsafe { place.as_mut() }
}

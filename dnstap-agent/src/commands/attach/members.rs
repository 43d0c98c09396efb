//! The set of tapped processes while processes start and end.
//!
//! The kernel side maintains the set where it can: forked processes join, ended ones leave, and a
//! process that executes a file with a selected name joins before it runs. This module does the
//! rest: it adds the first members, processes in cgroups, and those that found no room in the set.
//! It also logs every change.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::mpsc::SyncSender,
    time::{Duration, Instant},
};

use anyhow::Result;
use tracing::{info, warn};

use crate::sources::{
    processes::{Found, Search, open_sockets},
    socket::ProcessSet,
};

/// Time after a failed search before the next one, even if something has changed.
const AGAIN: Duration = Duration::from_secs(1);

/// The set in the kernel, and a copy of it.
pub(super) struct Members {
    set: ProcessSet,
    search: Search,
    /// Sends the TCP connections of processes that were running when they joined to the ring's
    /// reader.
    joined: SyncSender<Vec<u64>>,
    /// Processes with their program ids.
    known: BTreeMap<u32, u32>,
    /// Names that the kernel side knows.
    names: BTreeSet<String>,
    missed: Missed,
    /// Whether it was logged that searching fails.
    told: bool,
}

/// Whether processes found no room in the set, and have not been searched for since.
#[derive(Debug, Default)]
struct Missed {
    /// Number of such processes up to the last search.
    unfollowed: u64,
    any: bool,
    /// Time of the last search for them, if it failed.
    failed: Option<Instant>,
}

impl Missed {
    /// Returns whether to search for them now that there have been `unfollowed`. A search is
    /// useless while there cannot be more room than before.
    fn is_worth_a_look(&mut self, unfollowed: u64, some_ended: bool) -> bool {
        let more = mem::replace(&mut self.unfollowed, unfollowed) < unfollowed;
        self.any |= more;
        let again = self.failed.is_some_and(|at| at.elapsed() >= AGAIN);
        more || (self.any && (some_ended || again))
    }

    /// Notes that they were searched for.
    fn looked(&mut self, found_all: bool) {
        self.any &= !found_all;
        self.failed = (!found_all).then(Instant::now);
    }
}

impl Members {
    /// Taps all selected processes. Returns when none can have been missed: a process that was
    /// forked before its parent was tapped is found by another search, and one that is forked later
    /// is tapped by the kernel side.
    pub(super) fn start(
        set: ProcessSet,
        search: Search,
        joined: SyncSender<Vec<u64>>,
    ) -> Result<Self> {
        let mut members = Self {
            set,
            search,
            joined,
            missed: Missed::default(),
            known: BTreeMap::new(),
            names: BTreeSet::new(),
            told: false,
        };
        let selection = members.search.selection().clone();
        for name in selection.names {
            members.set.know(&name, selection.follow)?;
            members.names.insert(name);
        }
        loop {
            // A process of --pid may have ended since the first search; this is no error.
            let found = match members.search.find(&members.known) {
                Err(_) if !members.known.is_empty() => break,
                found => found?,
            };
            if found.is_empty() {
                break;
            }
            for process in found {
                members.add(&process)?;
            }
        }
        Ok(members)
    }

    /// Returns whether processes may join that only a look finds: those of a cgroup.
    pub(super) fn has_units(&self) -> bool {
        !self.search.selection().units.is_empty()
    }

    fn add(&mut self, found: &Found) -> Result<()> {
        // A process that was started through a link has the link's name until it renames itself.
        for name in [&found.executable, &found.target.name] {
            if !self.names.contains(name) {
                self.set.know(name, false)?;
                self.names.insert(name.clone());
            }
        }
        let pid = found.target.pid;
        self.set.add(pid, found.program_id)?;
        if found.target.has_ended()? {
            // The kernel may have reported the end of the process before it was added.
            return self.set.remove(pid);
        }
        self.known.insert(pid, found.program_id);
        Ok(())
    }

    /// Catches up with changes; `unfollowed` processes were not added because the set had no room.
    pub(super) fn look(&mut self, unfollowed: u64) {
        let now = self.set.list();
        for (&pid, program_id) in &now {
            if self.known.get(&pid) != Some(program_id) {
                info!(pid, "tapping a new process");
            }
        }
        let mut some_ended = false;
        for pid in self.known.keys() {
            if !now.contains_key(pid) {
                info!(pid, "a tapped process has ended");
                some_ended = true;
            }
        }
        self.known = now;
        let missed = self.missed.is_worth_a_look(unfollowed, some_ended);
        let asked = self.search.selection();
        if asked.follow && (missed || !asked.units.is_empty()) {
            let joined = self.join(missed);
            if missed {
                self.missed.looked(joined.is_ok());
            }
            match joined {
                Ok(()) => self.told = false,
                // The tapped processes stay tapped, and the next search may succeed.
                Err(error) if !self.told => {
                    warn!("cannot look for new processes to tap, trying again: {error:#}");
                    self.told = true;
                }
                Err(_) => {}
            }
        }
    }

    /// Taps processes that have joined the cgroups and, if some were `missed`, those with the
    /// names.
    fn join(&mut self, missed: bool) -> Result<()> {
        let new = self.search.find_later(missed, &self.known)?;
        // Sent before adding, so that the reader knows a connection when its first piece comes, and
        // again for connections opened meanwhile.
        self.tell_connections(&new);
        let added = new.iter().try_for_each(|process| {
            self.add(process)?;
            info!(pid = process.target.pid, "tapping a new process");
            Ok(())
        });
        self.tell_connections(&new);
        added
    }

    /// Sends the TCP connections of processes to the reader. Without this, it takes the first piece
    /// for the start of a stream.
    fn tell_connections(&self, processes: &[Found]) {
        let sockets = processes
            .iter()
            .flat_map(|process| open_sockets(process.target.pid).unwrap_or_default());
        let tcp: Vec<_> = sockets
            .filter(|socket| socket.tcp)
            .map(|socket| socket.inode)
            .collect();
        if !tcp.is_empty() {
            // The receiver is gone when the reader has ended; then the tap has ended, too.
            let _unheard = self.joined.send(tcp);
        }
    }

    /// Returns the ids of the processes.
    pub(super) fn pids(&self) -> impl Iterator<Item = u32> + '_ {
        self.known.keys().copied()
    }

    /// Returns whether nothing is tapped and nothing will be.
    pub(super) fn are_over(&self) -> bool {
        self.known.is_empty() && !self.search.selection().follow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_found_no_room_is_looked_for_when_there_may_be_some() {
        let mut missed = Missed::default();
        assert!(!missed.is_worth_a_look(0, true), "nobody was missed");
        assert!(missed.is_worth_a_look(3, false));
        assert!(!missed.is_worth_a_look(3, false), "as full as before");
        assert!(missed.is_worth_a_look(3, true));
        missed.looked(true);
        assert!(!missed.is_worth_a_look(3, true));
        assert!(missed.is_worth_a_look(4, false));
    }

    #[test]
    fn a_look_that_failed_is_tried_again_a_while_later() {
        let mut missed = Missed::default();
        assert!(missed.is_worth_a_look(1, false));
        missed.looked(false);
        assert!(!missed.is_worth_a_look(1, false), "not at once");
        missed.failed = Instant::now().checked_sub(AGAIN);
        assert!(missed.is_worth_a_look(1, false));
        missed.looked(true);
        assert!(!missed.is_worth_a_look(1, false));
    }
}

//! The set of tapped processes, which changes while processes start and end.
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
    probes::Probes,
    processes::{Found, Search, open_sockets},
    socket::ProcessSet,
};

/// Time after a failed search before the next one, even if something has changed.
const AGAIN: Duration = Duration::from_secs(1);

/// The set in the kernel, a copy of it, and the probes.
pub(super) struct Members {
    set: ProcessSet,
    search: Search,
    probes: Probes,
    /// Channel to the ring's reader.
    joined: SyncSender<News>,
    /// Program ids of the processes, by process id.
    known: BTreeMap<u32, u32>,
    /// Names that the kernel side knows.
    names: BTreeSet<String>,
    missed: Missed,
    /// Whether it was logged that searching fails.
    told: bool,
}

/// Message to the ring's reader.
#[derive(Debug)]
pub(super) enum News {
    /// TCP connections of a process that was running when it joined.
    Connections(Vec<u64>),
    /// Change of whether the server that runs `program_id` is probed.
    Probed {
        /// See [`dnstap_ebpf::EventHeader::program_id`].
        program_id: u32,
        /// Whether the server is probed from now on.
        is_probed: bool,
    },
    /// A process has ended, or runs another program.
    Ended {
        /// The process.
        pid: u32,
    },
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
        probes: Probes,
        joined: SyncSender<News>,
    ) -> Result<Self> {
        let mut members = Self {
            set,
            search,
            probes,
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
                // Probed before it is tapped, so that its first messages have their remarks.
                members
                    .probes
                    .add(process.target.pid, process.program_id, false);
                members.add(&process)?;
            }
        }
        Ok(members)
    }

    /// Returns whether processes may join that only a search finds: those of a cgroup.
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
        self.probe(&now);
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

    /// Probes new processes and removes the probes of those that have ended. Also removes the
    /// probes of servers that have other structures than the probe expects. Tells the reader.
    fn probe(&mut self, now: &BTreeMap<u32, u32>) {
        let mut probed = Vec::new();
        let mut gone = Vec::new();
        for (&pid, program_id) in &self.known {
            if now.get(&pid) != Some(program_id) {
                gone.extend(self.probes.remove(pid));
                // As below.
                let _unheard = self.joined.send(News::Ended { pid });
            }
        }
        for (&pid, &program_id) in now {
            if self.known.get(&pid) != Some(&program_id) && self.probes.add(pid, program_id, true) {
                probed.push(program_id);
            }
        }
        probed.extend(self.probes.again());
        gone.extend(self.probes.judge());
        if !self.probes.make_remarks() {
            // The reader waits for nothing.
            return;
        }
        // Another probed process may have the same program id.
        gone.retain(|gone| self.probes.program_ids().all(|probed| probed != *gone));
        let news = probed.into_iter().map(|program_id| (program_id, true));
        let gone = gone.into_iter().map(|program_id| (program_id, false));
        for (program_id, is_probed) in news.chain(gone) {
            // The receiver is gone when the reader has ended, and then the tap has ended, too.
            let _unheard = self.joined.send(News::Probed {
                program_id,
                is_probed,
            });
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
            // The receiver is gone when the reader has ended, and then the tap has ended, too.
            let _unheard = self.joined.send(News::Connections(tcp));
        }
    }

    /// Returns the ids of the processes.
    pub(super) fn pids(&self) -> impl Iterator<Item = u32> + '_ {
        self.known.keys().copied()
    }

    /// Removes all probes. The kernel counts no calls after that.
    pub(super) fn unprobe(&mut self) {
        self.probes.end();
    }

    /// Returns whether a process that joins now could be probed.
    pub(super) fn can_probe(&self) -> bool {
        self.probes.work()
    }

    /// Returns the program ids of the processes that are probed for remarks.
    pub(super) fn probed(&self) -> impl Iterator<Item = u32> + '_ {
        let make_remarks = self.probes.make_remarks();
        self.probes.program_ids().filter(move |_| make_remarks)
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

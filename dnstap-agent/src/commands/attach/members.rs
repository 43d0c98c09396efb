//! The tapped processes while they come and go.
//!
//! The kernel keeps the set by itself where it can: forks join, exits leave, and what executes a file of a name that is followed
//! joins before it runs. Here is the rest: the first members, the ones of control groups, the ones that found no room in the set, and word
//! of every change to the log.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::mpsc::SyncSender,
    time::{Duration, Instant},
};

use anyhow::Result;
use dnstap_ebpf::Counter;
use tracing::{info, warn};

use crate::sources::{
    probes::Probes,
    processes::{Found, Search, open_sockets},
    socket::ProcessSet,
};

/// How long after a look that failed the next one may be, also if something has changed.
const AGAIN: Duration = Duration::from_secs(1);

/// The set in the kernel, and what is known of it here.
pub(super) struct Members {
    set: ProcessSet,
    search: Search,
    probes: Probes,
    /// To the ring's reader.
    joined: SyncSender<News>,
    /// Processes with what they run.
    known: BTreeMap<u32, u32>,
    /// Names that the kernel knows.
    names: BTreeSet<String>,
    missed: Missed,
    /// It was told that new members cannot be looked for.
    told: bool,
}

/// What the ring's reader is told.
#[derive(Debug)]
pub(super) enum News {
    /// The TCP connections of a process that was running when it joined.
    Connections(Vec<u64>),
    /// Whether what runs `program_id` is probed from now on.
    Probed {
        /// See [`dnstap_ebpf::EventHeader::program_id`].
        program_id: u32,
        /// Whether it is.
        is_probed: bool,
    },
}

/// Of a probe's calls so many may be unreadable before there is something wrong: one of so many, and in the beginning so many together.
const FAULTS: u64 = 16;
const CALLS_OF_A_FAULT: u64 = 1_000;

/// Whether so many calls of a probe were unreadable that the server's structures must be others than the probe takes them for.
fn are_too_many(faults: u64, calls: u64) -> bool {
    faults > (calls / CALLS_OF_A_FAULT).max(FAULTS)
}

/// Whether processes found no room in the set and were not looked for since.
#[derive(Debug, Default)]
struct Missed {
    /// How many there were up to the last look.
    unfollowed: u64,
    any: bool,
    /// When a look for them failed, if the last one did.
    failed: Option<Instant>,
}

impl Missed {
    /// Whether to look for them, now that there have been `unfollowed`: not while there can be no more room than before.
    fn is_worth_a_look(&mut self, unfollowed: u64, some_ended: bool) -> bool {
        let more = mem::replace(&mut self.unfollowed, unfollowed) < unfollowed;
        self.any |= more;
        let again = self.failed.is_some_and(|at| at.elapsed() >= AGAIN);
        more || (self.any && (some_ended || again))
    }

    /// They were looked for.
    fn looked(&mut self, found_all: bool) {
        self.any &= !found_all;
        self.failed = (!found_all).then(Instant::now);
    }
}

impl Members {
    /// Taps all that is selected now. Returns when nothing can have slipped in between: what was forked before its parent was
    /// tapped is found by another look, what is forked later is tapped by the kernel.
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
            // A process of --pid that has ended since the first look is none to complain of.
            let found = match members.search.find(&members.known) {
                Err(_) if !members.known.is_empty() => break,
                found => found?,
            };
            if found.is_empty() {
                break;
            }
            for process in found {
                // Before its messages come.
                members
                    .probes
                    .add(process.target.pid, process.program_id, false);
                members.add(&process)?;
            }
        }
        Ok(members)
    }

    fn add(&mut self, found: &Found) -> Result<()> {
        // What was started through a link has the link's name, until it renames itself.
        for name in [&found.executable, &found.target.name] {
            if !self.names.contains(name) {
                self.set.know(name, false)?;
                self.names.insert(name.clone());
            }
        }
        let pid = found.target.pid;
        self.set.add(pid, found.program_id)?;
        if found.target.has_ended()? {
            // The kernel may have told of the end before it was told of the process.
            return self.set.remove(pid);
        }
        self.known.insert(pid, found.program_id);
        Ok(())
    }

    /// Catches up with what has changed; `counters` are the kernel side's.
    pub(super) fn look(&mut self, counters: &[u64; Counter::COUNT]) {
        let now = self.set.list();
        self.probe(&now, counters);
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
        let unfollowed = counters[Counter::Unfollowed as usize];
        let missed = self.missed.is_worth_a_look(unfollowed, some_ended);
        let asked = self.search.selection();
        if asked.follow && (missed || !asked.units.is_empty()) {
            let joined = self.join(missed);
            if missed {
                self.missed.looked(joined.is_ok());
            }
            match joined {
                Ok(()) => self.told = false,
                // Those that are tapped go on being tapped, and the next look may succeed.
                Err(error) if !self.told => {
                    warn!("cannot look for new processes to tap, trying again: {error:#}");
                    self.told = true;
                }
                Err(_) => {}
            }
        }
    }

    /// Probes the processes that have come, lets go of those that have ended, and gives up where the probes do not understand the server.
    fn probe(&mut self, now: &BTreeMap<u32, u32>, counters: &[u64; Counter::COUNT]) {
        let mut probed = Vec::new();
        let mut gone = Vec::new();
        for (&pid, program_id) in &self.known {
            if now.get(&pid) != Some(program_id) {
                gone.extend(self.probes.remove(pid));
            }
        }
        for (&pid, &program_id) in now {
            if self.known.get(&pid) != Some(&program_id) && self.probes.add(pid, program_id, true) {
                probed.push(program_id);
            }
        }
        probed.extend(self.probes.again());
        let [faults, calls] =
            [Counter::ProbeFault, Counter::ProbeCalls].map(|counter| counters[counter as usize]);
        if are_too_many(faults, calls) {
            let reason = format!(
                "{faults} of {calls} calls could not be read: this build has other structures than those of BIND 9.16 to 9.20"
            );
            gone.extend(self.probes.shut(&reason));
        }
        // Another process may run the same, and be probed.
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

    /// Taps what has joined the control groups and, if it `missed` some, what has the names.
    fn join(&mut self, missed: bool) -> Result<()> {
        let new = self.search.find_later(missed, &self.known)?;
        // Before, so that the reader knows of a connection when its first piece comes; and those that came meanwhile.
        self.tell_connections(&new);
        let added = new.iter().try_for_each(|process| {
            self.add(process)?;
            info!(pid = process.target.pid, "tapping a new process");
            Ok(())
        });
        self.tell_connections(&new);
        added
    }

    /// Tells the reader which TCP connections processes have: else it takes the first piece that comes for the start of a stream.
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

    /// Ids of the processes.
    pub(super) fn pids(&self) -> impl Iterator<Item = u32> + '_ {
        self.known.keys().copied()
    }

    /// Whether a process that comes now could be probed.
    pub(super) fn can_probe(&self) -> bool {
        self.probes.work()
    }

    /// What runs in the processes that are probed.
    pub(super) fn probed(&self) -> impl Iterator<Item = u32> + '_ {
        self.probes.program_ids()
    }

    /// Whether nothing is tapped, and nothing will be.
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
    fn a_probe_is_given_up_when_more_than_one_call_of_a_thousand_is_unreadable() {
        assert!(!are_too_many(16, 16), "they may be the first");
        assert!(are_too_many(17, 17));
        assert!(!are_too_many(100, 100_000));
        assert!(are_too_many(101, 100_000));
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

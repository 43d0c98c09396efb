//! The tapped processes while they come and go.
//!
//! The kernel keeps the set by itself where it can: forks join, exits leave, and what executes a file of a name that is followed
//! joins before it runs. Here is the rest: the first members, the ones of control groups, and word of every change to the log.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use tracing::{info, warn};

use crate::{
    tap::ProcessSet,
    target::{Found, Selection},
};

/// The set in the kernel, and what is known of it here.
pub(super) struct Members {
    set: ProcessSet,
    selection: Selection,
    /// Processes with what they run.
    known: BTreeMap<u32, u32>,
    /// Names that the kernel knows.
    names: BTreeSet<String>,
    /// It was told that new members of control groups cannot be looked for.
    told: bool,
}

impl Members {
    /// Taps all that is selected now. Returns when nothing can have slipped in between: what was forked before its parent was
    /// tapped is found by another look, what is forked later is tapped by the kernel.
    pub(super) fn start(set: ProcessSet, selection: Selection) -> Result<Self> {
        let mut members = Self {
            set,
            selection,
            known: BTreeMap::new(),
            names: BTreeSet::new(),
            told: false,
        };
        for name in members.selection.names.clone() {
            members.set.know(&name, members.selection.follow)?;
            members.names.insert(name);
        }
        loop {
            // A process of --pid that has ended since the first look is none to complain of.
            let found = match members.selection.find(&members.known) {
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

    fn add(&mut self, found: &Found) -> Result<()> {
        // What was started through a link has the link's name, until it renames itself.
        for name in [&found.executable, &found.target.name] {
            if self.names.insert(name.clone()) {
                self.set.know(name, false)?;
            }
        }
        let pid = found.target.pid;
        self.set.add(pid, found.image)?;
        if found.target.has_ended()? {
            // The kernel may have told of the end before it was told of the process.
            return self.set.remove(pid);
        }
        self.known.insert(pid, found.image);
        Ok(())
    }

    /// Catches up with what has changed.
    pub(super) fn look(&mut self) {
        let now = self.set.list();
        for (&pid, image) in &now {
            if self.known.get(&pid) != Some(image) {
                info!(pid, "tapping a new process");
            }
        }
        for pid in self.known.keys() {
            if !now.contains_key(pid) {
                info!(pid, "a tapped process has ended");
            }
        }
        self.known = now;
        if self.selection.follow && !self.selection.units.is_empty() {
            match self.join() {
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

    /// Taps what has joined the control groups.
    fn join(&mut self) -> Result<()> {
        let units = Selection {
            units: self.selection.units.clone(),
            ..Selection::default()
        };
        for process in units.find(&self.known)? {
            self.add(&process)?;
            info!(pid = process.target.pid, "tapping a new process");
        }
        Ok(())
    }

    /// Ids of the processes.
    pub(super) fn pids(&self) -> impl Iterator<Item = u32> + '_ {
        self.known.keys().copied()
    }

    /// Whether nothing is tapped, and nothing will be.
    pub(super) fn are_over(&self) -> bool {
        self.known.is_empty() && !self.selection.follow
    }
}

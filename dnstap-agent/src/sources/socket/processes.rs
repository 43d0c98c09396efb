//! The set of tapped processes in the kernel: what is in it, and what it takes in by itself.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use aya::maps::{Array, HashMap, MapData, MapError};
use dnstap_ebpf::{CHANGED_BY_AGENT, NAME_JOINS, NAME_LEN, NAME_STAYS, possible_slot};

/// Flag of an insertion that leaves an entry as it is (`include/uapi/linux/bpf.h`).
const BPF_NOEXIST: u32 = 1;

/// Ids are those of the initial PID namespace.
pub struct ProcessSet {
    pub(super) targets: HashMap<MapData, u32, u32>,
    pub(super) names: HashMap<MapData, [u8; NAME_LEN], u32>,
    pub(super) possible: Array<MapData, u64>,
    pub(super) changes: Array<MapData, u64>,
}

impl ProcessSet {
    /// Taps process `tgid` and all that it forks from now on. `program_id` stands for what it runs ([`dnstap_ebpf::program_id`]). A process
    /// that the kernel side has added itself stays as it is: the kernel side knows what it has executed meanwhile.
    pub fn add(&mut self, tgid: u32, program_id: u32) -> Result<()> {
        self.possible
            .set(possible_slot(tgid), 1, 0)
            .and_then(
                |()| match self.targets.insert(tgid, program_id, BPF_NOEXIST.into()) {
                    Err(MapError::SyscallError(error)) if exists(&error.io_error) => Ok(()),
                    inserted => inserted,
                },
            )
            .and_then(|()| self.note_change())
            .with_context(|| format!("cannot tell the kernel to tap process {tgid}"))
    }

    /// Ends the tapping of a process; none is ended that was not tapped.
    pub fn remove(&mut self, tgid: u32) -> Result<()> {
        let removed = match self.targets.remove(&tgid) {
            Err(MapError::KeyNotFound) => Ok(()),
            removed => removed,
        };
        removed
            .and_then(|()| self.note_change())
            .with_context(|| format!("cannot tell the kernel to let go of process {tgid}"))
    }

    /// What the programs remember of tapped processes does not hold any more.
    fn note_change(&mut self) -> Result<(), MapError> {
        let changes = self.changes.get(&CHANGED_BY_AGENT, 0)?;
        self.changes.set(CHANGED_BY_AGENT, changes + 1, 0)
    }

    /// The tapped processes with what they run.
    pub fn list(&self) -> BTreeMap<u32, u32> {
        // When an entry goes while it is its turn, the walk begins anew.
        self.targets.iter().filter_map(Result::ok).collect()
    }

    /// What executes a file of this name from now on: a tapped process stays one, and with `joins` every other becomes one. It
    /// counts what the kernel keeps of the name, 15 bytes.
    pub fn know(&mut self, name: &str, joins: bool) -> Result<()> {
        let flags = if joins { NAME_JOINS } else { NAME_STAYS };
        self.names
            .insert(key(name), flags, 0)
            .with_context(|| format!("cannot tell the kernel the name {name}"))
    }
}

fn exists(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::AlreadyExists
}

/// What the processes run that the set has taken in by their names. Outlives them, for the last thousand or so.
#[derive(Debug)]
pub struct Runs(pub(super) HashMap<MapData, u32, [u8; NAME_LEN]>);

impl Runs {
    /// The name of the file whose execution this number stands for, cut to 15 bytes.
    #[must_use]
    pub fn name(&self, program_id: u32) -> Option<String> {
        let name = self.0.get(&program_id, 0).ok()?;
        Some(text(&name))
    }
}

fn text(name: &[u8; NAME_LEN]) -> String {
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(name).into_owned()
}

fn key(name: &str) -> [u8; NAME_LEN] {
    let mut key = [0; NAME_LEN];
    let kept = name.len().min(NAME_LEN - 1);
    key[..kept].copy_from_slice(&name.as_bytes()[..kept]);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_is_cut_as_the_kernel_cuts_it() {
        assert_eq!(&key("systemd-resolved"), b"systemd-resolve\0");
        assert_eq!(&key("nsd"), b"nsd\0\0\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(text(&key("nsd")), "nsd");
        assert_eq!(text(&key("systemd-resolved")), "systemd-resolve");
    }
}

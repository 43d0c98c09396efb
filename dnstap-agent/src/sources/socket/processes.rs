//! The kernel's set of tapped processes, and the names by which processes join it.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use aya::maps::{Array, HashMap, MapData, MapError};
use dnstap_ebpf::{CHANGED_BY_AGENT, NAME_JOINS, NAME_LEN, NAME_STAYS, possible_slot};

/// Flag of an insertion that leaves an entry as it is (`include/uapi/linux/bpf.h`).
const BPF_NOEXIST: u32 = 1;

/// The set of tapped processes, by their ids in the initial PID namespace.
pub struct ProcessSet {
    pub(super) targets: HashMap<MapData, u32, u32>,
    pub(super) names: HashMap<MapData, [u8; NAME_LEN], u32>,
    pub(super) possible: Array<MapData, u64>,
    pub(super) changes: Array<MapData, u64>,
}

impl ProcessSet {
    /// Adds process `tgid` and all that it forks from now on, with its `program_id`
    /// ([`dnstap_ebpf::program_id`]). If the kernel side has already added the process, its entry
    /// stays, because the kernel side knows what it has executed meanwhile.
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

    /// Removes a process; does nothing if it is not in the set.
    pub fn remove(&mut self, tgid: u32) -> Result<()> {
        let removed = match self.targets.remove(&tgid) {
            Err(MapError::KeyNotFound) => Ok(()),
            removed => removed,
        };
        removed
            .and_then(|()| self.note_change())
            .with_context(|| format!("cannot tell the kernel to let go of process {tgid}"))
    }

    /// Invalidates what the programs remember about tapped processes.
    fn note_change(&mut self) -> Result<(), MapError> {
        let changes = self.changes.get(&CHANGED_BY_AGENT, 0)?;
        self.changes.set(CHANGED_BY_AGENT, changes + 1, 0)
    }

    /// Returns the tapped processes with their program ids.
    pub fn list(&self) -> BTreeMap<u32, u32> {
        // If the current entry is removed during the walk, the walk starts again.
        self.targets.iter().filter_map(Result::ok).collect()
    }

    /// Registers a name. A tapped process that executes a file of this name stays tapped; with
    /// `joins`, every other process that does so joins. Only the first 15 bytes of the name count,
    /// as the kernel stores no more.
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

/// Names of the programs of processes that joined by name. The last thousand or so remain after
/// their processes have ended.
#[derive(Debug)]
pub struct Runs(pub(super) HashMap<MapData, u32, [u8; NAME_LEN]>);

impl Runs {
    /// Returns the name of the executed file that has this program id, cut to 15 bytes.
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

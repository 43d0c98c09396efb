//! The set of tapped processes in the kernel: what is in it, and what it takes in by itself.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, MapData, MapError};
use dnstap_ebpf::{NAME_JOINS, NAME_LEN, NAME_STAYS};

/// Ids are those of the initial PID namespace.
#[derive(Debug)]
pub struct ProcessSet {
    pub(super) targets: HashMap<MapData, u32, u32>,
    pub(super) names: HashMap<MapData, [u8; NAME_LEN], u32>,
}

impl ProcessSet {
    /// Taps process `tgid` and whatever it forks from now on. `image` stands for what it runs ([`dnstap_ebpf::image`]).
    pub fn add(&mut self, tgid: u32, image: u32) -> Result<()> {
        self.targets
            .insert(tgid, image, 0)
            .with_context(|| format!("cannot tell the kernel to tap process {tgid}"))
    }

    /// Ends the tapping of a process; none is ended that was not tapped.
    pub fn remove(&mut self, tgid: u32) -> Result<()> {
        match self.targets.remove(&tgid) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(error)
                .with_context(|| format!("cannot tell the kernel to let go of process {tgid}")),
        }
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
    }
}

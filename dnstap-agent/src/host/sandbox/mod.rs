//! Gives up everything that the rest of the run does not need, once all steps that need privileges
//! are done: capabilities, new privileges (`no_new_privs`), and system calls (seccomp).
//!
//! From then on the process only reads input that may be hostile: messages, streams, frames. The
//! remaining privileges depend on the options, see [`NeededPrivileges`]; code that needs a
//! privilege later must request it there.
//!
//! Capabilities belong to threads, and new threads inherit them. So this happens while there is
//! only one thread, which is before the outputs are opened. This has an advantage: a file that can
//! be opened now can also be opened again later.

mod capabilities;
mod filter;

use std::fs;

use anyhow::{Context as _, Result, ensure};
use rustix::thread::set_no_new_privs;
use tracing::{info, warn};

/// Privileges that the rest of the run may need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "independent of each other")]
pub struct NeededPrivileges {
    /// Create and open files, and connect to unix sockets, that may belong to other users.
    pub paths: bool,
    /// Give files to other users.
    pub owners: bool,
    /// Do with files what only their owner may do, such as setting their modes.
    pub modes: bool,
    /// Run other programs.
    pub commands: bool,
    /// Inspect processes that are not known yet.
    pub processes: bool,
    /// Attach probes to processes that are not known yet.
    pub probes: bool,
}

impl NeededPrivileges {
    /// Returns the union of both sets of privileges.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            paths: self.paths || other.paths,
            owners: self.owners || other.owners,
            modes: self.modes || other.modes,
            commands: self.commands || other.commands,
            processes: self.processes || other.processes,
            probes: self.probes || other.probes,
        }
    }

    /// Returns whether these privileges include those of `other`.
    #[must_use]
    pub fn cover(self, other: Self) -> bool {
        self.and(other) == self
    }
}

/// Gives up everything that `privileges` do not need, permanently and for all later threads.
///
/// `maps_work` returns whether the eBPF maps can be read. Some kernels (before 5.19, with
/// `kernel.unprivileged_bpf_disabled` set) want `CAP_BPF` for that; only then it is kept.
/// `probes_work` returns whether a probe can be attached. Some kernels (such as 6.18) want
/// `CAP_SYS_ADMIN` for that; it is kept only then, and only if probes are to be attached later.
pub fn enter(
    privileges: NeededPrivileges,
    maps_work: impl FnMut() -> bool,
    probes_work: impl FnMut() -> bool,
) -> Result<()> {
    let threads = fs::read_dir("/proc/self/task")
        .context("cannot see this process's threads")?
        .count();
    ensure!(
        threads == 1,
        "privileges are to be given up before threads are started, and there are {threads}"
    );
    let kept = capabilities::give_up(privileges, maps_work, probes_work)
        .context("cannot give up this process's capabilities")?;
    set_no_new_privs(true).context("cannot forbid new privileges")?;
    let filtered = filter::install(privileges);
    match &filtered {
        Ok(()) => {}
        // The kernel has no CONFIG_SECCOMP_FILTER, or a container refuses it.
        Err(error) => warn!("system calls are not filtered: {error:#}"),
    }
    info!(
        capabilities = capabilities::names(kept),
        system_calls_filtered = filtered.is_ok(),
        "privileges given up"
    );
    Ok(())
}

/// Makes new files accessible only to their owner (read and write) and group (read).
pub fn restrict_new_files() {
    use rustix::{fs::Mode, process::umask};
    let given = umask(Mode::all());
    umask(given | Mode::WGRP | Mode::RWXO);
}

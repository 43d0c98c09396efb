//! What must be true before anything is loaded, so that failures name their remedy.

use anyhow::{Context as _, Result, anyhow};

use crate::exit::{Exit, ExitWith};

/// Capabilities that the tap needs, with their numbers (include/uapi/linux/capability.h) and what for.
const CAPABILITIES: [(&str, u32, &str); 4] = [
    ("CAP_BPF", 39, "load eBPF programs"),
    (
        "CAP_PERFMON",
        38,
        "attach them to tracepoints and read the server's buffers",
    ),
    (
        "CAP_NET_ADMIN",
        12,
        "attach the cgroup programs that know the peers of datagrams",
    ),
    ("CAP_SYS_PTRACE", 19, "read the server's sockets from /proc"),
];

/// Stands in for the first two, and for the third where the kernel is old.
const CAP_SYS_ADMIN: u32 = 21;

/// Refuses to go on without the privileges that attaching needs.
pub fn check_privileges() -> Result<()> {
    let missing: Vec<_> = capabilities()?
        .into_iter()
        .filter(|&(_, _, held)| !held)
        .map(|(name, purpose, _)| format!("{name} ({purpose})"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(anyhow!("missing: {}", missing.join(", "))).context(ExitWith(
        Exit::NoPermission,
        "not enough privileges to tap: run dnstap-agent as root (sudo)".into(),
    ))
}

/// Name and purpose of each needed capability, and whether this process has it.
pub fn capabilities() -> Result<Vec<(&'static str, &'static str, bool)>> {
    let status = procfs::process::Process::myself()
        .and_then(|process| process.status())
        .context("cannot read /proc/self/status")?;
    Ok(held_capabilities(status.capeff))
}

/// Each needed capability, and whether it is in the `effective` set.
fn held_capabilities(effective: u64) -> Vec<(&'static str, &'static str, bool)> {
    let has = |number: u32| effective >> number & 1 == 1;
    CAPABILITIES
        .iter()
        .map(|&(name, number, purpose)| {
            let implied = has(CAP_SYS_ADMIN) && matches!(name, "CAP_BPF" | "CAP_PERFMON");
            (name, purpose, has(number) || implied)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(effective: u64) -> Vec<&'static str> {
        let held = held_capabilities(effective).into_iter();
        held.filter(|&(_, _, held)| !held)
            .map(|(name, _, _)| name)
            .collect()
    }

    #[test]
    fn root_lacks_nothing() {
        assert_eq!(missing(u64::MAX), [""; 0]);
    }

    #[test]
    fn an_ordinary_user_lacks_all() {
        assert_eq!(missing(0).len(), CAPABILITIES.len());
    }

    #[test]
    fn sys_admin_stands_in_for_bpf_and_perfmon() {
        assert_eq!(
            missing(1 << CAP_SYS_ADMIN),
            ["CAP_NET_ADMIN", "CAP_SYS_PTRACE"]
        );
    }
}

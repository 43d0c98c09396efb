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
    let status = procfs::process::Process::myself()
        .and_then(|process| process.status())
        .context("cannot read /proc/self/status")?;
    let missing = missing_capabilities(status.capeff);
    if missing.is_empty() {
        return Ok(());
    }
    let list: Vec<_> = missing
        .iter()
        .map(|(name, purpose)| format!("{name} ({purpose})"))
        .collect();
    Err(anyhow!("missing: {}", list.join(", "))).context(ExitWith(
        Exit::NoPermission,
        "not enough privileges to tap: run dnstap-agent as root (sudo)".into(),
    ))
}

/// Name and purpose of each needed capability that is not in the `effective` set.
fn missing_capabilities(effective: u64) -> Vec<(&'static str, &'static str)> {
    let has = |number: u32| effective >> number & 1 == 1;
    CAPABILITIES
        .iter()
        .filter(|(name, number, _)| {
            let implied = has(CAP_SYS_ADMIN) && matches!(*name, "CAP_BPF" | "CAP_PERFMON");
            !has(*number) && !implied
        })
        .map(|(name, _, purpose)| (*name, *purpose))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_lacks_nothing() {
        assert_eq!(missing_capabilities(u64::MAX), []);
    }

    #[test]
    fn an_ordinary_user_lacks_all() {
        assert_eq!(missing_capabilities(0).len(), CAPABILITIES.len());
    }

    #[test]
    fn sys_admin_stands_in_for_bpf_and_perfmon() {
        let names: Vec<_> = missing_capabilities(1 << CAP_SYS_ADMIN)
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, ["CAP_NET_ADMIN", "CAP_SYS_PTRACE"]);
    }
}

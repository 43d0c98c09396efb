//! What must be true before anything is loaded, so that failures name their remedy.

use anyhow::{Context as _, Result, anyhow};
use rustix::thread::CapabilitySet;

use crate::exit::{Exit, ExitWith};

/// Capabilities that the tap needs, what for, and whether always.
const CAPABILITIES: [(CapabilitySet, &str, &str, bool); 5] = [
    (CapabilitySet::BPF, "CAP_BPF", "load eBPF programs", true),
    (
        CapabilitySet::PERFMON,
        "CAP_PERFMON",
        "attach them to tracepoints and read the server's buffers",
        true,
    ),
    (
        CapabilitySet::NET_ADMIN,
        "CAP_NET_ADMIN",
        "attach the cgroup programs that know the peers of datagrams",
        true,
    ),
    (
        CapabilitySet::SYS_PTRACE,
        "CAP_SYS_PTRACE",
        "read the server's sockets from /proc",
        true,
    ),
    (
        CapabilitySet::DAC_READ_SEARCH,
        "CAP_DAC_READ_SEARCH",
        "do so if the server runs as another user than the agent",
        false,
    ),
];

/// A capability, and whether this process has it.
#[derive(Clone, Copy, Debug)]
pub struct Capability {
    /// Name, as in capabilities(7).
    pub name: &'static str,
    /// What the tap needs it for: "to ...".
    pub purpose: &'static str,
    /// Whether nothing works without it.
    pub required: bool,
    /// Whether it is there.
    pub held: bool,
}

/// Refuses to go on without the privileges that attaching needs.
pub fn check_privileges() -> Result<()> {
    let missing: Vec<_> = capabilities()?
        .into_iter()
        .filter(|capability| capability.required && !capability.held)
        .map(|Capability { name, purpose, .. }| format!("{name} ({purpose})"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(anyhow!("missing: {}", missing.join(", "))).context(ExitWith(
        Exit::NoPermission,
        "not enough privileges to tap: run dnstap-agent as root (sudo)".into(),
    ))
}

/// Each capability that the tap may need.
pub fn capabilities() -> Result<Vec<Capability>> {
    let own =
        rustix::thread::capabilities(None).context("cannot read this process's capabilities")?;
    Ok(held_capabilities(own.effective))
}

/// Each capability that the tap may need, and whether it is in the `effective` set.
fn held_capabilities(effective: CapabilitySet) -> Vec<Capability> {
    CAPABILITIES
        .iter()
        .map(|&(capability, name, purpose, required)| {
            // Some others hold what they were split from, or include them.
            let implied = match capability {
                CapabilitySet::BPF | CapabilitySet::PERFMON => CapabilitySet::SYS_ADMIN,
                CapabilitySet::DAC_READ_SEARCH => CapabilitySet::DAC_OVERRIDE,
                _ => CapabilitySet::empty(),
            };
            Capability {
                name,
                purpose,
                required,
                held: effective.intersects(capability | implied),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(effective: CapabilitySet) -> Vec<&'static str> {
        let all = held_capabilities(effective).into_iter();
        all.filter(|capability| !capability.held)
            .map(|capability| capability.name)
            .collect()
    }

    #[test]
    fn root_lacks_nothing() {
        assert_eq!(missing(CapabilitySet::all()), [""; 0]);
    }

    #[test]
    fn an_ordinary_user_lacks_all() {
        assert_eq!(missing(CapabilitySet::empty()).len(), CAPABILITIES.len());
    }

    #[test]
    fn larger_capabilities_stand_in_for_smaller_ones() {
        assert_eq!(
            missing(CapabilitySet::SYS_ADMIN | CapabilitySet::DAC_OVERRIDE),
            ["CAP_NET_ADMIN", "CAP_SYS_PTRACE"]
        );
    }
}

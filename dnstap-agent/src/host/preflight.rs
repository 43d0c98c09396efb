//! Checks before anything is loaded, so that failures name their remedy.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, anyhow};
use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::CapabilitySet,
};

use crate::host::exit::{Exit, ExitWith};

/// Condition under which a capability is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// For every tap.
    Always,
    /// For hook `socket`. When programs are loaded, the kernel requires `CAP_NET_ADMIN` for type
    /// `CGROUP_SOCK_ADDR` (`is_net_admin_prog_type`), but not for the types of the other hooks.
    /// <https://github.com/torvalds/linux/blob/v6.12/kernel/bpf/syscall.c>
    HookSocket,
    /// For some taps.
    Sometimes,
}

/// Capabilities that the tap needs, what for, and when.
const CAPABILITIES: [(CapabilitySet, &str, &str, Need); 6] = [
    (
        CapabilitySet::BPF,
        "CAP_BPF",
        "load eBPF programs",
        Need::Always,
    ),
    (
        CapabilitySet::PERFMON,
        "CAP_PERFMON",
        "attach them to tracepoints and read the server's buffers",
        Need::Always,
    ),
    (
        CapabilitySet::NET_ADMIN,
        "CAP_NET_ADMIN",
        "attach the cgroup programs of hook socket, which know the peers of datagrams",
        Need::HookSocket,
    ),
    (
        CapabilitySet::SYS_PTRACE,
        "CAP_SYS_PTRACE",
        "read the server's sockets from /proc",
        Need::Always,
    ),
    (
        CapabilitySet::DAC_READ_SEARCH,
        "CAP_DAC_READ_SEARCH",
        "do so if the server runs as another user than the agent",
        Need::Sometimes,
    ),
    (
        CapabilitySet::CHECKPOINT_RESTORE,
        "CAP_CHECKPOINT_RESTORE",
        "open the libraries that the server has loaded, for --probe",
        Need::Sometimes,
    ),
];

/// A capability, and whether this process has it.
#[derive(Clone, Copy, Debug)]
pub struct Capability {
    /// Name, as in capabilities(7).
    pub name: &'static str,
    /// Purpose in the tap: "to ...".
    pub purpose: &'static str,
    /// Whether no tap works without it.
    pub required: bool,
    need: Need,
    /// Whether this process has it.
    pub held: bool,
}

/// Fails if privileges for attaching are missing. `hook_socket`: only hook `socket` is used.
pub fn check_privileges(hook_socket: bool) -> Result<()> {
    refuse_without(&capabilities()?, hook_socket)
}

fn refuse_without(capabilities: &[Capability], hook_socket: bool) -> Result<()> {
    let missing: Vec<_> = capabilities
        .iter()
        .filter(|capability| match capability.need {
            Need::Always => true,
            Need::HookSocket => hook_socket,
            Need::Sometimes => false,
        })
        .filter(|capability| !capability.held)
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

/// Link of the initial PID namespace, whose inode number is fixed: `PROC_PID_INIT_INO`, 0xEFFFFFFC.
/// <https://github.com/torvalds/linux/blob/v6.12/include/linux/proc_ns.h>
const INITIAL_PIDS: &str = "pid:[4026531836]";

/// Fails in a PID namespace other than the initial one. The kernel side uses process ids of the
/// initial namespace, in which the same number means another process.
pub fn check_pid_namespace() -> Result<()> {
    // A kernel without this link has no PID namespaces.
    fs::read_link("/proc/self/ns/pid").map_or(Ok(()), |own| is_initial(&own))
}

fn is_initial(own: &Path) -> Result<()> {
    if own == Path::new(INITIAL_PIDS) {
        return Ok(());
    }
    Err(anyhow!(
        "give its container the host's processes (`docker run --pid=host`, or `hostPID: true` of a Kubernetes pod)"
    ))
    .context(ExitWith(
        Exit::NoPermission,
        "this process is in a PID namespace of its own, where processes have other ids than the kernel side knows"
            .into(),
    ))
}

/// Descriptors that a tap needs for maps, programs, links, sockets, and files that are open for a
/// moment. Those of outputs, one per CPU with the perf ring, and one per probed process are extra.
const DESCRIPTORS: u64 = 128;
/// Descriptors of one output: its file, and a new one during rotation; or its connection, and its
/// thread's event loop.
const DESCRIPTORS_OF_OUTPUT: u64 = 6;

/// Fails if this process may not open as many files as the tap needs. Raises a soft limit that is
/// too low.
pub fn check_descriptors(outputs: usize, perf_rings: usize, probed: usize) -> Result<()> {
    let more =
        u64::try_from(outputs)? * DESCRIPTORS_OF_OUTPUT + u64::try_from(perf_rings + probed)?;
    let needed = DESCRIPTORS + more;
    let limit = getrlimit(Resource::Nofile);
    let Some(raised) = enough(limit, needed)? else {
        return Ok(());
    };
    setrlimit(Resource::Nofile, raised)
        .with_context(|| format!("cannot raise the limit of open files to {needed}"))
}

/// Returns the limit to set, if the current one is too low.
fn enough(limit: Rlimit, needed: u64) -> Result<Option<Rlimit>> {
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(None);
    }
    if let Some(most) = limit.maximum
        && most < needed
    {
        return Err(anyhow!(
            "raise it to {needed} at least (`ulimit -n`, or LimitNOFILE= of a systemd unit)"
        ))
        .context(ExitWith(
            Exit::NoPermission,
            format!("this process may open {most} files, which is too few for the tap"),
        ));
    }
    Ok(Some(Rlimit {
        current: Some(needed),
        ..limit
    }))
}

/// Returns all capabilities that the tap may need.
pub fn capabilities() -> Result<Vec<Capability>> {
    let own =
        rustix::thread::capabilities(None).context("cannot read this process's capabilities")?;
    Ok(held_capabilities(own.effective))
}

/// Returns all capabilities that the tap may need, with those in the `effective` set marked.
fn held_capabilities(effective: CapabilitySet) -> Vec<Capability> {
    CAPABILITIES
        .iter()
        .map(|&(capability, name, purpose, need)| {
            // Some older capabilities imply newer ones that were split from them.
            let implied = match capability {
                CapabilitySet::BPF | CapabilitySet::PERFMON | CapabilitySet::CHECKPOINT_RESTORE => {
                    CapabilitySet::SYS_ADMIN
                }
                CapabilitySet::DAC_READ_SEARCH => CapabilitySet::DAC_OVERRIDE,
                _ => CapabilitySet::empty(),
            };
            Capability {
                name,
                purpose,
                required: need == Need::Always,
                need,
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

    /// Without those for `--probe`: a pod has no server to probe.
    #[test]
    fn the_pod_has_the_capabilities_that_check_names() {
        let pod = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../packaging/kubernetes/daemonset.yaml"
        );
        let pod = fs::read_to_string(pod).expect("it is in the tree");
        let line = pod
            .lines()
            .find_map(|line| line.trim().strip_prefix("add: "));
        let mut added: Vec<String> = line
            .expect("it adds capabilities")
            .trim_matches(['[', ']'])
            .split(", ")
            .map(|name| format!("CAP_{}", name.trim_matches('"')))
            .collect();
        let mut named: Vec<_> = CAPABILITIES
            .iter()
            .map(|(_, name, ..)| *name)
            .filter(|name| *name != "CAP_CHECKPOINT_RESTORE")
            .collect();
        added.sort_unstable();
        named.sort_unstable();
        assert_eq!(added, named);
    }

    #[test]
    fn a_low_limit_of_open_files_is_raised_if_it_may_be_and_refused_if_not() {
        let limit = |current, maximum| Rlimit { current, maximum };
        for sufficient in [limit(None, None), limit(Some(200), Some(200))] {
            assert_eq!(enough(sufficient, 200).unwrap(), None);
        }
        for most in [None, Some(200)] {
            let raised = enough(limit(Some(199), most), 200).unwrap();
            assert_eq!(raised, Some(limit(Some(200), most)));
        }
        let error = enough(limit(Some(10), Some(199)), 200).unwrap_err();
        assert_eq!(Exit::of(&error), Exit::NoPermission);
        let text = format!("{error:#}");
        assert!(
            text.contains("199 files") && text.contains("to 200"),
            "{text}"
        );
    }

    #[test]
    fn ids_of_another_namespace_than_the_initial_one_are_refused() {
        assert!(is_initial(Path::new("pid:[4026531836]")).is_ok());
        let error = is_initial(Path::new("pid:[4026532201]")).unwrap_err();
        assert_eq!(Exit::of(&error), Exit::NoPermission);
        let text = format!("{error:#}");
        assert!(
            text.contains("--pid=host") && text.contains("hostPID: true"),
            "{text}"
        );
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
    fn only_hook_socket_administers_networks() {
        let without = held_capabilities(CapabilitySet::all() - CapabilitySet::NET_ADMIN);
        refuse_without(&without, false).expect("another hook may work");
        let error = refuse_without(&without, true).unwrap_err();
        assert_eq!(Exit::of(&error), Exit::NoPermission);
        assert!(format!("{error:#}").contains("CAP_NET_ADMIN"), "{error:#}");
        let none = held_capabilities(CapabilitySet::NET_ADMIN);
        refuse_without(&none, false).expect_err("nothing else is there");
    }

    #[test]
    fn larger_capabilities_stand_in_for_smaller_ones() {
        assert_eq!(
            missing(CapabilitySet::SYS_ADMIN | CapabilitySet::DAC_OVERRIDE),
            ["CAP_NET_ADMIN", "CAP_SYS_PTRACE"]
        );
    }
}

//! `dnstap-agent check`: probes what a tap can use on this machine, and prints a remedy for what is
//! missing.

use std::{
    fmt,
    io::{self, ErrorKind, Write as _},
};

use anyhow::{Result, anyhow};
use dnstap_ebpf::Hook;
use serde::Serialize;

use crate::{
    cli::Check,
    host::{exit::Exit, preflight},
    sources::{
        probes::{self, Probe},
        socket::{
            self, HookChoice,
            offsets::{self, KernelTypes},
        },
    },
};

/// Result of one check.
#[derive(Debug, Serialize)]
struct Finding {
    /// Name of what was checked.
    name: String,
    /// Whether it is available.
    ok: bool,
    /// Whether a tap is impossible without it.
    required: bool,
    /// Description of what was found, or why it is missing.
    detail: String,
    /// Remedy; empty if it is available.
    remedy: String,
}

impl Finding {
    /// Builds the finding of a required check. The root cause of its error is the remedy.
    fn of(name: &str, fine: &str, checked: &Result<()>) -> Self {
        let (detail, remedy) = match checked {
            Ok(()) => (fine.to_owned(), String::new()),
            Err(error) => (error.to_string(), error.root_cause().to_string()),
        };
        Self {
            name: name.to_owned(),
            ok: checked.is_ok(),
            required: true,
            detail,
            remedy,
        }
    }
}

/// All findings, and what follows from them.
#[derive(Debug, Serialize)]
struct Report {
    kernel: String,
    findings: Vec<Finding>,
    /// Hook that `attach` would use.
    hook: Option<&'static str>,
    /// Ring that `attach` would use.
    ring: Option<&'static str>,
}

/// Hooks in the order in which `attach` tries them, each with the remedy if it is refused.
const HOOKS: [(HookChoice, Hook, &str); 3] = [
    (
        HookChoice::Fentry,
        Hook::Fentry,
        "nothing, if another hook works: this kernel or its lockdown mode does not allow tracing of functions",
    ),
    (
        HookChoice::Socket,
        Hook::Socket,
        "Linux 6.3 or later, with a cgroup2 file system mounted (mount -t cgroup2 none /sys/fs/cgroup)",
    ),
    (
        HookChoice::Syscall,
        Hook::Syscall,
        "a kernel with CONFIG_BPF_EVENTS=y and CONFIG_HAVE_SYSCALL_TRACEPOINTS=y",
    ),
];

/// Runs all checks and prints them. The exit code says whether `attach` would work.
pub(super) fn run(args: Check) -> Result<Exit> {
    let report = look();
    let text = if args.json {
        format!("{}\n", serde_json::to_string_pretty(&report)?)
    } else {
        report.to_string()
    };
    match io::stdout().write_all(text.as_bytes()) {
        // The reader of the output went away, which is no error.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        written => written?,
    }
    Ok(if report.hook.is_some() {
        Exit::Ok
    } else {
        Exit::NoPermission
    })
}

fn look() -> Report {
    let mut findings = Vec::new();
    for capability in preflight::capabilities().unwrap_or_default() {
        findings.push(Finding {
            name: capability.name.to_owned(),
            ok: capability.held,
            required: capability.required,
            detail: format!("to {}", capability.purpose),
            remedy: if capability.held {
                String::new()
            } else {
                "run as root (sudo), or grant it".to_owned()
            },
        });
    }
    findings.push(Finding::of(
        "initial PID namespace",
        "process ids are those that the kernel side knows",
        &preflight::check_pid_namespace(),
    ));
    // This check comes before the hooks, which would fail without descriptors. It raises a soft
    // limit, as `attach` does.
    let descriptors = preflight::check_descriptors(1, 0, 0);
    findings.push(Finding::of(
        "open files",
        "as many as a tap with one output needs",
        &descriptors,
    ));
    let structures = KernelTypes::read().and_then(|types| types.config(&types.parse()?));
    findings.push(Finding {
        name: "kernel structures (BTF)".to_owned(),
        ok: structures.is_ok(),
        required: true,
        detail: match &structures {
            Ok(_) => format!(
                "all that the hooks read are described in {}",
                offsets::VMLINUX
            ),
            Err(error) => format!("{error:#}"),
        },
        remedy: if structures.is_ok() {
            String::new()
        } else {
            "a kernel from 5.10 on, built with CONFIG_DEBUG_INFO_BTF=y".to_owned()
        },
    });
    let mut hook = None;
    for (choice, tried, remedy) in HOOKS {
        let name = tried.name();
        let (probed, remedy) = match descriptors {
            Ok(()) => (socket::probe(choice), remedy),
            Err(_) => (
                Err(anyhow!("not tried with so few open files")),
                "more of them, see above",
            ),
        };
        if probed.is_ok() {
            hook = hook.or(Some(name));
        }
        findings.push(Finding {
            name: format!("hook {name}"),
            ok: probed.is_ok(),
            required: false,
            detail: match &probed {
                Ok(degraded) if degraded.is_empty() => "loads and attaches".to_owned(),
                Ok(degraded) => format!("loads and attaches, but: {}", degraded.join("; ")),
                Err(error) => first_line(&error.root_cause().to_string()),
            },
            remedy: if probed.is_ok() {
                String::new()
            } else {
                remedy.to_owned()
            },
        });
    }
    findings.push(probe(&descriptors));
    // Without one of these `attach` tries no hook.
    let refused = findings
        .iter()
        .any(|finding| finding.required && !finding.ok);
    let hook = hook.filter(|_| !refused);
    Report {
        kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")
            .unwrap_or_default()
            .trim()
            .to_owned(),
        findings,
        hook,
        ring: hook.map(|_| "bpf"),
    }
}

/// Tries a probe on this process.
fn probe(descriptors: &Result<()>) -> Finding {
    let probed = match descriptors {
        Ok(()) => socket::probe_program().and_then(|program| probes::check(&program)),
        Err(_) => Err(anyhow!("not tried with so few open files")),
    };
    Finding {
        name: format!("probe {},{}", Probe::Zone.name(), Probe::Encrypted.name()),
        ok: probed.is_ok(),
        required: false,
        detail: match &probed {
            Ok(()) => {
                "loads and attaches; whether a server can be probed, `attach` finds out".into()
            }
            Err(error) => first_line(&format!("{error:#}")),
        },
        remedy: if probed.is_ok() {
            String::new()
        } else {
            "only --probe needs it: a kernel with CONFIG_UPROBE_EVENTS=y, and CAP_SYS_ADMIN (some kernels are content with CAP_PERFMON and CAP_CHECKPOINT_RESTORE)".into()
        },
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "kernel {}", self.kernel)?;
        for finding in &self.findings {
            let state = if finding.ok { "ok" } else { "missing" };
            writeln!(formatter, "{state:7} {}: {}", finding.name, finding.detail)?;
            if !finding.remedy.is_empty() {
                writeln!(formatter, "        remedy: {}", finding.remedy)?;
            }
        }
        match (self.hook, self.ring) {
            (Some(hook), Some(ring)) => {
                writeln!(formatter, "attach would use hook {hook} and ring {ring}")
            }
            _ => writeln!(formatter, "attach would not work"),
        }
    }
}

/// Returns the first line of an error. The verifier's log behind it is shown only by `attach`.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn what_a_check_refuses_is_required_and_has_its_remedy() {
        let refused = Err(anyhow!("raise it")).context("too few");
        let found = Finding::of("open files", "enough", &refused);
        assert!(found.required && !found.ok);
        assert_eq!(
            (&found.detail[..], &found.remedy[..]),
            ("too few", "raise it")
        );
        let found = Finding::of("open files", "enough", &Ok(()));
        assert!(found.ok && found.remedy.is_empty());
        assert_eq!(found.detail, "enough");
    }
}

//! The plan of each guest: a list of phases. Each is one run of the integration tests with its hooks, rings and server.
//!
//! An emulated machine is about thirty times slower than a real one. So the matrix runs only the tests that depend on
//! the kernel, and leaves the rest to the native run of the same tests.

use std::fmt::Write as _;

use super::releases::KernelSource;
use crate::arch::Arch;

/// The server of all tests that are not about servers.
pub(super) const BIND: &str = "9.18";
const BOTH_RINGS: &str = "bpf,perf";

const COMPARISON: &str = "every message that named records is in our file";
/// Beginning of the name of the test of all combinations at the same time.
pub(super) const TOGETHER: &str = "all hooks and rings at once";
/// Every system call for messages, one after the other.
const CALLS: &str = "every message through";
const ROLES: &str = "six servers in their roles";
const CLOCK: &str = "when the clock is set";
const GENERATED: &str = "programs that a machine thinks up";
const STEADY: &str = "queries at a steady rate";

/// One run of the tests.
#[derive(Clone, Debug)]
pub(super) struct Phase {
    /// BIND's version.
    pub(super) bind: &'static str,
    hooks: String,
    rings: &'static str,
    /// Number of queries of the steady load, and their rate per second.
    steady: (u32, u32),
    /// Part of the names of the tests to run; empty: all.
    filter: String,
}

impl Phase {
    fn new(hooks: &[&str], rings: &'static str, filter: &str) -> Self {
        Self {
            bind: BIND,
            hooks: hooks.join(","),
            rings,
            steady: (4_000, 1_000),
            filter: filter.to_owned(),
        }
    }
}

/// Returns the phases of the matrix for one kernel.
pub(super) fn matrix(kernel: &KernelSource) -> Vec<Phase> {
    let hooks = kernel.hooks;
    if kernel.arch == Arch::Arm64 {
        return arm64(hooks);
    }
    let others: Vec<_> = hooks
        .iter()
        .copied()
        .filter(|hook| *hook != "fentry")
        .collect();
    let mut phases = vec![
        Phase::new(&["fentry"], "bpf", COMPARISON),
        Phase::new(hooks, BOTH_RINGS, TOGETHER),
        Phase::new(hooks, BOTH_RINGS, "every message through recvmmsg/sendmmsg"),
        Phase::new(hooks, "bpf", "every message through readv/writev"),
        Phase::new(hooks, "bpf", GENERATED),
        Phase {
            steady: (20_000, 2_000),
            ..Phase::new(&["fentry"], "bpf", STEADY)
        },
        Phase::new(&others, "bpf", STEADY),
        Phase::new(&["fentry"], "perf", STEADY),
    ];
    let other = match kernel.name {
        "6.1" => Some("9.16"),
        "6.12" => Some("9.20"),
        _ => None,
    };
    phases.extend(other.map(|bind| Phase {
        bind,
        ..Phase::new(&["fentry"], "bpf", COMPARISON)
    }));
    if kernel.name == "6.12" {
        phases.push(Phase::new(&["fentry"], "bpf", CLOCK));
    }
    // This is the first BIND that gives queries to forwarders their own type, and gives each response the time of its
    // query.
    if kernel.name == "6.12" {
        phases.push(Phase {
            bind: "9.20",
            ..Phase::new(&["fentry"], "bpf", ROLES)
        });
    }
    phases
}

/// Returns the phases of an arm64 kernel: what depends on registers, numbers of system calls, and the kernel's own parts for
/// this architecture.
fn arm64(hooks: &[&str]) -> Vec<Phase> {
    vec![
        Phase::new(hooks, BOTH_RINGS, TOGETHER),
        Phase::new(hooks, "bpf", CALLS),
    ]
}

/// Returns the tests that the user asks for, in every combination.
pub(super) fn chosen(kernel: &KernelSource, bind: &'static str, filter: &str) -> Vec<Phase> {
    vec![Phase {
        bind,
        ..Phase::new(kernel.hooks, BOTH_RINGS, filter)
    }]
}

/// Returns the plan in the form for the guest's first process.
pub(super) fn script(phases: &[Phase]) -> String {
    let mut text = String::from("echo @check\ndnstap-agent check 2>&1\n");
    for (number, phase) in phases.iter().enumerate() {
        let Phase {
            bind,
            hooks,
            rings,
            steady: (queries, rate),
            filter,
        } = phase;
        let filter = filter.replace('\'', r"'\''");
        writeln!(
            text,
            "phase {number} {bind} {hooks} {rings} {queries} {rate} '{filter}'"
        )
        .unwrap_or_default();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{super::releases::kernels, *};

    #[test]
    fn every_hook_that_a_kernel_has_is_compared_and_counted_with_both_rings() {
        for kernel in [Arch::Amd64, Arch::Arm64].into_iter().flat_map(kernels) {
            let phases = matrix(kernel);
            let covers = |filter: &str| {
                phases.iter().any(|phase| {
                    phase.filter == filter
                        && phase.hooks == kernel.hooks.join(",")
                        && phase.rings == BOTH_RINGS
                })
            };
            assert!(covers(TOGETHER), "{}", kernel.name);
        }
    }

    #[test]
    fn every_bind_is_somewhere_in_the_matrix() {
        for bind in super::super::releases::BINDS {
            assert!(
                kernels(Arch::Amd64)
                    .iter()
                    .flat_map(matrix)
                    .any(|phase| phase.bind == bind.name),
                "{}",
                bind.name
            );
        }
    }

    #[test]
    fn a_quote_in_a_filter_stays_in_the_filter() {
        let phases = chosen(&kernels(Arch::Amd64)[0], BIND, "it's");
        assert!(
            script(&phases).contains(r"bpf,perf 4000 1000 'it'\''s'"),
            "{}",
            script(&phases)
        );
    }
}

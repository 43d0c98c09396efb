//! Describes the machine, and the versions of the programs that ran on it.

use std::{fs, path::Path, process::Command, thread};

use super::hooks::Hooks;
use crate::exec;

/// CPUs of the processes.
#[derive(Clone, Copy)]
pub(super) struct Cpus {
    /// CPU of the measured server.
    pub(super) server: Option<usize>,
    /// CPU of the load, the helper, and the upstream server.
    pub(super) others: Option<usize>,
}

/// Returns one CPU for the server and one for all others, if there are two.
pub(super) fn cpus() -> Cpus {
    let two = thread::available_parallelism().is_ok_and(|count| count.get() >= 2);
    Cpus {
        server: two.then_some(0),
        others: two.then_some(1),
    }
}

/// Returns names and values, in the order of the report.
pub(super) fn describe(
    agent: &Path,
    named: &Path,
    placed: Cpus,
    hooks: &Hooks,
) -> Vec<(&'static str, String)> {
    let first_line = |text: String| text.lines().next().unwrap_or_default().trim().to_owned();
    let said = |program: &mut Command| {
        program
            .output()
            .map(|output| {
                let text = [output.stdout, output.stderr].concat();
                first_line(String::from_utf8_lossy(&text).into_owned())
            })
            .unwrap_or_default()
    };
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let cpus = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let commit = exec::output(
        Command::new("git")
            .args(["describe", "--always", "--dirty"])
            .current_dir(crate::paths::root()),
    );
    let dnscap = said(Command::new("dpkg-query").args([
        "--show",
        "--showformat=dnscap ${Version}",
        "dnscap",
    ]));
    vec![
        ("CPUs", format!("{cpus} x {model}")),
        (
            "memory",
            first_line(memory)
                .trim_start_matches("MemTotal:")
                .trim()
                .to_owned(),
        ),
        ("kernel", kernel.trim().to_owned()),
        (
            "agent",
            format!(
                "{} ({})",
                said(Command::new(agent).arg("--version")),
                commit.unwrap_or_default().trim()
            ),
        ),
        ("hooks", hooks.to_string()),
        ("server", said(Command::new(named).arg("-v"))),
        (
            "load",
            said(Command::new("sh").args(["-c", "dnsperf -h | grep -i version"])),
        ),
        (
            "others",
            format!(
                "{}; {}",
                said(Command::new("tcpdump").arg("--version")),
                dnscap
            ),
        ),
        (
            "placement",
            match placed.server {
                Some(cpu) => format!(
                    "the server (one worker thread) on CPU {cpu} alone; load, helper and upstream server share the other one"
                ),
                None => "all on one CPU".to_owned(),
            },
        ),
        ("files", "in memory (tmpfs)".to_owned()),
    ]
}

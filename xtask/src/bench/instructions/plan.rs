//! The plan: kernels, loads and contenders, and the files that a guest needs for them.

use std::{fmt::Write as _, path::Path};

use anyhow::{Context as _, Result};

use super::super::{Args, load, server};
use crate::vm::counting;

/// A kind of load, at a fixed rate.
///
/// The rate leaves the guest's processor idle from time to time, so that most queries are handled alone. At saturation,
/// and over TCP already at 5,000 queries/s, the number of messages in a system call depends on the order in which
/// processes wake up, and so does the number of instructions. The rate is also not a multiple of the kernel's 250 ticks
/// per second: the ticks would always hit the same part of a query, which would be the server's in one run and the
/// load's in the next, and the results would differ by 3 %.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) name: &'static str,
    /// Part of the names of plans and files.
    key: &'static str,
    names: load::Load,
    pub(super) queries: usize,
    /// Queries per second of the guest's clock.
    pub(super) rate: u32,
    server: &'static str,
    /// Options of `dnsperf`.
    options: &'static str,
}

/// All loads. The gate uses the first one.
pub(super) const LOADS: [Load; 5] = [
    Load {
        name: "UDP",
        key: "udp",
        names: load::Load::Saturation,
        queries: 5_000,
        rate: 5_113,
        server: "127.0.0.1",
        options: "-m udp",
    },
    Load {
        name: "TCP",
        key: "tcp",
        names: load::Load::Tcp,
        queries: 3_000,
        rate: 2_113,
        server: "127.0.0.1",
        options: "-m tcp",
    },
    Load {
        name: "4 KiB answers",
        key: "large",
        names: load::Load::Large,
        queries: 3_000,
        rate: 2_113,
        server: "127.0.0.1",
        options: "-m udp -e",
    },
    Load {
        name: "recursive mix",
        key: "recursive",
        names: load::Load::Recursive,
        queries: 3_000,
        rate: 1_013,
        server: "127.0.0.1",
        options: "-m udp",
    },
    Load {
        name: "IPv6",
        key: "ipv6",
        names: load::Load::Saturation,
        queries: 3_000,
        rate: 5_113,
        server: "::1",
        options: "-m udp",
    },
];

/// Number of queries before the counted ones.
const WARM_UP: usize = 1_000;
/// Ports of the servers in a guest.
const PORT: u16 = 5300;
const UPSTREAM_PORT: u16 = 5301;
/// Socket for the own dnstap of a guest's server.
const SOCKET: &str = "/tmp/run/dnstap.sock";
/// Kernels of the report.
const KERNELS: [&str; 3] = ["6.1", "6.12", "newest"];

/// Names of contenders: nothing, and the server's own dnstap to `fstrm_capture`. Another name is the hook of the tap.
pub(super) const UNTAPPED: &str = "untapped";
pub(super) const OWN: &str = "own";

/// Work of one machine.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) kernel: &'static str,
    pub(super) load: &'static Load,
    pub(super) contenders: Vec<&'static str>,
}

impl Job {
    /// Returns the name of its plan.
    pub(super) fn name(&self) -> String {
        format!("{}-{}", self.load.key, self.kernel)
    }

    fn plan(&self) -> String {
        let Load {
            key,
            rate,
            server,
            options,
            ..
        } = self.load;
        let upstream = if self.load.names == load::Load::Recursive {
            "yes"
        } else {
            ""
        };
        let mut text = format!(
            "{}\nserver={server} rate={rate} names=/names/{key} options='{options}' upstream={upstream}\n",
            include_str!("guest.sh")
        );
        for contender in &self.contenders {
            writeln!(text, "count {contender}").unwrap_or_default(); // writing to a string does not fail
        }
        text
    }
}

/// Returns all jobs that the command line asks for, kernel by kernel.
pub(super) fn jobs(args: &Args) -> Result<Vec<Job>> {
    let named: Vec<_> = if args.counting.kernels.is_empty() {
        KERNELS.map(str::to_owned).to_vec()
    } else {
        args.counting.kernels.clone()
    };
    let mut jobs = Vec::new();
    for (kernel, hooks) in counting::hooks(&named)? {
        let taps = hooks.iter().copied().filter(|hook| {
            args.contender
                .as_ref()
                .is_none_or(|text| hook.contains(text.as_str()))
        });
        let contenders: Vec<_> = [UNTAPPED, OWN].into_iter().chain(taps).collect();
        jobs.extend(
            LOADS
                .iter()
                .filter(|load| {
                    args.load
                        .as_ref()
                        .is_none_or(|text| load.name.contains(text.as_str()))
                })
                .map(|load| Job {
                    kernel,
                    load,
                    contenders: contenders.clone(),
                }),
        );
    }
    Ok(jobs)
}

/// Returns the job of the gate: a kernel that has all hooks, and the hooks that `--hook auto` prefers.
pub(super) fn gate() -> Result<Job> {
    let kernels = counting::hooks(&["6.12".to_owned()])?;
    let (kernel, hooks) = kernels.first().context("there is no such kernel")?;
    Ok(Job {
        kernel,
        load: &LOADS[0],
        contenders: [UNTAPPED]
            .into_iter()
            .chain(hooks.iter().copied().take(2))
            .collect(),
    })
}

/// Returns the files of the guests: plans, names, and the files of the servers.
pub(super) fn texts(jobs: &[Job]) -> Vec<(String, String)> {
    let mut texts = vec![(
        "names/warm-up".to_owned(),
        load::Load::Saturation.lines(WARM_UP),
    )];
    for load in &LOADS {
        texts.push((
            format!("names/{}", load.key),
            load.names.lines(load.queries),
        ));
    }
    for (folder, dnstap) in [("plain", None), ("own", Some(Path::new(SOCKET)))] {
        let files = server::files(PORT, UPSTREAM_PORT, dnstap);
        texts.extend(in_folder(folder, files));
    }
    texts.extend(in_folder("upstream", server::upstream_files(UPSTREAM_PORT)));
    texts.extend(
        jobs.iter()
            .map(|job| (format!("plans/{}", job.name()), job.plan())),
    );
    texts
}

/// Returns a server's files below `/servers`. The server works on a copy of them.
fn in_folder(
    folder: &str,
    files: crate::named::Files,
) -> impl Iterator<Item = (String, String)> + '_ {
    files.into_iter().map(move |(name, text)| {
        let options = format!("options {{ directory \"/tmp/run/{folder}\";\n");
        (
            format!("servers/{folder}/{name}"),
            text.replace("options {\n", &options),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_machine_finds_its_plan_and_the_names_of_its_load() {
        let jobs = jobs(&Args::default()).expect("all kernels are known");
        assert_eq!(jobs.len(), KERNELS.len() * LOADS.len());
        let texts = texts(&jobs);
        for job in jobs {
            let name = format!("plans/{}", job.name());
            let plan = texts.iter().find(|(path, _)| *path == name);
            let (_, plan) = plan.expect("a plan");
            let names = format!("names/{}", job.load.key);
            assert!(plan.contains(&names), "{}", job.name());
            assert!(plan.ends_with("count syscall\n"), "{}", job.name());
            let names = texts.iter().find(|(path, _)| *path == names);
            let queries = names.expect("names").1.lines().count();
            assert_eq!(queries, job.load.queries);
        }
    }
}

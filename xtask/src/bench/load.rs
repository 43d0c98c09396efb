//! The loads, which `dnsperf` makes, and its output.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    str::FromStr,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    process::Cpu,
    server::{HOSTS, LARGE},
};
use crate::{exec, named};

/// A kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// This many queries per second over UDP, with short responses.
    Rate(u32),
    /// As many queries as the server can answer over UDP.
    Saturation,
    /// 10,000 queries per second over TCP, on connections that stay open.
    Tcp,
    /// 5,000 queries per second over UDP, with responses of 4 KiB.
    Large,
    /// 4,000 queries per second over UDP; the server must ask the upstream for every fifth.
    Recursive,
}

/// Counts and CPU time of `dnsperf`.
pub(super) struct Sent {
    pub(super) queries: u64,
    pub(super) answers: u64,
    pub(super) queries_per_second: f64,
    /// Number of queries for which the server had to ask the upstream.
    pub(super) upstream: u64,
    pub(super) cpu: Cpu,
}

impl Load {
    pub(super) fn name(self) -> String {
        match self {
            Self::Rate(rate) => format!("UDP at {rate} queries/s"),
            Self::Saturation => "UDP at saturation".to_owned(),
            Self::Tcp => "TCP at 10000 queries/s".to_owned(),
            Self::Large => "4 KiB answers at 5000 queries/s".to_owned(),
            Self::Recursive => "recursive mix at 4000 queries/s".to_owned(),
        }
    }

    fn rate(self) -> Option<u32> {
        match self {
            Self::Rate(rate) => Some(rate),
            Self::Saturation => None,
            Self::Tcp => Some(10_000),
            Self::Large => Some(5_000),
            Self::Recursive => Some(4_000),
        }
    }

    /// Sends the load to the server at `port`, and returns when all queries are answered or given up.
    pub(super) fn send(
        self,
        folder: &Path,
        port: u16,
        seconds: u32,
        cpu: Option<usize>,
    ) -> Result<Sent> {
        let names = self.names(folder)?;
        let dnsperf = named::on_cpu(cpu, Path::new("dnsperf"));
        let mut guarded = Command::new("setpriv"); // it ends with this process
        guarded
            .args(["--pdeathsig", "TERM", "--"])
            .arg(dnsperf.get_program())
            .args(dnsperf.get_args());
        let (clients, window) = match self {
            Self::Tcp => ("16", "64"),
            _ => ("8", "100"),
        };
        guarded
            .args(["-s", "127.0.0.1", "-p", &port.to_string()])
            .args(["-l", &seconds.to_string(), "-c", clients, "-q", window])
            .args(["-m", if self == Self::Tcp { "tcp" } else { "udp" }])
            .args(["-b", "4096"]) // KiB of socket buffers
            .arg("-d")
            .arg(names);
        if self == Self::Large {
            guarded.args(["-e"]); // EDNS, which announces 4096 bytes
        }
        if let Some(rate) = self.rate() {
            guarded.args(["-Q", &rate.to_string()]);
        }
        let before = Cpu::of_children()?;
        let report = exec::output(&mut guarded)?;
        let cpu = Cpu::of_children()? - before;
        let count = |label| statistic::<u64>(&report, label).with_context(|| report.clone());
        let queries = count("Queries sent:")?;
        let answers = count("Queries completed:")?;
        ensure!(answers > 0, "nothing was answered:\n{report}");
        Ok(Sent {
            queries,
            answers,
            queries_per_second: statistic(&report, "Queries per second:")
                .with_context(|| report.clone())?,
            upstream: if self == Self::Recursive {
                queries / 5
            } else {
                0
            },
            cpu,
        })
    }

    /// Writes the file of names. `dnsperf` begins again at its end.
    fn names(self, folder: &Path) -> Result<PathBuf> {
        let lines = if self == Self::Recursive {
            200_000
        } else {
            10_000
        };
        let path = folder.join("names");
        fs::write(&path, self.lines(lines))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Returns this many queries, one line for each.
    pub(super) fn lines(self, queries: usize) -> String {
        let mut text = String::new();
        for query in 0..queries {
            let host = query % HOSTS;
            let line = match (self, query % 10) {
                (Self::Large, _) => format!("big{}.here.test TXT\n", query % LARGE),
                (Self::Recursive, 4 | 8) => format!("w{query}.far.test A\n"),
                (_, 3) => format!("h{host}.here.test AAAA\n"),
                (_, 5) => format!("none{query}.here.test A\n"),
                _ => format!("h{host}.here.test A\n"),
            };
            text.push_str(&line);
        }
        text
    }
}

fn statistic<N: FromStr>(report: &str, label: &str) -> Option<N> {
    let (_, rest) = report.split_once(label)?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_of_dnsperf_is_understood() {
        let report = "\n  Queries sent:         80000\n  Queries completed:    79999 (100.00%)\n\
                      \n  Queries per second:   19999.750003\n";
        assert_eq!(statistic(report, "Queries sent:"), Some(80_000));
        assert_eq!(statistic(report, "Queries completed:"), Some(79_999));
        assert_eq!(
            statistic(report, "Queries per second:"),
            Some(19_999.750_003)
        );
        assert_eq!(statistic::<u64>(report, "Queries lost:"), None);
    }
}

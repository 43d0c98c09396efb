//! Bulk load by `dnsperf`, and the counts that it prints.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    str::FromStr,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    environment,
    lab::{self, AUTH_HOSTS, UP_HOSTS},
    process::{Finished, Running, Watch},
};

/// Longest wait for the end of a run.
const BULK_PATIENCE: Duration = Duration::from_mins(10);

/// Time after which `dnsperf` takes a query for lost.
const TIMEOUT: Duration = Duration::from_secs(30);

/// One run of `dnsperf`.
pub(crate) struct Load {
    /// Number of queries to send; the names repeat.
    pub(crate) queries: usize,
    /// Queries per second; `None`: as fast as the responses arrive.
    pub(crate) rate: Option<u32>,
    /// Whether it uses TCP and not UDP.
    pub(crate) tcp: bool,
    /// Whether there are names of `up.lab`, which need recursion, among those of `auth.lab`.
    pub(crate) recursive: bool,
}

/// A running `dnsperf`.
pub(crate) struct Dnsperf(Running);

/// Sends the load to `server` and returns when all queries are answered. A query without a response is an error.
pub(crate) fn run(folder: &Path, server: SocketAddr, load: &Load) -> Result<()> {
    start(folder, server, load)?.finish(load.queries)
}

/// Starts sending.
pub(crate) fn start(folder: &Path, server: SocketAddr, load: &Load) -> Result<Dnsperf> {
    send(&names(folder, load)?, server, load)
}

/// Starts sending the names of a file. Only rate and protocol of `load` are used.
pub(crate) fn send(names: &Path, server: SocketAddr, load: &Load) -> Result<Dnsperf> {
    let mut command = Command::new(environment::tool("dnsperf")?);
    command.args([
        "-f",
        if server.is_ipv6() { "inet6" } else { "inet" },
        "-m",
        if load.tcp { "tcp" } else { "udp" },
    ]);
    command.args([
        "-s",
        &server.ip().to_string(),
        "-p",
        &server.port().to_string(),
        "-n",
        "1",
        "-t",
        &TIMEOUT.as_secs().to_string(),
        "-c",
        "4",
    ]);
    if let Some(rate) = load.rate {
        command.args(["-Q", &rate.to_string()]);
    }
    command.arg("-d").arg(names);
    Ok(Dnsperf(Running::start("dnsperf", command, Watch::Stdout)?))
}

/// Starts sending the names of a file over `mode`: `dot` or `doh`. Queries do not wait for each other.
pub(crate) fn send_encrypted(names: &Path, server: SocketAddr, mode: &str) -> Result<Dnsperf> {
    let mut command = Command::new(environment::tool("dnsperf")?);
    let [address, port] = [server.ip().to_string(), server.port().to_string()];
    let timeout = TIMEOUT.as_secs().to_string();
    command.args([
        "-m", mode, "-s", &address, "-p", &port, "-n", "1", "-c", "4", "-q", "50",
    ]);
    command.args(["-t", &timeout, "-d"]).arg(names);
    if mode == "doh" {
        command.args(["-O", &format!("doh-uri=https://{address}:{port}/dns-query")]);
    }
    Ok(Dnsperf(Running::start("dnsperf", command, Watch::Stdout)?))
}

impl Dnsperf {
    /// Waits until everything is sent. Each of `queries` must have been sent and answered.
    pub(crate) fn finish(self, queries: usize) -> Result<()> {
        let Finished { status, lines } = self.0.finish(BULK_PATIENCE)?;
        let report = lines.join("\n");
        ensure!(status.success(), "dnsperf: {status}\n{report}");
        ensure!(
            answered(&lines).with_context(|| report.clone())? == queries,
            "dnsperf did not complete its {queries} queries\n{report}"
        );
        Ok(())
    }
}

/// Returns the number of queries that were sent and answered, from the lines of `dnsperf`.
///
/// Over TCP `dnsperf` (2.10, `process_timeouts`) reads the time of a query twice without its lock, and the thread that
/// sends may set it in between. The difference underflows then, and the query counts as timed out at once. In a run that
/// took less than the timeout no query can have timed out, so those count as answered: the run ends only when all
/// others are.
fn answered(lines: &[String]) -> Option<usize> {
    let sent: usize = statistic(lines, "Queries sent:")?;
    let completed: usize = statistic(lines, "Queries completed:")?;
    let seconds: f64 = statistic(lines, "Run time (s):")?;
    let timed_out = lines.iter().filter(|line| line.contains("[Timeout] Query"));
    let falsely = if seconds < TIMEOUT.as_secs_f64() {
        timed_out.count()
    } else {
        0
    };
    (sent >= completed).then_some((completed + falsely).min(sent))
}

/// Writes the file of names, one line per query.
fn names(folder: &Path, load: &Load) -> Result<PathBuf> {
    let mut text = String::new();
    for query in 0..load.queries {
        match query % 10 {
            8 if load.recursive => writeln!(text, "w{}.up.lab A", query % UP_HOSTS),
            3 => writeln!(text, "h{}.auth.lab AAAA", query % AUTH_HOSTS),
            5 => writeln!(text, "none{query}.auth.lab A"),
            _ => writeln!(text, "h{}.auth.lab A", query % AUTH_HOSTS),
        }?;
    }
    lab::write(
        folder,
        &format!("names-{}-{}", load.queries, load.recursive),
        &text,
    )
}

fn statistic<N: FromStr>(lines: &[String], label: &str) -> Option<N> {
    let line = lines.iter().find(|line| line.contains(label))?;
    line.split(label)
        .nth(1)?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(seconds: &str, completed: usize, timeouts: usize) -> Vec<String> {
        let timeout = "[Timeout] Query timed out: msg id 0".to_owned();
        let mut lines = vec![timeout; timeouts];
        lines.extend([
            "  Queries sent:         500".to_owned(),
            format!("  Queries completed:    {completed} (99.80%)"),
            format!("  Run time (s):         {seconds}"),
        ]);
        lines
    }

    #[test]
    fn a_timeout_in_a_run_that_is_shorter_is_false() {
        assert_eq!(answered(&report("1.114045", 500, 0)), Some(500));
        assert_eq!(answered(&report("1.114045", 499, 1)), Some(500));
        assert_eq!(answered(&report("1.114045", 498, 1)), Some(499));
        assert_eq!(answered(&report("31.2", 499, 1)), Some(499));
        assert_eq!(answered(&[]), None);
    }
}

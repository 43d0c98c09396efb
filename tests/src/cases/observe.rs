//! Watches a running agent: metrics over HTTP, `status` over its socket, and notifications to systemd. All must show
//! the same counts as the summary at the end, and account for everything.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixDatagram, UnixListener},
    },
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use super::trial;
use crate::{
    environment::{self, Combination, Skip, combinations},
    lab,
    process::{PATIENCE, Running, Watch},
    tap::{self, Summary, Tap},
    toy::{Calls, Toy},
};

/// The agent's exit code (`dnstap_agent::host::exit`).
const EXIT_NO_TARGET: i32 = 69;

type Test = fn(&Combination) -> Result<()>;

pub(super) fn trials() -> Vec<Trial> {
    let Some(how) = combinations().into_iter().next() else {
        return Vec::new();
    };
    let tests: [(&str, Test); 5] = [
        (
            "an agent sleeps while its server has nothing to do, and records what comes then",
            idle,
        ),
        (
            "metrics, status and systemd are told what the summary says at the end",
            all_agree,
        ),
        (
            "status lists every agent, knows when none is left, and nothing is left behind",
            several,
        ),
        ("promtool finds nothing wrong with the metrics", promtool),
        (
            "the log is JSON if asked, and says nothing of messages above debug",
            log,
        ),
    ];
    tests
        .into_iter()
        .map(|(name, test)| {
            let how = how.clone();
            trial(format!("{how}: {name}"), move || test(&how))
        })
        .collect()
}

/// An agent that can be watched.
struct Watched {
    process: Running,
    folder: PathBuf,
    summary: PathBuf,
    /// Address of its metrics.
    metrics: String,
    /// Socket that receives its notifications to systemd.
    systemd: UnixDatagram,
}

impl Watched {
    /// Attaches to `pid`. Files and sockets go to `folder`, with names that begin with `name`.
    fn attach(folder: &Path, name: &str, pid: u32, how: &Combination) -> Result<Self> {
        let notify = folder.join(format!("{name}.notify"));
        let systemd = UnixDatagram::bind(&notify)?;
        systemd.set_read_timeout(Some(PATIENCE))?;
        let summary = folder.join(format!("{name}.json"));
        let mut command = tap::command(&environment::agent()?, pid, how);
        command
            .arg("-o")
            .arg(format!(
                "file:{}",
                folder.join(format!("{name}.fstrm")).display()
            ))
            .arg("--summary-json")
            .arg(&summary)
            .args(["--metrics", "127.0.0.1:0"])
            .env("NOTIFY_SOCKET", &notify)
            .env("RUNTIME_DIRECTORY", folder);
        let mut process = Running::start(name, command, Watch::Stderr)?;
        let line = process.wait_for("its metrics", |line| line.contains("metrics on http://"))?;
        let (_, address) = line.split_once("http://").context("an address")?;
        let metrics = address.split('/').next().unwrap_or_default().to_owned();
        process.wait_for("attached", |line| line.contains("attached"))?;
        Ok(Self {
            process,
            folder: folder.to_owned(),
            summary,
            metrics,
            systemd,
        })
    }

    /// Receives the next notification to systemd.
    fn told(&self) -> Result<String> {
        let mut bytes = [0; 4096];
        let length = self
            .systemd
            .recv(&mut bytes)
            .context("waiting for sd_notify")?;
        Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
    }

    /// Reads the metrics until `wanted` is among their lines. The agent makes a snapshot each second, and notifies
    /// systemd of it.
    fn scrape_until(&self, wanted: &str) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = self.scrape()?;
            if text.lines().any(|line| line == wanted) {
                return Ok(text);
            }
            ensure!(Instant::now() < deadline, "no line `{wanted}` in\n{text}");
            self.told()?;
        }
    }

    fn scrape(&self) -> Result<String> {
        let mut stream = TcpStream::connect(&self.metrics)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let (_, body) = answer.split_once("\r\n\r\n").context("a body")?;
        Ok(body.to_owned())
    }

    fn stop(self) -> Result<Summary> {
        let finished = self.process.stop(libc::SIGINT)?;
        ensure!(
            finished.status.success(),
            "{}\n{}",
            finished.status,
            finished.lines.join("\n")
        );
        let mut told = String::new();
        while !told.contains("STOPPING=1") {
            let mut bytes = [0; 4096];
            let length = self.systemd.recv(&mut bytes)?;
            told = String::from_utf8_lossy(&bytes[..length]).into_owned();
        }
        let summary = Summary::read(&self.summary)?;
        summary.expect_nothing_dropped()?;
        Ok(summary)
    }
}

fn status(folder: &Path, arguments: &[&str]) -> Result<Output> {
    let output = Command::new(environment::agent()?)
        .arg("status")
        .args(arguments)
        .env("RUNTIME_DIRECTORY", folder)
        .stdin(Stdio::null())
        .output()?;
    Ok(output)
}

/// Returns the status of every running agent.
fn status_json(folder: &Path) -> Result<Vec<Value>> {
    let output = status(folder, &["--json"])?;
    ensure!(output.status.success(), "{output:?}");
    let lines = String::from_utf8(output.stdout)?;
    lines
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
        .collect()
}

fn sockets(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        paths.push(entry?.path());
    }
    paths.retain(|path| path.extension().is_some_and(|end| end == "sock"));
    Ok(paths)
}

fn all_agree(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let mut toy = Toy::start(Calls::Address)?;
    let agent = Watched::attach(scratch.path(), "agent", toy.pid(), how)?;
    let ready = agent.told()?;
    ensure!(
        ready.contains("READY=1") && ready.contains("STATUS=taps"),
        "{ready}"
    );
    ensure!(agent.told()?.contains("WATCHDOG=1"), "no watchdog");

    let (passed, _) = toy.talk()?;
    let written = format!(
        "dnstap_agent_output_written_messages_total{{output=\"file:{}\"}} {}",
        agent.folder.join("agent.fstrm").display(),
        passed.len()
    );
    let metrics = agent.scrape_until(&written)?;
    for line in metrics.lines() {
        ensure!(
            !line.starts_with("dnstap_agent_unaccounted{") || line.ends_with(" 0"),
            "{line}"
        );
    }
    for name in [
        "dnstap_agent_query_duration_seconds_bucket{role=\"responder\",",
        "dnstap_agent_ring_used_bytes ",
        "dnstap_agent_sockets{protocol=\"tcp\",verdict=\"dns\"}",
        "dnstap_agent_kernel_dropped_total{reason=\"ring_full\"} 0",
    ] {
        ensure!(metrics.contains(name), "no {name} in\n{metrics}");
    }

    let [socket] = &sockets(scratch.path())?[..] else {
        anyhow::bail!("one status socket is expected");
    };
    let mode = fs::metadata(socket)?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "status socket: mode {mode:o}");
    let [said] = &status_json(scratch.path())?[..] else {
        anyhow::bail!("one status is expected");
    };
    ensure!(
        said["unaccounted"] == 0
            && said["outputs"][0]["written"] == passed.len()
            && said["outputs"][0]["state"] == "running"
            && said["pid"] == agent.process.pid()
            && said["ring_use"]["used_bytes"].as_u64().is_some(),
        "{said}"
    );
    let text = status(scratch.path(), &["--socket", &socket.display().to_string()])?;
    let text = String::from_utf8(text.stdout)?;
    ensure!(
        text.contains("unaccounted: 0\n") && text.contains(": running; 0 messages queued"),
        "{text}"
    );

    let kernel = said["kernel"]["seen"].as_u64();
    let summary = agent.stop()?;
    ensure!(kernel == Some(summary.kernel("seen")?), "{summary}");
    Ok(())
}

fn several(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let folder = scratch.path();
    // This socket is like one that a killed agent has left.
    drop(UnixListener::bind(folder.join("toy-1.sock"))?);
    let toy = Toy::start(Calls::Address)?;
    let first = Watched::attach(folder, "first", toy.pid(), how)?;
    let second = Watched::attach(folder, "second", toy.pid(), how)?;
    let said = status_json(folder)?;
    let pids: Vec<_> = said.iter().map(|said| said["pid"].as_u64()).collect();
    for agent in [&first, &second] {
        ensure!(
            pids.contains(&Some(agent.process.pid().into())),
            "{pids:?} without {}",
            agent.process.pid()
        );
    }
    ensure!(pids.len() == 2 && sockets(folder)?.len() == 2, "{pids:?}");
    first.stop()?;
    second.stop()?;
    ensure!(sockets(folder)?.is_empty(), "sockets are left behind");
    let none = status(folder, &[])?;
    ensure!(
        none.status.code() == Some(EXIT_NO_TARGET)
            && String::from_utf8_lossy(&none.stderr).contains("no agent runs"),
        "{none:?}"
    );
    Ok(())
}

fn idle(how: &Combination) -> Result<()> {
    /// Longest part of the test in which nothing is sent.
    const QUIET: Duration = Duration::from_secs(4);
    /// Largest number of times per second that all its threads are woken: some ten. An agent that looks at its ring after each
    /// interval is woken more than 60 times.
    const WAKES: u64 = 25;

    if how.ring != "bpf" {
        // The kernel decides alone when it wakes the reader of a perf ring buffer.
        return Err(Skip("the agent sleeps with the ring bpf only".to_owned()).into());
    }
    let scratch = lab::scratch()?;
    let mut toy = Toy::start(Calls::Address)?;
    let tap = Tap::attach(scratch.path(), toy.pid(), how, &[])?;
    // It looks at the ring after some intervals before it sleeps.
    thread::sleep(QUIET / 4);
    let before = wakes(tap.pid())?;
    thread::sleep(QUIET);
    let woken = (wakes(tap.pid())? - before) / QUIET.as_secs();
    ensure!(woken <= WAKES, "woken {woken} times per second");
    let (passed, _) = toy.talk()?;
    let tapped = tap.stop()?;
    tapped.summary.expect_nothing_dropped()?;
    tapped.summary.expect_written(passed.len())
}

/// Returns how often the threads of a process have been woken so far.
fn wakes(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        let switches = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        sum += switches.context("no switches")?.trim().parse::<u64>()?;
    }
    Ok(sum)
}

fn promtool(how: &Combination) -> Result<()> {
    let promtool = environment::promtool()?;
    let scratch = lab::scratch()?;
    let mut toy = Toy::start(Calls::Address)?;
    let agent = Watched::attach(scratch.path(), "agent", toy.pid(), how)?;
    toy.talk()?;
    let metrics = agent.scrape()?;
    let file = scratch.path().join("metrics");
    fs::write(&file, &metrics)?;
    let checked = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(fs::File::open(&file)?)
        .output()?;
    ensure!(
        checked.status.success() && checked.stderr.is_empty(),
        "{}{}",
        String::from_utf8_lossy(&checked.stdout),
        String::from_utf8_lossy(&checked.stderr)
    );
    agent.stop().map(drop)
}

fn log(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let folder = scratch.path();
    let mut toy = Toy::start(Calls::Address)?;
    let mut command = tap::command(&environment::agent()?, toy.pid(), how);
    // This output gives errors, because no collector listens there.
    command
        .arg("-o")
        .arg(format!("unix:{}", folder.join("nobody").display()))
        .args(["--status-socket", "none", "--log-format", "json"])
        .env_remove("DNSTAP_AGENT_LOG");
    let mut agent = Running::start("dnstap-agent", command, Watch::Stderr)?;
    agent.wait_for("attached", |line| line.contains("attached"))?;
    let (passed, _) = toy.talk()?;
    let clients: BTreeSet<_> = passed
        .iter()
        .map(|record| format!(":{}", record.query_port))
        .collect();
    ensure!(!clients.is_empty(), "no clients");
    let finished = agent.stop(libc::SIGINT)?;
    let mut logged = 0;
    for line in &finished.lines {
        ensure!(!line.contains("toy.lab"), "a name in: {line}");
        let Ok(object) = serde_json::from_str::<Value>(line) else {
            // The summary is not part of the log.
            continue;
        };
        ensure!(
            object["message"].is_string() && object["level"].is_string(),
            "{line}"
        );
        for client in &clients {
            ensure!(!line.contains(client), "{client} in: {line}");
        }
        logged += 1;
    }
    ensure!(logged >= 3, "{:?}", finished.lines);
    Ok(())
}

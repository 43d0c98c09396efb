//! Reloads while messages pass: outputs are added and removed, errors in the configuration change nothing, and every
//! message is accounted for exactly.

mod filters;

use std::{
    fmt::Write as _,
    fs,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use super::{for_each_hook, note, trial};
use crate::{
    environment::{self, Combination, combinations},
    lab::{self, Lab, Wanted},
    load::dnsperf::{self, Load},
    process::{Finished, PATIENCE, Running, Watch},
    receive::{Sender, Stream},
    record, tap,
};

/// Number of queries of each run, and their rate per second.
const QUERIES: usize = 12_000;
const RATE: u32 = 2_000;

/// Number of signals in the storm, and the longest pause between two, in milliseconds.
const SIGNALS: u64 = 300;
const PAUSE: u64 = 25;

type Test = fn(&Combination) -> Result<()>;

pub(super) fn trials() -> Vec<Trial> {
    let Some(how) = combinations().into_iter().next() else {
        return Vec::new();
    };
    let tests: [(&str, Test); 3] = [
        (
            "a reload under load exchanges outputs without losing a message, and mistakes change nothing",
            exchange,
        ),
        (
            "a reload under load leaves out other matters, and each message is delivered or counted",
            exclude,
        ),
        (
            "a storm of reloads at random moments loses no message",
            storm,
        ),
    ];
    let mut trials: Vec<_> = tests
        .into_iter()
        .map(|(name, test)| {
            let how = how.clone();
            trial(format!("{how}: {name}"), move || test(&how))
        })
        .collect();
    trials.extend(for_each_hook(
        "reloaded filters deliver what they ask for from then on, and all else is counted",
        filters::come_and_go,
    ));
    trials.extend(for_each_hook(
        "a connection that a reloaded filter lets in amid a message is joined at the next",
        filters::let_in_midway,
    ));
    trials
}

/// Returns the trials that may run at the same time as others: `receive` attaches to nothing.
pub(super) fn beside() -> Vec<Trial> {
    vec![trial(
        "receive reloaded under load exchanges outputs without losing a message".into(),
        received,
    )]
}

fn exchange(how: &Combination) -> Result<()> {
    let lab = Lab::start(Wanted::default())?;
    let mut agent = Configured::attach(lab.folder(), lab.tapped.pid(), how, &["kept", "goes"])?;
    let load = dnsperf::start(lab.folder(), lab.server(false), &load())?;
    agent.wait_for_bytes("goes", 2_000)?;

    agent.write("[attach]\noutput = 7\nring = 'none'\n")?;
    agent.reload(&[":2: output: ", ":3: ring: ", "not reloaded"])?;
    agent.configure(&["kept", "no/such"], "")?;
    agent.reload(&["does not exist", "not reloaded"])?;
    agent.configure(&["kept", "comes"], "ring-size = '1M'\n")?;
    agent.reload(&[
        "--ring-size has changed; it needs a restart",
        "the configuration has changed",
    ])?;
    // The removed output is done: its file is complete and does not grow any more.
    let gone = record::read(&agent.path("goes"))?.len();
    agent.wait_for_bytes("comes", 2_000)?;

    load.finish(QUERIES)?;
    let outputs = agent.stop()?;
    let written = |name: &str| outputs.account(name, "written");
    ensure!(
        written("kept")? == 2 * QUERIES as u64,
        "{}",
        outputs.summary
    );
    ensure!(written("goes")? == gone as u64, "{}", outputs.summary);
    // A message that one of the two has missed is in the other.
    ensure!(
        written("goes")? + written("comes")? == 2 * QUERIES as u64,
        "{}",
        outputs.summary
    );
    outputs.expect_accounted(&["kept", "goes", "comes"])
}

fn exclude(how: &Combination) -> Result<()> {
    let lab = Lab::start(Wanted::default())?;
    let mut agent = Configured::attach(lab.folder(), lab.tapped.pid(), how, &["kept"])?;
    let load = dnsperf::start(lab.folder(), lab.server(false), &load())?;
    agent.wait_for_bytes("kept", 2_000)?;
    agent.configure(&["kept"], "exclude = ['query']\n")?;
    agent.reload(&["the configuration has changed"])?;
    load.finish(QUERIES)?;
    let outputs = agent.stop()?;
    let written = outputs.account("kept", "written")?;
    let excluded = outputs.summary["pipeline"]["excluded_query"].as_u64();
    ensure!(
        written > 0 && excluded.is_some_and(|out| out > 0 && written + out == 2 * QUERIES as u64),
        "{}",
        outputs.summary
    );
    ensure!(outputs.summary["unaccounted"] == 0, "{}", outputs.summary);
    Ok(())
}

fn received() -> Result<()> {
    const RELOADS: u32 = 10;
    let scratch = lab::scratch()?;
    let folder = scratch.path();
    let socket = folder.join("in");
    let listen = format!("listen = ['unix:{}']\n", socket.display());
    let receive = |outputs: &[&str]| text(folder, outputs).replace("attach", "receive") + &listen;
    write(folder, &receive(&["kept", "0"]))?;
    let mut command = Command::new(environment::agent()?);
    command.arg("receive");
    let mut agent = Configured::start(folder, command, "listening on")?;
    let stream = Stream::start(Sender::connect(&socket)?, 2);
    let mut slowest = Duration::ZERO;
    for reload in 1..=RELOADS {
        thread::sleep(Duration::from_millis(50)); // some messages pass
        agent.write(&receive(&["kept", &reload.to_string()]))?;
        let began = Instant::now();
        agent.reload(&["the configuration has changed"])?;
        slowest = slowest.max(began.elapsed());
    }
    let sent = stream.end()?;
    let outputs = agent.stop()?;
    let mut exchanged = 0;
    for reload in 0..=RELOADS {
        exchanged += outputs.account(&reload.to_string(), "written")?;
    }
    let kept = record::read(&folder.join("kept"))?.len() as u64;
    ensure!(
        (kept, exchanged) == (sent, sent) && outputs.summary["unaccounted"] == 0,
        "of {sent}, {kept} and {exchanged}: {}",
        outputs.summary
    );
    note(format!(
        "receive: the slowest of {RELOADS} reloads took {slowest:?}"
    ));
    Ok(())
}

fn storm(how: &Combination) -> Result<()> {
    let seed = SystemTime::now()
        .duration_since(UNIX_EPOCH)?
        .subsec_nanos()
        .into();
    let mut random = Random(seed);
    note(format!("{how}: storm of reloads with seed {seed}"));
    let lab = Lab::start(Wanted::default())?;
    let agent = Configured::attach(lab.folder(), lab.tapped.pid(), how, &["kept", "0"])?;
    let load = dnsperf::start(lab.folder(), lab.server(false), &load())?;
    for _ in 0..SIGNALS {
        match random.below(5) {
            0 => agent.write("[attach]\noutput = [\n")?,
            1 => agent.configure(&["kept"], "")?,
            _ => {
                let others: Vec<_> = (0..4).map(|_| random.below(4).to_string()).collect();
                let mut outputs: Vec<_> = others.iter().map(String::as_str).collect();
                outputs.sort_unstable();
                outputs.dedup();
                outputs.push("kept");
                agent.configure(&outputs, "")?;
            }
        }
        agent.process.signal(libc::SIGHUP)?;
        thread::sleep(Duration::from_millis(random.below(PAUSE)));
    }
    load.finish(QUERIES)?;
    let outputs = agent.stop()?;
    ensure!(
        outputs.account("kept", "written")? == 2 * QUERIES as u64,
        "{}",
        outputs.summary
    );
    outputs.expect_accounted(&["kept"])
}

fn load() -> Load {
    Load {
        queries: QUERIES,
        rate: Some(RATE),
        tcp: false,
        recursive: false,
    }
}

/// An agent with a configuration file.
struct Configured {
    process: Running,
    folder: PathBuf,
    /// Notifications to systemd.
    systemd: Receiver<String>,
}

impl Configured {
    fn attach(folder: &Path, pid: u32, how: &Combination, outputs: &[&str]) -> Result<Self> {
        write(folder, &text(folder, outputs))?;
        let command = tap::command(&environment::agent()?, pid, how);
        Self::start(folder, command, "attached")
    }

    /// Starts `command` with the existing configuration, and waits until it prints `ready`.
    fn start(folder: &Path, mut command: Command, ready: &str) -> Result<Self> {
        let notify = folder.join("notify");
        let systemd = UnixDatagram::bind(&notify)?;
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length) = systemd.recv(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
                if tell.send(text).is_err() {
                    return;
                }
            }
        });
        command
            .arg("--config")
            .arg(folder.join("agent.toml"))
            .arg("--summary-json")
            .arg(folder.join("summary.json"))
            .args(["--status-socket", "none"])
            .env("NOTIFY_SOCKET", &notify);
        let mut process = Running::start("dnstap-agent", command, Watch::Stderr)?;
        process.wait_for(ready, |line| line.contains(ready))?;
        let agent = Self {
            process,
            folder: folder.to_owned(),
            systemd: told,
        };
        agent.wait_to_be_told("READY=1")?;
        Ok(agent)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn write(&self, text: &str) -> Result<()> {
        write(&self.folder, text)
    }

    fn configure(&self, outputs: &[&str], more: &str) -> Result<()> {
        self.write(&(text(&self.folder, outputs) + more))
    }

    /// Makes the agent reload, waits until that is done, and expects these words in its log.
    fn reload(&mut self, words: &[&str]) -> Result<()> {
        self.process.signal(libc::SIGHUP)?;
        self.wait_to_be_told("RELOADING=1")?;
        self.wait_to_be_told("READY=1")?;
        for words in words {
            self.process.wait_for(words, |line| line.contains(words))?;
        }
        Ok(())
    }

    fn wait_to_be_told(&self, what: &str) -> Result<()> {
        while let Ok(told) = self.systemd.recv_timeout(PATIENCE) {
            if told.lines().any(|line| line == what) {
                return Ok(());
            }
        }
        bail!("systemd was not told {what}")
    }

    /// Waits until the output has this many bytes.
    fn wait_for_bytes(&self, output: &str, bytes: u64) -> Result<()> {
        let path = self.path(output);
        let deadline = Instant::now() + PATIENCE;
        while fs::metadata(&path)?.len() <= bytes {
            ensure!(Instant::now() < deadline, "{output} does not grow");
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn stop(self) -> Result<Outputs> {
        let Finished { status, lines } = self.process.stop(libc::SIGTERM)?;
        ensure!(status.success(), "{status}\n{}", lines.join("\n"));
        let text = fs::read(self.folder.join("summary.json"))?;
        Ok(Outputs {
            summary: serde_json::from_slice(&text)?,
            folder: self.folder,
        })
    }
}

/// Result of the outputs.
struct Outputs {
    summary: Value,
    folder: PathBuf,
}

impl Outputs {
    fn of(&self, name: &str) -> Result<&Value> {
        let named = format!("file:{}", self.folder.join(name).display());
        let outputs = self.summary["outputs"].as_array().context("no outputs")?;
        let output = outputs.iter().find(|output| output["output"] == *named);
        output.with_context(|| format!("no {named} in {}", self.summary))
    }

    fn account(&self, name: &str, member: &str) -> Result<u64> {
        let member = self.of(name)?[member].as_u64();
        member.with_context(|| format!("{name}: {}", self.summary))
    }

    /// Checks that everything is accounted for, that these outputs have lost nothing, and that their files have as many
    /// messages as the outputs have counted.
    fn expect_accounted(&self, names: &[&str]) -> Result<()> {
        ensure!(self.summary["unaccounted"] == 0, "{}", self.summary);
        for name in names {
            let frames = record::read(&self.folder.join(name))?.len() as u64;
            let [sent, absent, written] =
                ["sent", "absent", "written"].map(|member| self.account(name, member));
            let (sent, absent, written) = (sent?, absent?, written?);
            ensure!(
                sent + absent == 2 * QUERIES as u64 && written == sent && frames == written,
                "{name}: {frames} frames in the file\n{}",
                self.summary
            );
        }
        Ok(())
    }
}

/// Replaces the configuration in one step.
fn write(folder: &Path, text: &str) -> Result<()> {
    let new = folder.join("agent.toml.new");
    fs::write(&new, text)?;
    Ok(fs::rename(new, folder.join("agent.toml"))?)
}

fn text(folder: &Path, outputs: &[&str]) -> String {
    let mut text = "[attach]\noutput = [".to_owned();
    for output in outputs {
        let _infallible = write!(text, "'file:{}', ", folder.join(output).display());
    }
    text + "]\n"
}

/// Pseudo-random numbers of a seed (`SplitMix64`).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

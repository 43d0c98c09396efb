//! The soak: one server, two agents that follow it, a collector, and all kinds of events for them in random order.
//!
//! ```text
//! clients ──► named ◄── steady agent (never restarted) ──► rotating files, collector
//!                   ◄── restless agent (ended, killed, in all ways to attach) ──► file
//! ```
//!
//! It fails if a query has no response, if a message is unaccounted for, if the steady agent has missed a message that
//! no counter shows, or if its memory or its descriptors have grown. It is started as `dnstap-tests soak MINUTES SEED`;
//! the report goes to standard output.

mod agent;
mod collector;
mod load;
mod report;
pub(crate) mod server;

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use self::{
    agent::{Account, Agent},
    collector::Collector,
    load::Clients,
    report::{Report, Sample},
    server::Server,
};
use crate::{
    chance::Chance,
    environment::{Combination, combinations},
    lab,
};

/// First argument that makes this program the soak.
pub(crate) const ARGUMENT: &str = "soak";

/// Longest time between two events.
const QUIET: Duration = Duration::from_secs(3);
/// Number of connections that are reset at a time.
const TORN: u16 = 25;

/// Events of the soak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    ServerRestarted,
    AgentRestarted,
    AgentKilled,
    AgentPaused,
    Reloaded,
    Rotated,
    CollectorKilled,
    CollectorRestarted,
    ConnectionsTorn,
}

impl Event {
    const ALL: [Self; 9] = [
        Self::ServerRestarted,
        Self::AgentRestarted,
        Self::AgentKilled,
        Self::AgentPaused,
        Self::Reloaded,
        Self::Rotated,
        Self::CollectorKilled,
        Self::CollectorRestarted,
        Self::ConnectionsTorn,
    ];

    /// Returns the name of the event in the report.
    fn words(self) -> &'static str {
        match self {
            Self::ServerRestarted => "server restarted",
            Self::AgentRestarted => "agent restarted",
            Self::AgentKilled => "agent killed",
            Self::AgentPaused => "agent stopped for a while, and continued",
            Self::Reloaded => "configuration reloaded",
            Self::Rotated => "file rotated",
            Self::CollectorKilled => "collector killed",
            Self::CollectorRestarted => "collector restarted",
            Self::ConnectionsTorn => "clients' connections reset",
        }
    }
}

/// Runs the soak for `words`: minutes and seed.
pub(crate) fn run(words: &[String]) -> Result<bool> {
    let [minutes, seed] = words else {
        anyhow::bail!("soak MINUTES SEED")
    };
    let time = Duration::from_secs_f64(60.0 * minutes.parse::<f64>().context("minutes")?);
    let seed = seed.parse().context("seed")?;
    eprintln!("soak: seed {seed}");
    let scratch = lab::scratch()?;
    let mut report = Report::new(seed, time);
    let mut server = Server::start(scratch.path())?;
    let clients = Clients::default();
    let played = thread::scope(|scope| {
        clients.start(scope, server.address);
        let stage = Stage::new(scratch.path(), Chance::new(seed));
        let result = stage.and_then(|stage| stage.play(&mut server, &clients, &mut report));
        clients.stop();
        result
    });
    report.broken = played.err().map(|error| format!("{error:#}"));
    report.failures.extend(clients.failures());
    print!("{report}");
    Ok(report.holds())
}

/// Everything that the events act on, except the server.
struct Stage<'a> {
    folder: &'a Path,
    chance: Chance,
    steady: Agent,
    restless: Agent,
    lives: u64,
    collector: Collector,
    restless_account: Account,
}

impl<'a> Stage<'a> {
    fn new(folder: &'a Path, mut chance: Chance) -> Result<Self> {
        let collector = Collector::start(folder)?;
        let automatic = Combination {
            hook: "auto".into(),
            ring: "auto".into(),
        };
        let steady = Agent::attach(
            folder,
            "steady",
            &automatic,
            ",rotate-size=2M,keep=2",
            &[&collector.output()],
        )?;
        let restless = restless(folder, &mut chance, 0)?;
        Ok(Self {
            folder,
            chance,
            steady,
            restless,
            lives: 1,
            collector,
            restless_account: Account::default(),
        })
    }

    fn play(mut self, server: &mut Server, clients: &Clients, report: &mut Report) -> Result<()> {
        let start = Instant::now();
        let (mut next_event, mut next_sample) = (start, start);
        // Queries that were answered before the tap may be missing in its counts.
        let answered_before = clients.answered();
        while start.elapsed() < report.time {
            let now = Instant::now();
            if now >= next_sample {
                next_sample = now + Duration::from_secs(1);
                let (resident, descriptors) = self.steady.size()?;
                let status = self.steady.status()?;
                ensure!(
                    status["unaccounted"] == 0,
                    "unaccounted for while it runs: {status}"
                );
                report.samples.push(Sample {
                    at: start.elapsed(),
                    resident,
                    descriptors,
                    answered: clients.answered(),
                });
            }
            if now >= next_event {
                next_event = now + self.chance.up_to(QUIET);
                let event = *self.chance.of(&Event::ALL);
                self = self
                    .happen(event, server, clients)
                    .with_context(|| format!("{event:?}, after {} s", start.elapsed().as_secs()))?;
                *report.events.entry(event).or_default() += 1;
            }
            thread::sleep(Duration::from_millis(10));
        }
        self.collector.ensure_running()?;
        clients.stop();
        // When a client has a response, the kernel and so the tap have seen it.
        clients.paused(|| ());
        report.answered = clients.answered();
        report.answered_while_tapped = report.answered - answered_before;
        self.steady.stop(&mut report.steady)?;
        self.restless.stop(&mut self.restless_account)?;
        report.restless = self.restless_account;
        report.collected = self.collector.stop()?;
        server.stop()
    }

    fn happen(mut self, event: Event, server: &mut Server, clients: &Clients) -> Result<Self> {
        match event {
            Event::ServerRestarted => clients.paused(|| server.restart())?,
            Event::AgentRestarted => {
                self.restless.stop(&mut self.restless_account)?;
                self.restless = restless(self.folder, &mut self.chance, self.lives)?;
                self.lives += 1;
            }
            Event::AgentKilled => {
                self.restless.kill(&mut self.restless_account)?;
                self.restless = restless(self.folder, &mut self.chance, self.lives)?;
                self.lives += 1;
            }
            Event::AgentPaused => {
                self.steady.signal(libc::SIGSTOP)?;
                thread::sleep(self.chance.up_to(Duration::from_millis(500)));
                self.steady.signal(libc::SIGCONT)?;
            }
            Event::Reloaded => {
                for _ in 0..=self.chance.below(10) {
                    self.steady.signal(libc::SIGHUP)?;
                    self.restless.signal(libc::SIGHUP)?;
                }
            }
            Event::Rotated => {
                fs::rename(&self.restless.file, self.folder.join("rotated"))?;
                self.restless.signal(libc::SIGHUP)?;
                let deadline = Instant::now() + crate::process::PATIENCE;
                while !self.restless.file.exists() {
                    ensure!(Instant::now() < deadline, "no new file after SIGHUP");
                    thread::sleep(Duration::from_millis(5));
                }
            }
            Event::CollectorKilled => self.collector.kill()?,
            Event::CollectorRestarted => self.collector.restart()?,
            Event::ConnectionsTorn => load::tear(server.address, TORN)?,
        }
        Ok(self)
    }
}

/// Starts the next life of the restless agent, with any way to attach.
fn restless(folder: &Path, chance: &mut Chance, life: u64) -> Result<Agent> {
    let how = chance.of(&combinations()).clone();
    Agent::attach(folder, &format!("restless-{}", life % 2), &how, "", &[])
}

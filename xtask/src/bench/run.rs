//! Runs one section of the plan: rounds, and in each round every contender once.

use std::{fs, path::PathBuf, thread, time::Duration};

use anyhow::{Context as _, Result};

use super::{
    contender::{Contender, Surroundings},
    load::Load,
    machine::Cpus,
    plan::Section,
    process::{Cpu, peak_memory},
    server::Server,
};
use crate::ui;

/// Time to wait after the load, so that all messages arrive and their cost is counted. It is longer than any contender
/// buffers messages.
const SETTLE: Duration = Duration::from_millis(1_200);
/// Longest time for the end of a server.
const PATIENCE: Duration = Duration::from_secs(20);

/// State that all runs share.
pub(super) struct Bench {
    pub(super) agent: PathBuf,
    pub(super) named: PathBuf,
    pub(super) scratch: PathBuf,
    pub(super) cpus: Cpus,
}

/// Figures of one run.
#[derive(Clone, Debug, Default)]
pub(super) struct Run {
    /// Number of queries and responses that passed the server, according to the load.
    pub(super) messages: u64,
    pub(super) queries_per_second: f64,
    /// Number of queries without a response.
    pub(super) unanswered: u64,
    pub(super) named: Cpu,
    pub(super) helper: Cpu,
    pub(super) loader: Cpu,
    pub(super) delivered: Option<u64>,
    pub(super) memory: Option<u64>,
    pub(super) delay_ns: Option<[u64; 2]>,
    pub(super) start: Option<Duration>,
}

/// All runs of one load.
pub(super) struct Results {
    pub(super) load: Load,
    pub(super) seconds: u32,
    /// Contenders in the order of the plan, each with one run per round.
    pub(super) contenders: Vec<(Contender, Vec<Run>)>,
}

impl Bench {
    /// Measures one load with all its contenders.
    pub(super) fn section(&self, section: &Section) -> Result<Results> {
        ui::step(format_args!(
            "{}: {} contenders, {} rounds of {} s",
            section.load.name(),
            section.contenders.len(),
            section.rounds,
            section.seconds
        ));
        let mut contenders: Vec<_> = section
            .contenders
            .iter()
            .map(|contender| (contender.clone(), Vec::new()))
            .collect();
        for round in 1..=section.rounds {
            for (contender, runs) in &mut contenders {
                let name = contender.name();
                let run = self
                    .once(section, contender)
                    .with_context(|| format!("{name} failed"))?;
                ui::note(format_args!(
                    "{round}/{} {name:<18} {:>7.0} queries/s, per message: named {:.2} us, helper {:.2} us{}",
                    section.rounds,
                    run.queries_per_second,
                    run.micros(run.named),
                    run.micros(run.helper),
                    run.delivered.map_or(String::new(), |delivered| {
                        format!("; {delivered} of {} messages", run.messages)
                    })
                ));
                runs.push(run);
            }
        }
        Ok(Results {
            load: section.load,
            seconds: section.seconds,
            contenders,
        })
    }

    /// Returns a dnstap file of the last tapped run.
    pub(super) fn sample(&self) -> PathBuf {
        self.scratch.join("sample.fstrm")
    }

    fn once(&self, section: &Section, contender: &Contender) -> Result<Run> {
        let folder = self.scratch.join("run");
        if folder.exists() {
            fs::remove_dir_all(&folder)
                .with_context(|| format!("cannot empty {}", folder.display()))?;
        }
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let around = Surroundings {
            agent: &self.agent,
            folder: &folder,
            cpu: self.cpus.others,
        };
        let own = *contender == Contender::OwnDnstap;
        let receiver = own.then(|| around.receiver()).transpose()?;
        let server = Server::start(
            &self.named,
            &folder,
            own.then(|| around.socket()).as_deref(),
            self.cpus.server,
            self.cpus.others,
        )?;
        let helper = match receiver {
            Some(receiver) => Some(receiver),
            None => around.start(contender, &server)?,
        };

        let used = |id| Cpu::of(id);
        let of_helper = || helper.as_ref().map(|helper| used(helper.id())).transpose();
        let (named, helped) = (used(server.named.id())?, of_helper()?);
        let sent = section
            .load
            .send(&folder, server.port, section.seconds, self.cpus.others)?;
        thread::sleep(SETTLE);
        let mut run = Run {
            messages: sent.queries + sent.answers + 2 * sent.upstream,
            queries_per_second: sent.queries_per_second,
            unanswered: sent.queries - sent.answers,
            named: used(server.named.id())? - named,
            loader: sent.cpu,
            ..Run::default()
        };
        if let Some((after, before)) = of_helper()?.zip(helped) {
            run.helper = after - before;
        }
        if own {
            // The server has buffered messages, and sends them when it ends.
            server.named.signal("TERM")?;
            server.named.finish(PATIENCE)?;
        }
        if let Some(helper) = helper {
            run.memory = Some(peak_memory(helper.id())?);
            run.start = Some(helper.start);
            let tapped = matches!(contender, Contender::Tap { .. }).then(|| helper.output.clone());
            let delivery = around.end(contender, helper)?;
            if let Some(file) = tapped {
                fs::rename(file, self.sample()).context("cannot keep the tap's file")?;
            }
            (run.delivered, run.delay_ns) = (delivery.messages, delivery.delay_ns);
        }
        Ok(run)
    }
}

impl Run {
    /// Returns CPU time in microseconds per message.
    pub(super) fn micros(&self, cpu: Cpu) -> f64 {
        cpu.sum() as f64 / self.messages as f64 / 1e3
    }

    /// Returns the CPU time of the server in microseconds per message.
    pub(super) fn server(&self) -> f64 {
        self.micros(self.named)
    }

    /// Returns the CPU time of server and helper in microseconds per message.
    pub(super) fn total(&self) -> f64 {
        self.micros(self.named + self.helper)
    }

    /// Returns the fraction of messages that were not delivered. It may be negative, because the load does not count
    /// all messages (a query for a server's address, for example).
    pub(super) fn loss(&self) -> Option<f64> {
        Some(1.0 - self.delivered? as f64 / self.messages as f64)
    }
}

//! The generator: it makes random programs of socket calls, has actors play them, and compares the agent's record with
//! the actors' reports.
//!
//! ```text
//! seed ─► script ─► program (scenes, steps) ─► stage: peers ◄─ loopback ─► actors ◄─ the agent
//!                      ▲                         │ what was read and written    │ file, summary
//!                      └── shrunk ◄── finding ◄──┴──────────► truth ◄───────────┘
//! ```
//!
//! The seed determines the whole program, but not the timing of the kernel and of the threads. The generator is started
//! as `dnstap-tests generate SECONDS [SEED]`; `DNSTAP_HOOKS` and `DNSTAP_RINGS` select the ways to attach. With
//! `DNSTAP_STEPS` (numbers) only these steps of the program are played, with `DNSTAP_SCENES` (`tcp` or `udp`) only
//! scenes of that protocol.

mod datagrams;
mod message;
mod play;
mod program;
mod script;
mod stage;
mod stream;
mod truth;

use std::{
    env, fmt,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use self::{
    play::Play,
    program::{Op, Program, Step},
    truth::Finding,
};
use crate::{
    chance,
    environment::{Combination, combinations},
    lab,
};

/// First argument that makes this program the generator.
pub(crate) const ARGUMENT: &str = "generate";

/// Number of times that a program is played to find a smaller one with the same finding.
const SHRINKING: usize = 80;
/// Number of tries for each smaller program, because a finding may not happen each time.
const TRIES: usize = 2;

/// Runs the generator. `words`: the seconds, and optionally the seed of the first program.
pub(crate) fn run(words: &[String]) -> Result<bool> {
    let (seconds, seed) = match words {
        [seconds] => (seconds, chance::seed()?),
        [seconds, seed] => (seconds, seed.parse().context("seed")?),
        _ => bail!("generate SECONDS [SEED]"),
    };
    let time = Duration::from_secs_f64(seconds.parse().context("seconds")?);
    println!("generate: seed {seed}");
    let combinations = combinations();
    let (start, mut programs, mut messages) = (Instant::now(), 0, 0);
    // Each program is played with each way to attach. The first program is always played, even if the time is short.
    for seed in seed.. {
        for how in &combinations {
            match attempt(&Program::of(seed), how) {
                Ok(played) => messages += played,
                Err(report) => {
                    println!("{report}");
                    return Ok(false);
                }
            }
            programs += 1;
        }
        let elapsed = start.elapsed();
        if elapsed >= time {
            break;
        }
        if programs % (50 * combinations.len()) == 0 {
            let seconds = elapsed.as_secs();
            println!("{programs} programs in {seconds} s, up to seed {seed}");
        }
    }
    println!(
        "{programs} programs and {messages} messages in {:.1} s without a finding",
        start.elapsed().as_secs_f64()
    );
    Ok(true)
}

/// Plays the programs of these seeds. Returns the number of their messages.
pub(crate) fn check(seeds: impl IntoIterator<Item = u64>, how: &Combination) -> Result<usize> {
    let mut messages = 0;
    for seed in seeds {
        match attempt(&Program::of(seed), how) {
            Ok(played) => messages += played,
            Err(report) => bail!("{report}"),
        }
    }
    Ok(messages)
}

/// Findings of a program, and how to reproduce them.
struct Report {
    how: Combination,
    findings: Vec<String>,
    /// Steps of the whole program that are needed for the findings; `None` if only the first attempt found anything.
    steps: Option<Vec<usize>>,
    program: Program,
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { how, program, .. } = self;
        let seed = program.seed;
        writeln!(formatter, "FOUND by seed {seed} with {how}:")?;
        for finding in self.findings.iter().take(8) {
            writeln!(formatter, "- {finding}")?;
        }
        if self.findings.len() > 8 {
            writeln!(formatter, "- and {} more", self.findings.len() - 8)?;
        }
        writeln!(formatter, "{program}")?;
        let Combination { hook, ring } = how;
        let again =
            format!("cargo xtask generate --seconds 0 --seed {seed} --hook {hook} --ring {ring}");
        match &self.steps {
            Some(steps) => {
                let steps: Vec<_> = steps.iter().map(usize::to_string).collect();
                write!(formatter, "again: DNSTAP_STEPS={} {again}", steps.join(","))
            }
            None => write!(formatter, "not found a second time; again: {again}"),
        }
    }
}

/// Plays a program. After a finding, looks for a smaller program with the same finding.
fn attempt(whole: &Program, how: &Combination) -> Result<usize, Box<Report>> {
    let chosen = env::var("DNSTAP_STEPS").ok();
    let mut steps: Vec<usize> = match &chosen {
        Some(text) => text.split(',').flat_map(str::parse).collect(),
        None => (0..whole.steps.len()).collect(),
    };
    steps.retain(|at| *at < whole.steps.len());
    if let Ok(transport) = env::var("DNSTAP_SCENES") {
        let is_left = |scene: &usize| whole.scenes[*scene].tcp == (transport == "tcp");
        steps.retain(|at| !matches!(&whole.steps[*at], Step::In(scene, _) if !is_left(scene)));
    }
    let (findings, messages) = play(&whole.with(&steps), how);
    let Some(first) = findings.first() else {
        return Ok(messages);
    };
    let sort = first.sort;
    let mut last = findings.clone();
    let shrunk = chosen.is_none() && shrink(whole, how, sort, &mut steps, &mut last);
    Err(Box::new(Report {
        how: how.clone(),
        findings: last.iter().map(Finding::to_string).collect(),
        steps: (shrunk || chosen.is_some()).then_some(steps.clone()),
        program: whole.with(&steps),
    }))
}

/// Leaves out scenes, then more and more steps, while the same sort of finding occurs. Returns whether any occurred
/// again.
fn shrink(
    whole: &Program,
    how: &Combination,
    sort: &'static str,
    steps: &mut Vec<usize>,
    last: &mut Vec<Finding>,
) -> bool {
    let mut left = SHRINKING;
    let mut smaller = false;
    let mut fails = |steps: &[usize]| {
        (0..TRIES).find_map(|_| {
            left = left.checked_sub(1)?;
            let (findings, _) = play(&whole.with(steps), how);
            findings
                .iter()
                .any(|one| one.sort == sort)
                .then_some(findings)
        })
    };
    for scene in 0..whole.scenes.len() {
        let without: Vec<_> = steps
            .iter()
            .copied()
            .filter(|at| !matches!(&whole.steps[*at], Step::In(number, _) if *number == scene))
            .collect();
        if without.len() < steps.len()
            && let Some(findings) = fails(&without)
        {
            (*steps, *last, smaller) = (without, findings, true);
        }
    }
    let needed = whole.needed();
    let mut part = steps.len() / 2;
    while part > 0 {
        let mut from = 0;
        while from < steps.len() {
            let to = (from + part).min(steps.len());
            let mut without = steps.clone();
            let mut at = 0;
            without.retain(|step| {
                at += 1;
                !(from..to).contains(&(at - 1)) || needed.contains(step)
            });
            if without.len() < steps.len()
                && let Some(findings) = fails(&without)
            {
                (*steps, *last, smaller) = (without, findings, true);
            } else {
                from = to;
            }
        }
        part /= 2;
    }
    smaller
}

/// Plays a program once. Returns the findings and the number of messages.
fn play(program: &Program, how: &Combination) -> (Vec<Finding>, usize) {
    match try_to_play(program, how) {
        Ok(outcome) => outcome,
        Err(error) => (vec![Finding::new("broken", format_args!("{error:#}"))], 0),
    }
}

fn try_to_play(program: &Program, how: &Combination) -> Result<(Vec<Finding>, usize)> {
    let scratch = lab::scratch()?;
    let played = Play::run(program, scratch.path(), how)?;
    Ok((truth::judge(&played)?, played.expected.len()))
}

impl Program {
    /// Returns the steps that every finding needs: the agent attaches, a scene begins, and its first message shows that
    /// it is DNS.
    fn needed(&self) -> Vec<usize> {
        let first = |scene: usize| {
            self.steps.iter().position(|step| {
                let says = |op: &Op| matches!(op, Op::Peer(_) | Op::Say(_) | Op::Tell { .. });
                matches!(step, Step::In(number, op) if *number == scene && says(op))
            })
        };
        let firsts = (0..self.scenes.len()).filter_map(first);
        let begins = |step: &Step| matches!(step, Step::Attach | Step::In(_, Op::Open));
        let begins = (0..self.steps.len()).filter(|at| begins(&self.steps[*at]));
        firsts.chain(begins).collect()
    }

    /// Returns the same program with only these steps.
    fn with(&self, steps: &[usize]) -> Self {
        let steps = steps.iter().filter_map(|at| self.steps.get(*at));
        Self {
            steps: steps.cloned().collect(),
            ..self.clone()
        }
    }
}

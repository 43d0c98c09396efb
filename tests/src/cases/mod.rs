//! The cases. Each module returns its trials; names are sentences with the parameters in front.
//!
//! Most cases run by themselves, because they measure the machine or share what there is once: taps have one kernel, in which they must
//! leave nothing; loads, and bounds on time and memory, mean something on processors that nobody else uses; and some look at
//! descriptors, processes and names of the whole machine.
//!
//! A few do nothing for most of their time, and these run beside each other, [`COMPANY`] at a time. Each has `receive` agents of its own
//! under the names and in the folder of its own, and ports that the kernel has just given out; attaches to nothing; and counts messages,
//! of which ten pass in a millisecond at most. What it expects holds however late it comes: that each message is delivered or counted;
//! where none may be missing, a queue holds at least what comes in 700 ms. They wait for
//!
//! - a time that the agent gives to others: ten seconds for a START (`hostile_peers`), five for a handshake (`faults::tls`, `outputs`);
//!   and for the longer and longer pauses before it tries again (`faults::tls`);
//! - a disk to work again, or to have room again (`faults::disk`, `outputs`), and a pipe to be read (`faults::disk`);
//! - the lives and deaths of a collector (`collectors`, `outputs`), rotations (`outputs`), and reloads (`reload`).
//!
//! Of the same modules stay by themselves: what looks at the agent's memory (`outputs`, `hostile_peers`), what sends as much as it can and
//! ends at a moment (`outputs`), what has `named` beside it (`collectors`), and what is done at once.

mod answers;
mod calls;
mod check;
mod collectors;
mod comparison;
mod datagrams;
mod events;
mod failures;
mod faults;
mod filters;
mod foreign;
mod formats;
mod generated;
mod hostile;
mod hostile_peers;
mod lab;
mod midstream;
mod native;
mod observe;
mod outputs;
mod package;
mod pdns;
mod presentation;
mod privileges;
mod processes;
mod readers;
mod reattach;
mod referee;
mod reload;
mod report;
mod services;
mod streams;
mod top;
mod tree;
mod uring;
mod volume;
mod wildcard;

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use libtest_mimic::{Completion, Trial};

use crate::{
    compare::{Rules, compare},
    environment::{self, Combination, Skip, combinations},
    kernel,
    record::Record,
    tap::Tapped,
};

/// How many of the trials that may run beside each other do.
const COMPANY: usize = 4;

/// What is not worth to be told of a trial's time.
const SHORT: Duration = Duration::from_secs(1);

/// How long the trials took, each with its name.
static TIMES: Mutex<Vec<(Duration, String)>> = Mutex::new(Vec::new());

/// What the trials had to say beside their outcome, one line or more each.
static NOTES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Says something after the last trial: libtest-mimic is in the middle of a line while one runs.
fn note(text: String) {
    NOTES
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(text);
}

/// What the trials have said so far; among it a line `SKIP name: reason` for each that was skipped.
pub(crate) fn notes() -> Vec<String> {
    NOTES.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// How long the trials took that took long, a line each, the longest first: libtest-mimic does not tell.
pub(crate) fn times() -> Vec<String> {
    let mut times = TIMES.lock().unwrap_or_else(PoisonError::into_inner).clone();
    times.retain(|(took, _)| *took >= SHORT);
    times.sort_unstable();
    let line = |(took, name): &(Duration, String)| format!("{:6.1} s  {name}", took.as_secs_f64());
    times.iter().rev().map(line).collect()
}

/// How many threads run the trials of [`beside_each_other`]: one where the machine is the tests' own, because such a machine is an
/// emulated one, in which everything takes long.
pub(crate) fn threads() -> usize {
    match environment::own_machine() {
        Ok(()) => 1,
        Err(_) => COMPANY,
    }
}

/// The trials that may run beside each other: they wait for most of their time, and share nothing. Those that take longest are begun
/// first.
pub(crate) fn beside_each_other() -> Vec<Trial> {
    [
        hostile_peers::beside(),
        collectors::beside(),
        outputs::beside(),
        faults::beside(),
        reload::beside(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The trials that run by themselves, in this order.
pub(crate) fn alone() -> Vec<Trial> {
    [
        lab::trials(),
        check::trials(),
        calls::trials(),
        datagrams::trials(),
        wildcard::trials(),
        streams::trials(),
        answers::trials(),
        generated::trials(),
        services::trials(),
        uring::trials(),
        collectors::trials(),
        outputs::trials(),
        midstream::trials(),
        comparison::trials(),
        tree::trials(),
        foreign::trials(),
        referee::trials(),
        native::trials(),
        readers::trials(),
        formats::trials(),
        presentation::trials(),
        events::trials(),
        failures::trials(),
        faults::trials(),
        filters::trials(),
        observe::trials(),
        top::trials(),
        report::trials(),
        privileges::trials(),
        pdns::trials(),
        package::trials(),
        hostile::trials(),
        hostile_peers::trials(),
        processes::trials(),
        volume::trials(),
        reattach::trials(),
        reload::trials(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The trial that runs behind all others, if there was a tap among them.
pub(crate) fn after_all() -> Trial {
    trial(
        "nothing of any tap stays in the kernel".into(),
        kernel::expect_nothing_of_taps,
    )
}

/// One trial for each combination.
fn for_each_combination(name: &str, test: fn(&Combination) -> Result<()>) -> Vec<Trial> {
    combinations()
        .into_iter()
        .map(|how| trial(format!("{how}: {name}"), move || test(&how)))
        .collect()
}

/// Each hook with one of the rings, in turn, so that each ring is there too: for what is decided before a message comes to its ring.
fn for_each_hook_in_turn(name: &str, test: fn(&Combination) -> Result<()>) -> Vec<Trial> {
    diagonal(combinations())
        .into_iter()
        .map(|how| trial(format!("{how}: {name}"), move || test(&how)))
        .collect()
}

/// The first hook with the first ring, the second with the second, and so on; what there is less of begins again.
fn diagonal(combinations: Vec<Combination>) -> Vec<Combination> {
    let first = combinations.first().map(|how| how.hook.clone());
    let of_first = |how: &&Combination| Some(&how.hook) == first.as_ref();
    let rings = combinations.iter().filter(of_first).count().max(1);
    let hooks = (combinations.len() / rings).max(1);
    combinations
        .into_iter()
        .enumerate()
        .filter(|(at, _)| {
            let (hook, ring) = (at / rings, at % rings);
            hook % rings == ring % hooks
        })
        .map(|(_, how)| how)
        .collect()
}

/// One trial for each hook, with the first of the rings: for what does not differ between rings.
fn for_each_hook(name: &str, test: fn(&Combination) -> Result<()>) -> Vec<Trial> {
    let combinations = combinations();
    let ring = combinations.first().map(|how| how.ring.clone());
    combinations
        .into_iter()
        .filter(|how| Some(&how.ring) == ring.as_ref())
        .map(|how| trial(format!("{how}: {name}"), move || test(&how)))
        .collect()
}

/// The tap must have recorded these messages, and no other.
fn expect_records(tapped: &Tapped, expected: &[Record]) -> Result<()> {
    let records: Vec<_> = tapped
        .records()?
        .into_iter()
        .map(Record::with_plain_kind)
        .collect();
    let strict = Rules {
        outside: &|_| None,
        unknown: &|_| None,
        only_ours: &|_| None,
    };
    let comparison = compare(expected, &records, &strict);
    ensure!(comparison.holds(), "{comparison}{}", tapped.summary);
    tapped.summary.expect_written(records.len())
}

/// The kernel side's counters must have these values.
fn expect_counters(tapped: &Tapped, expected: &[(&str, usize)]) -> Result<()> {
    for (counter, expected) in expected {
        let counted = tapped.summary.kernel(counter)?;
        ensure!(
            counted == *expected as u64,
            "{counter}: {counted}, expected {expected}\n{}",
            tapped.summary
        );
    }
    Ok(())
}

/// A trial that is skipped when the test ends with a [`Skip`].
fn trial(name: String, test: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    let label = name.clone();
    Trial::ignorable_test(name, move || {
        let began = Instant::now();
        let result = test();
        TIMES
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((began.elapsed(), label.clone()));
        match result {
            Ok(()) => Ok(Completion::Completed),
            Err(error) => match error.downcast_ref::<Skip>() {
                Some(reason) => {
                    note(format!("SKIP {label}: {reason}"));
                    Ok(Completion::ignored_with(reason))
                }
                None => Err(format!("{error:#}").into()),
            },
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_turn_each_hook_and_each_ring_is_there_and_what_there_is_more_of_once() {
        let in_turn = |hooks: &[&str], rings: &[&str]| {
            let all = hooks.iter().flat_map(|hook| {
                rings.iter().map(|ring| Combination {
                    hook: (*hook).to_owned(),
                    ring: (*ring).to_owned(),
                })
            });
            let chosen = diagonal(all.collect());
            let texts: Vec<_> = chosen
                .iter()
                .map(|how| format!("{} {}", how.hook, how.ring))
                .collect();
            texts.join(", ")
        };
        let both = &["bpf", "perf"];
        assert_eq!(in_turn(&["a", "b"], both), "a bpf, b perf");
        assert_eq!(in_turn(&["a", "b", "c"], both), "a bpf, b perf, c bpf");
        assert_eq!(in_turn(&["a"], both), "a bpf, a perf");
        assert_eq!(in_turn(&["a", "b"], &["bpf"]), "a bpf, b bpf");
        assert_eq!(in_turn(&[], both), "");
    }
}

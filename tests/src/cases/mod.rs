//! The cases. Each module returns its trials. Names of trials are sentences with the parameters at the front.
//!
//! Most cases run alone, because they measure the machine or share something that exists once. Taps share one kernel,
//! in which they must leave nothing. Loads, and limits on time and memory, are meaningful only on processors that
//! nothing else uses. Some cases look at descriptors, processes and names of the whole machine.
//!
//! A few cases wait for most of their time. These run at the same time, [`COMPANY`] at once. Each has its own `receive`
//! agents with their own names, in its own folder, and on ports that the kernel has just assigned. It attaches to
//! nothing, and counts messages, of which at most ten pass in a millisecond. Its expectations do not depend on speed:
//! each message is delivered or counted. If no message may be missing, a queue holds at least those of 700 ms. These
//! cases wait for
//!
//! - a time-out of the agent: ten seconds for a START (`hostile_peers`), five for a handshake (`faults::tls`,
//!   `outputs`); and for its growing pauses before it tries again (`faults::tls`);
//! - a disk that must work again or have room again (`faults::disk`, `outputs`), and a pipe that must be read
//!   (`faults::disk`);
//! - starts and ends of a collector (`collectors`, `outputs`), rotations (`outputs`), and reloads (`reload`).
//!
//! Other cases of the same modules run alone: those that look at the agent's memory (`outputs`, `hostile_peers`), that
//! send as fast as possible and end at a given moment (`outputs`), that run `named` (`collectors`), and those that are
//! done quickly.

mod answers;
mod calls;
mod check;
mod collectors;
mod comparison;
mod containers;
mod datagrams;
mod decisions;
mod encrypted;
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
mod multipath;
mod native;
mod observe;
mod outputs;
mod package;
mod pdns;
mod portable;
mod presentation;
mod privileges;
mod probes;
mod processes;
mod readers;
mod reattach;
mod referee;
mod reload;
mod report;
mod rpm;
mod server_events;
mod services;
mod streams;
mod tables;
mod top;
mod tree;
mod uring;
mod volume;
mod ways;
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

/// Number of trials that run at the same time, of those that may.
const COMPANY: usize = 4;

/// Trials that took less than this are not listed by [`times`].
const SHORT: Duration = Duration::from_secs(1);

/// Duration of each trial, with its name.
static TIMES: Mutex<Vec<(Duration, String)>> = Mutex::new(Vec::new());

/// Messages of the trials in addition to their results, one line or more each.
static NOTES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Stores a message to print after the last trial, because libtest-mimic is in the middle of a line while a trial runs.
fn note(text: String) {
    NOTES
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(text);
}

/// Returns the messages of the trials so far, including a line `SKIP name: reason` for each skipped one.
pub(crate) fn notes() -> Vec<String> {
    NOTES.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Returns the durations of the longest trials, one line each, longest first. libtest-mimic does not print them.
pub(crate) fn times() -> Vec<String> {
    let mut times = TIMES.lock().unwrap_or_else(PoisonError::into_inner).clone();
    times.retain(|(took, _)| *took >= SHORT);
    times.sort_unstable();
    let line = |(took, name): &(Duration, String)| format!("{:6.1} s  {name}", took.as_secs_f64());
    times.iter().rev().map(line).collect()
}

/// Returns the number of threads for the trials of [`beside_each_other`]. It is one if the machine is the tests' own:
/// such a machine is emulated, and everything takes long there.
pub(crate) fn threads() -> usize {
    match environment::own_machine() {
        Ok(()) => 1,
        Err(_) => COMPANY,
    }
}

/// Returns the trials that may run at the same time: they wait for most of their time, and share nothing. The longest
/// ones begin first.
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

/// Returns the trials that run alone, in this order.
pub(crate) fn alone() -> Vec<Trial> {
    [
        lab::trials(),
        check::trials(),
        calls::trials(),
        datagrams::trials(),
        wildcard::trials(),
        streams::trials(),
        multipath::trials(),
        answers::trials(),
        generated::trials(),
        services::trials(),
        uring::trials(),
        ways::trials(),
        collectors::trials(),
        outputs::trials(),
        midstream::trials(),
        comparison::trials(),
        tree::trials(),
        probes::trials(),
        decisions::trials(),
        encrypted::trials(),
        foreign::trials(),
        referee::trials(),
        native::trials(),
        readers::trials(),
        formats::trials(),
        presentation::trials(),
        events::trials(),
        server_events::trials(),
        failures::trials(),
        faults::trials(),
        filters::trials(),
        observe::trials(),
        top::trials(),
        report::trials(),
        privileges::trials(),
        pdns::trials(),
        tables::trials(),
        package::trials(),
        containers::trials(),
        portable::trials(),
        rpm::trials(),
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

/// Returns the trial that runs after all others, if one of them had a tap.
pub(crate) fn after_all() -> Trial {
    trial(
        "nothing of any tap stays in the kernel".into(),
        kernel::expect_nothing_of_taps,
    )
}

/// Makes one trial for each combination.
fn for_each_combination(name: &str, test: fn(&Combination) -> Result<()>) -> Vec<Trial> {
    combinations()
        .into_iter()
        .map(|how| trial(format!("{how}: {name}"), move || test(&how)))
        .collect()
}

/// Makes one trial for each hook, with the rings in turn, so that each ring is used. This is for behaviour that is
/// decided before a message reaches its ring.
fn for_each_hook_in_turn(name: &str, test: fn(&Combination) -> Result<()>) -> Vec<Trial> {
    diagonal(combinations())
        .into_iter()
        .map(|how| trial(format!("{how}: {name}"), move || test(&how)))
        .collect()
}

/// Selects the first hook with the first ring, the second with the second, and so on. The shorter list is repeated.
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

/// Makes one trial for each hook, with the first ring, for behaviour that does not differ between rings.
fn for_each_hook(name: &str, test: fn(&Combination) -> Result<()>) -> Vec<Trial> {
    let combinations = combinations();
    let ring = combinations.first().map(|how| how.ring.clone());
    combinations
        .into_iter()
        .filter(|how| Some(&how.ring) == ring.as_ref())
        .map(|how| trial(format!("{how}: {name}"), move || test(&how)))
        .collect()
}

/// Checks that the tap has recorded these messages and no other.
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

/// Checks that the kernel side's counters have these values.
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

/// Makes a trial that is skipped if the test ends with a [`Skip`].
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

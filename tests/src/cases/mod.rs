//! The cases. Each module returns its trials; names are sentences with the parameters in front.

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
mod hostile;
mod hostile_peers;
mod lab;
mod midstream;
mod native;
mod observe;
mod outputs;
mod package;
mod privileges;
mod processes;
mod readers;
mod reattach;
mod reload;
mod services;
mod streams;
mod top;
mod tree;
mod uring;
mod volume;
mod wildcard;

use std::sync::{Mutex, PoisonError};

use anyhow::{Result, ensure};
use libtest_mimic::{Completion, Trial};

use crate::{
    compare::{Rules, compare},
    environment::{Combination, Skip, combinations},
    kernel,
    record::Record,
    tap::Tapped,
};

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

/// All trials, in the order in which they run.
pub(crate) fn all() -> Vec<Trial> {
    [
        lab::trials(),
        check::trials(),
        calls::trials(),
        datagrams::trials(),
        wildcard::trials(),
        streams::trials(),
        answers::trials(),
        services::trials(),
        uring::trials(),
        collectors::trials(),
        outputs::trials(),
        midstream::trials(),
        comparison::trials(),
        tree::trials(),
        foreign::trials(),
        native::trials(),
        readers::trials(),
        formats::trials(),
        events::trials(),
        failures::trials(),
        faults::trials(),
        filters::trials(),
        observe::trials(),
        top::trials(),
        privileges::trials(),
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
    Trial::ignorable_test(name, move || match test() {
        Ok(()) => Ok(Completion::Completed),
        Err(error) => match error.downcast_ref::<Skip>() {
            Some(reason) => {
                note(format!("SKIP {label}: {reason}"));
                Ok(Completion::ignored_with(reason))
            }
            None => Err(format!("{error:#}").into()),
        },
    })
}

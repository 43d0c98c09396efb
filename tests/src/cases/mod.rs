//! The cases. Each module returns its trials; names are sentences with the parameters in front.

mod calls;
mod check;
mod collectors;
mod comparison;
mod failures;
mod lab;
mod midstream;
mod readers;
mod reattach;
mod volume;

use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use libtest_mimic::{Completion, Trial};

use crate::environment::Skip;

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
        collectors::trials(),
        midstream::trials(),
        comparison::trials(),
        readers::trials(),
        failures::trials(),
        volume::trials(),
        reattach::trials(),
    ]
    .into_iter()
    .flatten()
    .collect()
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

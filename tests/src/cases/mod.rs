//! The cases. Each module returns its trials; names are sentences with the parameters in front.

mod calls;
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

/// What was skipped so far, one line each.
static SKIPPED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// One line for each trial that was skipped, with the reason.
pub(crate) fn skipped() -> Vec<String> {
    SKIPPED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}

/// All trials, in the order in which they run.
pub(crate) fn all() -> Vec<Trial> {
    [
        lab::trials(),
        calls::trials(),
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
                SKIPPED
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(format!("SKIP {label}: {reason}"));
                Ok(Completion::ignored_with(reason))
            }
            None => Err(format!("{error:#}").into()),
        },
    })
}

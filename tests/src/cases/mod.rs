//! The cases. Each module returns its trials; names are sentences with the parameters in front.

mod calls;
mod comparison;
mod lab;

use anyhow::Result;
use libtest_mimic::{Completion, Trial};

use crate::environment::Skip;

/// All trials, in the order in which they run.
pub(crate) fn all() -> Vec<Trial> {
    [lab::trials(), calls::trials(), comparison::trials()]
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
                eprintln!("SKIP {label}: {reason}");
                Ok(Completion::ignored_with(reason))
            }
            None => Err(format!("{error:#}").into()),
        },
    })
}

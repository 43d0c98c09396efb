//! The account of a source of messages, in every form in which it is shown.

use std::fmt;

use dnstap_core::account::Hop;
use serde_json::Value;

use super::Loss;
use crate::{observe::families::Families, sinks::Takes};

/// What a source of messages has counted. Each source has one implementation; nothing else knows which sources there are.
pub(crate) trait SourceAccount: fmt::Debug + Send + Sync {
    /// What came and what was lost, in few figures: the same names, in the same order, for each account of a source.
    fn totals(&self) -> Vec<(&'static str, u64)>;

    /// The members of the summary's JSON object that belong to the source.
    fn to_json(&self) -> Value;

    /// Writes the account for people, in lines. `seconds` is how long the command has been at work.
    fn describe(&self, seconds: f64, formatter: &mut fmt::Formatter<'_>) -> fmt::Result;

    /// Writes the lines that only a running command shows.
    fn describe_running(&self, _formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }

    /// All losses, in the order of the journey; counts of 0 may be among them.
    fn losses(&self) -> Vec<Loss>;

    /// The balances of the hops between the source and the outputs. `at_rest`: nothing is under way any more.
    fn hops(&self, _at_rest: bool) -> Vec<Hop<'static>> {
        Vec::new()
    }

    /// What there was for each output that takes `takes`.
    fn offered(&self, takes: Takes) -> Offered;

    /// Adds the metric families of the source.
    fn metrics(&self, all: &mut Families);
}

/// What a source had for an output: messages, or notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offered {
    /// Those that were ready for the output.
    pub ready: u64,
    /// Those of them that must have been handed over already, though the command is still running.
    pub handed_over: u64,
}

/// Builds a JSON object from names and counts.
pub(super) fn object<'a>(counts: impl Iterator<Item = (&'a str, u64)>) -> Value {
    let members: serde_json::Map<_, _> = counts
        .map(|(name, count)| (name.to_owned(), count.into()))
        .collect();
    members.into()
}

/// Prints `name 3, other 4`, without zero counts.
pub(super) fn list(counts: impl IntoIterator<Item = (&'static str, u64)>, nothing: &str) -> String {
    let parts: Vec<_> = counts
        .into_iter()
        .filter(|&(_, count)| count != 0)
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    if parts.is_empty() {
        nothing.to_owned()
    } else {
        parts.join(", ")
    }
}

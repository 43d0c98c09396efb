//! The account of a source of messages, in every form in which it is shown.

use std::fmt;

use dnstap_core::account::Hop;
use serde_json::Value;

use super::Loss;
use crate::{observe::families::Families, sinks::Takes};

/// Account of a source of messages. Each source has one implementation; no other code knows which
/// sources exist.
pub(crate) trait SourceAccount: fmt::Debug + Send + Sync {
    /// Returns a few totals of messages that came and were lost. All accounts of a source have the
    /// same names in the same order.
    fn totals(&self) -> Vec<(&'static str, u64)>;

    /// Returns the source's members of the summary's JSON object.
    fn to_json(&self) -> Value;

    /// Writes the account for people, in lines. `seconds`: run time of the command.
    fn describe(&self, seconds: f64, formatter: &mut fmt::Formatter<'_>) -> fmt::Result;

    /// Writes the lines that only a running command shows.
    fn describe_running(&self, _formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }

    /// Returns all losses in the order of the stages. Counts may be 0.
    fn losses(&self) -> Vec<Loss>;

    /// Returns the balances of the hops between the source and the outputs. `at_rest`: no message
    /// is on its way any more.
    fn hops(&self, _at_rest: bool) -> Vec<Hop<'static>> {
        Vec::new()
    }

    /// Returns the amounts for an output that accepts `takes`.
    fn offered(&self, takes: Takes) -> Offered;

    /// Returns the number of processes that found no room among the tapped ones.
    fn unfollowed(&self) -> u64 {
        0
    }

    /// Adds the metric families of the source.
    fn metrics(&self, all: &mut Families);
}

/// Messages or notices that a source had for an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offered {
    /// Number that was ready for the output.
    pub ready: u64,
    /// Number of these that must have been handed over already, even if the command is still
    /// running.
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

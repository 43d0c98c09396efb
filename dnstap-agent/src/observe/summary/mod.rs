//! A snapshot of all counters, while running and at the end: messages seen, delivered and lost, as
//! text and as JSON. The names of the counters in this module are used everywhere.

mod account;
pub(crate) mod conservation;
mod losses;
mod received;
mod tapped;

use std::{fmt, fs, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::Value;

pub(crate) use self::{
    account::{Offered, SourceAccount},
    losses::Loss,
    tapped::{RingUse, Settled, Tapped},
};
use crate::{
    host::{
        exit::{Exit, ExitWith},
        log,
    },
    sinks::{SinkReport, SinkState, Takes},
};

/// Counters of every stage.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    /// Run time of the command.
    pub elapsed: Duration,
    /// Whether all work has ended, so that no message is on its way.
    pub at_rest: bool,
    /// The account of the source of the messages.
    pub source: Arc<dyn SourceAccount>,
    /// Accounts of the outputs.
    pub outputs: Vec<SinkReport>,
}

/// Ends a command that wrote to outputs: prints the account to standard error and writes it as JSON
/// to `path`, if given. Names each output that failed; the exit code is an error if there is one.
pub(crate) fn conclude(snapshot: &Snapshot, path: Option<&Path>) -> Result<Exit> {
    log::say(snapshot);
    if let Some(path) = path {
        fs::write(path, format!("{}\n", snapshot.to_json())).with_context(|| {
            ExitWith(
                Exit::CannotCreate,
                format!("cannot write the summary to {}", path.display()),
            )
        })?;
    }
    let mut exit = Exit::Ok;
    for output in &snapshot.outputs {
        if let SinkState::Failed(error) = &output.state {
            log::say(format_args!("error: {error}\n"));
            exit = Exit::Output;
        }
    }
    Ok(exit)
}

impl Snapshot {
    /// Returns the accounts of the outputs that accept `takes`.
    pub(crate) fn outputs_of(&self, takes: Takes) -> impl Iterator<Item = &SinkReport> {
        let outputs = self.outputs.iter();
        outputs.filter(move |output| output.takes == takes)
    }

    /// Returns a few totals of messages that came, were delivered and were lost. A command always
    /// has the same ones.
    #[must_use]
    pub(crate) fn totals(&self) -> Vec<(&'static str, u64)> {
        let dropped = self.outputs.iter().map(|output| output.dropped.total());
        let mut totals = self.source.totals();
        totals.push(("dropped_by_outputs", dropped.sum()));
        totals
    }

    /// Returns the snapshot as a JSON object; see `docs/operations.md` for the members.
    #[must_use]
    pub(crate) fn to_json(&self) -> Value {
        let mut all = self.source.to_json();
        if let Some(events) = self.outputs_of(Takes::Notices).next() {
            all["events"] = events.to_json();
        }
        let hops = conservation::hops(self);
        all["seconds"] = self.elapsed.as_secs_f64().into();
        for (member, takes) in [
            ("outputs", Takes::Messages),
            ("event_outputs", Takes::Events),
        ] {
            let outputs = self.outputs_of(takes);
            all[member] = outputs.map(SinkReport::to_json).collect();
        }
        all["unaccounted"] = dnstap_core::account::unaccounted(&hops).into();
        all["conservation"] = conservation::to_json(&hops);
        all
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.elapsed.as_secs_f64();
        self.source.describe(seconds, formatter)?;
        for events in self.outputs_of(Takes::Notices) {
            writeln!(formatter, "events: {events}")?;
        }
        for takes in [Takes::Messages, Takes::Events] {
            for output in self.outputs_of(takes) {
                writeln!(formatter, "{output}")?;
            }
        }
        for hop in conservation::hops(self) {
            if hop.unaccounted != 0 {
                writeln!(formatter, "warning: {hop}: a defect of the agent")?;
            }
        }
        Ok(())
    }
}

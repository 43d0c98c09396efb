//! The newest snapshot and the previous one, which together give rates.

use std::{fmt, process, sync::Arc};

use serde_json::Value;
use tokio::sync::watch;

use super::Newest;
use crate::{
    observe::summary::{Snapshot, conservation},
    sinks::Takes,
};

/// Publishes snapshots; never waits for readers.
#[derive(Debug)]
pub(crate) struct Publisher {
    newest: watch::Sender<Option<Arc<Published>>>,
}

/// Snapshots for readers.
#[derive(Debug)]
pub(crate) struct Published {
    /// Newest snapshot.
    pub now: Arc<Snapshot>,
    /// Previous snapshot; the same one if there is none.
    pub before: Arc<Snapshot>,
}

impl Publisher {
    /// Creates both sides; nothing is published yet.
    #[must_use]
    pub(crate) fn new() -> (Self, Newest) {
        let (newest, watching) = watch::channel(None);
        (Self { newest }, watching)
    }

    /// Publishes a snapshot.
    pub(crate) fn publish(&self, snapshot: Snapshot) {
        let now = Arc::new(snapshot);
        let before = self
            .newest
            .borrow()
            .as_ref()
            .map_or_else(|| Arc::clone(&now), |published| Arc::clone(&published.now));
        self.newest
            .send_replace(Some(Arc::new(Published { now, before })));
    }
}

impl Published {
    /// Returns rates per second of messages that came and were lost, between the two snapshots.
    fn rates(&self) -> Vec<(&'static str, f64)> {
        let seconds = (self.now.elapsed.saturating_sub(self.before.elapsed)).as_secs_f64();
        let pairs = self.now.totals().into_iter().zip(self.before.totals());
        pairs
            .map(|((name, now), (_, before))| {
                #[expect(
                    clippy::cast_precision_loss,
                    reason = "what comes in a second is far below 2^53"
                )]
                let more = now.saturating_sub(before) as f64;
                (name, if seconds > 0.0 { more / seconds } else { 0.0 })
            })
            .collect()
    }

    /// Returns a JSON object: the snapshot, and members that only a running command has.
    pub(super) fn to_json(&self, subject: &str) -> Value {
        let mut all = self.now.to_json();
        all["version"] = env!("CARGO_PKG_VERSION").into();
        all["pid"] = process::id().into();
        all["subject"] = subject.into();
        all["rates"] = self
            .rates()
            .into_iter()
            .map(|(name, rate)| (name.to_owned(), rate.into()))
            .collect::<serde_json::Map<_, _>>()
            .into();
        all
    }

    /// Returns the text for people.
    pub(super) fn to_text(&self, subject: &str) -> String {
        format!(
            "dnstap-agent {} (pid {}): {subject}\n{}\n{self}",
            env!("CARGO_PKG_VERSION"),
            process::id(),
            self.line(),
        )
    }

    /// Returns the rates in one line.
    pub(super) fn line(&self) -> String {
        let rates: Vec<_> = self
            .rates()
            .into_iter()
            .map(|(name, rate)| format!("{name} {rate:.1}"))
            .collect();
        format!("per second: {}", rates.join(", "))
    }
}

impl fmt::Display for Published {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.now)?;
        self.now.source.describe_running(formatter)?;
        for (takes, what) in [(Takes::Messages, "messages"), (Takes::Events, "events")] {
            for output in self.now.outputs_of(takes) {
                writeln!(
                    formatter,
                    "{}: {}; {} {what} queued ({} bytes)",
                    output.output, output.state, output.queued, output.queued_bytes
                )?;
            }
        }
        let hops = conservation::hops(&self.now);
        writeln!(
            formatter,
            "unaccounted: {}",
            dnstap_core::account::unaccounted(&hops)
        )
    }
}

/// Waits for the first snapshot: an empty one would give wrong figures.
pub(super) async fn first(mut newest: Newest) -> Option<Arc<Published>> {
    let published = newest.wait_for(Option::is_some).await.ok()?;
    published.clone()
}

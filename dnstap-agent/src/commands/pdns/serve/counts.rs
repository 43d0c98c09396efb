//! Counters of `pdns serve`, as Prometheus metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::observe::Families;

/// Counters since the start.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Requests that were answered from the store.
    pub(super) lookups: AtomicU64,
    /// Requests without a valid key.
    pub(super) denied: AtomicU64,
    /// Requests of keys that had no requests left.
    pub(super) exhausted: AtomicU64,
    /// Requests that make no sense.
    pub(super) invalid: AtomicU64,
    /// Other requests: the page, the metrics and the state of the server.
    pub(super) other: AtomicU64,
    /// RRsets and records in answers.
    pub(super) answers: AtomicU64,
    /// Look-ups that stopped because the store could not be read.
    pub(super) failed: AtomicU64,
    /// Look-ups whose client went away before the end.
    pub(super) abandoned: AtomicU64,
    /// Look-ups at work.
    pub(super) at_work: AtomicU64,
}

impl Counts {
    /// Returns the metrics in the text format.
    pub(super) fn encode(&self) -> prometheus::Result<String> {
        #[expect(
            clippy::cast_precision_loss,
            reason = "the format has floating point numbers only"
        )]
        let value = |counter: &AtomicU64| counter.load(Relaxed) as f64;
        let mut all = Families::default();
        let requests = [
            ("lookup", &self.lookups),
            ("denied", &self.denied),
            ("exhausted", &self.exhausted),
            ("invalid", &self.invalid),
            ("other", &self.other),
        ];
        all.counter(
            "pdns_requests",
            "Requests, by what became of them.",
            requests.map(|(result, counter)| (vec![("result", result)], value(counter))),
        );
        let lookups = [("failed", &self.failed), ("abandoned", &self.abandoned)];
        all.counter(
            "pdns_unfinished_lookups",
            "Look-ups that stopped early: the store could not be read, or the client went away.",
            lookups.map(|(reason, counter)| (vec![("reason", reason)], value(counter))),
        );
        all.counter(
            "pdns_answers",
            "RRsets and records in answers.",
            [(vec![], value(&self.answers))],
        );
        all.gauge(
            "pdns_lookups_at_work",
            "Look-ups at work.",
            [(vec![], value(&self.at_work))],
        );
        all.encode()
    }
}

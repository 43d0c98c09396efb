//! One output in a set. It can be added and removed while messages pass, and its account continues
//! under its name.
//!
//! ```text
//!  opened ──► ActiveOutput ── removed ──► ClosingOutput ── drained, or out of time ──► ClosedOutput
//!                ▲                                                                            │
//!                └──────────────────────── opened again, same name ───────────────────────────┘
//! ```
//!
//! This equation holds for each: `sent + absent = messages handed to the set`.

use std::time::{Duration, Instant};

use crate::sinks::{
    batch::Batch,
    forms::OutputSpec,
    queue::sink_thread::SinkThread,
    report::{SinkReport, Takes},
};

/// An output that accepts messages.
#[derive(Debug)]
pub(super) struct ActiveOutput {
    /// Specification that it was opened from.
    pub(super) spec: OutputSpec,
    pub(super) takes: Takes,
    pub(super) sink_thread: SinkThread,
    /// Messages that came while the output was not open.
    absent: u64,
    /// Account from when the output was open before.
    before: Option<SinkReport>,
}

/// A removed output that still writes what is queued.
#[derive(Debug)]
pub(super) struct ClosingOutput {
    output: ActiveOutput,
    /// Messages handed to the set when the output was removed.
    since: u64,
    deadline: Instant,
}

/// Account of a closed output.
#[derive(Debug)]
pub(super) struct ClosedOutput {
    report: SinkReport,
    /// Messages handed to the set when the output was removed.
    since: u64,
}

impl ActiveOutput {
    /// Creates an output that was open from the beginning.
    pub(super) fn new(spec: OutputSpec, takes: Takes, sink_thread: SinkThread) -> Self {
        Self {
            spec,
            takes,
            sink_thread,
            absent: 0,
            before: None,
        }
    }

    /// Adds the output after this many messages were handed to the set; `before` is its earlier
    /// account.
    pub(super) fn come(&mut self, handed: u64, before: Option<ClosedOutput>) {
        self.absent = handed;
        if let Some(closed) = before {
            self.absent = closed.report.absent + (handed - closed.since);
            self.before = Some(closed.report);
        }
    }

    /// Removes the output after this many messages were handed to the set. It has `grace` to write
    /// what is queued.
    pub(super) fn leave(self, handed: u64, grace: Duration) -> ClosingOutput {
        let deadline = Instant::now() + grace;
        self.sink_thread.close(deadline);
        ClosingOutput {
            output: self,
            since: handed,
            deadline,
        }
    }

    /// Hands the batch to the output, with the views if it needs them. Never blocks.
    pub(super) fn send(&mut self, batch: &Batch) {
        if batch.views.is_none() || self.spec.0.wants_views() {
            return self.sink_thread.send(batch);
        }
        self.sink_thread
            .send(&Batch::new(batch.frames.clone(), batch.messages));
    }

    pub(super) fn report(&self) -> SinkReport {
        SinkReport {
            takes: self.takes,
            ..self
                .sink_thread
                .report()
                .after(self.before.as_ref(), self.absent)
        }
    }

    /// Waits until the output is closed or out of time. Returns the final account.
    pub(super) fn finish(self, deadline: Instant) -> SinkReport {
        let report = self.sink_thread.finish(deadline);
        SinkReport {
            takes: self.takes,
            ..report.after(self.before.as_ref(), self.absent)
        }
    }
}

impl ClosingOutput {
    /// Returns whether the account is final.
    pub(super) fn is_over(&self) -> bool {
        self.output.sink_thread.is_over(self.deadline)
    }

    pub(super) fn report(&self, handed: u64) -> SinkReport {
        self.output.report().without(handed - self.since)
    }

    /// Returns the final account. Waits until `deadline` at most, or until the output's own
    /// deadline if that is earlier.
    pub(super) fn finish(self, deadline: Instant) -> ClosedOutput {
        ClosedOutput {
            report: self.output.finish(deadline.min(self.deadline)),
            since: self.since,
        }
    }
}

impl ClosedOutput {
    pub(super) fn name(&self) -> &str {
        &self.report.output
    }

    pub(super) fn report(&self, handed: u64) -> SinkReport {
        self.report.clone().without(handed - self.since)
    }
}

//! Owns one output's membership of a set: it may come and go while messages pass, and its account goes on under its name.
//!
//! ```text
//!  opened ──► ActiveOutput ── removed ──► ClosingOutput ── drained, or out of time ──► ClosedOutput
//!                ▲                                                                            │
//!                └──────────────────────── opened again, same name ───────────────────────────┘
//! ```
//!
//! The law of each: `sent + absent = messages handed to the set`.

use std::time::{Duration, Instant};

use crate::sinks::{
    batch::Batch,
    forms::OutputSpec,
    queue::sink_thread::SinkThread,
    report::{SinkReport, Takes},
};

/// An output that takes messages.
#[derive(Debug)]
pub(super) struct ActiveOutput {
    /// What it was opened from.
    pub(super) spec: OutputSpec,
    pub(super) takes: Takes,
    pub(super) sink_thread: SinkThread,
    /// Messages that came while it was not there.
    absent: u64,
    /// What became of the messages when it was there before.
    before: Option<SinkReport>,
}

/// An output that takes no more messages, and has some to write.
#[derive(Debug)]
pub(super) struct ClosingOutput {
    output: ActiveOutput,
    /// Messages that the set had been handed when it left.
    since: u64,
    deadline: Instant,
}

/// The account of an output that was there.
#[derive(Debug)]
pub(super) struct ClosedOutput {
    report: SinkReport,
    /// Messages that the set had been handed when it left.
    since: u64,
}

impl ActiveOutput {
    /// An output that was there from the beginning.
    pub(super) fn new(spec: OutputSpec, takes: Takes, sink_thread: SinkThread) -> Self {
        Self {
            spec,
            takes,
            sink_thread,
            absent: 0,
            before: None,
        }
    }

    /// It comes when the set has been handed so many messages; `before` is what became of it earlier.
    pub(super) fn come(&mut self, handed: u64, before: Option<ClosedOutput>) {
        self.absent = handed;
        if let Some(closed) = before {
            self.absent = closed.report.absent + (handed - closed.since);
            self.before = Some(closed.report);
        }
    }

    /// It goes when the set has been handed so many messages, and has `grace` for what is queued.
    pub(super) fn leave(self, handed: u64, grace: Duration) -> ClosingOutput {
        let deadline = Instant::now() + grace;
        self.sink_thread.close(deadline);
        ClosingOutput {
            output: self,
            since: handed,
            deadline,
        }
    }

    /// Hands it the batch, with the views if it wants them. Never blocks.
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

    /// Waits until it is closed or out of time, and gives its final account.
    pub(super) fn finish(self, deadline: Instant) -> SinkReport {
        let report = self.sink_thread.finish(deadline);
        SinkReport {
            takes: self.takes,
            ..report.after(self.before.as_ref(), self.absent)
        }
    }
}

impl ClosingOutput {
    /// Whether its account is final.
    pub(super) fn is_over(&self) -> bool {
        self.output.sink_thread.is_over(self.deadline)
    }

    pub(super) fn report(&self, handed: u64) -> SinkReport {
        self.output.report().without(handed - self.since)
    }

    /// Its final account, for which it has no longer than up to `deadline`, if that is earlier than its own.
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

//! Owns one output's membership of a set: it may come and go while messages pass, and its account goes on under its name.
//!
//! ```text
//!  opened ──► Member ── removed ──► Leaving ── drained, or out of time ──► Gone
//!                ▲                                                          │
//!                └──────────────── opened again, same name ─────────────────┘
//! ```
//!
//! The law of each: `sent + absent = messages handed to the set`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::{
    Batch, OutputSpec,
    lane::Lane,
    report::{SinkReport, Takes},
    socket::SocketLane,
};

/// How messages get to an output.
#[derive(Debug)]
pub(super) enum Way {
    Thread(Lane),
    Socket(SocketLane),
}

/// An output that takes messages.
#[derive(Debug)]
pub(super) struct Member {
    /// What it was opened from; none for a function in this process.
    pub(super) spec: Option<OutputSpec>,
    pub(super) takes: Takes,
    way: Way,
    /// Messages that came while it was not there.
    absent: u64,
    /// What became of the messages when it was there before.
    before: Option<SinkReport>,
}

/// An output that takes no more messages, and has some to write.
#[derive(Debug)]
pub(super) struct Leaving {
    member: Member,
    /// Messages that the set had been handed when it left.
    since: u64,
    deadline: Instant,
}

/// The account of an output that was there.
#[derive(Debug)]
pub(super) struct Gone {
    report: SinkReport,
    /// Messages that the set had been handed when it left.
    since: u64,
}

impl Member {
    /// An output that was there from the beginning.
    pub(super) fn new(spec: Option<OutputSpec>, way: Way) -> Self {
        Self {
            spec,
            takes: Takes::default(),
            way,
            absent: 0,
            before: None,
        }
    }

    /// It comes when the set has been handed so many messages; `before` is what became of it earlier.
    pub(super) fn come(&mut self, handed: u64, before: Option<Gone>) {
        self.absent = handed;
        if let Some(gone) = before {
            self.absent = gone.report.absent + (handed - gone.since);
            self.before = Some(gone.report);
        }
    }

    /// It goes when the set has been handed so many messages, and has `grace` for what is queued.
    pub(super) fn leave(mut self, handed: u64, grace: Duration) -> Leaving {
        let deadline = Instant::now() + grace;
        self.close(deadline);
        Leaving {
            member: self,
            since: handed,
            deadline,
        }
    }

    /// Hands it the batch. Never blocks.
    pub(super) fn send(&mut self, batch: &Batch) {
        match &mut self.way {
            Way::Thread(lane) => lane.send(batch),
            Way::Socket(lane) => lane.send(batch),
        }
    }

    pub(super) fn has_room(&self, bytes: usize) -> bool {
        match &self.way {
            Way::Thread(lane) => lane.has_room(bytes),
            Way::Socket(lane) => lane.has_room(bytes),
        }
    }

    /// What tells it that its files may have been renamed, if it has any.
    pub(super) fn reopen(&self) -> Option<Arc<Notify>> {
        match &self.way {
            Way::Thread(lane) => Some(lane.reopen()),
            Way::Socket(_) => None,
        }
    }

    pub(super) fn report(&self) -> SinkReport {
        let report = match &self.way {
            Way::Thread(lane) => lane.report(),
            Way::Socket(lane) => lane.report(),
        };
        SinkReport {
            takes: self.takes,
            ..report.after(self.before.as_ref(), self.absent)
        }
    }

    /// Nothing more is to come: it may end when it has written what is queued.
    pub(super) fn close(&mut self, deadline: Instant) {
        match &mut self.way {
            Way::Thread(lane) => lane.close(),
            Way::Socket(lane) => lane.close(deadline),
        }
    }

    /// Waits until it is closed or out of time, and gives its final account.
    pub(super) fn finish(mut self, deadline: Instant) -> SinkReport {
        self.close(deadline);
        let Self {
            takes,
            way,
            absent,
            before,
            ..
        } = self;
        let report = match way {
            Way::Thread(lane) => lane.finish(deadline),
            Way::Socket(lane) => lane.finish(),
        };
        SinkReport {
            takes,
            ..report.after(before.as_ref(), absent)
        }
    }
}

impl Leaving {
    /// Whether its account is final.
    pub(super) fn is_over(&self) -> bool {
        match &self.member.way {
            Way::Thread(lane) => lane.has_ended() || Instant::now() >= self.deadline,
            // It keeps to the deadline by itself.
            Way::Socket(lane) => lane.has_ended(),
        }
    }

    pub(super) fn report(&self, handed: u64) -> SinkReport {
        let report = self.member.report();
        let absent = report.absent + (handed - self.since);
        SinkReport { absent, ..report }
    }

    pub(super) fn finish(self) -> Gone {
        Gone {
            report: self.member.finish(self.deadline),
            since: self.since,
        }
    }
}

impl Gone {
    pub(super) fn name(&self) -> &str {
        &self.report.output
    }

    pub(super) fn report(&self, handed: u64) -> SinkReport {
        let report = self.report.clone();
        let absent = report.absent + (handed - self.since);
        SinkReport { absent, ..report }
    }
}

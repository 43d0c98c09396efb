//! Owns what is known about each sink: messages sent to it, written, dropped by reason, still queued.
//!
//! The law, at any moment when nothing is being sent or written, and always in the final report:
//! `sent = written + dropped + queued`.

mod account;
mod delay;

use std::fmt;

use serde_json::{Value, json};

pub(super) use self::account::{Account, FileCounters, add};
pub use self::{
    account::{Dropped, Files},
    delay::Delay,
};

/// What a sink takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Takes {
    /// Messages.
    #[default]
    Messages,
    /// Notices; each counts as a message.
    Notices,
}

/// One sink's account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkReport {
    /// What it takes.
    pub takes: Takes,
    /// The output as the operator named it, `file:/tmp/a.fstrm`.
    pub output: String,
    /// Whether it still takes messages, and if not, why.
    pub state: SinkState,
    /// Messages handed to this sink.
    pub sent: u64,
    /// Messages that came before this sink was there, or while it was not.
    pub absent: u64,
    /// Messages that are whole in the output; of a socket: handed whole to the system.
    pub written: u64,
    /// Bytes of these in the output (frames or lines, without the Frame Streams control frames).
    pub written_bytes: u64,
    /// Of those written: at most so many may not have been read by a collector that went away without a word. Over TCP,
    /// where its host takes what it does not read, more may be.
    pub unconfirmed: u64,
    /// Connections to the collector that came to be, with the handshake.
    pub connections: u64,
    /// Messages that are not in the output.
    pub dropped: Dropped,
    /// What became of its files.
    pub files: Files,
    /// Messages taken and not yet written.
    pub queued: u64,
    /// Bytes of frames that these hold.
    pub queued_bytes: u64,
    /// How long messages took from the server to the output, if it is a file and they tell their times.
    pub delay: Option<Delay>,
}

impl SinkReport {
    /// Bytes that wait in all of these.
    #[must_use]
    pub fn queued_in(reports: &[Self]) -> u64 {
        reports.iter().map(|report| report.queued_bytes).sum()
    }

    /// `sent = written + dropped + queued`.
    #[must_use]
    pub fn is_balanced(&self) -> bool {
        self.sent == self.written + self.dropped.total() + self.queued
    }

    /// The account of a sink that was there before, with that account, and was not there for so many messages.
    #[must_use]
    pub(in crate::sinks) fn after(self, before: Option<&Self>, absent: u64) -> Self {
        let Some(before) = before else {
            return Self { absent, ..self };
        };
        Self {
            sent: self.sent + before.sent,
            absent,
            written: self.written + before.written,
            written_bytes: self.written_bytes + before.written_bytes,
            unconfirmed: self.unconfirmed + before.unconfirmed,
            connections: self.connections + before.connections,
            dropped: self.dropped.and(&before.dropped),
            files: self.files.and(&before.files),
            delay: self.delay.or(before.delay),
            ..self
        }
    }

    /// The account after so many messages that came while it was not there.
    #[must_use]
    pub(in crate::sinks) fn without(self, messages: u64) -> Self {
        let absent = self.absent + messages;
        Self { absent, ..self }
    }

    /// As one JSON object; see `docs/operations.md` for the members.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let dropped: serde_json::Map<_, _> = self
            .dropped
            .by_reason()
            .iter()
            .map(|&(reason, count)| (reason.to_owned(), count.into()))
            .collect();
        let error = match &self.state {
            SinkState::Failed(error) | SinkState::Waiting(error) => Some(error.as_str()),
            _ => None,
        };
        json!({
            "output": self.output,
            "sent": self.sent,
            "absent": self.absent,
            "written": self.written,
            "written_bytes": self.written_bytes,
            "unconfirmed": self.unconfirmed,
            "connections": self.connections,
            "dropped": dropped,
            "queued": self.queued,
            "queued_bytes": self.queued_bytes,
            "state": self.state.name(),
            "delay_ns": self.delay.map(|delay| json!({"p50": delay.p50_ns, "p99": delay.p99_ns, "max": delay.max_ns})),
            "rotations": self.files.rotations,
            "reopened": self.files.reopened,
            "rotation_errors": self.files.rotation_errors,
            "command_errors": self.files.command_errors,
            "error": error,
        })
    }
}

impl fmt::Display for SinkReport {
    /// One line without its end, for the summary.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            output,
            written,
            written_bytes,
            ..
        } = self;
        write!(
            f,
            "{output}: {written} messages written, {written_bytes} bytes; dropped: "
        )?;
        let reasons = self.dropped.by_reason();
        let mut reasons = reasons.iter().filter(|(_, count)| *count > 0).peekable();
        if reasons.peek().is_none() {
            f.write_str("none")?;
        }
        for (nth, (reason, count)) in reasons.enumerate() {
            let separator = if nth == 0 { "" } else { ", " };
            write!(f, "{separator}{reason} {count}")?;
        }
        if self.unconfirmed > 0 {
            write!(f, "; not confirmed: {}", self.unconfirmed)?;
        }
        for (what, count) in self.files.table() {
            if count > 0 {
                write!(f, "; {}: {count}", what.replace('_', " "))?;
            }
        }
        Ok(())
    }
}

impl Dropped {
    /// The reasons and their counts, in a fixed order, for summaries and metrics.
    #[must_use]
    pub fn by_reason(&self) -> [(&'static str, u64); Self::COUNT] {
        self.table()
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.table().iter().map(|(_, count)| count).sum()
    }
}

/// Whether a sink still works.
///
/// ```text
/// Running --write fails--> Failed
///  | ^ | \--reader of the pipe gone--> Closed
///  | |  \--finish--> Finished
///  v |
/// Waiting --finish--> Finished, or Failed if messages were left or the disk was full
/// ```
///
/// Sockets wait for their collector, files for room on the disk; what else fails, fails for good.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SinkState {
    /// It takes messages.
    #[default]
    Running,
    /// It has no connection or no room now, for this reason, and tries again. It still takes messages.
    Waiting(String),
    /// Drained and ended as asked.
    Finished,
    /// The reader of the pipe went away: an end, not an error.
    Closed,
    /// It takes no more messages, for this reason (names the output and the cause).
    Failed(String),
}

impl SinkState {
    /// In one word.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Waiting(_) => "waiting",
            Self::Finished => "finished",
            Self::Closed => "closed",
            Self::Failed(_) => "failed",
        }
    }

    /// Whether messages reach the output now, or all have.
    #[must_use]
    pub fn is_well(&self) -> bool {
        matches!(self, Self::Running | Self::Finished)
    }

    /// Whether nothing more can be written.
    #[must_use]
    pub fn is_over(&self) -> bool {
        !matches!(self, Self::Running | Self::Waiting(_))
    }
}

impl fmt::Display for SinkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting(reason) | Self::Failed(reason) => write!(f, "{} ({reason})", self.name()),
            _ => f.write_str(self.name()),
        }
    }
}

/// All sinks' accounts at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// One per output, in the order they were given.
    pub sinks: Vec<SinkReport>,
}

impl Health {
    /// No output is left that could take a message: the tap has no use any more.
    #[must_use]
    pub fn all_over(&self) -> bool {
        let mut sinks = self.sinks.iter();
        sinks.all(|sink| sink.takes == Takes::Notices || sink.state.is_over())
    }
}

//! The account of each sink: messages sent to it, written, dropped by reason, and still queued.
//!
//! This equation holds whenever no message is being sent or written, and always in the final
//! report:
//! `sent = written + dropped + queued`.

mod account;
mod delay;

use std::fmt;

use dnstap_proto::frame_streams::{DNSTAP_CONTENT_TYPE, EVENT_CONTENT_TYPE};
use serde_json::{Value, json};

#[cfg(feature = "kafka")]
pub(super) use self::account::BrokerCounters;
pub(super) use self::account::{Account, FileCounters, add};
pub use self::{
    account::{Broker, Dropped, Files, Records},
    delay::Delay,
};

/// What a sink accepts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Takes {
    /// Messages.
    #[default]
    Messages,
    /// Notices; each counts as a message.
    Notices,
    /// Events; each counts as a message.
    Events,
}

impl Takes {
    /// Returns the Frame Streams content type.
    pub(in crate::sinks) const fn content_type(self) -> &'static [u8] {
        match self {
            Self::Messages | Self::Notices => DNSTAP_CONTENT_TYPE,
            Self::Events => EVENT_CONTENT_TYPE,
        }
    }
}

/// One sink's account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkReport {
    /// What the sink accepts.
    pub takes: Takes,
    /// The output as the operator named it, `file:/tmp/a.fstrm`.
    pub output: String,
    /// State of the sink; if it has stopped, with the reason.
    pub state: SinkState,
    /// Messages handed to this sink.
    pub sent: u64,
    /// Messages that came while this sink was not open.
    pub absent: u64,
    /// Messages that are complete in the output. For a socket: handed completely to the system.
    pub written: u64,
    /// Bytes of these in the output (frames or lines, without the Frame Streams control frames).
    pub written_bytes: u64,
    /// Of the written messages: the most that a collector may not have read when it went away
    /// without a FINISH. Over TCP the number can be higher, because the collector's host may accept
    /// bytes that the collector never reads.
    pub unconfirmed: u64,
    /// Connections to the collector that were established, handshake included.
    pub connections: u64,
    /// Messages that are not in the output.
    pub dropped: Dropped,
    /// Counters of the output's files.
    pub files: Files,
    /// State of an output to Kafka.
    pub broker: Option<Broker>,
    /// Messages that were accepted and not yet written.
    pub queued: u64,
    /// Bytes of the queued frames.
    pub queued_bytes: u64,
    /// Time that messages took from the server to the output, if it is a file and the messages have
    /// times.
    pub delay: Option<Delay>,
}

impl SinkReport {
    /// Returns the bytes that wait in all of these sinks.
    #[must_use]
    pub fn queued_in(reports: &[Self]) -> u64 {
        reports.iter().map(|report| report.queued_bytes).sum()
    }

    /// Returns whether `sent = written + dropped + queued`.
    #[must_use]
    pub fn is_balanced(&self) -> bool {
        self.sent == self.written + self.dropped.total() + self.queued
    }

    /// Adds the earlier account of a sink that was closed and opened again. `absent`: messages that
    /// came in between.
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
            broker: self.broker.map(|now| Broker {
                records: now.records.and(&before.broker.unwrap_or_default().records),
                ..now
            }),
            ..self
        }
    }

    /// Returns the account after this many messages that came while the sink was not open.
    #[must_use]
    pub(in crate::sinks) fn without(self, messages: u64) -> Self {
        let absent = self.absent + messages;
        Self { absent, ..self }
    }

    /// Returns the account as a JSON object; see `docs/operations.md` for the members.
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
            "evicted": self.files.evicted,
            "broker": self.broker.map(|broker| {
                let members = broker.records.table().into_iter().chain(broker.gauges());
                members.map(|(name, count)| (name.to_owned(), count.into())).collect::<serde_json::Map<_, _>>()
            }),
            "error": error,
        })
    }
}

impl fmt::Display for SinkReport {
    /// Writes one line for the summary, without a line end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            output,
            written,
            written_bytes,
            ..
        } = self;
        let what = match self.takes {
            Takes::Messages | Takes::Notices => "messages",
            Takes::Events => "events",
        };
        write!(
            f,
            "{output}: {written} {what} written, {written_bytes} bytes; dropped: "
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
        let broker = self.broker.unwrap_or_default();
        let kept = ("kept in the spool", broker.spooled);
        for (what, count) in broker.records.table().into_iter().chain([kept]) {
            if count > 0 {
                write!(f, "; {}: {count}", what.replace('_', " "))?;
            }
        }
        Ok(())
    }
}

impl Dropped {
    /// Returns the reasons and their counts in a fixed order, for summaries and metrics.
    #[must_use]
    pub fn by_reason(&self) -> [(&'static str, u64); Self::COUNT] {
        self.table()
    }

    /// Returns the sum of all reasons.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.table().iter().map(|(_, count)| count).sum()
    }
}

/// State of a sink.
///
/// ```text
/// Running --write fails--> Failed
///  | ^ | \--reader of the pipe gone--> Closed
///  | |  \--finish--> Finished
///  v |
/// Waiting --finish--> Finished, or Failed if messages were left or the disk was full
/// ```
///
/// Sockets wait for their collector, and files wait for room on the disk. Any other failure is
/// final.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SinkState {
    /// The sink accepts messages.
    #[default]
    Running,
    /// The sink has no connection or no room at the moment, for this reason, and tries again. It
    /// still accepts messages.
    Waiting(String),
    /// The sink has written everything and ended as requested.
    Finished,
    /// The reader of the pipe went away. This is a normal end, not an error.
    Closed,
    /// The sink accepts no more messages, for this reason (names the output and the cause).
    Failed(String),
}

impl SinkState {
    /// Returns the state as one word.
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

    /// Returns whether messages reach the output now, or all of them have reached it.
    #[must_use]
    pub fn is_well(&self) -> bool {
        matches!(self, Self::Running | Self::Finished)
    }

    /// Returns whether nothing more can be written.
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
    /// Returns whether no output is left that accepts messages, so that the tap can end.
    #[must_use]
    pub fn all_over(&self) -> bool {
        let mut sinks = self.sinks.iter();
        sinks.all(|sink| sink.takes != Takes::Messages || sink.state.is_over())
    }
}

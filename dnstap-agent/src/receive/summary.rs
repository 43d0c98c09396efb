//! The account at the end of `receive`, for people and as JSON.

use std::{fmt, time::Duration};

use serde_json::{Value, json};

use crate::sink::SinkReport;

/// What came in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Intake {
    /// Connections taken.
    pub(super) connections: u64,
    /// Connections closed at once because there were too many.
    pub(super) refused: u64,
    /// Connections that ended otherwise than by STOP.
    pub(super) unfinished: u64,
    /// Frames received whole.
    pub(super) messages: u64,
    /// Bytes of these, with their lengths.
    pub(super) bytes: u64,
    /// Of the frames: those that are no dnstap, which no output gets.
    pub(super) malformed: u64,
}

impl Intake {
    fn table(&self) -> [(&'static str, u64); 6] {
        [
            ("connections", self.connections),
            ("refused", self.refused),
            ("unfinished", self.unfinished),
            ("messages", self.messages),
            ("bytes", self.bytes),
            ("malformed", self.malformed),
        ]
    }
}

/// Everything after the end.
#[derive(Debug)]
pub(super) struct Summary {
    pub(super) elapsed: Duration,
    pub(super) intake: Intake,
    pub(super) outputs: Vec<SinkReport>,
}

impl Summary {
    /// As one JSON object.
    pub(super) fn to_json(&self) -> Value {
        let received: serde_json::Map<_, _> = self
            .intake
            .table()
            .into_iter()
            .map(|(name, count)| (name.to_owned(), count.into()))
            .collect();
        let outputs: Vec<_> = self.outputs.iter().map(SinkReport::to_json).collect();
        json!({
            "seconds": self.elapsed.as_secs_f64(),
            "received": received,
            "outputs": outputs,
        })
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Intake {
            connections,
            refused,
            unfinished,
            messages,
            bytes,
            malformed,
        } = self.intake;
        writeln!(
            f,
            "{messages} messages received in {:.1} s ({bytes} bytes) over {connections} connections, {unfinished} of them \
             not ended in order; {malformed} messages malformed, {refused} connections refused",
            self.elapsed.as_secs_f64(),
        )?;
        self.outputs
            .iter()
            .try_for_each(|output| writeln!(f, "{output}"))
    }
}

//! The account of `receive`: what came in over its sockets.

use std::fmt;

use serde_json::{Value, json};

use super::{
    account::{Offered, SourceAccount, object},
    losses::{Loss, loss},
};
use crate::{
    observe::families::{Families, alone, float},
    sinks::Takes,
    sources::dnstap::Received,
};

impl SourceAccount for Received {
    fn totals(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("messages", self.messages),
            ("bytes", self.bytes),
            ("malformed", self.malformed),
        ]
    }

    fn to_json(&self) -> Value {
        json!({"received": object(self.table())})
    }

    fn describe(&self, seconds: f64, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            connections,
            refused,
            unfinished,
            messages,
            bytes,
            malformed,
        } = self;
        writeln!(
            formatter,
            "{messages} messages received in {seconds:.1} s ({bytes} bytes) over {connections} connections, {unfinished} of them \
             not ended in order; {malformed} messages malformed, {refused} connections refused",
        )
    }

    fn losses(&self) -> Vec<Loss> {
        vec![
            loss("receiver", "malformed", self.malformed),
            loss("receiver", "refused", self.refused),
        ]
    }

    fn offered(&self, _takes: Takes) -> Offered {
        Offered {
            ready: self.messages - self.malformed,
            // Any of them may still wait for room.
            handed_over: 0,
        }
    }

    fn metrics(&self, all: &mut Families) {
        for (name, help, count) in self.documented() {
            all.counter(&format!("received_{name}"), help, alone(float(count)));
        }
    }
}

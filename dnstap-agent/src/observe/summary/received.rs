//! Summary of what `receive` got over its sockets.

use std::fmt;

use crate::sources::dnstap::Received;

impl Received {
    pub(super) fn describe(&self, seconds: f64, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
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
}

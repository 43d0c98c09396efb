//! What came in over the sockets of `receive`.

use std::fmt;

use dnstap_core::counters::counters;

counters! {
    /// What senders have sent.
    pub struct Received {
        /// Connections taken.
        connections,
        /// Connections closed at once because there were too many.
        refused,
        /// Connections that ended otherwise than by STOP.
        unfinished,
        /// Frames received whole.
        messages,
        /// Bytes of these, with their lengths.
        bytes,
        /// Of the frames: those that are no dnstap, which no output gets.
        malformed,
    }
}

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

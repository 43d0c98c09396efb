//! Compares a server's own times with ours for the same messages: signed differences, separately for messages that the
//! server received and sent.
//!
//! ```text
//!   received:   message, our time ──────► named reads its clock       named's is later by its own delay,
//!   sent:       named reads its clock ──────► message, our time       or earlier;
//!   both:       named's clock is one that moves with the kernel's tick, and so is behind
//! ```
//!
//! On a busy machine the delay is bounded only by the duration of the whole recording, but the lag of the clock has a
//! bound. So a received message is never earlier in named's record than by the clock's lag, and a sent message is never
//! later than in ours, however busy the machine is.

use std::{fmt, time::Duration};

use crate::record::Record;

/// Largest difference between the agent's clock and the system's: one is computed from the other at intervals.
const RESOLUTION: Duration = Duration::from_millis(1);

/// The server's times minus ours, in nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct Times {
    received: Vec<i64>,
    sent: Vec<i64>,
    /// First and last time of our records.
    recorded: Option<(Duration, Duration)>,
}

impl Times {
    /// Adds the time of a message, and the query time of a response, if the server's record has them.
    pub(crate) fn add(&mut self, server: &Record, ours: &Record) {
        let (first, last) = self.recorded.unwrap_or((ours.time, ours.time));
        self.recorded = Some((first.min(ours.time), last.max(ours.time)));
        let initiator = ours.is_initiators();
        if !server.time.is_zero() {
            self.of(initiator != ours.is_response())
                .push(difference(server.time, ours.time));
        }
        if let (Some(server), Some(ours)) = (server.query_time, ours.query_time) {
            self.of(initiator).push(difference(server, ours));
        }
    }

    /// Returns whether a server whose clock is behind by at most `lag` explains all differences.
    pub(crate) fn are_within(&self, lag: Duration) -> bool {
        let (first, last) = self.recorded.unwrap_or_default();
        let [lag, delay, resolution] = [lag, last.saturating_sub(first), RESOLUTION]
            .map(|time| difference(time, Duration::ZERO));
        let received = -lag - resolution..=delay;
        let sent = -lag - delay..=resolution;
        self.received.iter().all(|time| received.contains(time))
            && self.sent.iter().all(|time| sent.contains(time))
    }

    fn of(&mut self, sent: bool) -> &mut Vec<i64> {
        if sent {
            &mut self.sent
        } else {
            &mut self.received
        }
    }
}

impl fmt::Display for Times {
    /// Prints minimum, quartiles and maximum, in milliseconds.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (which, times) in [("received", &self.received), ("sent", &self.sent)] {
            let mut times = times.clone();
            times.sort_unstable();
            write!(formatter, "{} times of messages {which}", times.len())?;
            if let Some(last) = times.len().checked_sub(1) {
                for percent in [0, 1, 50, 99, 100] {
                    let time = Duration::from_nanos(times[last * percent / 100].unsigned_abs());
                    let sign = if times[last * percent / 100] < 0 {
                        '-'
                    } else {
                        '+'
                    };
                    write!(
                        formatter,
                        ", {percent} %: {sign}{:.3} ms",
                        time.as_secs_f64() * 1e3
                    )?;
                }
            }
            formatter.write_str("; ")?;
        }
        Ok(())
    }
}

fn difference(one: Duration, other: Duration) -> i64 {
    let nanoseconds = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
    nanoseconds(one) - nanoseconds(other)
}

#[cfg(test)]
mod tests {
    use dnstap_proto::{SocketProtocol, message::Type};

    use super::*;
    use crate::wire;

    const LAG: Duration = Duration::from_millis(8);

    #[test]
    fn a_received_message_may_be_late_and_a_sent_one_early() {
        for (kind, late, early) in [
            (Type::ClientQuery, true, false),
            (Type::ClientResponse, false, true),
            (Type::ResolverQuery, false, true),
            (Type::ResolverResponse, true, false),
        ] {
            assert_eq!(holds(kind, 40, 0), late, "{kind:?}");
            assert_eq!(holds(kind, 0, 40), early, "{kind:?}");
            assert!(holds(kind, 0, 7) && !holds(kind, 60, 0) && !holds(kind, 0, 60));
        }
    }

    #[test]
    fn the_query_s_time_in_a_response_counts_too() {
        let at = |query, response| {
            let mut record = record(Type::AuthResponse, response);
            record.query_time = Some(Duration::from_millis(query));
            record
        };
        let mut times = Times::default();
        times.add(&at(100, 200), &at(100, 200));
        assert!(times.are_within(LAG));
        assert!(times.to_string().contains("1 times of messages received"));
        times.add(&at(80, 200), &at(100, 200));
        assert!(!times.are_within(LAG), "{times}");
    }

    /// Returns whether a record of the server may have a time that is `late` or `early` by this many milliseconds, in a
    /// recording of 50.
    fn holds(kind: Type, late: u64, early: u64) -> bool {
        let mut times = Times::default();
        times.add(&record(kind, 1_050), &record(kind, 1_050));
        times.add(&record(kind, 1_000 + late - early), &record(kind, 1_000));
        times.are_within(LAG)
    }

    fn record(kind: Type, milliseconds: u64) -> Record {
        let (client, server) = (([127, 0, 0, 1], 1_000).into(), ([127, 0, 0, 1], 53).into());
        let query = wire::query(1, "a.lab", wire::TYPE_A, true);
        Record {
            kind,
            time: Duration::from_millis(milliseconds),
            ..Record::expected(SocketProtocol::Udp, client, server, query)
        }
    }
}

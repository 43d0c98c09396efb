//! Measures how long messages take from the server to the output. For each batch it takes the time
//! in the frame of the oldest message, and compares it with the moment when the batch was written.
//!
//! So every figure is an upper bound: the messages behind the oldest have waited less. Times are
//! counted in classes whose width is an eighth of their value.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use dnstap_proto::View;

use crate::sinks::batch::Batch;

/// Binary logarithm of the number of classes for each power of two.
const FINE: u32 = 3;
/// Number of classes. The last class holds all times from 2^40 ns (18 minutes) on.
const CLASSES: usize = (40 - FINE as usize + 1) << FINE;

/// Counts of times by class.
#[derive(Debug)]
pub(in crate::sinks) struct Delays([AtomicU64; CLASSES]);

/// Summary of `Delays`, in nanoseconds; each value is at most an eighth too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delay {
    /// Half of the messages took at most this long.
    pub p50_ns: u64,
    /// 99 of 100 messages took at most this long.
    pub p99_ns: u64,
    /// All messages took at most this long.
    pub max_ns: u64,
}

impl Default for Delays {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; CLASSES])
    }
}

impl Delays {
    /// Counts the messages of a batch that has just been written.
    pub(in crate::sinks) fn note(&self, batch: &Batch) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        if let (Some(then), Ok(now)) = (oldest(&batch.frames), now) {
            let delay = now.saturating_sub(then).as_nanos();
            let class = class(u64::try_from(delay).unwrap_or(u64::MAX));
            self.0[class].fetch_add(batch.messages, Relaxed);
        }
    }

    /// Returns the summary; `None` if no counted message has a time.
    pub(in crate::sinks) fn summary(&self) -> Option<Delay> {
        let counts: Vec<u64> = self.0.iter().map(|count| count.load(Relaxed)).collect();
        let all: u64 = counts.iter().sum();
        let at = |wanted: u64| {
            let mut sum = 0;
            let class = counts.iter().position(|count| {
                sum += count;
                sum >= wanted
            });
            bound(class.unwrap_or(CLASSES - 1))
        };
        (all > 0).then(|| Delay {
            p50_ns: at(all.div_ceil(2)),
            p99_ns: at(all - all / 100),
            max_ns: at(all),
        })
    }
}

/// Returns the time of the first message.
fn oldest(frames: &[u8]) -> Option<Duration> {
    let (length, rest) = frames.split_first_chunk::<4>()?;
    let frame = rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    let view = View::parse(frame)?;
    let time = view.response_time().or_else(|| view.query_time())?;
    Some(Duration::new(
        time.seconds,
        time.nanoseconds.min(999_999_999),
    ))
}

/// Returns the class of a time. Small times have classes of their own. For larger ones the class is
/// made of the highest bit and the `FINE` bits behind it.
fn class(nanoseconds: u64) -> usize {
    let Some(shift) = nanoseconds
        .checked_ilog2()
        .and_then(|bits| bits.checked_sub(FINE))
    else {
        return usize::try_from(nanoseconds).unwrap_or(0);
    };
    let fine = usize::try_from(nanoseconds >> shift).unwrap_or(0);
    (((shift as usize) << FINE) + fine).min(CLASSES - 1)
}

/// Returns the largest time of a class.
fn bound(class: usize) -> u64 {
    let shift = (class >> FINE).saturating_sub(1);
    let fine = class - (shift << FINE);
    ((fine as u64 + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use dnstap_proto::{DnstapRef, MessageRef, Timestamp, message::Type};

    use super::*;

    #[test]
    fn every_time_is_in_the_class_whose_bound_is_at_most_an_eighth_above_it() {
        for bit in 0..40 {
            for time in [1 << bit, (1 << bit) + (1 << bit) / 3, (2 << bit) - 1] {
                let bound = bound(class(time));
                assert!(
                    bound >= time && bound - time <= time / 8,
                    "{time} is taken for {bound}"
                );
            }
        }
        assert_eq!((class(0), bound(0)), (0, 0));
        assert_eq!(class(u64::MAX), CLASSES - 1);
    }

    #[test]
    fn the_summary_tells_when_half_nearly_all_and_all_had_passed() {
        let delays = Delays::default();
        assert_eq!(delays.summary(), None);
        for (time, messages) in [(1_000, 60), (5_000_000, 39), (80_000_000, 1)] {
            delays.0[class(time)].fetch_add(messages, Relaxed);
        }
        let summary = delays.summary().expect("there are some");
        let near = |bound: u64, time: u64| bound >= time && bound - time <= time / 8;
        assert!(near(summary.p50_ns, 1_000), "{summary:?}");
        assert!(near(summary.p99_ns, 5_000_000), "{summary:?}");
        assert!(near(summary.max_ns, 80_000_000), "{summary:?}");
    }

    #[test]
    fn the_oldest_message_speaks_for_its_batch() {
        let ago = |seconds| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("later");
            Some(Timestamp {
                seconds: now.as_secs() - seconds,
                nanoseconds: 0,
            })
        };
        let mut frames = Vec::new();
        for (query, response) in [(ago(300), ago(100)), (ago(1), None)] {
            let message = MessageRef {
                query_time: query,
                response_time: response,
                ..MessageRef::new(Type::ClientResponse)
            };
            DnstapRef {
                identity: None,
                version: None,
                extra: None,
                message,
            }
            .append_frame(&mut frames);
        }
        let delays = Delays::default();
        delays.note(&Batch::new(frames, 2));
        let summary = delays.summary().expect("they have times");
        let seconds = summary.p50_ns / 1_000_000_000;
        assert!((100..120).contains(&seconds), "{summary:?}");
    }
}

//! The tally that the source writes and the view reads, behind a lock that neither holds for long.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::{Buf as _, Bytes};
use dnstap_proto::{Dnstap, lenient};
use tokio::sync::Notify;

use super::events::{EventTally, EventView};
use crate::{
    formats::render::socket,
    select::Identities,
    tally::{Tally, View, nanoseconds},
};

/// State shared by the source's thread and the view's thread.
#[derive(Debug)]
pub(super) struct Board {
    tally: Mutex<Tally>,
    /// Events, if they are asked for.
    events: Option<Mutex<EventTally>>,
    /// Servers whose messages count.
    identities: Identities,
    /// Whether messages count at the time when they come, rather than at their own times.
    live: bool,
    /// Number of messages after which counting ends.
    limit: u64,
    enough: Notify,
    /// Frames that hold no dnstap message.
    broken: AtomicU64,
    /// Whether the source has ended.
    ended: AtomicBool,
}

impl Board {
    /// Creates a board for messages that come now. It counts over `window`, or from now on without
    /// one. Messages after the first `limit` are ignored.
    pub(super) fn live(window: Option<Duration>, limit: Option<u64>) -> Self {
        Self::new(Tally::new(window, Some(now())), true, limit)
    }

    /// Creates a board for recorded messages, which have their own times.
    pub(super) fn past(window: Option<Duration>, limit: Option<u64>) -> Self {
        Self::new(Tally::new(window, None), false, limit)
    }

    fn new(tally: Tally, live: bool, limit: Option<u64>) -> Self {
        Self {
            tally: Mutex::new(tally),
            events: None,
            identities: Identities::default(),
            live,
            limit: limit.unwrap_or(u64::MAX),
            enough: Notify::new(),
            broken: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        }
    }

    /// Restricts counting to messages of these servers.
    pub(super) fn of(mut self, identities: &Identities) -> Self {
        self.identities = identities.clone();
        self
    }

    /// Makes the board count events, too.
    pub(super) fn with_events(mut self) -> Self {
        self.events = Some(Mutex::default());
        self
    }

    /// Counts whole frames with events, each behind its length.
    pub(super) fn take_events(&self, frames: Bytes) {
        if let Some(events) = &self.events {
            locked(events).take(frames);
        }
    }

    /// Returns the events since the start, if they are asked for.
    pub(super) fn events(&self, most: usize) -> Option<EventView> {
        self.events.as_ref().map(|events| locked(events).view(most))
    }

    /// Counts whole frames, each behind its length.
    pub(super) fn take(&self, mut frames: Bytes) {
        let at = now();
        let mut tally = self.tally();
        while frames.len() >= 4 {
            let length = usize::try_from(frames.get_u32()).unwrap_or(usize::MAX);
            let frame = frames.split_to(length.min(frames.len()));
            self.count(&mut tally, at, lenient::decode(frame).ok().as_ref());
        }
    }

    /// Counts a message, or a frame that holds none. Returns false if there are enough.
    pub(super) fn take_one(&self, dnstap: Option<&Dnstap>) -> bool {
        let mut tally = self.tally();
        self.count(&mut tally, now(), dnstap);
        tally.messages() < self.limit
    }

    fn count(&self, tally: &mut Tally, at: u64, dnstap: Option<&Dnstap>) {
        if tally.messages() >= self.limit {
            return;
        }
        let Some(dnstap) = dnstap else {
            self.broken.fetch_add(1, Relaxed);
            return;
        };
        if !self.identities.has(dnstap.identity.as_deref()) {
            return;
        }
        let told = dnstap.message.as_ref().and_then(socket::own_time);
        let told = told.map(|(seconds, rest)| {
            seconds
                .saturating_mul(1_000_000_000)
                .saturating_add(rest.into())
        });
        tally.count(if self.live { Some(at) } else { told }, dnstap);
        if tally.messages() == self.limit {
            self.enough.notify_one();
        }
    }

    /// Returns the content of the window.
    pub(super) fn view(&self, most: usize) -> View {
        let mut tally = self.tally();
        if self.live && !self.has_ended() {
            tally.advance(now());
        }
        tally.view(most)
    }

    /// Returns the number of frames that hold no dnstap message.
    pub(super) fn broken(&self) -> u64 {
        self.broken.load(Relaxed)
    }

    /// Waits until there are as many messages as were asked for.
    pub(super) async fn has_enough(&self) {
        self.enough.notified().await;
    }

    /// Notes that the source has ended.
    pub(super) fn finish(&self) {
        self.ended.store(true, Relaxed);
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Relaxed)
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        locked(&self.tally)
    }
}

/// Locks. A poisoned lock is used anyway, because a panic of the other thread ends the process.
fn locked<T>(tally: &Mutex<T>) -> MutexGuard<'_, T> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the current time in nanoseconds since 1970.
fn now() -> u64 {
    nanoseconds(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use dnstap_proto::message::Type;
    use prost::Message as _;

    use super::*;
    use crate::tally::tests::message;

    #[test]
    fn nothing_counts_beyond_the_limit_and_what_is_no_dnstap_is_told() {
        let board = Board::live(None, Some(3));
        let mut frames = vec![0, 0, 0, 3, 0xff, 0xff, 0xff];
        for _ in 0..5 {
            let frame = message(Type::ClientQuery, "a", 0, 0).encode_to_vec();
            frames.extend(u32::try_from(frame.len()).expect("short").to_be_bytes());
            frames.extend(frame);
        }
        board.take(frames.into());
        assert_eq!((board.view(10).messages, board.broken()), (3, 1));
        assert!(!board.take_one(Some(&message(Type::ClientQuery, "a", 0, 0))));
        assert_eq!(board.view(10).all, 3);
    }

    #[test]
    fn only_messages_of_the_identities_that_are_named_count() {
        let named = |names: &[&str]| Identities {
            identities: names.iter().map(|name| (*name).to_owned()).collect(),
        };
        for (names, counted) in [(&[][..], 3), (&["a"], 1), (&["a", "b"], 2), (&["c"], 0)] {
            let board = Board::past(None, None).of(&named(names));
            for identity in [None, Some("a"), Some("b")] {
                let mut frame = message(Type::ClientQuery, "a", 0, 0);
                frame.identity = identity.map(|text| text.as_bytes().into());
                board.take_one(Some(&frame));
            }
            assert_eq!(board.view(10).messages, counted, "{names:?}");
        }
    }

    #[test]
    fn messages_of_the_past_count_for_the_time_that_they_tell() {
        let board = Board::past(None, None);
        for took in [0, 2_000_000_000] {
            board.take_one(Some(&message(Type::ClientResponse, "a", 0, took)));
        }
        assert_eq!(board.view(10).span, Some(Duration::from_secs(2)));
    }
}

//! Events: facts about a server that are more than one message. The format is `dnstap_event.proto`.
//!
//! Two kinds of stages make events: those that watch the messages on the sockets, and those that decode the notices of
//! probes. Both give them to [`Events::emit`], which counts and encodes them.

mod hide;
mod ns_changes;
pub mod probed;
mod rate_limits;
mod responses;
mod transfers;
mod unanswered;

use std::str::FromStr;

use dnstap_proto::{
    Event,
    event::{Kind as Content, Phase, Source},
    prost::{Message as _, bytes::Bytes},
};

pub(crate) use self::{
    ns_changes::NsChanges, rate_limits::RateLimits, responses::Responses, transfers::Transfers,
    unanswered::unanswered,
};
use crate::{
    counters::counters,
    dns::{LONGEST_NAME, Name},
    model::{Clock, Endpoint, Frames},
    privacy::Privacy,
};

/// Kind of an event, with the words of the command line and of JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// A zone transfer.
    Transfer,
    /// Response rate limiting.
    RateLimit,
    /// An RRset that is put into the cache, or refused.
    Cache,
    /// New name servers of a name.
    NsChange,
    /// Data that is removed from the cache before its TTL ends.
    Purge,
    /// Data in the cache whose TTL ends.
    Expiry,
    /// A query without a response.
    Unanswered,
}

impl EventKind {
    /// All kinds, in the order of the documentation.
    pub const ALL: [Self; 7] = [
        Self::Transfer,
        Self::RateLimit,
        Self::Cache,
        Self::NsChange,
        Self::Purge,
        Self::Expiry,
        Self::Unanswered,
    ];

    /// Returns the word for the kind.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Transfer => "transfer",
            Self::RateLimit => "rate-limit",
            Self::Cache => "cache",
            Self::NsChange => "ns-change",
            Self::Purge => "purge",
            Self::Expiry => "expiry",
            Self::Unanswered => "unanswered",
        }
    }

    /// Returns the kind of an event's content.
    #[must_use]
    pub const fn of(content: &Content) -> Self {
        match content {
            Content::Transfer(_) => Self::Transfer,
            Content::RateLimit(_) => Self::RateLimit,
            Content::Cache(_) => Self::Cache,
            Content::NsChange(_) => Self::NsChange,
            Content::Purge(_) => Self::Purge,
            Content::Expiry(_) => Self::Expiry,
            Content::Unanswered(_) => Self::Unanswered,
        }
    }
}

/// Set of kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventKinds(u8);

impl EventKinds {
    /// Returns whether the set has this kind.
    #[must_use]
    pub const fn contains(self, kind: EventKind) -> bool {
        self.0 & (1 << kind as u8) != 0
    }

    /// Returns whether the set has no kind.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl EventKinds {
    /// All kinds.
    pub const ALL: Self = Self((1 << EventKind::ALL.len()) - 1);

    /// Returns the kinds that are in one of the sets.
    #[must_use]
    pub fn union(sets: &[Self]) -> Self {
        Self(sets.iter().fold(0, |all, set| all | set.0))
    }
}

impl FromStr for EventKinds {
    type Err = String;

    /// Parses the word for a kind, or `all`.
    fn from_str(word: &str) -> Result<Self, Self::Err> {
        if word == "all" {
            return Ok(Self::ALL);
        }
        let kind = EventKind::ALL.into_iter().find(|kind| kind.name() == word);
        kind.map(|kind| Self::from_iter([kind])).ok_or_else(|| {
            let words = EventKind::ALL.map(EventKind::name).join(", ");
            format!("there are {words}, and all")
        })
    }
}

impl FromIterator<EventKind> for EventKinds {
    fn from_iter<T: IntoIterator<Item = EventKind>>(kinds: T) -> Self {
        let add = |set: u8, kind: EventKind| set | (1 << kind as u8);
        Self(kinds.into_iter().fold(0, add))
    }
}

counters! {
    /// Events, by kind.
    pub struct EventCounters {
        /// Events of zone transfers: starts and ends.
        events_transfer,
        /// Events of rate limits: starts and ends.
        events_rate_limit,
        /// Events of RRsets put into the cache, or refused.
        events_cache,
        /// Events of changed name servers.
        events_name_servers,
        /// Events of removals from the cache.
        events_purge,
        /// Events of ends of TTLs in the cache.
        events_expiry,
        /// Events of queries without a response.
        events_unanswered,
    }
}

impl EventCounters {
    /// Returns the number of all events.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.table().map(|(_, count)| count).sum()
    }

    fn of(&mut self, kind: EventKind) -> &mut u64 {
        match kind {
            EventKind::Transfer => &mut self.events_transfer,
            EventKind::RateLimit => &mut self.events_rate_limit,
            EventKind::Cache => &mut self.events_cache,
            EventKind::NsChange => &mut self.events_name_servers,
            EventKind::Purge => &mut self.events_purge,
            EventKind::Expiry => &mut self.events_expiry,
            EventKind::Unanswered => &mut self.events_unanswered,
        }
    }
}

/// Time, origin and server of an event.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances {
    /// Nanoseconds since 1970.
    pub wall_ns: u64,
    /// Part of the event.
    pub phase: Phase,
    /// Origin of the knowledge.
    pub source: Source,
    /// Process id of the server.
    pub process_id: u32,
}

counters! {
    /// What the stages that make events of messages could not remember.
    pub struct WatchCounters {
        /// Zone transfers that were given up because there were too many.
        transfers_forgotten,
        /// NS RRsets that were forgotten because there were too many, or too large ones.
        name_server_sets_forgotten,
        /// Questions, and seconds of questions, that were forgotten because there were too many (`rate-limit`).
        limit_questions_forgotten,
    }
}

/// Last stage of all events: hides what is private, counts and encodes them.
#[derive(Debug, Default)]
pub struct Events {
    kinds: EventKinds,
    identity: Vec<u8>,
    privacy: Privacy,
    counters: EventCounters,
}

impl Events {
    /// Creates the stage. `kinds`: the kinds that are wanted. `identity`: dnstap `identity`; empty: left out.
    #[must_use]
    pub fn new(kinds: EventKinds, identity: Vec<u8>, privacy: Privacy) -> Self {
        Self {
            kinds,
            identity,
            privacy,
            counters: EventCounters::default(),
        }
    }

    /// Returns whether events of this kind are wanted.
    #[must_use]
    pub const fn want(&self, kind: EventKind) -> bool {
        self.kinds.contains(kind)
    }

    /// Returns the counters.
    #[must_use]
    pub const fn counters(&self) -> &EventCounters {
        &self.counters
    }

    /// Encodes an event as a Frame Streams data frame behind `frames`, if its kind is wanted.
    pub fn emit(&mut self, at: Circumstances, content: Content, frames: &mut Frames) {
        self.emit_of_view(at, None, content, frames);
    }

    /// Does the same as [`Self::emit`], for an event of one view of the server.
    pub fn emit_of_view(
        &mut self,
        at: Circumstances,
        view: Option<String>,
        mut content: Content,
        frames: &mut Frames,
    ) {
        let kind = EventKind::of(&content);
        if !self.want(kind) {
            return;
        }
        hide::hide(&mut content, &self.privacy);
        let nanoseconds = u32::try_from(at.wall_ns % 1_000_000_000).unwrap_or_default();
        let event = Event {
            identity: (!self.identity.is_empty()).then(|| self.identity.clone().into()),
            time_sec: Some(at.wall_ns / 1_000_000_000),
            time_nsec: Some(nanoseconds),
            phase: Some(at.phase as i32),
            source: Some(at.source as i32),
            process_id: Some(at.process_id),
            view,
            kind: Some(content),
            ..Event::default()
        };
        let length = u32::try_from(event.encoded_len()).unwrap_or(u32::MAX);
        frames.bytes.extend(length.to_be_bytes());
        frames.bytes.extend(event.encode_to_vec());
        frames.count += 1;
        *self.counters.of(kind) += 1;
    }
}

/// Destination of the events that are made of messages.
pub(crate) struct Output<'a> {
    pub(crate) events: &'a mut Events,
    pub(crate) frames: &'a mut Frames,
    pub(crate) clock: Clock,
}

impl Output<'_> {
    fn emit(&mut self, ktime_ns: u64, phase: Phase, process_id: u32, content: Content) {
        let at = Circumstances {
            wall_ns: self.clock.wall_ns(ktime_ns),
            phase,
            source: Source::Socket,
            process_id,
        };
        self.events.emit(at, content, self.frames);
    }
}

/// Returns the uncompressed name.
fn wire(name: Name<'_>) -> Bytes {
    let mut wire = [0; LONGEST_NAME];
    let length = name.write_wire(&mut wire);
    Bytes::copy_from_slice(&wire[..length])
}

/// Compares names without regard to case (RFC 4343).
fn are_equal(one: Name<'_>, other: Name<'_>) -> bool {
    wire(one).eq_ignore_ascii_case(&wire(other))
}

/// Returns the address of an end, if it is known.
fn address(end: Endpoint) -> Option<Bytes> {
    end.address().map(Bytes::copy_from_slice)
}

#[cfg(test)]
mod tests {
    use dnstap_proto::Purge;

    use super::*;

    #[test]
    fn only_wanted_kinds_are_encoded_and_counted() {
        let mut events = Events::new(
            [EventKind::Purge].into_iter().collect(),
            b"ns1".to_vec(),
            Privacy::default(),
        );
        let mut frames = Frames::default();
        let at = Circumstances {
            wall_ns: 1_700_000_000_000_000_005,
            phase: Phase::Point,
            source: Source::Probe,
            process_id: 7,
        };
        events.emit(at, Content::Purge(Purge::default()), &mut frames);
        events.emit(
            at,
            Content::Expiry(dnstap_proto::Expiry::default()),
            &mut frames,
        );
        assert_eq!((frames.count, events.counters().events_purge), (1, 1));
        assert_eq!(events.counters().events_expiry, 0);
        let (length, frame) = frames.bytes.split_first_chunk().expect("a frame");
        assert_eq!(u32::from_be_bytes(*length) as usize, frame.len());
        let event = Event::decode(frame).expect("an event");
        assert_eq!(event.identity.as_deref(), Some(&b"ns1"[..]));
        assert_eq!(
            (event.time_sec, event.time_nsec),
            (Some(1_700_000_000), Some(5))
        );
        assert_eq!(event.process_id, Some(7));
        assert!(matches!(event.kind, Some(Content::Purge(_))));
    }

    #[test]
    fn a_set_has_what_it_was_made_of() {
        for kind in EventKind::ALL {
            let set: EventKinds = [kind].into_iter().collect();
            let has: Vec<_> = EventKind::ALL
                .into_iter()
                .filter(|kind| set.contains(*kind))
                .collect();
            assert_eq!(has, [kind]);
            assert!(!set.is_empty());
        }
        assert!(EventKinds::default().is_empty());
        let words = EventKind::ALL.map(EventKind::name);
        let sets: Vec<EventKinds> = words.iter().map(|word| word.parse().unwrap()).collect();
        assert_eq!(EventKinds::union(&sets), EventKinds::ALL);
        assert_eq!("all".parse(), Ok(EventKinds::ALL));
        assert!("transfers".parse::<EventKinds>().is_err());
    }
}

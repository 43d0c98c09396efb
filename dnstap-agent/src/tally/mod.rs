//! Counts messages over a sliding window and since the start. Takes messages with times, returns a
//! [`View`].
//!
//! The window consists of [`SLOTS`] slots; the oldest is dropped when a new one begins. The size of
//! a slot is bounded because [`Frequent`] is: the whole takes some MB for usual names, and at most
//! 25 MB if all names have the greatest length. Without a window there is one slot for everything.

mod frequent;
pub(crate) mod tables;

use std::{collections::VecDeque, fmt::Write as _, net::IpAddr, time::Duration};

use dnstap_core::{
    dns::{self, Dns, Question, Rcode},
    histogram::Histogram,
    model::{KindCounts, MESSAGE_TYPES},
};
use dnstap_proto::{Dnstap, Message, message::Type};

pub(crate) use self::frequent::{Frequent, Ranking};
use crate::formats::render::socket;

/// Number of slots of the window; more make it slide more smoothly.
const SLOTS: u64 = 10;

/// Families of types: a query and its response belong to one family.
const FAMILIES: usize = MESSAGE_TYPES.len() / 2;

/// Queries and responses, used as indices.
const SIDES: usize = 2;

/// Counts of messages.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Length of a slot in nanoseconds; `None` if one slot holds everything.
    slot_ns: Option<u64>,
    /// Time of the first message, or the time when counting began.
    since: Option<u64>,
    /// Latest time seen.
    now: u64,
    /// Slots, oldest first.
    slots: VecDeque<Slot>,
    /// Messages by type since the start.
    all: KindCounts,
    /// Messages since the start.
    messages: u64,
    /// Buffer for the text of a name.
    name: String,
}

#[derive(Debug, Default)]
struct Slot {
    /// Number of the slot, counted in slots of this length since 1970.
    number: u64,
    messages: u64,
    kinds: KindCounts,
    malformed: u64,
    sides: [Side; SIDES],
    rcodes: Frequent<u16>,
    latencies: [Histogram; FAMILIES],
}

/// Counts kept both for queries and for responses.
#[derive(Debug, Default)]
struct Side {
    names: Frequent<String>,
    types: Frequent<u16>,
    clients: Frequent<IpAddr>,
    servers: Frequent<IpAddr>,
}

/// Content of the window at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    /// Length of the window; `None` if it is not known.
    pub(crate) span: Option<Duration>,
    /// Messages in the window.
    pub(crate) messages: u64,
    /// Messages since the start.
    pub(crate) all: u64,
    /// Of the messages in the window: DNS messages whose header or question cannot be read.
    pub(crate) malformed: u64,
    /// Types with the messages in the window and since the start.
    pub(crate) kinds: Vec<(Type, u64, u64)>,
    /// Names, types and ends of queries and of responses.
    pub(crate) sides: [Ends; SIDES],
    /// Response codes.
    pub(crate) rcodes: Ranking,
    /// Response times, by family.
    pub(crate) latencies: Vec<(&'static str, Histogram)>,
}

/// Names, types, clients and servers of queries, or of responses.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ends {
    pub(crate) names: Ranking,
    pub(crate) types: Ranking,
    /// Clients that ask the server.
    pub(crate) clients: Ranking,
    /// Servers that the process asks.
    pub(crate) servers: Ranking,
}

impl Tally {
    /// Counts over `window`, or over everything without one. `since` is the start of counting in
    /// nanoseconds since 1970; `None` means the first message.
    pub(crate) fn new(window: Option<Duration>, since: Option<u64>) -> Self {
        Self {
            slot_ns: window.map(|window| (nanoseconds(window) / SLOTS).max(1)),
            since,
            now: since.unwrap_or(0),
            slots: VecDeque::new(),
            all: KindCounts::default(),
            messages: 0,
            name: String::new(),
        }
    }

    /// Counts a message with this time, in nanoseconds since 1970. A message older than the window
    /// counts only in the totals since the start. A message without a time counts as one of now.
    pub(crate) fn count(&mut self, at: impl Into<Option<u64>>, dnstap: &Dnstap) {
        let at: Option<u64> = at.into();
        if let Some(at) = at {
            // Messages of a file are not exactly in the order of their times.
            self.since = Some(self.since.map_or(at, |since| since.min(at)));
            self.advance(at);
        }
        let at = at.unwrap_or(self.now);
        self.messages += 1;
        let message = dnstap.message.as_ref();
        let kind = message.and_then(socket::kind);
        if let Some(kind) = kind {
            self.all.count(kind);
        }
        let number = self.number(at);
        let mut name = std::mem::take(&mut self.name);
        if let Some(slot) = self.slot(number) {
            slot.messages += 1;
            if let Some(message) = message {
                slot.count(message, kind, &mut name);
            }
        }
        self.name = name;
    }

    /// Returns the number of messages since the start.
    pub(crate) fn messages(&self) -> u64 {
        self.messages
    }

    /// Moves the window on to this time and drops older slots.
    pub(crate) fn advance(&mut self, now: u64) {
        self.now = self.now.max(now);
        let oldest = self.oldest();
        while self
            .slots
            .pop_front_if(|slot| slot.number < oldest)
            .is_some()
        {}
    }

    fn number(&self, at: u64) -> u64 {
        self.slot_ns.map_or(0, |slot_ns| at / slot_ns)
    }

    /// Returns the number of the oldest slot in the window.
    fn oldest(&self) -> u64 {
        self.number(self.now).saturating_sub(SLOTS - 1)
    }

    /// Returns the slot with that number, if it is in the window.
    fn slot(&mut self, number: u64) -> Option<&mut Slot> {
        if number < self.oldest() {
            return None;
        }
        let place = match self.slots.binary_search_by_key(&number, |slot| slot.number) {
            Ok(place) => place,
            Err(place) => {
                let slot = Slot {
                    number,
                    ..Slot::default()
                };
                self.slots.insert(place, slot);
                place
            }
        };
        self.slots.get_mut(place)
    }

    /// Returns the content of the window, with at most `most` rows in each ranking.
    pub(crate) fn view(&self, most: usize) -> View {
        let mut kinds = KindCounts::default();
        let mut latencies = [Histogram::default(); FAMILIES];
        for slot in &self.slots {
            for (kind, count) in slot.kinds.iter() {
                kinds.add(kind, count);
            }
            for (sum, one) in latencies.iter_mut().zip(&slot.latencies) {
                sum.add(one);
            }
        }
        let ends = |side: usize| {
            let sides = || self.slots.iter().map(move |slot| &slot.sides[side]);
            Ends {
                names: Frequent::ranking(sides().map(|side| &side.names), most, String::clone),
                types: Frequent::ranking(sides().map(|side| &side.types), most, |&number| {
                    dns::Type(number).to_string()
                }),
                clients: Frequent::ranking(
                    sides().map(|side| &side.clients),
                    most,
                    IpAddr::to_string,
                ),
                servers: Frequent::ranking(
                    sides().map(|side| &side.servers),
                    most,
                    IpAddr::to_string,
                ),
            }
        };
        let families = MESSAGE_TYPES.iter().step_by(2).map(|query| {
            let name = query.long;
            name.strip_suffix("_QUERY").unwrap_or(name)
        });
        View {
            span: self.span(),
            messages: self.slots.iter().map(|slot| slot.messages).sum(),
            all: self.messages,
            malformed: self.slots.iter().map(|slot| slot.malformed).sum(),
            kinds: self
                .all
                .iter()
                .map(|(kind, all)| (kind, kinds.of(kind), all))
                .collect(),
            sides: [ends(0), ends(1)],
            rcodes: Frequent::ranking(
                self.slots.iter().map(|slot| &slot.rcodes),
                most,
                |&number| Rcode(number).to_string(),
            ),
            latencies: families
                .zip(latencies)
                .filter(|(_, took)| took.count() > 0)
                .collect(),
        }
    }

    /// Returns the time from the beginning of the window, or of counting if that is later, until
    /// now.
    fn span(&self) -> Option<Duration> {
        let begun = self.slot_ns.map_or(0, |slot_ns| self.oldest() * slot_ns);
        let span = self.now.saturating_sub(begun.max(self.since?));
        (span > 0).then(|| Duration::from_nanos(span))
    }
}

impl Slot {
    /// Counts a message. If its type is unknown, only the counts that do not depend on the type
    /// change.
    fn count(&mut self, message: &Message, kind: Option<Type>, name: &mut String) {
        if let Some(kind) = kind {
            self.kinds.count(kind);
        }
        let is_response = socket::is_response(message);
        let side = &mut self.sides[usize::from(is_response)];
        let end = kind.map(|kind| match kind {
            Type::ResolverQuery
            | Type::ResolverResponse
            | Type::ForwarderQuery
            | Type::ForwarderResponse
            | Type::StubQuery
            | Type::StubResponse
            | Type::ToolQuery
            | Type::ToolResponse => (&mut side.servers, &message.response_address),
            _ => (&mut side.clients, &message.query_address),
        });
        if let Some((ends, address)) = end
            && let Some(address) = socket::address(address.as_deref())
        {
            ends.count(&address);
        }
        let mut question: Option<Question<'_>> = None;
        if let Some(bytes) = socket::dns(message) {
            let dns = Dns::parse(bytes);
            match dns.and_then(|dns| dns.question()) {
                Ok(asked) => question = asked,
                Err(_) => self.malformed += 1,
            }
            if let (Ok(dns), true) = (dns, is_response) {
                self.rcodes.count(&dns.full_rcode().0);
            }
        }
        if let Some(question) = &question {
            name.clear();
            write!(name, "{}", question.name)
                .unwrap_or_else(|_| unreachable!("a String takes all"));
            // Upper and lower case are the same (RFC 4343); resolvers mix them to make their queries hard to guess.
            name.make_ascii_lowercase();
            side.names.count(name.as_str());
            side.types.count(&question.kind.0);
        }
        // The duration of a zone transfer depends on the zone, not on the server.
        let is_transfer = question.is_some_and(|question| question.kind.is_transfer());
        if let Some(took) = socket::latency(message)
            && let Ok(took) = u64::try_from(took)
            && let Some(kind) = kind
            && is_response
            && !is_transfer
        {
            self.latencies[(kind as usize - 1) / 2].record(took);
        }
    }
}

/// Converts to a number of nanoseconds, which suffices for 584 years.
pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use dnstap_proto::{DnstapRef, MessageRef, Timestamp};
    use prost::Message as _;

    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const START: u64 = 1_800_000_000 * SECOND;

    /// Builds `A?` of `name` (one label, or none for the root), as a message of that type.
    pub(crate) fn message(kind: Type, name: &str, rcode: u8, took_ns: u64) -> Dnstap {
        let is_response = kind.as_str_name().ends_with("_RESPONSE");
        let mut dns = vec![
            0,
            7,
            if is_response { 0x80 } else { 0 },
            rcode,
            0,
            1,
            0,
            0,
            0,
            0,
            0,
            0,
        ];
        if !name.is_empty() {
            dns.push(u8::try_from(name.len()).expect("a label"));
            dns.extend(name.as_bytes());
        }
        dns.extend([0, 0, 1, 0, 1]);
        let mut bytes = Vec::new();
        let mut message = MessageRef::new(kind);
        message.query_address = Some(&[192, 0, 2, 1]);
        message.response_address = Some(&[192, 0, 2, 53]);
        if is_response {
            message.query_time = Some(time(0));
            message.response_time = Some(time(took_ns));
            message.response_message = Some(&dns);
        } else {
            message.query_message = Some(&dns);
        }
        DnstapRef {
            identity: None,
            version: None,
            extra: None,
            message,
        }
        .append_frame(&mut bytes);
        Dnstap::decode(&bytes[4..]).expect("a message")
    }

    /// Time this long after the queries.
    fn time(after_ns: u64) -> Timestamp {
        Timestamp {
            seconds: 1_800_000_000 + after_ns / SECOND,
            nanoseconds: u32::try_from(after_ns % SECOND).expect("below a second"),
        }
    }

    #[test]
    fn what_is_counted_is_what_the_messages_say() {
        let mut tally = Tally::new(Some(Duration::from_secs(10)), Some(START));
        for _ in 0..3 {
            tally.count(START + SECOND, &message(Type::ClientQuery, "WwW", 0, 0));
        }
        tally.count(
            START + SECOND,
            &message(Type::ClientResponse, "www", 3, 2_000_000),
        );
        tally.count(START + SECOND, &message(Type::ResolverQuery, "", 0, 0));
        tally.advance(START + 2 * SECOND);
        let view = tally.view(10);
        assert_eq!((view.messages, view.all, view.malformed), (5, 5, 0));
        assert_eq!(view.span, Some(Duration::from_secs(2)));
        assert_eq!(
            view.kinds,
            [
                (Type::ResolverQuery, 1, 1),
                (Type::ClientQuery, 3, 3),
                (Type::ClientResponse, 1, 1)
            ]
        );
        let [asked, answered] = &view.sides;
        assert_eq!(
            asked.names.rows,
            [("www.".to_owned(), 3), (".".to_owned(), 1)]
        );
        assert_eq!(answered.names.rows, [("www.".to_owned(), 1)]);
        assert_eq!(asked.types.rows, [("A".to_owned(), 4)]);
        assert_eq!(asked.clients.rows, [("192.0.2.1".to_owned(), 3)]);
        assert_eq!(asked.servers.rows, [("192.0.2.53".to_owned(), 1)]);
        assert_eq!(view.rcodes.rows, [("NXDOMAIN".to_owned(), 1)]);
        let [(family, took)] = &view.latencies[..] else {
            panic!("{:?}", view.latencies)
        };
        assert_eq!((*family, took.count()), ("CLIENT", 1));
        assert_eq!(took.sum(), Duration::from_millis(2));
    }

    #[test]
    fn what_has_left_the_window_counts_among_all_alone() {
        let mut tally = Tally::new(Some(Duration::from_secs(10)), Some(START));
        tally.count(START, &message(Type::AuthQuery, "old", 0, 0));
        tally.count(START + 9 * SECOND, &message(Type::AuthQuery, "new", 0, 0));
        assert_eq!(tally.view(10).messages, 2);
        tally.advance(START + 10 * SECOND);
        let view = tally.view(10);
        assert_eq!((view.messages, view.all), (1, 2));
        assert_eq!(view.kinds, [(Type::AuthQuery, 1, 2)]);
        assert_eq!(view.sides[0].names.rows, [("new.".to_owned(), 1)]);
        // One message is late but in the window; the other one is too late.
        tally.count(START + 5 * SECOND, &message(Type::AuthQuery, "late", 0, 0));
        tally.count(START, &message(Type::AuthQuery, "old", 0, 0));
        let view = tally.view(10);
        assert_eq!((view.messages, view.all), (2, 4));
        tally.advance(START + 1_000 * SECOND);
        let view = tally.view(10);
        assert_eq!((view.messages, view.all), (0, 4));
        assert!(tally.slots.is_empty());
    }

    #[test]
    fn without_a_window_everything_counts_over_the_time_of_the_messages() {
        let mut tally = Tally::new(None, None);
        assert_eq!(tally.view(10).span, None);
        for at in [START + SECOND, START, START + 100 * SECOND] {
            tally.count(at, &message(Type::AuthQuery, "a", 0, 0));
        }
        let view = tally.view(10);
        assert_eq!(view.span, Some(Duration::from_secs(100)));
        assert_eq!((view.messages, tally.slots.len()), (3, 1));
    }

    #[test]
    fn what_cannot_be_read_is_counted_and_does_no_harm() {
        let mut tally = Tally::new(None, None);
        let mut cut = message(Type::ClientQuery, "cut", 0, 0);
        if let Some(message) = &mut cut.message {
            message.query_message.as_mut().expect("one").truncate(14);
        }
        tally.count(START, &cut);
        let mut unknown = message(Type::ClientQuery, "unknown", 0, 0);
        unknown.message.as_mut().expect("one").r#type = 99;
        tally.count(START, &unknown);
        tally.count(START, &Dnstap::default());
        let view = tally.view(10);
        assert_eq!((view.messages, view.malformed), (3, 1));
        assert_eq!(view.kinds, [(Type::ClientQuery, 1, 1)]);
        // The name does not depend on the type, but the client does.
        assert_eq!(view.sides[0].names.rows.len(), 1);
        assert_eq!(view.sides[0].clients.total, 1);
    }
}

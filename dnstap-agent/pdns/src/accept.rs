//! Decides which messages count: complete answers to the resolver's own queries, from servers that can speak for a
//! zone.
//!
//! A response counts if the frames show that it answers a query:
//!
//! - its own frame also holds the query, with the same id and question; or
//! - an earlier frame of type `RESOLVER_QUERY`, at most [`PATIENCE`] seconds older, has the same id, question, server
//!   address and server port (and the same port of the resolver, if both frames have it), and no other response has
//!   answered it yet; or
//! - the operator says that the writer of the frames has already paired them ([`Pairing::ByWriter`]).
//!
//! The names in questions are compared without regard to case (RFC 4343).

use std::{
    collections::VecDeque,
    time::{SystemTime, UNIX_EPOCH},
};

use dnstap_core::dns::{Class, Dns, LONGEST_NAME, Rcode};
use dnstap_proto::{Message, message::Type};
use foldhash::{HashMap, HashMapExt as _};

/// Longest time that a query waits for its response, in seconds. Both times come from the frames.
pub const PATIENCE: u64 = 60;

/// Seconds in a day.
const DAY: u64 = 24 * 60 * 60;

/// Largest number of queries that wait for a response. Beyond it, the oldest are dropped.
const WAITING: usize = 1 << 17;

/// Rule that decides whether a response belongs to a query.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Pairing {
    /// The frames must show it, as the head of this module describes.
    #[default]
    ByFrames,
    /// The writer of the frames has paired them, for example a server with its own dnstap.
    ByWriter,
}

/// Reason why a message, or an RRset in a message, is discarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Discard {
    /// Response of another resolver (`FORWARDER_RESPONSE`). It does not speak for the zone.
    Forwarder,
    /// The message cannot be read to its last byte, is not a response to exactly one question of class IN, has no time,
    /// or has a time more than one day in the future.
    Malformed,
    /// The TC bit is set: the message is incomplete.
    Truncated,
    /// No known query matches the response.
    Unmatched,
    /// The response code is not NOERROR, NXDOMAIN or YXDOMAIN. A resolver takes no data from such a response.
    Refused,
    /// The zone in the frame is invalid, or the question is not in it.
    WrongZone,
    /// The owner of the RRset is not in the zone.
    OutOfBailiwick,
    /// The frame names no zone, and the server is not known to serve a zone that contains the owner of the RRset.
    UnknownServer,
    /// The frame names no zone, and the message has used up its lookups of name servers.
    TooCostly,
}

impl Discard {
    /// All reasons.
    pub const ALL: [Self; 9] = [
        Self::Forwarder,
        Self::Malformed,
        Self::Truncated,
        Self::Unmatched,
        Self::Refused,
        Self::WrongZone,
        Self::OutOfBailiwick,
        Self::UnknownServer,
        Self::TooCostly,
    ];

    /// Returns the name that reports use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forwarder => "forwarder",
            Self::Malformed => "malformed",
            Self::Truncated => "truncated",
            Self::Unmatched => "unmatched",
            Self::Refused => "refused",
            Self::WrongZone => "wrong_zone",
            Self::OutOfBailiwick => "out_of_bailiwick",
            Self::UnknownServer => "unknown_server",
            Self::TooCostly => "too_costly",
        }
    }

    /// Returns whether the reason is about an RRset, and not about a whole message.
    #[must_use]
    pub const fn is_of_rrset(self) -> bool {
        matches!(
            self,
            Self::OutOfBailiwick | Self::UnknownServer | Self::TooCostly
        )
    }
}

/// A response that counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Accepted<'a> {
    pub(crate) dns: Dns<'a>,
    /// Time of the response, in seconds since 1970. If the frame has none, the time of the query.
    pub(crate) time: u64,
}

/// Result of judging a message.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Judged<'a> {
    Response(Accepted<'a>),
    /// A query of the resolver.
    Query,
    /// Any other message, for example one of a client.
    Other,
    Discarded(Discard),
}

/// Judges responses. It keeps the queries that wait for a response.
#[derive(Debug)]
pub(crate) struct Acceptor {
    pairing: Pairing,
    waiting: HashMap<Key, Waiting>,
    /// Keys of the queries in the order of their arrival, each with the number of its query.
    order: VecDeque<(Key, u64)>,
    count: u64,
}

/// Message id, address and port of the server, and question.
type Key = Box<[u8]>;

#[derive(Debug)]
struct Waiting {
    nth: u64,
    time: u64,
    port: Option<u32>,
}

impl Acceptor {
    pub(crate) fn new(pairing: Pairing) -> Self {
        Self {
            pairing,
            waiting: HashMap::new(),
            order: VecDeque::new(),
            count: 0,
        }
    }

    /// Judges the message of a frame.
    pub(crate) fn judge<'a>(&mut self, message: &'a Message) -> Judged<'a> {
        match Type::try_from(message.r#type) {
            Ok(Type::ResolverQuery) => {
                if self.pairing == Pairing::ByFrames {
                    self.note(message);
                }
                Judged::Query
            }
            Ok(Type::ResolverResponse) => match self.response(message) {
                Ok(accepted) => Judged::Response(accepted),
                Err(discard) => Judged::Discarded(discard),
            },
            Ok(Type::ForwarderResponse) => Judged::Discarded(Discard::Forwarder),
            _ => Judged::Other,
        }
    }

    fn note(&mut self, message: &Message) {
        let query = message.query_message.as_deref();
        let dns = query.and_then(|query| Dns::parse(query).ok());
        let Some((key, time)) = dns
            .and_then(|dns| key(message, dns))
            .zip(message.query_time_sec)
        else {
            return;
        };
        self.count += 1;
        self.order.push_back((key.clone(), self.count));
        let waiting = Waiting {
            nth: self.count,
            time,
            port: message.query_port,
        };
        self.waiting.insert(key, waiting);
        while self.order.len() > WAITING {
            let Some((key, nth)) = self.order.pop_front() else {
                break;
            };
            if self
                .waiting
                .get(&key)
                .is_some_and(|waiting| waiting.nth == nth)
            {
                self.waiting.remove(&key);
            }
        }
    }

    fn response<'a>(&mut self, message: &'a Message) -> Result<Accepted<'a>, Discard> {
        let bytes = message.response_message.as_deref();
        let dns = bytes.and_then(|bytes| Dns::parse(bytes).ok());
        let dns = dns.ok_or(Discard::Malformed)?;
        let time = message.response_time_sec.or(message.query_time_sec);
        let time = time.ok_or(Discard::Malformed)?;
        if is_in_the_future(time) {
            return Err(Discard::Malformed);
        }
        // Match first: a response that is discarded below has still answered its query.
        let is_matched = self.pairing == Pairing::ByWriter
            || holds_query(message, dns)
            || self.answers(message, dns, time);
        let class = dns.question().ok().flatten().map(|question| question.class);
        let is_sound = dns.is_response()
            && dns.opcode().0 == 0
            && dns.count(0) == 1
            && class == Some(Class(1));
        if !is_sound {
            return Err(Discard::Malformed);
        }
        if !is_matched {
            return Err(Discard::Unmatched);
        }
        if dns.has(0x0200) {
            return Err(Discard::Truncated);
        }
        match rcode(dns) {
            Rcode(0 | 3 | 6) => Ok(Accepted { dns, time }),
            _ => Err(Discard::Refused),
        }
    }

    /// Returns whether a query waits for this response. If so, the query is removed.
    fn answers(&mut self, message: &Message, dns: Dns<'_>, time: u64) -> bool {
        let Some(key) = key(message, dns) else {
            return false;
        };
        let Some(waiting) = self.waiting.get(&key) else {
            return false;
        };
        let same_port = match (waiting.port, message.query_port) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        };
        // The response may be one second older than its query: clocks are adjusted, and frames can arrive out of order.
        let in_time = (waiting.time.saturating_sub(1)..=waiting.time.saturating_add(PATIENCE))
            .contains(&time);
        let answers = same_port && in_time;
        if answers {
            self.waiting.remove(&key);
        }
        answers
    }
}

/// Returns the response code with the upper bits of the OPT record, if there is one (RFC 6891 section 6.1.3).
fn rcode(dns: Dns<'_>) -> Rcode {
    let records = dns.records().map_while(Result::ok);
    let mut additional = records.filter(|(section, record)| *section == 3 && record.is_opt());
    let opt = additional.next();
    opt.map_or(dns.rcode(), |(_, opt)| opt.extended_rcode(dns.rcode()))
}

/// Returns whether a time is more than one day in the future. Retention by age would never remove data with such a
/// time.
fn is_in_the_future(time: u64) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.is_ok_and(|now| time > now.as_secs() + DAY)
}

/// Returns whether the frame itself holds the query that the response answers.
fn holds_query(message: &Message, dns: Dns<'_>) -> bool {
    let query = message.query_message.as_deref();
    let Some(query) = query.and_then(|query| Dns::parse(query).ok()) else {
        return false;
    };
    let (mut one, mut other) = (Vec::new(), Vec::new());
    query.id() == dns.id()
        && !query.is_response()
        && question(query, &mut one).is_some()
        && question(dns, &mut other).is_some()
        && one == other
}

fn key(message: &Message, dns: Dns<'_>) -> Option<Key> {
    let mut key = Vec::with_capacity(64);
    key.extend(dns.id().to_be_bytes());
    let address = message.response_address.as_deref().unwrap_or_default();
    key.push(u8::try_from(address.len()).ok()?);
    key.extend_from_slice(address);
    key.extend(message.response_port.unwrap_or_default().to_be_bytes());
    question(dns, &mut key)?;
    Some(key.into())
}

fn question(dns: Dns<'_>, out: &mut Vec<u8>) -> Option<()> {
    let question = dns.question().ok()??;
    let mut wire = [0; LONGEST_NAME];
    let length = question.name.write_wire(&mut wire);
    wire[..length].make_ascii_lowercase();
    out.extend_from_slice(&wire[..length]);
    out.extend(question.kind.0.to_be_bytes());
    out.extend(question.class.0.to_be_bytes());
    Some(())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::message::fixture;

    fn query(id: u16, port: u32) -> Message {
        Message {
            r#type: Type::ResolverQuery.into(),
            query_port: Some(port),
            query_time_sec: Some(100),
            query_message: Some(fixture::message(id, 0, ("A.b", 1), [&[], &[], &[]]).into()),
            response_address: Some(vec![192, 0, 2, 1].into()),
            response_port: Some(53),
            ..Message::default()
        }
    }

    fn response(id: u16, flags: u16, time: u64) -> Message {
        Message {
            r#type: Type::ResolverResponse.into(),
            query_port: Some(5),
            response_time_sec: Some(time),
            response_message: Some(fixture::message(id, flags, ("a.b", 1), [&[], &[], &[]]).into()),
            response_address: Some(vec![192, 0, 2, 1].into()),
            response_port: Some(53),
            ..Message::default()
        }
    }

    fn judged(frames: &[Message]) -> Option<Discard> {
        let mut acceptor = Acceptor::new(Pairing::ByFrames);
        let mut last = None;
        for frame in frames {
            last = match acceptor.judge(frame) {
                Judged::Discarded(discard) => Some(discard),
                _ => None,
            };
        }
        last
    }

    #[test]
    fn a_query_is_answered_once_by_its_server_in_time() {
        assert_eq!(judged(&[query(7, 5), response(7, 0x8400, 101)]), None);
        let unmatched = Some(Discard::Unmatched);
        assert_eq!(judged(&[response(7, 0x8400, 101)]), unmatched);
        assert_eq!(judged(&[query(8, 5), response(7, 0x8400, 101)]), unmatched);
        assert_eq!(judged(&[query(7, 6), response(7, 0x8400, 101)]), unmatched);
        assert_eq!(judged(&[query(7, 5), response(7, 0x8400, 161)]), unmatched);
        assert_eq!(judged(&[query(7, 5), response(7, 0x8400, 98)]), unmatched);
        let again = [
            query(7, 5),
            response(7, 0x8400, 101),
            response(7, 0x8400, 101),
        ];
        assert_eq!(judged(&again), unmatched);
        let mut other = response(7, 0x8400, 101);
        other.response_address = Some(vec![192, 0, 2, 2].into());
        assert_eq!(judged(&[query(7, 5), other]), unmatched);
    }

    #[test]
    fn a_frame_with_its_query_needs_no_other() {
        let mut frame = response(7, 0x8400, 101);
        frame.query_message = query(7, 5).query_message;
        assert_eq!(judged(&[frame.clone()]), None);
        frame.query_message = query(8, 5).query_message;
        assert_eq!(judged(&[frame]), Some(Discard::Unmatched));
    }

    #[rstest]
    #[case(0x8600, Some(Discard::Truncated))]
    #[case(0x0400, Some(Discard::Malformed))]
    #[case(0xa400, Some(Discard::Malformed))]
    #[case(0x8402, Some(Discard::Refused))]
    #[case(0x8405, Some(Discard::Refused))]
    #[case(0x8403, None)]
    fn flags_decide(#[case] flags: u16, #[case] expected: Option<Discard>) {
        assert_eq!(judged(&[query(7, 5), response(7, flags, 101)]), expected);
    }

    #[test]
    fn times_of_the_future_and_of_overflow_are_left_out() {
        let malformed = Some(Discard::Malformed);
        assert_eq!(
            judged(&[query(7, 5), response(7, 0x8400, u64::MAX)]),
            malformed
        );
        let mut late = query(7, 5);
        late.query_time_sec = Some(u64::MAX);
        let unmatched = Some(Discard::Unmatched);
        assert_eq!(judged(&[late, response(7, 0x8400, 101)]), unmatched);
    }

    #[test]
    fn the_upper_bits_of_the_response_code_and_the_class_of_the_question_decide() {
        let with_opt = |upper: u8| {
            let mut message = fixture::message(7, 0x8400, ("a.b", 1), [&[], &[], &[]]);
            // ARCOUNT, and an OPT record: root, type 41, 1232 bytes, extended rcode, no data.
            message[11] = 1;
            message.extend([0, 0, 41, 4, 208, upper, 0, 0, 0, 0, 0]);
            let mut frame = response(7, 0x8400, 101);
            frame.response_message = Some(message.into());
            judged(&[query(7, 5), frame])
        };
        assert_eq!(with_opt(0), None);
        assert_eq!(with_opt(1), Some(Discard::Refused), "BADVERS");
        let chaos = |frame: &mut Option<bytes::Bytes>| {
            let mut message = frame.take().expect("a message").to_vec();
            let end = message.len();
            message[end - 1] = 3;
            *frame = Some(message.into());
        };
        let (mut asked, mut answered) = (query(7, 5), response(7, 0x8400, 101));
        chaos(&mut asked.query_message);
        chaos(&mut answered.response_message);
        assert_eq!(judged(&[asked, answered]), Some(Discard::Malformed));
    }

    #[test]
    fn the_writer_may_have_paired_and_forwarders_never_count() {
        let mut acceptor = Acceptor::new(Pairing::ByWriter);
        let mut frame = response(7, 0x8400, 101);
        assert!(matches!(acceptor.judge(&frame), Judged::Response(_)));
        frame.r#type = Type::ForwarderResponse.into();
        let judged = acceptor.judge(&frame);
        assert!(matches!(judged, Judged::Discarded(Discard::Forwarder)));
        frame.r#type = Type::ClientResponse.into();
        assert!(matches!(acceptor.judge(&frame), Judged::Other));
    }

    #[test]
    fn queries_that_wait_are_bounded() {
        let mut acceptor = Acceptor::new(Pairing::ByFrames);
        for nth in 0..u32::try_from(WAITING).expect("fits") + 100 {
            let mut query = query(7, 5);
            query.response_address = Some(nth.to_be_bytes().to_vec().into());
            acceptor.judge(&query);
        }
        assert_eq!(
            (acceptor.waiting.len(), acceptor.order.len()),
            (WAITING, WAITING)
        );
    }
}

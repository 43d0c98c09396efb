//! One row: an exchange, which is a query, its response, or both.

use std::{collections::HashSet, net::IpAddr};

use bytes::Bytes;
use dnstap_core::dns::{Dns, Label, Name, Opt, OptValue};
use dnstap_proto::{Dnstap, Message, Policy, message::Type};
use foldhash::fast::RandomState;

use crate::formats::render::socket::{self, Time};

/// A query, its response, or both.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    /// [`Type`] of the query, also if there is only the response.
    pub(super) kind: Option<Type>,
    pub(super) identity: Option<Bytes>,
    pub(super) version: Option<Bytes>,
    pub(super) family: Option<i32>,
    pub(super) protocol: Option<i32>,
    pub(super) http: Option<i32>,
    /// Ends that ask and answer.
    pub(super) ends: [End; 2],
    /// Times of query and response, in nanoseconds since 1970.
    pub(super) times: [Option<i64>; 2],
    pub(super) question: Option<Question>,
    pub(super) query: Option<Half>,
    pub(super) response: Option<Half>,
    pub(super) zone: Option<String>,
    pub(super) policy: Option<Box<Policy>>,
    /// Number of dnstap messages in it: 1 or 2.
    pub(super) messages: u8,
}

/// An address and a port.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct End {
    pub(super) address: Option<IpAddr>,
    pub(super) port: Option<u32>,
}

/// The first question.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// Name in lower case, as zone files write it, without the last dot. The root is a dot.
    pub(super) name: Bytes,
    /// Name as it was sent, if that differs.
    pub(super) exact: Option<Bytes>,
    pub(super) labels: u8,
    pub(super) kind: u16,
    pub(super) class: u16,
}

impl Question {
    /// Returns whether both ask for the same, in any case (RFC 4343).
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (&self.name, self.kind, self.class) == (&other.name, other.kind, other.class)
    }
}

/// One DNS message.
#[derive(Debug, Default)]
pub(super) struct Half {
    /// Bytes of the message.
    pub(super) length: usize,
    /// `None` if there is no whole header.
    pub(super) header: Option<Header>,
    pub(super) edns: Option<Box<Edns>>,
}

#[derive(Debug)]
pub(super) struct Header {
    pub(super) id: u16,
    pub(super) flags: u16,
    pub(super) opcode: u16,
    /// Response code with its bits from EDNS.
    pub(super) rcode: u16,
    pub(super) counts: [u16; 4],
}

/// EDNS parameters and options (RFC 6891).
#[derive(Debug)]
pub(super) struct Edns {
    pub(super) udp_size: u16,
    pub(super) version: u8,
    pub(super) dnssec_ok: bool,
    pub(super) options: Vec<u16>,
    /// Client subnet (RFC 7871).
    pub(super) subnet: Option<String>,
    /// Extended errors (RFC 8914).
    pub(super) errors: Vec<u16>,
}

/// Names of servers and versions. Nearly all messages have the same.
///
/// They are copies: a part of a message would keep the memory of a whole batch.
#[derive(Debug, Default)]
pub(super) struct Known(HashSet<Bytes, RandomState>);

impl Known {
    fn copy(&mut self, text: Option<&Bytes>) -> Option<Bytes> {
        let text = text?;
        if let Some(known) = self.0.get(text) {
            return Some(known.clone());
        }
        let copy = Bytes::copy_from_slice(text);
        self.0.insert(copy.clone());
        Some(copy)
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

impl Exchange {
    /// Reads a message. Returns `None` if the frame has none. Also returns whether it is a response.
    pub(super) fn of(dnstap: &Dnstap, known: &mut Known) -> Option<(Self, bool)> {
        let message = dnstap.message.as_ref()?;
        let is_response = socket::is_response(message);
        let own_kind = socket::kind(message);
        let kind = match own_kind {
            Some(kind) if is_response => Type::try_from(kind as i32 - 1).ok(),
            kind => kind,
        };
        let (query, asked) = half(message.query_message.as_deref());
        let (response, answered) = half(message.response_message.as_deref());
        let exchange = Self {
            kind,
            identity: known.copy(dnstap.identity.as_ref()),
            version: known.copy(dnstap.version.as_ref()),
            family: message.socket_family,
            protocol: message.socket_protocol,
            http: message.http_protocol,
            ends: ends(message),
            times: [socket::query_time(message), socket::response_time(message)]
                .map(|time| time.and_then(nanoseconds)),
            question: asked.or(answered),
            query,
            response,
            zone: socket::zone(message).map(|name| name.to_string()),
            policy: message
                .policy
                .as_ref()
                .filter(|policy| **policy != Policy::default())
                .map(|policy| Box::new(owned(policy))),
            messages: 1,
        };
        Some((exchange, is_response))
    }

    /// Returns the time by which rows are sorted: that of the query, or else of the response.
    pub(super) fn time(&self) -> Option<i64> {
        self.times[0].or(self.times[1])
    }

    /// Returns the nanoseconds from query to response.
    pub(super) fn latency(&self) -> Option<i64> {
        self.times[1]?.checked_sub(self.times[0]?)
    }

    /// Returns the header of the query, or else of the response, which repeats a part of it.
    pub(super) fn asked(&self) -> Option<&Header> {
        let query = self.query.as_ref().and_then(|half| half.header.as_ref());
        query.or_else(|| self.answered())
    }

    /// Returns the header of the response.
    pub(super) fn answered(&self) -> Option<&Header> {
        self.response.as_ref()?.header.as_ref()
    }

    /// Returns the end that is not the recording server: the client of a server, or the server that a resolver asks.
    pub(super) fn peer(&self) -> End {
        self.ends[usize::from(matches!(
            self.kind,
            Some(Type::ResolverQuery | Type::ForwarderQuery | Type::StubQuery | Type::ToolQuery)
        ))]
    }

    /// Adds the response to this query.
    pub(super) fn answer(&mut self, response: Self) {
        let [(asks, answers), (other_asks, other_answers)] =
            [&self.ends, &response.ends].map(|[asks, answers]| (*asks, *answers));
        self.ends = [asks.or(other_asks), answers.or(other_answers)];
        self.times = [
            self.times[0].or(response.times[0]),
            response.times[1].or(self.times[1]),
        ];
        self.question = self.question.take().or(response.question);
        self.query = self.query.take().or(response.query);
        self.response = response.response;
        self.identity = self.identity.take().or(response.identity);
        self.version = self.version.take().or(response.version);
        self.family = self.family.or(response.family);
        self.http = self.http.or(response.http);
        self.zone = self.zone.take().or(response.zone);
        self.policy = response.policy.or_else(|| self.policy.take());
        self.messages += response.messages;
    }

    /// Returns the bytes that it takes in memory, about.
    pub(super) fn size(&self) -> usize {
        let names = self.question.as_ref().map_or(0, |question| {
            question.name.len() + question.exact.as_ref().map_or(0, Bytes::len)
        });
        let edns = [&self.query, &self.response].map(|half| {
            let edns = half.as_ref().and_then(|half| half.edns.as_deref());
            edns.map_or(0, |edns| {
                let subnet = edns.subnet.as_ref().map_or(0, String::capacity);
                size_of::<Edns>() + 2 * (edns.options.capacity() + edns.errors.capacity()) + subnet
            })
        });
        let texts = [&self.identity, &self.version].map(|text| text.as_ref().map_or(0, Bytes::len));
        let policy = self.policy.as_ref().map_or(0, |policy| {
            let parts =
                [&policy.rule, &policy.value].map(|part| part.as_ref().map_or(0, Bytes::len));
            let kind = policy.r#type.as_ref().map_or(0, String::capacity);
            size_of::<Policy>() + parts[0] + parts[1] + kind
        });
        let zone = self.zone.as_ref().map_or(0, String::capacity);
        zone + size_of::<Self>() + names + edns[0] + edns[1] + texts[0] + texts[1] + policy
    }
}

impl End {
    fn or(self, other: Self) -> Self {
        Self {
            address: self.address.or(other.address),
            port: self.port.or(other.port),
        }
    }
}

fn ends(message: &Message) -> [End; 2] {
    let end = |address: &Option<Bytes>, port| End {
        address: socket::address(address.as_deref()),
        port,
    };
    [
        end(&message.query_address, message.query_port),
        end(&message.response_address, message.response_port),
    ]
}

/// Returns a copy of a policy that shares no memory with its message.
fn owned(policy: &Policy) -> Policy {
    let copy = |bytes: &Option<Bytes>| bytes.as_deref().map(Bytes::copy_from_slice);
    Policy {
        rule: copy(&policy.rule),
        value: copy(&policy.value),
        ..policy.clone()
    }
}

/// Converts a time. Databases store nanoseconds since 1970 in 64 bits with sign; a later time is left out, as in JSON.
fn nanoseconds((seconds, nanoseconds): Time) -> Option<i64> {
    let whole = i64::try_from(seconds).ok()?.checked_mul(1_000_000_000)?;
    (nanoseconds < 1_000_000_000)
        .then(|| whole.checked_add(nanoseconds.into()))
        .flatten()
}

/// Reads a DNS message, and its first question.
fn half(bytes: Option<&[u8]>) -> (Option<Half>, Option<Question>) {
    let Some(bytes) = bytes else {
        return (None, None);
    };
    let mut half = Half {
        length: bytes.len(),
        ..Half::default()
    };
    let Ok(dns) = Dns::parse(bytes) else {
        return (Some(half), None);
    };
    let opt = dns.first_opt();
    half.header = Some(Header {
        id: dns.id(),
        flags: u16::from_be_bytes([bytes[2], bytes[3]]),
        opcode: dns.opcode().0,
        rcode: opt
            .map_or(dns.rcode(), |opt| opt.extended_rcode(dns.rcode()))
            .0,
        counts: [0, 1, 2, 3].map(|section| dns.count(section)),
    });
    half.edns = opt.map(|opt| Box::new(edns(Opt::of(opt))));
    let question = dns.question().ok().flatten().map(|question| {
        let (name, exact, labels) = text(question.name);
        Question {
            name,
            exact,
            labels,
            kind: question.kind.0,
            class: question.class.0,
        }
    });
    (Some(half), question)
}

fn edns(opt: Opt<'_>) -> Edns {
    let mut edns = Edns {
        udp_size: opt.udp_size(),
        version: opt.version(),
        dnssec_ok: opt.dnssec_ok(),
        options: Vec::new(),
        subnet: None,
        errors: Vec::new(),
    };
    for option in opt.options() {
        edns.options.extend(option.code);
        for (_, value) in option.members() {
            match (option.code, value) {
                (Some(8), OptValue::Subnet(address, bits)) => {
                    edns.subnet = Some(format!("{address}/{bits}"));
                }
                (Some(15), OptValue::Number(code)) => {
                    edns.errors.extend(u16::try_from(code));
                }
                _ => {}
            }
        }
    }
    edns
}

/// Returns a name in lower case; as it was sent, if that differs; and its number of labels.
fn text(name: Name<'_>) -> (Bytes, Option<Bytes>, u8) {
    use std::io::Write as _;
    let mut exact = Vec::with_capacity(64);
    let mut labels = 0;
    for label in name.labels() {
        labels += 1;
        if label
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        {
            exact.extend_from_slice(label);
        } else {
            // Writing to a vector does not fail.
            write!(exact, "{}", Label(label)).unwrap_or_default();
        }
        exact.push(b'.');
    }
    if exact.len() > 1 {
        exact.pop();
    }
    if labels == 0 {
        exact.push(b'.');
    }
    if exact.iter().any(u8::is_ascii_uppercase) {
        let lower = exact.to_ascii_lowercase();
        return (lower.into(), Some(exact.into()), labels);
    }
    (exact.into(), None, labels)
}

//! The JSON line. Field names are stable. A field whose value is unknown is left out, unless said
//! otherwise. `docs/dnstap-json.schema.json` describes the same for programs.
//!
//! A field has the same JSON type in every line. Integers, including nanoseconds since 1970, fit
//! into 64 bits with sign. Databases that convert fields to columns (`ClickHouse`, `DuckDB`) refuse
//! a file in which this is not so. A number without a mnemonic is a string with a prefix, such as
//! `TYPE42`.
//!
//! | field | value |
//! |---|---|
//! | `time` | time of this message: `response_time` of a response, `query_time` of a query; the other time if only that is present |
//! | `type` | `CLIENT_QUERY` ..., as in `dnstap.proto`; `TYPE42` if it is not there |
//! | `identity`, `version` | of the recording server, as text; bytes that are not UTF-8 as `\\xNN`, a backslash as two |
//! | `extra` | an object, if the field is one that this agent writes: `pid`, `tid`, `hook`, `netns`, `unsolicited`; `event`, `waited_ns` |
//! | `extra_text`, `extra_hex` | the field if another program wrote it, exactly: as text, or in hexadecimal if it is not UTF-8 |
//! | `socket_family`, `socket_protocol`, `http_protocol` | `INET`, `INET6`, `FAMILY42`; `UDP`, `TCP`, `DOT`, ..., `PROTOCOL42`; `HTTP2` ..., `PROTOCOL42` |
//! | `query_address`, `query_port`, `response_address`, `response_port` | initiator and responder |
//! | `query_time`, `response_time` | RFC 3339, UTC, nanoseconds; left out if the frame has none, or one that is no time up to 2262-04-11 |
//! | `latency_ns` | `response_time` less `query_time` |
//! | `query_zone` | absolute name |
//! | `policy` | object: `type`, `action` (`NXDOMAIN` ..., `ACTION42`), `match` (`QNAME` ..., `MATCH42`), `rule`, `value`; left out if it has none |
//! | `size` | bytes of the DNS message |
//! | `message` | the DNS message: |
//! | `.id`, `.opcode`, `.rcode` | number; words, the rcode with its EDNS bits |
//! | `.flags` | object of booleans: `qr aa tc rd ra ad cd` |
//! | `.qname`, `.qclass`, `.qtype` | first question; absolute name, escaped as in zone files |
//! | `.questions` | if there are several: array of all, as objects with these three |
//! | `.counts` | object: `qd an ns ar`, as the header says |
//! | `.answers`, `.authorities`, `.additionals` | arrays (left out when empty) of `name`, `class`, `type`, `ttl`, `rdata` |
//! | `.edns` | the first OPT record, an object: `udp_size`, `version`, `do`, `co`; `z` and `extended_rcode` unless 0; `name` unless the root; `options` unless there are none |
//! | `.edns.options` | array, in the order of the message, of objects: `code`, `name` if it has one, members by their code (below), `malformed` |
//! | `.more_edns` | array of further OPT records, which RFC 6891 forbids |
//! | `.trailing_bytes` | bytes behind the last record that the header counts |
//! | `.malformed` | the error in the DNS message; nothing was read from its position on |
//! | `.bytes` | all its bytes in hexadecimal, if it is malformed |
//! | `query_message` | for a response: the query, if it is in the same frame; has the members of `message` |
//! | `response_message` | for a query: the response, if it is in the same frame; has the members of `message` |
//! | `malformed` | the error in the frame |
//!
//! Members of EDNS options, by name and code. `hex` has bytes in hexadecimal, also for options that
//! are malformed or not listed:
//!
//! | option | members |
//! |---|---|
//! | `LLQ` 1 | `version`, `opcode`, `error`, `id` (hexadecimal), `lease` (seconds) |
//! | `UL` 2 | `lease`, `key_lease` (seconds) |
//! | `NSID` 3 | `hex`; `text` if it is printable ASCII |
//! | `DAU` 5, `DHU` 6, `N3U` 7 | `algorithms`, an array |
//! | `ECS` 8 | `family`, `source`, `scope`; `subnet` such as `198.51.100.0/24` unless the family is 0 |
//! | `EXPIRE` 9 | `expire` (seconds) |
//! | `COOKIE` 10 | `client`, `server` (hexadecimal) |
//! | `KEEPALIVE` 11 | `timeout_ms` |
//! | `PADDING` 12 | `length`; `hex` unless it is zeros |
//! | `CHAIN` 13 | `trust_point`, a name |
//! | `KEY-TAG` 14 | `tags`, an array |
//! | `EDE` 15 | `info_code`; `purpose` if the code has one; `text`, or `hex` if it is not UTF-8 |
//! | `CLIENT-TAG` 16, `SERVER-TAG` 17 | `tag` |
//! | `REPORT-CHANNEL` 18 | `agent_domain`, a name |
//! | `ZONEVERSION` 19 | `labels`, `version_type`; `serial` of type 0, else `version_hex` |
//!
//! The line is printable ASCII: everything else is escaped as `\uXXXX`.

use std::{
    borrow::Cow,
    fmt::Display,
    io::{self, Write},
    net::IpAddr,
};

use data_encoding::HEXLOWER;
use dnstap_core::{
    dns::{Class, Dns, FLAGS, Name, Opcode, Opt, Question, Rcode, Rdata, Record, Type, WireError},
    model,
};
use dnstap_proto::{Dnstap, HttpProtocol, Message, Policy, SocketFamily, policy};
use serde::{Serialize, Serializer, ser::SerializeMap as _};

use super::{edns::Edns, extra, socket, time::Clock};

/// The line of a message, ready to be written: JSON by [`write`], YAML by `yaml`.
pub(super) fn message<'a>(dnstap: &'a Dnstap, clock: &mut Clock) -> Line<'a> {
    let mut line = Line {
        identity: dnstap.identity.as_deref().map(extra::text),
        version: dnstap.version.as_deref().map(extra::text),
        ..Line::default()
    };
    if let Some(bytes) = dnstap.extra.as_deref() {
        line.extra = extra::Own::of(bytes);
        match str::from_utf8(bytes) {
            _ if line.extra.is_some() => {}
            Ok(text) => line.extra_text = Some(text),
            Err(_) => line.extra_hex = Some(HEXLOWER.encode(bytes)),
        }
    }
    match &dnstap.message {
        Some(message) => line.fill(message, clock),
        None => line.malformed = Some("a dnstap frame without a message".to_owned()),
    }
    line
}

/// The line of something that is not a dnstap message; `size` is that of the frame.
pub(super) fn broken(size: usize, error: &impl Display) -> Line<'static> {
    Line {
        size: Some(size),
        malformed: Some(format!("not a dnstap message: {error}")),
        ..Line::default()
    }
}

/// Appends a line as JSON.
pub(super) fn write(line: &impl Serialize, out: &mut Vec<u8>) {
    let mut serializer = serde_json::Serializer::with_formatter(&mut *out, Ascii);
    // The values are strings, numbers and booleans, and writing to a Vec does not fail.
    line.serialize(&mut serializer)
        .unwrap_or_else(|error| unreachable!("{error}"));
    out.push(b'\n');
}

/// All that is said of a message. `None` is left out.
#[derive(Debug, Default, Serialize)]
pub(super) struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<Word>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extra: Option<extra::Own<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extra_text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extra_hex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    socket_family: Option<Word>,
    #[serde(skip_serializing_if = "Option::is_none")]
    socket_protocol: Option<Word>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http_protocol: Option<Word>,
    #[serde(skip_serializing_if = "Option::is_none")]
    query_address: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    query_port: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_address: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_port: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    query_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_ns: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    query_zone: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<PolicyLine<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<DnsLine<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    query_message: Option<DnsLine<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_message: Option<DnsLine<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    malformed: Option<String>,
}

impl<'a> Line<'a> {
    fn fill(&mut self, message: &'a Message, clock: &mut Clock) {
        self.r#type = match (socket::kind(message), message.r#type) {
            (Some(kind), _) => Some(model::long_name(kind).into()),
            (None, 0) => None,
            (None, number) => Some(format!("TYPE{number}").into()),
        };
        self.socket_family = word(message.socket_family, "FAMILY", |family: SocketFamily| {
            family.as_str_name()
        });
        self.socket_protocol = word(message.socket_protocol, "PROTOCOL", socket::protocol_name);
        self.http_protocol = word(
            message.http_protocol,
            "PROTOCOL",
            |protocol: HttpProtocol| protocol.as_str_name(),
        );
        self.query_address = socket::address(message.query_address.as_deref());
        self.query_port = message.query_port;
        self.response_address = socket::address(message.response_address.as_deref());
        self.response_port = message.response_port;
        self.query_time = self.time("query", socket::query_time(message), clock);
        self.response_time = self.time("response", socket::response_time(message), clock);
        // The time of the other message is used only if this message's time is missing, not if it
        // is invalid.
        let by_response = if socket::is_response(message) {
            message.response_time_sec.is_some()
        } else {
            message.query_time_sec.is_none()
        };
        self.time = if by_response {
            self.response_time.clone()
        } else {
            self.query_time.clone()
        };
        if self.query_time.is_some() && self.response_time.is_some() {
            self.latency_ns = socket::latency(message);
        }
        self.query_zone = socket::zone(message).map(|name| name.to_string());
        let policy = message
            .policy
            .as_ref()
            .filter(|policy| **policy != Policy::default());
        self.policy = policy.map(PolicyLine::new);
        let Some(bytes) = socket::dns(message) else {
            self.is_malformed("no DNS message".to_owned());
            return;
        };
        self.size = Some(bytes.len());
        let line = DnsLine::of(bytes);
        if line.id.is_none()
            && let Some(error) = &line.malformed
        {
            self.is_malformed(error.0.to_string());
        }
        self.message = Some(line);
        let other = socket::other_dns(message).map(DnsLine::of);
        *if socket::is_response(message) {
            &mut self.query_message
        } else {
            &mut self.response_message
        } = other;
    }

    /// Formats a time as in RFC 3339. An invalid time is noted in `malformed`.
    fn time(&mut self, of: &str, time: Option<socket::Time>, clock: &mut Clock) -> Option<String> {
        let (seconds, nanoseconds) = time?;
        let mut text = Vec::with_capacity(30);
        // Databases store nanoseconds since 1970 in 64 bits with sign.
        let fits = seconds
            .checked_mul(1_000_000_000)
            .and_then(|whole| whole.checked_add(nanoseconds.into()))
            .is_some_and(|whole| i64::try_from(whole).is_ok());
        if !fits || !clock.write_time(seconds, nanoseconds, 9, &mut text) {
            self.is_malformed(format!(
                "{of} time of {seconds} s and {nanoseconds} ns is no time up to 2262-04-11"
            ));
            return None;
        }
        Some(text.into_iter().map(char::from).collect())
    }

    fn is_malformed(&mut self, what: String) {
        self.malformed = Some(match self.malformed.take() {
            Some(before) => format!("{before}; {what}"),
            None => what,
        });
    }
}

/// Value of an enum: its name, or its number behind a prefix if it has no name.
type Word = Cow<'static, str>;

fn word<E: TryFrom<i32>>(
    number: Option<i32>,
    prefix: &str,
    name: impl FnOnce(E) -> &'static str,
) -> Option<Word> {
    number.map(|number| match E::try_from(number) {
        Ok(value) => name(value).into(),
        Err(_) => format!("{prefix}{number}").into(),
    })
}

#[derive(Debug, Serialize)]
struct PolicyLine<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<Word>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#match: Option<Word>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Cow<'a, str>>,
}

impl<'a> PolicyLine<'a> {
    fn new(policy: &'a Policy) -> Self {
        Self {
            r#type: policy.r#type.as_deref(),
            action: word(policy.action, "ACTION", |action: policy::Action| {
                action.as_str_name()
            }),
            r#match: word(policy.r#match, "MATCH", |r#match: policy::Match| {
                r#match.as_str_name()
            }),
            rule: policy.rule.as_deref().map(extra::text),
            value: policy.value.as_deref().map(extra::text),
        }
    }
}

#[derive(Debug, Default, Serialize)]
struct DnsLine<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    opcode: Option<Shown<Opcode>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rcode: Option<Shown<Rcode>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flags: Option<Flags<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    qname: Option<Shown<Name<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    qclass: Option<Shown<Class>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    qtype: Option<Shown<Type>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    questions: Vec<QuestionLine<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    counts: Option<Counts>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    answers: Vec<RecordLine<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    authorities: Vec<RecordLine<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    additionals: Vec<RecordLine<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    edns: Option<Edns<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    more_edns: Vec<Edns<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trailing_bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    malformed: Option<Shown<WireError>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<String>,
}

impl<'a> DnsLine<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        let mut line = match Dns::parse(bytes) {
            Ok(dns) => Self::new(&dns),
            Err(error) => Self {
                malformed: Some(Shown(error)),
                ..Self::default()
            },
        };
        if line.malformed.is_some() {
            line.bytes = Some(HEXLOWER.encode(bytes));
        }
        line
    }

    fn new(dns: &Dns<'a>) -> Self {
        let mut line = Self {
            id: Some(dns.id()),
            opcode: Some(Shown(dns.opcode())),
            rcode: Some(Shown(dns.rcode())),
            flags: Some(Flags(*dns)),
            qname: dns.first_name().map(Shown),
            counts: Some(Counts {
                qd: dns.count(0),
                an: dns.count(1),
                ns: dns.count(2),
                ar: dns.count(3),
            }),
            ..Self::default()
        };
        for question in dns.questions() {
            match question {
                Ok(question) if line.qtype.is_none() => {
                    line.qclass = Some(Shown(question.class));
                    line.qtype = Some(Shown(question.kind));
                }
                Ok(_) => {}
                Err(error) => line.malformed = Some(Shown(error)),
            }
        }
        if dns.count(0) > 1 {
            let questions = dns.questions().map_while(Result::ok);
            line.questions = questions.map(QuestionLine::from).collect();
        }
        let mut records = dns.records();
        for record in &mut records {
            match record {
                Ok((3, record)) if record.is_opt() => {
                    let edns = Edns(Opt::of(record));
                    if line.edns.is_some() {
                        line.more_edns.push(edns);
                    } else {
                        line.edns = Some(edns);
                        line.rcode = Some(Shown(record.extended_rcode(dns.rcode())));
                    }
                }
                Ok((section, record)) => {
                    let lines = match section {
                        1 => &mut line.answers,
                        2 => &mut line.authorities,
                        _ => &mut line.additionals,
                    };
                    lines.push(RecordLine::new(&record));
                }
                Err(error) => line.malformed = Some(Shown(error)),
            }
        }
        if line.malformed.is_none() && !records.rest().is_empty() {
            line.trailing_bytes = Some(records.rest().len());
        }
        line
    }
}

#[derive(Debug, Serialize)]
struct QuestionLine<'a> {
    qname: Shown<Name<'a>>,
    qclass: Shown<Class>,
    qtype: Shown<Type>,
}

impl<'a> From<Question<'a>> for QuestionLine<'a> {
    fn from(question: Question<'a>) -> Self {
        Self {
            qname: Shown(question.name),
            qclass: Shown(question.class),
            qtype: Shown(question.kind),
        }
    }
}

#[derive(Debug, Serialize)]
struct RecordLine<'a> {
    name: Shown<Name<'a>>,
    class: Shown<Class>,
    r#type: Shown<Type>,
    ttl: u32,
    rdata: Shown<Rdata<'a>>,
}

impl<'a> RecordLine<'a> {
    fn new(record: &Record<'a>) -> Self {
        Self {
            name: Shown(record.name),
            class: Shown(record.class),
            r#type: Shown(record.kind),
            ttl: record.ttl,
            rdata: Shown(Rdata::of(record)),
        }
    }
}

#[derive(Debug, Serialize)]
struct Counts {
    qd: u16,
    an: u16,
    ns: u16,
    ar: u16,
}

/// Serializes every flag by its name.
#[derive(Debug)]
struct Flags<'a>(Dns<'a>);

impl Serialize for Flags<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(FLAGS.len()))?;
        for (name, flag) in FLAGS {
            map.serialize_entry(name, &self.0.has(flag))?;
        }
        map.end()
    }
}

/// Serializes a value as the string that it prints.
#[derive(Debug)]
struct Shown<T>(T);

impl<T: Display> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// Compact JSON whose strings are printable ASCII. `serde_json` escapes controls below U+0020; this
/// formatter escapes the rest.
struct Ascii;

impl serde_json::ser::Formatter for Ascii {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut plain = 0;
        for (at, char) in fragment
            .char_indices()
            .filter(|(_, char)| !matches!(char, ' '..='~'))
        {
            writer.write_all(&fragment.as_bytes()[plain..at])?;
            for unit in char.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            plain = at + char.len_utf8();
        }
        writer.write_all(&fragment.as_bytes()[plain..])
    }
}

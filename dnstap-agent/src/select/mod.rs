//! Selection of messages by their content: turns command line options into one test of each
//! message.
//!
//! A [`Filter`] reads a [`View`] in place and checks the cheapest conditions first: numbers in
//! dnstap's own fields, then times and addresses, then the header of the DNS message, its question,
//! and last the bytes behind that. If a filter has several values, one of them must match. If there
//! are several filters, all must match. A message without the field that a filter asks for does not
//! match.

mod name;
mod time;

use std::net::IpAddr;

use clap::{Args, ValueEnum};
use dnstap_core::{
    dns::{Dns, Rcode, Type},
    model::{Net, TypeSet},
};
use dnstap_proto::{Event, SocketProtocol, View};

use self::name::{Lowered, Pattern};
pub use self::{
    name::{DomainName, DomainNames},
    time::{Length, Moment},
};
use crate::formats::render::{
    extra,
    socket::{self, Time},
};

/// Options on which messages are meant.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Which messages")]
pub struct Select {
    /// Of these types: `client`, `resolver`, `auth`, `forwarder`, `stub`, `tool`, `update`, or one half, such as
    /// `client-query` or `CQ`
    #[arg(long, value_name = "TYPE,...", value_delimiter = ',')]
    pub only: Vec<TypeSet>,

    /// Over these transports
    #[arg(long, value_name = "PROTOCOL,...", value_delimiter = ',')]
    pub protocol: Vec<Protocol>,

    /// From or to one of these ports
    #[arg(long = "port", value_name = "PORT,...", value_delimiter = ',')]
    pub ports: Vec<u16>,

    /// From or to these subnets or addresses, such as `192.0.2.0/24,2001:db8::1`
    #[arg(long = "net", value_name = "NET,...", value_delimiter = ',')]
    pub nets: Vec<Net>,

    /// Asked from these subnets or addresses
    #[arg(long, value_name = "NET,...", value_delimiter = ',')]
    pub client: Vec<Net>,

    /// Answered by these subnets or addresses
    #[arg(long, value_name = "NET,...", value_delimiter = ',')]
    pub server: Vec<Net>,

    /// Not before this time: `2026-11-24T03:00:00Z`, `2026-11-24 03:00` (UTC), or `15m` (ago)
    #[arg(long, value_name = "TIME")]
    pub since: Option<Moment>,

    /// Before this time
    #[arg(long, value_name = "TIME")]
    pub until: Option<Moment>,

    /// Only responses that took at least this, such as `100ms`
    #[arg(long, value_name = "LENGTH")]
    pub slower: Option<Length>,

    /// Only responses that took less than this
    #[arg(long, value_name = "LENGTH")]
    pub faster: Option<Length>,

    /// Responses with these codes, such as `NXDOMAIN,SERVFAIL`
    #[arg(long, value_name = "RCODE,...", value_delimiter = ',', value_parser = parse_rcode)]
    pub rcode: Vec<u16>,

    /// Only questions of these types, such as `AAAA,TYPE65`
    #[arg(long, value_name = "TYPE,...", value_delimiter = ',', value_parser = parse_type)]
    pub qtype: Vec<u16>,

    /// Only questions about these names, as `read` prints them or as people type them; upper and lower case are the same
    #[arg(long, value_name = "NAME,...")]
    pub name: Vec<DomainNames>,

    /// Only questions about these names, or names below them
    #[arg(long, value_name = "NAME,...")]
    pub suffix: Vec<DomainNames>,

    /// Which servers' messages
    #[command(flatten)]
    pub identities: Identities,
}

/// Servers, by the identity that their dnstap has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct Identities {
    /// Only messages with this identity, the field that names the server, as it is or as JSON shows it; may be given several
    /// times
    #[arg(long = "from-identity", value_name = "TEXT")]
    pub identities: Vec<String>,
}

impl Identities {
    /// Returns whether messages with this identity are selected. All are selected if the options
    /// name none.
    #[must_use]
    pub fn has(&self, identity: Option<&[u8]>) -> bool {
        any(&self.identities, |named| {
            identity.is_some_and(|identity| {
                identity == named.as_bytes() || extra::text(identity) == named.as_str()
            })
        })
    }
}

/// Transports that dnstap knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "they are what they are called")]
pub enum Protocol {
    Udp,
    Tcp,
    Dot,
    Doh,
    DnscryptUdp,
    DnscryptTcp,
    Doq,
}

impl From<Protocol> for SocketProtocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Udp => Self::Udp,
            Protocol::Tcp => Self::Tcp,
            Protocol::Dot => Self::Dot,
            Protocol::Doh => Self::Doh,
            Protocol::DnscryptUdp => Self::DnsCryptUdp,
            Protocol::DnscryptTcp => Self::DnsCryptTcp,
            Protocol::Doq => Self::Doq,
        }
    }
}

fn parse_rcode(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(Rcode(code @ 0..0x1000)) => Ok(code),
        _ => Err(format!(
            "{text:?} is no response code, such as NXDOMAIN or 3"
        )),
    }
}

fn parse_type(text: &str) -> Result<u16, String> {
    text.parse::<Type>()
        .map(|kind| kind.0)
        .map_err(|_unknown| format!("{text:?} is no type, such as AAAA, TYPE28 or 28"))
}

impl Select {
    /// Builds the test of each message.
    #[must_use]
    pub fn compile(&self) -> Filter {
        let patterns = |arguments: &[DomainNames], below| {
            let names = arguments.iter().flat_map(|names| names.0.clone());
            names.map(|name| Pattern::new(name, below)).collect()
        };
        let exact: Vec<_> = patterns(&self.name, false);
        let below: Vec<_> = patterns(&self.suffix, true);
        let names = [exact, below].concat();
        let has_time = self.since.is_some() || self.until.is_some();
        let has_latency = self.slower.is_some() || self.faster.is_some();
        Filter {
            types: (!self.only.is_empty()).then(|| TypeSet::union(&self.only)),
            protocols: (!self.protocol.is_empty()).then(|| {
                let bit = |protocol: &Protocol| 1 << SocketProtocol::from(*protocol) as i32;
                self.protocol.iter().map(bit).fold(0, |all, bit| all | bit)
            }),
            ports: self.ports.iter().map(|port| u32::from(*port)).collect(),
            time: has_time.then(|| {
                let since = self.since.map(|moment| moment.0).unwrap_or_default();
                (since, self.until.map(|moment| moment.0))
            }),
            latency: has_latency.then(|| {
                let slower = self.slower.map_or(i64::MIN, |length| length.nanoseconds);
                let faster = self.faster.map_or(i64::MAX, |length| length.nanoseconds);
                slower..faster
            }),
            nets: self.nets.clone(),
            client: self.client.clone(),
            server: self.server.clone(),
            dns: !self.rcode.is_empty() || !self.qtype.is_empty() || !names.is_empty(),
            low_rcodes: self
                .rcode
                .iter()
                .fold(0, |bits, rcode| bits | 1 << (rcode & 15)),
            rcodes: self.rcode.clone(),
            types_asked: self.qtype.clone(),
            names,
            identities: self.identities.clone(),
        }
    }
}

/// A test of messages. The default matches all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    types: Option<TypeSet>,
    /// One bit per transport number.
    protocols: Option<u32>,
    ports: Vec<u32>,
    /// Start and end of the time range.
    time: Option<(Time, Option<Time>)>,
    /// Range of response times in nanoseconds.
    latency: Option<std::ops::Range<i64>>,
    nets: Vec<Net>,
    client: Vec<Net>,
    server: Vec<Net>,
    /// Whether the DNS message has to be read.
    dns: bool,
    /// One bit for the lower four bits of each of `rcodes`; the header has only these bits.
    low_rcodes: u16,
    rcodes: Vec<u16>,
    types_asked: Vec<u16>,
    names: Vec<Pattern>,
    identities: Identities,
}

impl Filter {
    /// Returns whether the message matches.
    #[must_use]
    pub fn matches(&self, view: &View<'_>) -> bool {
        self.types
            .is_none_or(|types| view.kind().is_some_and(|kind| types.has(kind)))
            && self.protocols.is_none_or(|wanted| {
                let protocol = view.protocol.and_then(|number| u32::try_from(number).ok());
                protocol.is_some_and(|number| number < 32 && wanted & 1 << number != 0)
            })
            && any(&self.ports, |port| {
                [view.query_port, view.response_port].contains(&Some(*port))
            })
            && self.matches_time(view)
            && self.matches_addresses(view)
            && self.identities.has(view.identity)
            && (!self.dns || socket::dns_of(view).is_some_and(|bytes| self.matches_dns(bytes)))
    }

    /// Returns whether an event matches. The conditions on messages match no event, except for those
    /// on the time and on the identity.
    #[must_use]
    pub fn matches_event(&self, event: &Event) -> bool {
        let asks_for_messages = self.types.is_some()
            || self.protocols.is_some()
            || self.latency.is_some()
            || self.dns
            || !self.ports.is_empty()
            || ![&self.nets, &self.client, &self.server]
                .iter()
                .all(|nets| nets.is_empty());
        !asks_for_messages
            && self.identities.has(event.identity.as_deref())
            && self.time.is_none_or(|(since, until)| {
                let time = (event.time_sec(), event.time_nsec());
                time >= since && until.is_none_or(|until| time < until)
            })
    }

    fn matches_time(&self, view: &View<'_>) -> bool {
        self.time.is_none_or(|(since, until)| {
            socket::own_time_of(view)
                .is_some_and(|time| time >= since && until.is_none_or(|until| time < until))
        }) && self.latency.as_ref().is_none_or(|wanted| {
            socket::latency_of(view).is_some_and(|latency| wanted.contains(&latency))
        })
    }

    fn matches_addresses(&self, view: &View<'_>) -> bool {
        if self.nets.is_empty() && self.client.is_empty() && self.server.is_empty() {
            return true;
        }
        let client = socket::address(view.query_address);
        let server = socket::address(view.response_address);
        let within = |net: &Net, address: Option<IpAddr>| {
            address.is_some_and(|address| net.contains(address))
        };
        any(&self.client, |net| within(net, client))
            && any(&self.server, |net| within(net, server))
            && any(&self.nets, |net| within(net, client) || within(net, server))
    }

    fn matches_dns(&self, bytes: &[u8]) -> bool {
        let Ok(dns) = Dns::parse(bytes) else {
            return false;
        };
        if !self.rcodes.is_empty() {
            let may_be = dns.is_response() && self.low_rcodes & 1 << dns.rcode().0 != 0;
            if !may_be {
                return false;
            }
        }
        if !self.types_asked.is_empty() || !self.names.is_empty() {
            let Ok(Some(question)) = dns.question() else {
                return false;
            };
            if !any(&self.types_asked, |kind| *kind == question.kind.0) {
                return false;
            }
            if !self.names.is_empty() {
                let name = Lowered::of(question.name);
                if !any(&self.names, |pattern| pattern.matches(&name)) {
                    return false;
                }
            }
        }
        // The upper bits of the response code are behind all other records.
        self.rcodes.is_empty() || self.rcodes.contains(&dns.full_rcode().0)
    }
}

/// Returns whether one of the values matches, or there are no values.
fn any<T>(wanted: &[T], matches: impl FnMut(&T) -> bool) -> bool {
    wanted.is_empty() || wanted.iter().any(matches)
}

#[cfg(test)]
mod tests;

//! The report: counts of messages in addition to those of [`Tally`], and the page that shows all of
//! them.
//!
//! ```text
//! message ─┬─► tally     types, names, question types, clients, servers, outcomes, response times: as in `top`
//!          ├─► timeline  types and outcomes over time
//!          ├─► pairs     queries without a response
//!          └─► domains, edns, transports, sizes          ─► page: HTML with plots
//! ```
//!
//! Memory does not grow with the number of messages: time buckets are merged, rankings store only
//! their most frequent keys ([`Frequent`]), and a bounded number of queries waits for responses.

mod domains;
mod edns;
mod page;
mod pairs;
mod timeline;

use std::fmt::Write as _;

use dnstap_core::dns::Dns;
use dnstap_proto::{Dnstap, SocketProtocol};

pub(crate) use self::{domains::Registered, page::Facts};
use self::{
    edns::Edns,
    pairs::{Half, Pairs},
    timeline::Timeline,
};
use crate::{
    formats::render::{extra, socket},
    tally::{Frequent, Tally},
};

/// Most bytes of an identity that are stored.
const LONGEST_IDENTITY: usize = 255;

/// Largest DNS message of each row of the size table, in bytes. 512: RFC 1035; 1232, 1452 and 4096:
/// usual EDNS limits.
const SIZES: [usize; 11] = [
    32, 64, 128, 256, 512, 1232, 1452, 4096, 16_384, 32_768, 65_535,
];

/// Number of transports. The index is dnstap's number, from 1 on; 0 stands for missing and unknown
/// ones.
const TRANSPORTS: usize = 8;

/// All counts of the messages.
#[derive(Debug)]
pub(crate) struct Report {
    tally: Tally,
    timeline: Timeline,
    pairs: Pairs,
    /// Counts of queries and of responses, in this order (like all pairs below).
    sides: [Side; 2],
    /// Identities of servers, unchanged.
    identities: Frequent<Vec<u8>>,
    /// Times of the first and the last message, in nanoseconds since 1970.
    span: Option<(u64, u64)>,
    /// Messages without a time.
    timeless: u64,
    /// Messages that this agent has marked in `extra` as unsolicited.
    unsolicited: u64,
    registered: Registered,
    /// Buffer for the text of a name.
    name: String,
}

/// Counts kept both for queries and for responses.
#[derive(Debug, Default)]
struct Side {
    /// Messages with a readable DNS header.
    messages: u64,
    domains: Frequent<String>,
    edns: Edns,
    transports: [u64; TRANSPORTS],
    /// Messages by the rows of [`SIZES`].
    sizes: [u64; SIZES.len()],
    /// Bytes of all DNS messages.
    bytes: u64,
    /// Size of the largest DNS message.
    largest: usize,
    /// DNS messages with the TC bit.
    truncated: u64,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            tally: Tally::new(None, None),
            timeline: Timeline::default(),
            pairs: Pairs::default(),
            sides: Default::default(),
            identities: Frequent::default(),
            span: None,
            timeless: 0,
            unsolicited: 0,
            registered: Registered::default(),
            name: String::new(),
        }
    }
}

impl Report {
    /// Counts a message.
    pub(crate) fn take(&mut self, dnstap: &Dnstap) {
        let message = dnstap.message.as_ref();
        let at = message.and_then(socket::own_time).map(|(seconds, rest)| {
            seconds
                .saturating_mul(1_000_000_000)
                .saturating_add(rest.into())
        });
        self.tally.count(at, dnstap);
        match at {
            Some(at) => {
                let (first, last) = self.span.unwrap_or((at, at));
                self.span = Some((first.min(at), last.max(at)));
            }
            None => self.timeless += 1,
        }
        if let Some(identity) = dnstap.identity.as_deref().filter(|text| !text.is_empty()) {
            // Long identities are cut: their ends are of no use and would fill memory and page.
            self.identities
                .count(identity.get(..LONGEST_IDENTITY).unwrap_or(identity));
        }
        self.unsolicited += u64::from(is_unsolicited(dnstap.extra.as_deref()));
        let Some((message, kind)) =
            message.and_then(|message| socket::kind(message).map(|kind| (message, kind)))
        else {
            return;
        };
        let is_response = socket::is_response(message);
        let dns = socket::dns(message).and_then(|bytes| Dns::parse(bytes).ok());
        if let Some(at) = at {
            let rcode = dns.filter(|_| is_response).map(|dns| dns.full_rcode().0);
            self.timeline.count(at, kind, rcode);
        }
        let side = &mut self.sides[usize::from(is_response)];
        let transport = message.socket_protocol.unwrap_or_default();
        let transport = usize::try_from(transport).unwrap_or_default();
        side.transports[if transport < TRANSPORTS { transport } else { 0 }] += 1;
        let Some(dns) = dns else {
            return;
        };
        side.count(dns);
        let question = dns.question().ok().flatten();
        if let Some(question) = &question {
            side.domains.count(self.registered.of(question.name));
            self.name.clear();
            // Writing to a string does not fail.
            write!(self.name, "{}", question.name).unwrap_or_default();
            self.name.make_ascii_lowercase();
        }
        if let Some(at) = at {
            self.pairs.take(&Half {
                family: (kind as usize - 1) / 2,
                is_response,
                at,
                client: socket::address(message.query_address.as_deref()),
                port: message.query_port,
                server: socket::address(message.response_address.as_deref()),
                id: dns.id(),
                question: question.map(|question| (self.name.as_str(), question.kind.0)),
            });
        }
    }

    /// Renders the page, with `facts` about the source of the messages.
    pub(crate) fn page(&self, facts: &Facts) -> String {
        page::render(self, facts)
    }
}

impl Side {
    fn count(&mut self, dns: Dns<'_>) {
        let size = dns.bytes().len();
        self.messages += 1;
        self.edns.count(dns);
        let row = SIZES.iter().position(|limit| size <= *limit);
        self.sizes[row.unwrap_or(SIZES.len() - 1)] += 1;
        self.bytes += size as u64;
        self.largest = self.largest.max(size);
        self.truncated += u64::from(dns.has(0x200));
    }
}

/// Returns whether `extra` was written by this agent and marks an unsolicited response.
fn is_unsolicited(extra: Option<&[u8]>) -> bool {
    extra
        .and_then(extra::Own::of)
        .is_some_and(|own| own.unsolicited == Some(true))
}

/// Returns the name of the transport with this number.
fn transport_name(number: usize) -> &'static str {
    i32::try_from(number)
        .ok()
        .and_then(|number| SocketProtocol::try_from(number).ok())
        .map_or("unknown", socket::protocol_name)
}

#[cfg(test)]
mod tests {
    use dnstap_proto::{Message, message::Type};
    use proptest::prelude::*;

    use super::*;
    use crate::tally::tests::message;

    #[test]
    fn transports_sizes_and_pairs_are_counted_by_side() {
        let mut report = Report::default();
        for (kind, protocol) in [
            (Type::ClientQuery, 1),
            (Type::ClientQuery, 2),
            (Type::ClientResponse, 2),
            (Type::ClientResponse, 99),
        ] {
            let mut dnstap = message(kind, "name", 0, 1);
            if let Some(message) = &mut dnstap.message {
                message.socket_protocol = Some(protocol);
            }
            report.take(&dnstap);
        }
        let [queries, responses] = &report.sides;
        assert_eq!(queries.transports[..3], [0, 1, 1]);
        assert_eq!(responses.transports[..3], [1, 0, 1]);
        // A message has a header of 12 bytes, a name of 6, and 4 for type and class.
        assert_eq!((queries.bytes, queries.largest), (44, 22));
        assert_eq!(queries.sizes[0], 2);
    }

    #[test]
    fn what_the_agent_marks_as_unsolicited_is_counted() {
        let mut report = Report::default();
        for extra in [r#"{"pid":1,"unsolicited":true}"#, "{}", "[1]", "7", "text"] {
            let mut dnstap = message(Type::ClientResponse, "a", 0, 0);
            dnstap.extra = Some(extra.as_bytes().into());
            report.take(&dnstap);
        }
        assert_eq!(report.unsolicited, 1);
    }

    proptest! {
        #[test]
        fn any_message_is_taken_and_shown(
            bytes in prop::collection::vec(any::<u8>(), 0..100),
            kind in -1..20,
            protocol in any::<Option<i32>>(),
            times in any::<[Option<u64>; 2]>(),
            nanoseconds in any::<Option<u32>>(),
        ) {
            let mut report = Report::default();
            for message in [
                Message { r#type: kind, query_message: Some(bytes.clone().into()), query_time_sec: times[0], ..Message::default() },
                Message {
                    r#type: kind,
                    socket_protocol: protocol,
                    query_time_sec: times[0],
                    query_time_nsec: nanoseconds,
                    response_time_sec: times[1],
                    response_message: Some(bytes.clone().into()),
                    ..Message::default()
                },
            ] {
                report.take(&Dnstap { identity: Some(bytes.clone().into()), message: Some(message), ..Dnstap::default() });
            }
            let page = report.page(&Facts { rows: 3, ..Facts::default() });
            prop_assert!(page.contains("<span id=\"messages\">2</span>"));
        }
    }
}

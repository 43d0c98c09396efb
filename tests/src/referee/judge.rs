//! Compares the messages that must be in the file with those that are there.
//!
//! ```text
//! each record ─► same bytes, addresses and ports on the wire?  ── yes ─► type and times right? ── no ─► wrong
//!                    │ no (the local address of a socket bound to a wildcard address may be left out)
//!                    ├─ same bytes alone? ─► wrong (addresses)
//!                    └─ a reset connection's? ─► explained, else extra
//! each message on the wire that no record has ─► due: missing; open or barred: explained
//! ```

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use dnstap_proto::{SocketProtocol, message::Type};

use super::{
    dns::{self, Profile},
    ledger::{Heard, Ledger, Standing},
};
use crate::{environment, record::Record, wire};

/// Time that a record may be earlier than its packet: the clocks are read one after the other.
const EARLY: Duration = Duration::from_millis(20);
/// The same for data that a process writes while its peer does not read: the packet leaves later.
const EARLY_WRITTEN: Duration = Duration::from_secs(10);
/// Time that a record may be later than its packet: the process may read late.
const LATE: Duration = Duration::from_secs(10);
/// Number of faults of each sort that are shown.
const SHOWN: usize = 2;

/// Result of one tap of one server.
#[derive(Debug, Default)]
pub(crate) struct Judgement {
    pub(super) on_the_wire: usize,
    pub(super) in_the_file: usize,
    pub(super) missing: Faults,
    pub(super) extra: Faults,
    pub(super) wrong: Faults,
    /// Number of messages that are missing in the file, or are only there, for a known reason.
    pub(super) explained: BTreeMap<&'static str, usize>,
}

/// Faults, each with its sort.
pub(super) type Faults = Vec<(String, String)>;

const THROWN_AWAY: &str = "that are in the file only; the server wrote them to a connection that was reset before they were sent";

const WILDCARD: &str = "without their local address, because the socket is bound to a wildcard address (see the README)";

/// Compares the records of a file with the packets on the wire.
pub(super) fn judge(ledger: &Ledger, records: &[Record], profile: Profile) -> Judgement {
    let mut judgement = Judgement {
        on_the_wire: ledger.messages.len(),
        in_the_file: records.len(),
        ..Judgement::default()
    };
    let pairs = match_up(&ledger.messages, records);
    let queries = Queries::of(records);
    let expected = expected_types(&ledger.messages, profile);
    let mut found = vec![None; ledger.messages.len()];
    for (record, pair) in records.iter().zip(&pairs) {
        let Some((at, likeness)) = *pair else {
            judgement.without_message(ledger, record);
            continue;
        };
        found[at] = Some(record);
        let heard = &ledger.messages[at];
        let mut wrong = |sort: String, more: String| {
            let circumstance = in_brackets(heard.circumstance);
            judgement
                .wrong
                .push((sort + &circumstance, format!("{record}{more}")));
        };
        if likeness == Likeness::Wildcard {
            *judgement.explained.entry(WILDCARD).or_default() += 1;
        }
        if likeness == Likeness::Bytes {
            let truth = format!(": on the wire from {} to {}", heard.from, heard.to);
            wrong("the addresses".to_owned(), truth);
        }
        if let Standing::Barred(reason) = heard.standing {
            wrong(format!("messages {reason}"), String::new());
        } else if let Some(kind) = expected[at]
            && kind != record.kind
        {
            wrong(
                format!("the type, which should be {}", kind.as_str_name()),
                String::new(),
            );
        }
        if let Some(truth) = wrong_time(heard, record) {
            wrong("the time".to_owned(), format!(": {truth}"));
        }
    }
    judgement.query_times(ledger, &found, &queries);
    for (heard, record) in ledger.messages.iter().zip(&found) {
        match (record, heard.standing) {
            (None, Standing::Due) => {
                let direction = if heard.sent { "sent" } else { "received" };
                let protocol = heard.protocol.as_str_name();
                let sort = format!("{direction} {protocol}{}", in_brackets(heard.circumstance));
                judgement.missing.push((sort, describe(heard)));
            }
            (None, Standing::Open(reason) | Standing::Barred(reason)) => {
                *judgement.explained.entry(reason).or_default() += 1;
            }
            (Some(_), _) => {}
        }
    }
    judgement
}

impl Judgement {
    /// Returns whether the file is right.
    pub(crate) fn holds(&self) -> bool {
        self.missing.is_empty() && self.extra.is_empty() && self.wrong.is_empty()
    }

    /// Marks up to `most` missing datagrams as explained: a counter of the kernel or of the agent accounts for them.
    pub(super) fn explain(&mut self, most: u64, reason: &'static str, start: &str) {
        let mut left = most;
        let mut explained = 0;
        self.missing.retain(|(sort, _)| {
            let taken = left > 0 && sort.starts_with(start);
            if taken {
                left -= 1;
                explained += 1;
            }
            !taken
        });
        if explained > 0 {
            *self.explained.entry(reason).or_default() += explained;
        }
    }

    fn without_message(&mut self, ledger: &Ledger, record: &Record) {
        let broken = ledger
            .broken
            .iter()
            .any(|(from, to)| Some((*from, *to)) == sender_and_receiver(record));
        if broken && record.protocol == SocketProtocol::Tcp {
            *self.explained.entry(THROWN_AWAY).or_default() += 1;
            return;
        }
        // The most common false record is a part of a message on the wire.
        let part = ledger.messages.iter().find(|heard| {
            heard.protocol == record.protocol
                && heard.message.len() > record.message.len()
                && heard.message.starts_with(&record.message)
        });
        let sort = match part {
            Some(_) => "the beginning of a longer message",
            None => "nothing like it was on the wire, or not as often",
        };
        let length = part.map_or(String::new(), |heard| {
            format!(" (of {} bytes)", heard.message.len())
        });
        self.extra
            .push((sort.to_owned(), format!("{record}{length}")));
    }

    /// Checks that each response has the time of its query, which is the time of a query's record that it answers.
    fn query_times(&mut self, ledger: &Ledger, found: &[Option<&Record>], queries: &Queries<'_>) {
        let heard_and_found = || ledger.messages.iter().zip(found);
        for (heard, record) in heard_and_found() {
            let Some(record) = record.filter(|record| record.is_response()) else {
                continue;
            };
            let times = queries.times(record);
            // Queries of one sender with the same id have one record each.
            let lacks_a_query = || {
                heard_and_found().any(|(query, record)| {
                    record.is_none()
                        && !dns::is_response(&query.message)
                        && query.sent != heard.sent
                        && (query.from, query.to) == (heard.to, heard.from)
                        && query.message.get(..2) == heard.message.get(..2)
                })
            };
            let right = match record.query_time {
                Some(time) => times.contains(&time),
                // A query that is not in the file is reported as missing, or has a reason for its absence.
                None => !times.iter().any(|time| *time <= record.time) || lacks_a_query(),
            };
            if !right && heard.standing == Standing::Due {
                let said = record
                    .query_time
                    .map_or("no query time".to_owned(), |time| {
                        format!("query time {time:?}")
                    });
                let sort = format!("the query time{}", in_brackets(heard.circumstance));
                self.wrong
                    .push((sort, format!("{record}: {said}, its query's is {times:?}")));
            }
        }
    }
}

/// Times of the queries' records. The key is what a response has in common with its query.
struct Queries<'a>(HashMap<Exchange<'a>, Vec<Duration>>);

/// Protocol, client, server, id.
type Exchange<'a> = (
    SocketProtocol,
    Option<SocketAddr>,
    Option<SocketAddr>,
    &'a [u8],
);

impl<'a> Queries<'a> {
    fn of(records: &'a [Record]) -> Self {
        let mut times: HashMap<_, Vec<_>> = HashMap::new();
        for record in records.iter().filter(|record| !record.is_response()) {
            times.entry(key(record)).or_default().push(record.time);
        }
        Self(times)
    }

    fn times(&self, record: &'a Record) -> Vec<Duration> {
        self.0.get(&key(record)).cloned().unwrap_or_default()
    }
}

fn key(record: &Record) -> Exchange<'_> {
    let (asking, asked) = ends(record);
    let id = record.message.get(..2).unwrap_or_default();
    (record.protocol, asking, asked, id)
}

/// Parts of a message that a record has in common with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Likeness {
    /// Bytes, addresses and ports.
    All,
    /// All except the process's own address, of a datagram.
    Wildcard,
    /// The bytes alone.
    Bytes,
}

impl Likeness {
    fn is_there(self, heard: &Heard, record: &Record) -> bool {
        let (asking, asked) = (
            (record.query_address, record.query_port),
            (record.response_address, record.response_port),
        );
        let (sender, receiver) = if record.is_response() {
            (asked, asking)
        } else {
            (asking, asked)
        };
        let same = |(address, port): (Option<IpAddr>, u16), truth: SocketAddr, own: bool| {
            let known = address == Some(truth.ip());
            let left_out = self == Self::Wildcard && own && address.is_none();
            port == truth.port() && (known || left_out)
        };
        match self {
            Self::Bytes => true,
            Self::Wildcard if heard.protocol != SocketProtocol::Udp => false,
            Self::All | Self::Wildcard => {
                same(sender, heard.from, heard.sent) && same(receiver, heard.to, !heard.sent)
            }
        }
    }
}

/// Finds the message of each record, and how alike they are. Among equal messages it takes the nearest in time.
fn match_up(messages: &[Heard], records: &[Record]) -> Vec<Option<(usize, Likeness)>> {
    let mut by_bytes: HashMap<(SocketProtocol, &[u8]), Vec<usize>> = HashMap::new();
    for (at, heard) in messages.iter().enumerate() {
        by_bytes
            .entry((heard.protocol, &heard.message))
            .or_default()
            .push(at);
    }
    let mut taken = vec![false; messages.len()];
    let mut pairs = vec![None; records.len()];
    for likeness in [Likeness::All, Likeness::Wildcard, Likeness::Bytes] {
        for (record, pair) in records.iter().zip(&mut pairs) {
            if pair.is_some() {
                continue;
            }
            let same = by_bytes.get(&(record.protocol, record.message.as_slice()));
            let best = same
                .into_iter()
                .flatten()
                .filter(|&&at| !taken[at])
                .filter(|&&at| likeness.is_there(&messages[at], record))
                .min_by_key(|&&at| messages[at].time.abs_diff(record.time));
            if let Some(&at) = best {
                taken[at] = true;
                *pair = Some((at, likeness));
            }
        }
    }
    pairs
}

/// Returns the documented type of each message; `None` if it has no header, or is a response without a query.
fn expected_types(messages: &[Heard], profile: Profile) -> Vec<Option<Type>> {
    let mut asked: HashMap<(SocketProtocol, SocketAddr, SocketAddr, &[u8]), Type> = HashMap::new();
    messages
        .iter()
        .map(|heard| {
            let message = &heard.message;
            if !dns::has_header(message) {
                return None;
            }
            let id = &message[..2];
            if dns::is_response(message) {
                let query = asked.get(&(heard.protocol, heard.to, heard.from, id))?;
                return Some(dns::answer_to(*query));
            }
            let kind = dns::type_of_query(profile, message, heard.sent);
            asked.insert((heard.protocol, heard.from, heard.to, id), kind);
            Some(kind)
        })
        .collect()
}

fn wrong_time(heard: &Heard, record: &Record) -> Option<String> {
    let early = if heard.sent && heard.protocol == SocketProtocol::Tcp {
        EARLY_WRITTEN
    } else {
        EARLY
    };
    let right = record.time + early >= heard.time && record.time <= heard.time + LATE;
    (!right).then(|| {
        format!(
            "its time is {:?}, on the wire {:?}",
            record.time, heard.time
        )
    })
}

/// Returns the addresses of the client and the server; `None` if the record does not have them.
fn ends(record: &Record) -> (Option<SocketAddr>, Option<SocketAddr>) {
    let end = |address, port| Some(SocketAddr::new(address?, port));
    (
        end(record.query_address, record.query_port),
        end(record.response_address, record.response_port),
    )
}

fn sender_and_receiver(record: &Record) -> Option<(SocketAddr, SocketAddr)> {
    let (asking, asked) = ends(record);
    let (asking, asked) = (asking?, asked?);
    Some(if record.is_response() {
        (asked, asking)
    } else {
        (asking, asked)
    })
}

fn describe(heard: &Heard) -> String {
    format!(
        "{} {} {} -> {} {}",
        if heard.sent { "sent" } else { "received" },
        heard.protocol.as_str_name(),
        heard.from,
        heard.to,
        wire::describe(&heard.message)
    )
}

impl Judgement {
    /// Returns the faults, by sorts.
    fn sorts(&self) -> impl Iterator<Item = (&'static str, &str, Vec<&str>)> {
        [
            ("missing", &self.missing),
            ("extra", &self.extra),
            ("wrong", &self.wrong),
        ]
        .into_iter()
        .flat_map(|(what, faults)| {
            let mut sorts: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            for (sort, text) in faults {
                sorts.entry(sort).or_default().push(text);
            }
            let named = move |(sort, texts)| (what, sort, texts);
            sorts.into_iter().map(named)
        })
    }

    /// Returns the sorts of the faults in one line.
    pub(super) fn in_short(&self) -> String {
        let sorts: Vec<_> = self
            .sorts()
            .map(|(what, sort, texts)| format!("{} {what}: {sort}", texts.len()))
            .collect();
        sorts.join("; ")
    }
}

impl fmt::Display for Judgement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "{} on the wire, {} in the file, {} missing, {} extra, {} wrong",
            self.on_the_wire,
            self.in_the_file,
            self.missing.len(),
            self.extra.len(),
            self.wrong.len()
        )?;
        for (reason, count) in &self.explained {
            writeln!(formatter, "  explained, {count}: {reason}")?;
        }
        for (what, sort, texts) in self.sorts() {
            writeln!(formatter, "  {what}, {}: {sort}", texts.len())?;
            for text in texts.iter().take(shown()) {
                writeln!(formatter, "    {text}")?;
            }
        }
        Ok(())
    }
}

/// Returns the number of faults of each sort that are shown. All are shown if scratch folders are kept.
fn shown() -> usize {
    if environment::keep_scratch() {
        usize::MAX
    } else {
        SHOWN
    }
}

fn in_brackets(circumstance: &str) -> String {
    if circumstance.is_empty() {
        String::new()
    } else {
        format!(" ({circumstance})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::referee::ledger::tests::{CLIENT, SERVER, datagram, of};

    fn records() -> Vec<Record> {
        let query = wire::query(7, "h1.auth.lab", wire::TYPE_A, true);
        let answer = wire::answer(&query);
        [
            (query, Type::ClientQuery, 1),
            (answer, Type::ClientResponse, 2),
        ]
        .map(|(message, kind, second)| Record {
            kind,
            time: Duration::from_secs(second),
            query_time: (second == 2).then_some(Duration::from_secs(1)),
            ..Record::expected(SocketProtocol::Udp, CLIENT, SERVER, message)
        })
        .to_vec()
    }

    fn ledger_of_an_exchange() -> Ledger {
        let query = wire::query(7, "h1.auth.lab", wire::TYPE_A, true);
        let answer = wire::answer(&query);
        of(&[
            datagram(1, CLIENT, SERVER, &query),
            datagram(2, SERVER, CLIENT, &answer),
        ])
    }

    #[test]
    fn a_file_that_is_what_was_on_the_wire_is_right() {
        let judgement = judge(&ledger_of_an_exchange(), &records(), Profile::Generic);
        assert!(judgement.holds(), "{judgement}");
        assert_eq!(judgement.on_the_wire, 2);
    }

    #[test]
    fn whatever_is_not_is_found() {
        type Change = fn(&mut Vec<Record>);
        let cases: [(Change, [usize; 3]); 8] = [
            (|records| drop(records.remove(0)), [1, 0, 1]), // the query is missing, the response has its time
            (|records| drop(records.remove(1)), [1, 0, 0]),
            (|records| records.push(records[0].clone()), [0, 1, 0]),
            (|records| records[1].message[11] ^= 1, [1, 1, 0]),
            (|records| records[1].query_port += 1, [0, 0, 2]), // so the query is not found
            (|records| records[0].kind = Type::AuthQuery, [0, 0, 1]),
            (|records| records[1].query_time = None, [0, 0, 1]),
            (
                |records| records[1].time = Duration::from_secs(90),
                [0, 0, 1],
            ),
        ];
        for (number, (change, expected)) in cases.into_iter().enumerate() {
            let mut records = records();
            change(&mut records);
            let judgement = judge(&ledger_of_an_exchange(), &records, Profile::Generic);
            let found = [&judgement.missing, &judgement.extra, &judgement.wrong].map(Vec::len);
            assert_eq!(found, expected, "change {number}: {judgement}");
        }
    }

    #[test]
    fn the_local_address_alone_may_be_left_out() {
        let mut local = records();
        let mut peers = records();
        for record in &mut local {
            record.response_address = None;
        }
        for record in &mut peers {
            record.query_address = None;
        }
        let ledger = ledger_of_an_exchange();
        let judgement = judge(&ledger, &local, Profile::Generic);
        assert!(judgement.holds(), "{judgement}");
        assert_eq!(judgement.explained[WILDCARD], 2);
        assert!(!judge(&ledger, &peers, Profile::Generic).holds());
    }
}

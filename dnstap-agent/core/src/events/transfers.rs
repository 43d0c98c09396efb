//! Zone transfers (RFC 5936, RFC 1995), told from the messages on the sockets.
//!
//! A transfer begins with a request of type AXFR or IXFR. It ends in one of these ways:
//! - The response is complete. An AXFR ends with the second SOA record (RFC 5936 section 2.2). An incremental response ends
//!   where a difference could begin and the SOA record of the newest version stands instead (RFC 1995 section 4). An IXFR may
//!   be answered by a whole zone; the second record tells (it is no SOA record).
//! - The response to an IXFR is one SOA record: the requester has this version already. Over UDP, a newer version says that the
//!   difference does not fit into a datagram.
//! - A response code tells why there is no transfer, or no more of it.
//! - The connection ends. The kernel side does not tell whether it was reset.
//!
//! A transfer is identified by its connection and the message id, so several may share a connection (RFC 5936 section 4.2.1.1).
//!
//! If the request was not seen, the first record and the form are not known either. Only responses that cannot be anything else
//! are taken: those over TCP that have the question of a transfer, or answers but no question. Such a transfer ends
//! when an SOA record was the last record and nothing has followed for a second.
//!
//! The table is bounded. The transfer that was quiet for longest is given up and counted.

use std::{
    collections::{HashMap, VecDeque},
    hash::BuildHasher as _,
};

use dnstap_proto::{
    Transfer,
    event::{Kind as Content, Phase},
    transfer::Direction as Way,
};
use foldhash::fast::RandomState;

use super::{Output, address, wire};
use crate::{
    dns::{Dns, Name, Rcode, Record, Type},
    lru::Lru,
    model::{Endpoint, Envelope, Protocol, Role},
};

/// Most transfers that are followed.
const TRANSFERS: usize = 4_096;

/// Nanoseconds for which a response over UDP is waited for.
const DATAGRAM_NS: u64 = 15_000_000_000;

/// Nanoseconds for which the next message over TCP is waited for.
const STREAM_NS: u64 = 600_000_000_000;

/// Nanoseconds after the end of a connection for which the process may still read what came before.
const ENDED_NS: u64 = 1_000_000_000;

/// Nanoseconds of silence that end a transfer whose form is not known.
const SILENT_NS: u64 = 1_000_000_000;

/// Transfers that are under way.
#[derive(Debug)]
pub(crate) struct Transfers {
    open: Lru<Open>,
    /// Keys of the open transfers of each TCP connection.
    by_socket: HashMap<u64, Vec<u64>, RandomState>,
    /// Kernel times at which connections with open transfers ended, and their sockets.
    ended: VecDeque<(u64, u64)>,
    /// Keys of transfers that may be complete.
    silent: Vec<u64>,
    hasher: RandomState,
    evicted: u64,
}

impl Default for Transfers {
    fn default() -> Self {
        Self {
            open: Lru::new(TRANSFERS),
            by_socket: HashMap::default(),
            ended: VecDeque::new(),
            silent: Vec::new(),
            hasher: RandomState::default(),
            evicted: 0,
        }
    }
}

/// A transfer under way.
#[derive(Debug)]
struct Open {
    /// Members that are known so far.
    event: Transfer,
    process_id: u32,
    socket: u64,
    protocol: Protocol,
    started_ktime_ns: u64,
    seen_ktime_ns: u64,
    messages: u64,
    records: u64,
    bytes: u64,
    progress: Progress,
}

/// Position in the records of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// No record has come.
    Nothing,
    /// The first SOA record has come; it has the newest serial.
    First,
    /// The records of a whole zone come.
    Whole,
    /// Records come that are to be deleted, behind the SOA record of the old version.
    Deletions,
    /// Records come that are to be added, behind the SOA record of the new version.
    Additions,
    /// The request and the first record were not seen.
    Unknown,
    /// Like [`Progress::Unknown`], and the last record was an SOA record.
    MayBeComplete,
    /// All records have come.
    Complete,
}

impl Transfers {
    /// Returns the number of transfers that were given up to make room.
    pub(crate) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Takes a request.
    pub(crate) fn request(&mut self, envelope: &Envelope, bytes: &[u8], output: &mut Output<'_>) {
        let Ok(dns) = Dns::parse(bytes) else {
            return;
        };
        let Ok(Some(question)) = dns.question() else {
            return;
        };
        let role = Role::of(envelope.direction, false);
        let key = self.key(envelope, dns.id(), role);
        if let Some(open) = self.open.peek(key) {
            if envelope.protocol == Protocol::Udp {
                return; // sent again
            }
            let status = if open.messages == 0 {
                "no response"
            } else {
                "superseded"
            };
            self.end(key, envelope.ktime_ns, status, output);
        }
        let mut open = Open::new(envelope, role);
        open.event.zone = Some(wire(question.name));
        open.event.class = Some(question.class.0.into());
        open.event.requested = Some(question.kind.0.into());
        for (section, record) in dns.records().map_while(Result::ok) {
            if section == 2 && record.kind == Type::SOA {
                open.event.old_serial = soa_serial(bytes, record.data);
            } else if section == 3 && record.kind == Type::TSIG {
                open.event.tsig_key = Some(wire(record.name));
            }
        }
        let content = Content::Transfer(open.event.clone());
        output.emit(envelope.ktime_ns, Phase::Start, open.process_id, content);
        self.insert(key, open);
    }

    /// Takes a response that may belong to a transfer.
    pub(crate) fn response(&mut self, envelope: &Envelope, bytes: &[u8], output: &mut Output<'_>) {
        let Ok(dns) = Dns::parse(bytes) else {
            return;
        };
        let role = Role::of(envelope.direction, true);
        let key = self.key(envelope, dns.id(), role);
        if self.open.peek(key).is_none() {
            let Some(open) = Open::midway(envelope, &dns, role) else {
                return;
            };
            self.insert(key, open);
        }
        let Some(open) = self.open.get(key) else {
            return;
        };
        open.seen_ktime_ns = envelope.ktime_ns;
        open.messages += 1;
        open.bytes += bytes.len() as u64;
        open.records += u64::from(dns.count(1));
        if let Some(status) = open.advance(&dns) {
            self.end(key, envelope.ktime_ns, &status, output);
        } else if open.progress == Progress::MayBeComplete && !self.silent.contains(&key) {
            self.silent.push(key);
        }
    }

    /// Takes the end of a connection.
    pub(crate) fn connection_end(&mut self, end: &Envelope) {
        if self.by_socket.contains_key(&end.socket) {
            self.ended.push_back((end.ktime_ns, end.socket));
        }
    }

    /// Ends the transfers for which nothing more comes at kernel time `now_ktime_ns`.
    pub(crate) fn tick(&mut self, now_ktime_ns: u64, output: &mut Output<'_>) {
        self.settle(now_ktime_ns, output);
        while let Some((key, open)) = self.open.oldest() {
            let patience = match open.protocol {
                Protocol::Udp => DATAGRAM_NS,
                Protocol::Tcp | Protocol::Dot | Protocol::Doh => STREAM_NS,
            };
            let seen = open.seen_ktime_ns.saturating_add(patience);
            if seen >= now_ktime_ns {
                break;
            }
            let status = if open.messages == 0 {
                "no response"
            } else {
                "no end"
            };
            self.end(key, seen, status, output);
        }
    }

    /// Ends the transfers that nothing can follow any more at the end of the tap. The others have no
    /// end.
    pub(crate) fn finish(&mut self, output: &mut Output<'_>) {
        self.settle(u64::MAX, output);
    }

    /// Ends the transfers whose connection has ended, and those that seem to be complete.
    fn settle(&mut self, now_ktime_ns: u64, output: &mut Output<'_>) {
        let is_over = |at: u64, patience: u64| at.saturating_add(patience) < now_ktime_ns;
        while let Some((at, socket)) = self.ended.pop_front_if(|(at, _)| is_over(*at, ENDED_NS)) {
            for key in self.by_socket.get(&socket).cloned().unwrap_or_default() {
                let open = self.open.peek(key);
                let is_complete = open.is_some_and(|open| open.progress == Progress::MayBeComplete);
                let status = if is_complete {
                    "success"
                } else {
                    "connection closed"
                };
                self.end(key, at, status, output);
            }
        }
        self.silent.retain(|key| {
            let open = self.open.peek(*key);
            open.is_some_and(|open| open.progress == Progress::MayBeComplete)
        });
        for key in self.silent.clone() {
            let seen = self.open.peek(key).map(|open| open.seen_ktime_ns);
            if let Some(seen) = seen.filter(|seen| is_over(*seen, SILENT_NS)) {
                self.end(key, seen, "success", output);
            }
        }
    }

    fn insert(&mut self, key: u64, open: Open) {
        if open.protocol == Protocol::Tcp {
            self.by_socket.entry(open.socket).or_default().push(key);
        }
        if let Some((gone, displaced)) = self.open.insert(key, open) {
            self.evicted += 1;
            self.forget(gone, &displaced);
        }
    }

    fn forget(&mut self, key: u64, open: &Open) {
        if let Some(keys) = self.by_socket.get_mut(&open.socket) {
            keys.retain(|other| *other != key);
            if keys.is_empty() {
                self.by_socket.remove(&open.socket);
            }
        }
    }

    fn end(&mut self, key: u64, ktime_ns: u64, status: &str, output: &mut Output<'_>) {
        let Some(open) = self.open.remove(key) else {
            return;
        };
        self.forget(key, &open);
        let process_id = open.process_id;
        let content = Content::Transfer(open.ended(ktime_ns, status));
        output.emit(ktime_ns, Phase::End, process_id, content);
    }

    fn key(&self, envelope: &Envelope, id: u16, role: Role) -> u64 {
        match envelope.protocol {
            Protocol::Tcp => self.hasher.hash_one((envelope.socket, id, role)),
            // The response may leave through another socket with the same port. A probe does not know the socket.
            Protocol::Udp | Protocol::Dot | Protocol::Doh => {
                let Envelope {
                    local,
                    peer,
                    origin,
                    ..
                } = envelope;
                let ends = (origin.program_id, local.port, *peer);
                self.hasher.hash_one((ends, id, role))
            }
        }
    }
}

impl Open {
    fn new(envelope: &Envelope, role: Role) -> Self {
        let way = match role {
            Role::Initiator => Way::In,
            Role::Responder => Way::Out,
        };
        let peer: Endpoint = envelope
            .proxied
            .map_or(envelope.peer, |proxied| proxied.peer);
        Self {
            event: Transfer {
                direction: Some(way as i32),
                peer_address: address(peer),
                peer_port: (peer.port != 0).then_some(peer.port.into()),
                ..Transfer::default()
            },
            process_id: envelope.origin.tgid,
            socket: envelope.socket,
            protocol: envelope.protocol,
            started_ktime_ns: envelope.ktime_ns,
            seen_ktime_ns: envelope.ktime_ns,
            messages: 0,
            records: 0,
            bytes: 0,
            progress: Progress::Nothing,
        }
    }

    /// Begins with a response whose request was not seen. Returns `None` if it is no part of a
    /// transfer.
    fn midway(envelope: &Envelope, dns: &Dns<'_>, role: Role) -> Option<Self> {
        let has_records = dns.rcode() == Rcode(0) && dns.count(1) > 0;
        if envelope.protocol != Protocol::Tcp || !has_records {
            return None;
        }
        let mut open = Self::new(envelope, role);
        open.event.midway = Some(true);
        open.progress = Progress::Unknown;
        if let Some(question) = dns.question().ok()? {
            if !question.kind.is_transfer() {
                return None;
            }
            open.event.zone = Some(wire(question.name));
            open.event.class = Some(question.class.0.into());
            open.event.requested = Some(question.kind.0.into());
        }
        Some(open)
    }

    /// Takes the records of a message. Returns the result if the transfer ends with it.
    fn advance(&mut self, dns: &Dns<'_>) -> Option<String> {
        let rcode = dns.full_rcode();
        if rcode != Rcode(0) {
            return Some(match tsig_error(dns) {
                Some(error) => format!("{rcode} ({error})"),
                None => rcode.to_string(),
            });
        }
        if dns.has(0x200) {
            return Some("truncated".to_owned());
        }
        let answers = usize::from(dns.count(1));
        if answers == 0 && self.progress == Progress::Nothing {
            return Some("no records".to_owned());
        }
        for (at, (kind, data)) in dns.places().take(answers).enumerate() {
            let serial = if kind == Type::SOA {
                soa_serial(dns.bytes(), data.start)
            } else {
                None
            };
            self.progress = self.next(serial);
            match self.progress {
                Progress::Complete => return Some("success".to_owned()),
                Progress::MayBeComplete if at + 1 == answers => {
                    self.event.new_serial = serial;
                    self.learn_zone(dns, at);
                }
                _ => {}
            }
        }
        if self.progress == Progress::First && self.event.requested == Some(Type::IXFR.0.into()) {
            return self.single_soa();
        }
        None
    }

    /// Returns the progress after a record. `serial`: that of an SOA record.
    fn next(&mut self, serial: Option<u32>) -> Progress {
        let is_incremental = self.event.requested == Some(Type::IXFR.0.into());
        match (self.progress, serial) {
            (Progress::Nothing, Some(serial)) => {
                self.event.new_serial = Some(serial);
                if !is_incremental {
                    self.event.answered = Some(Type::AXFR.0.into());
                }
                Progress::First
            }
            (Progress::First, Some(serial))
                if is_incremental && Some(serial) != self.event.new_serial =>
            {
                self.event.answered = Some(Type::IXFR.0.into());
                Progress::Deletions
            }
            (Progress::First | Progress::Whole, Some(_)) => {
                self.event.answered = Some(Type::AXFR.0.into());
                Progress::Complete
            }
            (Progress::Nothing | Progress::First, None) => {
                self.event.answered = Some(Type::AXFR.0.into());
                Progress::Whole
            }
            (Progress::Deletions, Some(_)) => Progress::Additions,
            (Progress::Additions, Some(serial)) if Some(serial) == self.event.new_serial => {
                Progress::Complete
            }
            (Progress::Additions, Some(_)) => Progress::Deletions,
            (Progress::Unknown | Progress::MayBeComplete, Some(_)) => Progress::MayBeComplete,
            (Progress::Unknown | Progress::MayBeComplete, None) => Progress::Unknown,
            (progress, _) => progress,
        }
    }

    /// Returns the result of an IXFR if its response begins with this one SOA record, unless more may
    /// follow.
    fn single_soa(&self) -> Option<String> {
        let (old, new) = (self.event.old_serial?, self.event.new_serial?);
        // Serial number arithmetic (RFC 1982 section 3.2).
        let is_newer = new != old && new.wrapping_sub(old) < 1 << 31;
        if !is_newer {
            return Some("up to date".to_owned());
        }
        (self.protocol == Protocol::Udp).then(|| "does not fit UDP".to_owned())
    }

    /// Learns the zone from the SOA record with this index among the answers.
    fn learn_zone(&mut self, dns: &Dns<'_>, at: usize) {
        let record = dns.records().nth(at).and_then(Result::ok);
        if let Some((1, Record { name, class, .. })) = record {
            self.event.zone = Some(wire(name));
            self.event.class = Some(class.0.into());
        }
    }

    fn ended(self, ktime_ns: u64, status: &str) -> Transfer {
        let is_up_to_date = status == "up to date";
        Transfer {
            answered: self.event.answered.filter(|_| !is_up_to_date),
            messages: Some(self.messages),
            records: Some(self.records),
            bytes: Some(self.bytes),
            duration_ns: Some(ktime_ns.saturating_sub(self.started_ktime_ns)),
            status: Some(status.to_owned()),
            ..self.event
        }
    }
}

/// Reads the serial of the SOA record whose data begins at `at` (RFC 1035 section 3.3.13).
fn soa_serial(bytes: &[u8], at: usize) -> Option<u32> {
    let (_, at) = Name::parse(bytes, at).ok()?;
    let (_, at) = Name::parse(bytes, at).ok()?;
    let serial = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_be_bytes(*serial))
}

/// Returns the error in the TSIG record of a response, if there is one (RFC 8945 section 4.2).
fn tsig_error(dns: &Dns<'_>) -> Option<String> {
    let records = dns.records().map_while(Result::ok);
    let (_, tsig) = records
        .filter(|(section, record)| *section == 3 && record.kind == Type::TSIG)
        .last()?;
    let (_, behind) = Name::parse(dns.bytes(), tsig.data).ok()?;
    let fields = tsig.bytes().get(behind - tsig.data..)?;
    // Time and fudge (8 bytes), MAC with its length, original id, error.
    let mac: [u8; 2] = *fields.get(8..)?.first_chunk()?;
    let error = fields.get(10 + usize::from(u16::from_be_bytes(mac)) + 2..)?;
    Some(match u16::from_be_bytes(*error.first_chunk()?) {
        0 => return None,
        16 => "BADSIG".to_owned(),
        other => Rcode(other).to_string(),
    })
}

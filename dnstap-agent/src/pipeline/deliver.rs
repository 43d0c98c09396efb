//! The last part of the journey, from a whole DNS message to its frame: `classify`, `pair` and `encode` in turn.
//!
//! Every message handed in becomes exactly one frame, unless it is excluded on purpose, which is counted, or waits for
//! its answer to be named. What cannot be read as DNS is counted as malformed and delivered all the same, byte for byte:
//! operators want to see attacks.

use crate::{
    anonymise::Anonymiser,
    classify::{Kind, Matter, Naming, Role, bind::BindRules},
    encode::{Extra, Finding, append_frame},
    event::{Direction, Envelope},
    pair::{Asked, Pairs, Query, Unanswered},
    pipeline::{
        Batch, Clock,
        counters::counters,
        filter::Filter,
        held::{Held, Waiting},
        latency::Latencies,
        servers::{Known, Server, Servers},
    },
    stream::wire::{Flags, Message},
};

/// Largest query that is reported whole: more than any but updates have.
const REPORTED: usize = 512;

/// Bytes in front of the question (RFC 1035 section 4.1.1).
const DNS_HEADER: usize = 12;

counters! {
    /// What was encoded, and what was left out on purpose.
    pub struct DeliverCounters {
        /// Messages encoded, which is frames.
        messages,
        /// Bytes of the DNS messages, as they passed.
        message_bytes,
        /// Bytes of the frames with their lengths.
        frame_bytes,
        /// Messages whose header or question cannot be read, delivered or not.
        malformed,
        /// Left out: not among the types asked for.
        excluded_type,
        /// Left out: ordinary queries and responses.
        excluded_query,
        /// Left out: a secondary's questions for serials.
        excluded_refresh,
        /// Left out: zone transfers.
        excluded_xfr,
        /// Left out: NOTIFY.
        excluded_notify,
        /// Left out: UPDATE.
        excluded_update,
        /// Left out: other opcodes.
        excluded_other,
        /// Left out: the server's own dnstap would not have it.
        excluded_mimic,
        /// Queries without answer that were reported.
        events,
    }
}

impl DeliverCounters {
    /// Messages left out on purpose.
    #[must_use]
    pub fn excluded(&self) -> u64 {
        self.excluded_type
            + self.excluded_query
            + self.excluded_refresh
            + self.excluded_xfr
            + self.excluded_notify
            + self.excluded_update
            + self.excluded_other
            + self.excluded_mimic
    }
}

/// State of the last stages.
#[derive(Debug)]
pub(super) struct Deliver {
    pub(super) identity: Vec<u8>,
    pub(super) servers: Servers,
    pub(super) extra: Extra,
    /// The `extra` of the message at hand.
    pub(super) extra_bytes: Vec<u8>,
    pub(super) filter: Filter,
    pub(super) anonymiser: Anonymiser,
    pub(super) report_unanswered: bool,
    pub(super) clock: Clock,
    pub(super) pairs: Pairs,
    pub(super) held: Held,
    pub(super) counters: DeliverCounters,
    pub(super) by_type: [u64; 14],
    pub(super) latencies: Latencies,
}

/// What the header of a message says.
#[derive(Clone, Copy)]
struct Header {
    flags: Flags,
    role: Role,
    matter: Matter,
}

impl Deliver {
    /// Takes a message; `parsed` is what [`Message::parse`] made of it.
    pub(super) fn message(
        &mut self,
        envelope: &Envelope,
        bytes: &[u8],
        parsed: Option<&Message<'_>>,
        batch: &mut Batch,
    ) {
        let well_formed = parsed.is_some_and(|message| message.well_formed);
        self.counters.malformed += u64::from(!well_formed);
        let flags = self.flags(envelope, bytes);
        let role = Role::of(envelope.direction, flags.response());
        let header = Header {
            flags,
            role,
            matter: Matter::of(role, flags, parsed),
        };
        if flags.response() {
            self.response(envelope, bytes, header, parsed, batch);
        } else {
            if well_formed {
                let server = self.servers.learn(envelope.origin.image);
                server.ports.learn_from_query(envelope);
            }
            self.query(envelope, bytes, header, parsed, batch);
        }
    }

    fn query(
        &mut self,
        envelope: &Envelope,
        bytes: &[u8],
        header: Header,
        parsed: Option<&Message<'_>>,
        batch: &mut Batch,
    ) {
        let server = self.servers.of(envelope.origin.image);
        let finding = Finding {
            role: header.role,
            kind: kind(server, header, server.recursion_available),
            response: false,
            query_time_ns: Some(self.clock.wall_ns(envelope.ktime_ns)),
            response_time_ns: None,
        };
        let Some(message) = parsed else {
            return self.send(envelope, &finding, header, bytes, batch);
        };
        let waits = matches!(server.server.naming, Naming::Bind(_))
            && BindRules::waits_for_answer(header.role, header.matter, header.flags);
        let ticket = waits.then(|| {
            self.held.put(Waiting {
                envelope: *envelope,
                finding,
                flags: header.flags,
                matter: header.matter,
                bytes: bytes.to_vec(),
            })
        });
        let at = finding.kind.message_type(false) as usize - 1;
        let wanted =
            is_logged(&server.server, envelope, header) && self.filter.wants(header.matter, at);
        let query = Query {
            ktime_ns: envelope.ktime_ns,
            offset_ns: self.clock.offset_ns,
            local: envelope.local,
            proxied: envelope.proxied,
            kind: finding.kind,
            matter: header.matter,
            wanted,
            ticket,
        };
        let asked = (self.report_unanswered && wanted).then(|| Asked {
            envelope: *envelope,
            finding,
            message: reported(bytes, message).to_vec(),
        });
        self.pairs.query(envelope, message, query, asked);
        if ticket.is_some() {
            self.release(0, batch);
        } else {
            self.send(envelope, &finding, header, bytes, batch);
        }
    }

    fn response(
        &mut self,
        envelope: &Envelope,
        bytes: &[u8],
        mut header: Header,
        parsed: Option<&Message<'_>>,
        batch: &mut Batch,
    ) {
        let query = parsed.and_then(|message| self.pairs.response(envelope, message));
        let mut envelope = *envelope;
        let server = self.servers.learn(envelope.origin.image);
        let mut finding = Finding {
            role: header.role,
            kind: kind(server, header, true),
            response: true,
            query_time_ns: None,
            response_time_ns: Some(self.clock.wall_ns(envelope.ktime_ns)),
        };
        if header.role == Role::Responder {
            server.recursion_available = header.flags.recursion_available();
        }
        if let Some(query) = query {
            header.matter = query.matter;
            finding.kind = match server.server.naming {
                Naming::Bind(_) if header.role == Role::Responder => kind(server, header, true),
                _ => query.kind,
            };
            if query.matter != Matter::Transfer {
                let took = envelope.ktime_ns.saturating_sub(query.ktime_ns);
                self.latencies.record(header.role, query.kind, took);
            }
            let clock = Clock {
                offset_ns: query.offset_ns,
            };
            finding.query_time_ns = Some(clock.wall_ns(query.ktime_ns));
            finding.response_time_ns = Some(clock.wall_ns(envelope.ktime_ns));
            if envelope.local.address().is_none() {
                envelope.local = query.local;
            }
            envelope.proxied = envelope.proxied.or(query.proxied);
            if let Some(waiting) = query.ticket.and_then(|ticket| self.held.take(ticket)) {
                self.send_waiting(waiting, batch);
            }
        }
        let server = self.servers.of(envelope.origin.image);
        if let Naming::Bind(rules) = server.server.naming
            && header.role == Role::Responder
            && !rules.answers_have_query_time()
        {
            finding.query_time_ns = None;
        }
        self.send(&envelope, &finding, header, bytes, batch);
    }

    /// Names and sends the queries whose answer has not come by kernel time `before`, and those that are too many.
    pub(super) fn release(&mut self, before: u64, batch: &mut Batch) {
        while let Some(waiting) = self.held.overdue(before) {
            self.send_waiting(waiting, batch);
        }
    }

    /// Queries that wait for their answers.
    pub(super) fn waiting(&self) -> u64 {
        self.held.waiting()
    }

    fn send_waiting(&mut self, mut waiting: Waiting, batch: &mut Batch) {
        let header = Header {
            flags: waiting.flags,
            role: waiting.finding.role,
            matter: waiting.matter,
        };
        let server = self.servers.of(waiting.envelope.origin.image);
        waiting.finding.kind = kind(server, header, server.recursion_available);
        self.send(
            &waiting.envelope,
            &waiting.finding,
            header,
            &waiting.bytes,
            batch,
        );
    }

    /// Encodes a message, unless it is excluded.
    fn send(
        &mut self,
        envelope: &Envelope,
        finding: &Finding,
        header: Header,
        bytes: &[u8],
        batch: &mut Batch,
    ) {
        let at = finding.kind.message_type(finding.response) as usize - 1;
        let server = &self.servers.of(envelope.origin.image).server;
        if !is_logged(server, envelope, header) {
            self.counters.excluded_mimic += 1;
            return;
        }
        if let Some(reason) = self.filter.reason(header.matter, at, &mut self.counters) {
            *reason += 1;
            return;
        }
        self.extra
            .write(envelope.origin, server.netns, &mut self.extra_bytes);
        self.counters.message_bytes += bytes.len() as u64;
        let mut envelope = *envelope;
        let shown = self.anonymiser.apply(header.role, &mut envelope, bytes);
        let before = batch.frames.len();
        append_frame(
            present(&self.identity),
            present(&server.version),
            present(&self.extra_bytes),
            &envelope,
            finding,
            shown,
            &mut batch.frames,
        );
        batch.messages += 1;
        self.counters.messages += 1;
        self.counters.frame_bytes += (batch.frames.len() - before) as u64;
        self.by_type[at] += 1;
    }

    /// Reports the queries that stayed without answer.
    pub(super) fn report(&mut self, batch: &mut Batch) {
        for Unanswered {
            mut asked,
            waited_ns,
        } in self.pairs.take_unanswered()
        {
            let extra = format!("{{\"event\":\"unanswered\",\"waited_ns\":{waited_ns}}}");
            let role = asked.finding.role;
            let shown = self
                .anonymiser
                .apply(role, &mut asked.envelope, &asked.message);
            let server = &self.servers.of(asked.envelope.origin.image).server;
            append_frame(
                present(&self.identity),
                present(&server.version),
                Some(extra.as_bytes()),
                &asked.envelope,
                &asked.finding,
                shown,
                &mut batch.event_frames,
            );
            batch.events += 1;
            self.counters.events += 1;
        }
    }

    /// The message's flags. One too short to have any is a query or a response by the port that it came to or from.
    fn flags(&self, envelope: &Envelope, bytes: &[u8]) -> Flags {
        if let [_, _, high, rest @ ..] = bytes {
            return Flags(u16::from_be_bytes([
                *high,
                rest.first().copied().unwrap_or(0),
            ]));
        }
        let ports = &self.servers.of(envelope.origin.image).ports;
        let asks = !ports.contains(envelope.local.port) && ports.contains(envelope.peer.port);
        let response = (envelope.direction == Direction::Received) == asks;
        Flags(if response { 0x8000 } else { 0 })
    }
}

/// What a report has of a query: of a large one header and question, so that no record is cut in two.
fn reported<'b>(bytes: &'b [u8], message: &Message<'_>) -> &'b [u8] {
    let question = message.question.map_or(0, <[u8]>::len);
    match bytes.get(..DNS_HEADER + question) {
        Some(start) if bytes.len() > REPORTED => start,
        _ => bytes,
    }
}

/// Whether the server's own dnstap would have the message, if that is what is wanted.
fn is_logged(server: &Server, envelope: &Envelope, header: Header) -> bool {
    !matches!(server.naming, Naming::Bind(_))
        || BindRules::logs(header.role, header.matter, envelope.protocol, header.flags)
}

/// The family of a message of `server`.
fn kind(server: &Known, header: Header, recursion_available: bool) -> Kind {
    let Header {
        flags,
        role,
        matter,
    } = header;
    match &server.server.naming {
        Naming::Profile(profile) => profile.kind(role, matter, flags.recursion_desired()),
        Naming::Bind(rules) => rules.kind(role, matter, flags, recursion_available),
    }
}

/// A field that is left out when it is empty.
fn present(field: &[u8]) -> Option<&[u8]> {
    (!field.is_empty()).then_some(field)
}

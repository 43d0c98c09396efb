//! The last stages, from a whole DNS message to its frame: `classify`, `pair` and `encode`.
//!
//! Every message becomes exactly one frame, with two exceptions. It may be excluded on purpose,
//! which is counted. Or it may wait for another message: a query for its response, which determines
//! its type, or a response without a query for that query, which may still be on its way. A message
//! that cannot be read as DNS is counted as malformed and still delivered, byte for byte, because
//! operators want to see attacks.

use std::hash::BuildHasher as _;

use dnstap_ebpf::{
    SERVER_AUTH_QUERY, SERVER_AUTH_RESPONSE, SERVER_CLIENT_QUERY, SERVER_CLIENT_RESPONSE,
    SERVER_FORWARDER_QUERY, SERVER_FORWARDER_RESPONSE, SERVER_RESOLVER_QUERY,
    SERVER_RESOLVER_RESPONSE,
};
use foldhash::fast::RandomState;

use crate::{
    account::DeliverCounters,
    classify::{Naming, bind::BindRules},
    dns::{Flags, Message},
    encode::Extra,
    events::{
        self, EventKind, Events, NsChanges, Output, RateLimits, Responses, Transfers,
        probed::Probed,
    },
    lru::Lru,
    model::{Asked, Direction, Endpoint, Envelope, Finding, Kind, Notice, Protocol, Role, Subject},
    pair::{Found, Pairs, Query},
    pipeline::{
        Batch, Clock,
        filter::Filter,
        held::{Held, Waiting},
        latency::Latencies,
        remarks::{Outcome, Remarks, Use},
        servers::{Known, Server, Servers},
        unasked::{Doubt, Unasked},
    },
    privacy::Anonymiser,
    record::Remark,
};

/// Largest query that is reported completely. Only updates are larger.
const REPORTED: usize = 512;

/// Most servers in [`Upstreams`].
const UPSTREAMS: usize = 1_024;

/// Bytes in front of the question (RFC 1035 section 4.1.1).
const DNS_HEADER: usize = 12;

/// State of the last stages.
#[derive(Debug)]
pub(super) struct Deliver {
    pub(super) servers: Servers,
    pub(super) extra: Extra,
    /// Content of `extra` for the current message.
    pub(super) extra_bytes: Vec<u8>,
    pub(super) filter: Filter,
    pub(super) anonymiser: Anonymiser,
    /// Whether notices go to outputs of their own.
    pub(super) report_unanswered: bool,
    pub(super) clock: Clock,
    pub(super) pairs: Pairs,
    pub(super) held: Held<Waiting>,
    pub(super) remarks: Remarks<Finished>,
    /// Whether unsolicited responses are delivered.
    pub(super) unsolicited: bool,
    pub(super) unasked: Unasked,
    pub(super) upstreams: Upstreams,
    pub(super) counters: DeliverCounters,
    pub(super) by_type: [u64; 14],
    pub(super) latencies: Latencies,
    pub(super) events: Events,
    pub(super) probed: Probed,
    pub(super) transfers: Transfers,
    pub(super) ns_changes: NsChanges,
    pub(super) responses: Responses,
    pub(super) rate_limits: RateLimits,
    /// Whether the tap ends, so that responses may still come.
    pub(super) is_ending: bool,
}

/// Message that is ready to be sent, except for the remark about it.
#[derive(Debug)]
pub(super) struct Finished {
    envelope: Envelope,
    finding: Finding,
    header: Header,
    bytes: Vec<u8>,
}

/// Properties of a message from its header.
#[derive(Clone, Copy, Debug)]
struct Header {
    /// Index of the server in [`Deliver::servers`].
    server: usize,
    flags: Flags,
    role: Role,
    subject: Subject,
    well_formed: bool,
    /// Whether it is an unsolicited response.
    unsolicited: bool,
}

impl Deliver {
    /// Takes a message; `parsed` is the result of [`Message::parse`].
    pub(super) fn message(
        &mut self,
        envelope: &Envelope,
        bytes: &[u8],
        parsed: Option<&Message<'_>>,
        batch: &mut Batch,
    ) {
        let header = self.header(envelope, bytes, parsed);
        self.counters.malformed += u64::from(!header.well_formed);
        let server = &mut self.servers[header.server];
        server.since_ktime_ns.get_or_insert(envelope.ktime_ns);
        if self.events.want(EventKind::Transfer) {
            self.watch_transfers(envelope, bytes, header, parsed, batch);
        }
        if header.flags.response() {
            self.response(envelope, bytes, header, parsed, batch);
        } else {
            self.query(envelope, bytes, header, parsed, batch);
        }
    }

    #[inline]
    fn header(
        &mut self,
        envelope: &Envelope,
        bytes: &[u8],
        parsed: Option<&Message<'_>>,
    ) -> Header {
        let at = self.servers.find(envelope.origin.program_id);
        let server = &self.servers[at];
        let flags = parsed.map_or_else(|| flags(server, envelope, bytes), |message| message.flags);
        let role = Role::of(envelope.direction, flags.response());
        let subject = match Subject::of(role, flags, parsed) {
            Subject::Refresh if !server.server.naming.has_zones() => Subject::Query,
            subject => subject,
        };
        Header {
            server: at,
            flags,
            role,
            subject,
            well_formed: parsed.is_some_and(|message| message.well_formed),
            unsolicited: false,
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
        let server = &self.servers[header.server];
        let mut finding = Finding {
            role: header.role,
            kind: kind(server, header, server.recursion_available),
            response: false,
            query_time_ns: Some(self.clock.wall_ns(envelope.ktime_ns)),
            response_time_ns: None,
        };
        let Some(message) = parsed else {
            return self.send(envelope, &finding, header, bytes, batch);
        };
        // A server that recurses may wait long for the answer to one name, and answer all others.
        let recurses = header.flags.recursion_desired() && server.recursion_available;
        if self.watches_limits(envelope, header)
            && !recurses
            && let Some(question) = message.question
        {
            let (origin, at) = (envelope.origin, envelope.ktime_ns);
            let client = envelope
                .proxied
                .map_or(envelope.peer, |proxied| proxied.peer);
            self.rate_limits.query(origin, client, question, at);
        }
        // A remark may tell the type of each of these queries, even of one that is not held back.
        let named_by_server = server.is_probed
            && header.role == Role::Responder
            && matches!(header.subject, Subject::Query | Subject::Transfer)
            && matches!(server.server.naming, Naming::Bind(_));
        let waits = matches!(server.server.naming, Naming::Bind(_))
            && BindRules::waits_for_answer(header.role, header.subject, header.flags);
        // A probe that copies the message makes its remark before.
        let said = if named_by_server && !envelope.protocol.is_plain() {
            self.remarks.about(envelope, bytes)
        } else {
            None
        };
        if let Some(said) = &said {
            self.counters.remarks_expected += 1;
            self.counters.remarks_joined += 1;
            finding.kind = kind_of(said.message_type).unwrap_or(finding.kind);
        }
        if header.subject == Subject::Transfer && !envelope.protocol.is_plain() {
            // A probe does not see the response, so the query does not wait for it.
            return self.send(envelope, &finding, header, bytes, batch);
        }
        let waits = waits && said.is_none();
        let named_by_server = named_by_server && said.is_none();
        let ticket = waits.then(|| {
            self.held.put(Waiting {
                envelope: *envelope,
                finding,
                flags: header.flags,
                subject: header.subject,
                bytes: bytes.to_vec(),
            })
        });
        let at = usize::from(finding.number()) - 1;
        let wanted =
            is_logged(&server.server, envelope, header) && self.filter.wants(header.subject, at);
        let query = Query {
            ktime_ns: envelope.ktime_ns,
            offset_ns: self.clock.offset_ns,
            family: envelope.family,
            kind: finding.kind,
            subject: header.subject,
            wanted,
            ticket,
        };
        // Filters do not apply to events.
        let is_reported =
            self.report_unanswered && wanted || self.events.want(EventKind::Unanswered);
        let asked = is_reported.then(|| Asked {
            envelope: *envelope,
            finding,
            wanted,
            message: reported(bytes, message).to_vec(),
        });
        self.pairs.query(envelope, message, query, asked);
        if named_by_server {
            self.counters.remarks_expected += 1;
            self.remarks.expect(envelope, bytes, ticket);
        }
        if ticket.is_some() {
            self.release(0, batch);
        } else {
            self.send(envelope, &finding, header, bytes, batch);
        }
        if self.unasked.waiting() > 0 {
            self.meet(envelope, message, batch);
        }
    }

    /// Pairs a query with a response that came before it, if there is one. Threads that send and
    /// receive reach their hooks in any order.
    fn meet(&mut self, query: &Envelope, message: &Message<'_>, batch: &mut Batch) {
        if (query.direction, query.protocol) != (Direction::Sent, Protocol::Udp) {
            return;
        }
        let meetings = [
            self.pairs.meeting(query, message),
            self.pairs.meeting_without_peer(query, message),
        ];
        for meeting in meetings {
            let Some((ticket, doubt)) = self.unasked.meets(meeting, query) else {
                continue;
            };
            let in_order = Envelope {
                ktime_ns: doubt.envelope.ktime_ns.max(query.ktime_ns),
                ..doubt.envelope
            };
            let parsed = Message::parse(&doubt.bytes);
            let found = parsed.map(|parsed| self.pairs.response(&in_order, &parsed));
            if let Some(found @ Found::Query(_)) = found
                && let Some(doubt) = self.unasked.take(ticket)
            {
                let parsed = Message::parse(&doubt.bytes);
                let header = self.header(&doubt.envelope, &doubt.bytes, parsed.as_ref());
                self.answer(&doubt.envelope, &doubt.bytes, header, found, batch);
            }
        }
    }

    fn response(
        &mut self,
        envelope: &Envelope,
        bytes: &[u8],
        header: Header,
        parsed: Option<&Message<'_>>,
        batch: &mut Batch,
    ) {
        let found = parsed.map_or(Found::Nothing, |message| {
            self.pairs.response(envelope, message)
        });
        if !matches!(found, Found::Query(_)) {
            let server = &self.servers[header.server];
            let (expected_ns, sampled) = (self.pairs.expected_ns(), self.filter.sampled);
            if self
                .unasked
                .suspects(envelope, found, server, expected_ns, sampled)
            {
                // A response without a header has no query to wait for.
                let meeting = parsed.map_or(0, |message| self.pairs.meeting(envelope, message));
                self.unasked.put(envelope, bytes, meeting);
                return self.judge(0, batch);
            }
            if parsed.is_some() {
                self.pairs.unmatched();
            }
        }
        self.answer(envelope, bytes, header, found, batch);
    }

    /// Judges the responses whose query has not come by kernel time `before`, and those above the
    /// limit.
    pub(super) fn judge(&mut self, before: u64, batch: &mut Batch) {
        while let Some(Doubt {
            envelope, bytes, ..
        }) = self.unasked.overdue(before)
        {
            let parsed = Message::parse(&bytes);
            if parsed.is_some() {
                self.pairs.unmatched();
            }
            if !self.unsolicited {
                self.counters.unsolicited += 1;
                continue;
            }
            let header = Header {
                unsolicited: true,
                ..self.header(&envelope, &bytes, parsed.as_ref())
            };
            self.answer(&envelope, &bytes, header, Found::Nothing, batch);
        }
    }

    /// Sends a response, with type and time from the query that was found.
    fn answer(
        &mut self,
        envelope: &Envelope,
        bytes: &[u8],
        mut header: Header,
        found: Found,
        batch: &mut Batch,
    ) {
        if matches!(found, Found::Query(_))
            && header.role == Role::Initiator
            && !self.servers[header.server].is_probed
        {
            self.watch_upstream(envelope, bytes, &[], batch);
        }
        let server = &mut self.servers[header.server];
        if header.role == Role::Responder {
            server.recursion_available = header.flags.recursion_available();
        }
        let Found::Query(slot) = found else {
            let finding = Finding {
                role: header.role,
                kind: kind(server, header, true),
                response: true,
                query_time_ns: None,
                response_time_ns: Some(self.clock.wall_ns(envelope.ktime_ns)),
            };
            return self.send(envelope, &finding, header, bytes, batch);
        };
        if self.watches_limits(envelope, header)
            && let Some(question) = Message::parse(bytes).and_then(|message| message.question)
        {
            let (query, _, peer) = self.pairs.found(slot);
            let (origin, at) = (envelope.origin, query.ktime_ns);
            let client = self
                .pairs
                .proxied(slot)
                .map_or(*peer, |proxied| proxied.peer);
            self.rate_limits
                .response(origin, client, question, bytes, at);
        }
        let server = &mut self.servers[header.server];
        let (&query, local, peer) = self.pairs.found(slot);
        // A port of encrypted DNS carries no plain DNS.
        if header.well_formed && envelope.protocol.is_plain() {
            match header.role {
                Role::Responder => server.ports.learn(envelope.local.port),
                Role::Initiator => self.upstreams.learn(envelope.origin.program_id, *peer),
            }
        }
        header.subject = query.subject;
        let clock = Clock {
            offset_ns: query.offset_ns,
        };
        // If the response was seen first, the query had been sent before it.
        let asked_ns = query.ktime_ns.min(envelope.ktime_ns);
        let mut finding = Finding {
            role: header.role,
            kind: query.kind,
            response: true,
            query_time_ns: Some(clock.wall_ns(asked_ns)),
            response_time_ns: Some(clock.wall_ns(envelope.ktime_ns)),
        };
        if let Naming::Bind(rules) = server.server.naming
            && header.role == Role::Responder
        {
            finding.kind = kind(server, header, true);
            if !rules.answers_have_query_time() {
                finding.query_time_ns = None;
            }
        }
        if query.subject != Subject::Transfer {
            let took = envelope.ktime_ns.saturating_sub(query.ktime_ns);
            self.latencies.record(header.role, query.kind, took);
        }
        let proxied = self.pairs.proxied(slot);
        let is_complete = envelope.peer.is_known() && envelope.local.address().is_some();
        let completed = (!is_complete || proxied.is_some()).then(|| {
            let mut envelope = *envelope;
            complete(&mut envelope, &query, *local, *peer);
            envelope.proxied = envelope.proxied.or(proxied.copied());
            envelope
        });
        if let Some(waiting) = query.ticket.and_then(|ticket| self.held.take(ticket)) {
            self.send_waiting(waiting, None, batch);
        }
        let envelope = completed.as_ref().unwrap_or(envelope);
        self.send(envelope, &finding, header, bytes, batch);
    }

    /// Classifies and sends the queries whose response has not come by kernel time `before`, and
    /// those above the limit.
    pub(super) fn release(&mut self, before: u64, batch: &mut Batch) {
        while let Some(waiting) = self.held.overdue(before) {
            self.send_waiting(waiting, None, batch);
        }
    }

    /// Returns the number of waiting messages: queries that wait for responses, responses that wait
    /// for queries, and messages that wait for remarks.
    pub(super) fn waiting(&self) -> u64 {
        self.held.waiting() + self.unasked.waiting() + self.remarks.messages()
    }

    /// Returns whether a datagram's or a connection's ports are known for DNS.
    pub(super) fn know(&mut self, envelope: &Envelope) -> bool {
        let program_id = envelope.origin.program_id;
        let at = self.servers.find(program_id);
        let ports = &self.servers[at].ports;
        ports.are_given(envelope)
            || ports.contains(envelope.local.port)
            || self.upstreams.know(program_id, envelope.peer)
    }

    /// Sends a query that was held back. `named`: the family that the server gives it, if known.
    fn send_waiting(&mut self, mut waiting: Waiting, named: Option<Kind>, batch: &mut Batch) {
        let at = self.servers.find(waiting.envelope.origin.program_id);
        let header = Header {
            server: at,
            flags: waiting.flags,
            role: waiting.finding.role,
            subject: waiting.subject,
            well_formed: true,
            unsolicited: false,
        };
        let server = &self.servers[at];
        waiting.finding.kind =
            named.unwrap_or_else(|| kind(server, header, server.recursion_available));
        self.send(
            &waiting.envelope,
            &waiting.finding,
            header,
            &waiting.bytes,
            batch,
        );
    }

    /// Encodes a message, unless it is excluded. A message of a probed server may wait for its
    /// remark before.
    #[inline]
    fn send(
        &mut self,
        envelope: &Envelope,
        finding: &Finding,
        header: Header,
        bytes: &[u8],
        batch: &mut Batch,
    ) {
        let at = usize::from(finding.number()) - 1;
        let Known {
            server,
            encoder,
            is_probed,
            ..
        } = &mut self.servers[header.server];
        // BIND does not log unsolicited responses either.
        let is_bind = matches!(server.naming, Naming::Bind(_));
        if is_bind && (header.unsolicited || !is_logged(server, envelope, header)) {
            self.counters.excluded_mimic += 1;
            return;
        }
        // The remark may change the type, so the filter is applied when the message is sent.
        let is_named_later = *is_probed && is_bind && header.role == Role::Initiator;
        if !is_named_later
            && let Some(reason) = self.filter.reason(header.subject, at, &mut self.counters)
        {
            *reason += 1;
            return;
        }
        if *is_probed {
            return self.ask(envelope, finding, header, bytes, batch);
        }
        let before = batch.messages.bytes.len();
        let frames = &mut batch.messages.bytes;
        if self.anonymiser.hides() || self.extra.is_wanted(header.unsolicited) {
            self.encode(envelope, finding, header, (&[], bytes), frames);
        } else {
            encoder.append(&[], envelope, finding, bytes, frames);
        }
        self.sent(finding, header, bytes, before, batch);
    }

    /// Counts a message whose frame was appended to the batch; `before` is the length of the batch
    /// without it.
    #[inline]
    fn sent(
        &mut self,
        finding: &Finding,
        header: Header,
        bytes: &[u8],
        before: usize,
        batch: &mut Batch,
    ) {
        let frame_bytes = batch.messages.bytes.len() - before;
        batch.messages.count += 1;
        self.counters.unsolicited_delivered += u64::from(header.unsolicited);
        self.counters.message_bytes += bytes.len() as u64;
        self.counters.messages += 1;
        self.counters.frame_bytes += frame_bytes as u64;
        self.by_type[usize::from(finding.number()) - 1] += 1;
    }

    /// Sends a message of a probed server with the remark about it, or queues it until the remark
    /// comes.
    #[cold]
    fn ask(
        &mut self,
        envelope: &Envelope,
        finding: &Finding,
        header: Header,
        bytes: &[u8],
        batch: &mut Batch,
    ) {
        let asks = header.role == Role::Initiator;
        let may_have_one = if asks {
            matches!(header.subject, Subject::Query | Subject::Refresh) && !header.unsolicited
        } else {
            finding.response && finding.kind == Kind::Auth
        };
        self.counters.remarks_expected += u64::from(may_have_one);
        let outcome = if !may_have_one {
            Some(Outcome::Without)
        } else if let Some(said) = self.remarks.about(envelope, bytes) {
            self.counters.remarks_joined += 1;
            Some(Outcome::Joined(said))
        } else if asks {
            None
        } else {
            Some(Outcome::Missing)
        };
        let message = Finished {
            envelope: *envelope,
            finding: *finding,
            header,
            bytes: bytes.to_vec(),
        };
        match outcome {
            Some(outcome) if !asks || self.remarks.is_idle() => {
                self.finish(&message, &outcome, batch);
            }
            outcome => {
                self.remarks.put(message, envelope, bytes, outcome);
                self.settle(0, batch);
            }
        }
    }

    /// Takes a remark of a probed server.
    pub(super) fn remark(&mut self, envelope: &Envelope, payload: &[u8], batch: &mut Batch) {
        let Some(remark) = Remark::parse(payload) else {
            self.counters.remarks_malformed += 1;
            return;
        };
        match self.remarks.say(envelope, &remark) {
            Use::Kept => {}
            Use::Queued => self.counters.remarks_joined += 1,
            Use::Names(ticket, said) => {
                self.counters.remarks_joined += 1;
                if let Some(waiting) = ticket.and_then(|ticket| self.held.take(ticket)) {
                    self.send_waiting(waiting, kind_of(said.message_type), batch);
                }
            }
        }
        self.settle(0, batch);
    }

    /// Takes a notice of a probed function.
    pub(super) fn probed(&mut self, envelope: &Envelope, payload: &[u8], batch: &mut Batch) {
        self.counters.notices_probed += 1;
        let Envelope {
            ktime_ns, origin, ..
        } = *envelope;
        let output = &mut Output {
            events: &mut self.events,
            frames: &mut batch.events,
            clock: self.clock,
        };
        self.probed
            .take(ktime_ns, origin, payload, &self.responses, output);
    }

    /// Reports what ends by time alone, up to kernel time `now_ktime_ns`.
    pub(super) fn tick_probed(&mut self, now_ktime_ns: u64, batch: &mut Batch) {
        let output = &mut Output {
            events: &mut self.events,
            frames: &mut batch.events,
            clock: self.clock,
        };
        self.probed.tick(now_ktime_ns, output);
    }

    /// Sends the queued messages that need not wait for a remark any longer, and those from before
    /// kernel time `before`. Drops the remarks from before that time.
    pub(super) fn settle(&mut self, before: u64, batch: &mut Batch) {
        while let Some((message, outcome)) = self.remarks.next(before) {
            self.finish(&message, &outcome, batch);
        }
        self.counters.remarks_unjoined += self.remarks.forget(before);
        self.counters.remarks_missing += self.remarks.forget_unnamed(before);
    }

    /// Encodes a message of a probed server; `outcome` tells its remark.
    fn finish(&mut self, message: &Finished, outcome: &Outcome, batch: &mut Batch) {
        let Finished {
            envelope,
            finding,
            header,
            bytes,
        } = message;
        let mut finding = *finding;
        let at = self.servers.find(envelope.origin.program_id);
        let is_bind = matches!(self.servers[at].server.naming, Naming::Bind(_));
        let zone = match outcome {
            Outcome::Joined(said) => {
                if is_bind && let Some(kind) = kind_of(said.message_type) {
                    finding.kind = kind;
                }
                &said.zone[..]
            }
            Outcome::Missing => {
                self.counters.remarks_missing += 1;
                &[]
            }
            Outcome::Without => &[],
        };
        let is_received = finding.response && finding.query_time_ns.is_some();
        if is_received && header.role == Role::Initiator {
            self.watch_upstream(envelope, bytes, zone, batch);
        }
        if is_bind && header.role == Role::Initiator {
            let at = usize::from(finding.number()) - 1;
            if let Some(reason) = self.filter.reason(header.subject, at, &mut self.counters) {
                *reason += 1;
                return;
            }
        }
        // A zone is a name, so it is hidden with the other names.
        let zone = if self.anonymiser.hides_names() {
            &[]
        } else {
            zone
        };
        self.counters.zones += u64::from(!zone.is_empty());
        // The server's index may have changed while the message waited.
        let header = Header {
            server: at,
            ..*header
        };
        let before = batch.messages.bytes.len();
        let frames = &mut batch.messages.bytes;
        self.encode(envelope, &finding, header, (zone, bytes), frames);
        self.sent(&finding, header, bytes, before, batch);
    }

    /// Encodes a message that has an `extra` or a zone, or of which something is hidden.
    #[cold]
    fn encode(
        &mut self,
        envelope: &Envelope,
        finding: &Finding,
        header: Header,
        (zone, bytes): (&[u8], &[u8]),
        frames: &mut Vec<u8>,
    ) {
        let Known {
            server, encoder, ..
        } = &mut self.servers[header.server];
        let mut envelope = *envelope;
        let shown = self.anonymiser.apply(header.role, &mut envelope, bytes);
        let extra = &mut self.extra_bytes;
        self.extra
            .write(envelope.origin, server.netns, header.unsolicited, extra);
        encoder.append_with_zone(extra, &envelope, finding, (zone, shown), frames);
    }

    /// Returns whether the stage that looks for rate limits needs this query or response.
    fn watches_limits(&self, envelope: &Envelope, header: Header) -> bool {
        self.events.want(EventKind::RateLimit)
            && header.role == Role::Responder
            && header.subject == Subject::Query
            && envelope.protocol == Protocol::Udp
            && !self.filter.sampled
            && !self.probed.tells_limits(envelope.origin.tgid)
    }

    /// Shows a message to the stage that follows zone transfers, if it may belong to one.
    fn watch_transfers(
        &mut self,
        envelope: &Envelope,
        bytes: &[u8],
        header: Header,
        parsed: Option<&Message<'_>>,
        batch: &mut Batch,
    ) {
        // Of a transfer over TLS, a probe sees only the request.
        if !envelope.protocol.is_plain() {
            return;
        }
        let is_response = header.flags.response();
        // Later messages of a transfer need not have a question (RFC 5936 section 2.2.1).
        let may_go_on = is_response
            && envelope.protocol == Protocol::Tcp
            && parsed.is_some_and(|message| message.question.is_none());
        if header.subject != Subject::Transfer && !may_go_on {
            return;
        }
        let output = &mut Output {
            events: &mut self.events,
            frames: &mut batch.events,
            clock: self.clock,
        };
        if is_response {
            self.transfers.response(envelope, bytes, output);
        } else {
            self.transfers.request(envelope, bytes, output);
        }
    }

    /// Shows a response to the process's own query to the stages that make events of it. `zone`: the zone that was
    /// asked, if it is known.
    fn watch_upstream(
        &mut self,
        envelope: &Envelope,
        bytes: &[u8],
        zone: &[u8],
        batch: &mut Batch,
    ) {
        let [servers, cache] =
            [EventKind::NsChange, EventKind::Cache].map(|kind| self.events.want(kind));
        if servers {
            let output = &mut Output {
                events: &mut self.events,
                frames: &mut batch.events,
                clock: self.clock,
            };
            self.ns_changes.response(envelope, bytes, zone, output);
        }
        if servers || cache {
            self.responses.take(envelope, bytes, zone);
        }
    }

    /// Tells the stages that make events the kernel time.
    pub(super) fn watch_time(&mut self, now_ktime_ns: u64, batch: &mut Batch) {
        let output = &mut Output {
            events: &mut self.events,
            frames: &mut batch.events,
            clock: self.clock,
        };
        self.transfers.tick(now_ktime_ns, output);
        self.rate_limits.tick(now_ktime_ns, output);
    }

    /// Tells the stages that make events that nothing more comes.
    pub(super) fn end_watch(&mut self, batch: &mut Batch) {
        let output = &mut Output {
            events: &mut self.events,
            frames: &mut batch.events,
            clock: self.clock,
        };
        self.transfers.finish(output);
        self.probed.finish(output);
    }

    /// Encodes a notice if an output can show it, and counts it in any case.
    pub(super) fn notice(&mut self, notice: Notice, batch: &mut Batch) {
        let Notice::Unanswered {
            mut query,
            waited_ns,
        } = notice
        else {
            self.counters.notices_unknown += 1;
            return;
        };
        self.counters.events += 1;
        // At the end of the tap, the response may still come.
        if !self.is_ending {
            events::unanswered(
                &query,
                waited_ns,
                &mut Output {
                    events: &mut self.events,
                    frames: &mut batch.events,
                    clock: self.clock,
                },
            );
        }
        if !self.report_unanswered || !query.wanted {
            return;
        }
        let extra = format!("{{\"event\":\"unanswered\",\"waited_ns\":{waited_ns}}}");
        let role = query.finding.role;
        let shown = self
            .anonymiser
            .apply(role, &mut query.envelope, &query.message);
        let at = self.servers.find(query.envelope.origin.program_id);
        self.servers[at].encoder.append(
            extra.as_bytes(),
            &query.envelope,
            &query.finding,
            shown,
            &mut batch.notices.bytes,
        );
        batch.notices.count += 1;
    }
}

/// Returns the message's flags. If a message is too short for flags, its port tells whether it is a
/// query or a response.
#[cold]
fn flags(server: &Known, envelope: &Envelope, bytes: &[u8]) -> Flags {
    if let [_, _, high, rest @ ..] = bytes {
        return Flags(u16::from_be_bytes([
            *high,
            rest.first().copied().unwrap_or(0),
        ]));
    }
    let asks = !server.ports.contains(envelope.local.port) && envelope.peer.port == 53;
    let response = (envelope.direction == Direction::Received) == asks;
    Flags(if response { 0x8000 } else { 0 })
}

/// Adds the ends to a response that only its query knows.
fn complete(envelope: &mut Envelope, query: &Query, local: Endpoint, peer: Endpoint) {
    let same_family = envelope.family == query.family;
    if envelope.peer == Endpoint::default() && peer.address().is_some() {
        (envelope.peer, envelope.family) = (peer, query.family);
        if !same_family || envelope.local.address().is_none() {
            envelope.local = local;
        }
    } else if same_family && envelope.local.address().is_none() {
        envelope.local = local;
    }
}

/// Ends of other servers that have answered the process, on ports other than 53. The port alone is
/// not enough: the same port of another host may carry anything.
#[derive(Debug)]
pub(super) struct Upstreams {
    known: Lru<()>,
    hasher: RandomState,
}

impl Default for Upstreams {
    fn default() -> Self {
        Self {
            known: Lru::new(UPSTREAMS),
            hasher: RandomState::default(),
        }
    }
}

impl Upstreams {
    fn learn(&mut self, program_id: u32, peer: Endpoint) {
        if peer.port != 53 && !self.know(program_id, peer) {
            self.known
                .insert(self.hasher.hash_one((program_id, peer)), ());
        }
    }

    fn know(&mut self, program_id: u32, peer: Endpoint) -> bool {
        self.known.len() > 0
            && self
                .known
                .get(self.hasher.hash_one((program_id, peer)))
                .is_some()
    }
}

/// Returns the part of a query that is reported. For a large query this is header and question, so
/// that no record is cut in two.
fn reported<'b>(bytes: &'b [u8], message: &Message<'_>) -> &'b [u8] {
    let question = message.question.map_or(0, <[u8]>::len);
    match bytes.get(..DNS_HEADER + question) {
        Some(start) if bytes.len() > REPORTED => start,
        _ => bytes,
    }
}

/// Returns whether the server's own dnstap would log the message, if that is to be mimicked.
fn is_logged(server: &Server, envelope: &Envelope, header: Header) -> bool {
    !matches!(server.naming, Naming::Bind(_))
        || BindRules::logs(header.role, header.subject, envelope.protocol, header.flags)
}

/// Returns the family of a server's own type (a `SERVER_*` bit); `None` if there is none.
fn kind_of(message_type: u32) -> Option<Kind> {
    Some(match message_type {
        SERVER_CLIENT_QUERY | SERVER_CLIENT_RESPONSE => Kind::Client,
        SERVER_AUTH_QUERY | SERVER_AUTH_RESPONSE => Kind::Auth,
        SERVER_RESOLVER_QUERY | SERVER_RESOLVER_RESPONSE => Kind::Resolver,
        SERVER_FORWARDER_QUERY | SERVER_FORWARDER_RESPONSE => Kind::Forwarder,
        _ => return None,
    })
}

/// Returns the family of a message of `server`.
fn kind(server: &Known, header: Header, recursion_available: bool) -> Kind {
    let Header {
        flags,
        role,
        subject,
        ..
    } = header;
    match &server.server.naming {
        Naming::Profile(profile) => profile.kind(role, subject, flags.recursion_desired()),
        Naming::Bind(rules) => rules.kind(role, subject, flags, recursion_available),
    }
}

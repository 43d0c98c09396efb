//! The pure stages in sequence: takes records of the ring, returns Frame Streams data frames.
//!
//! ```text
//! bytes ─► record ─┬─ UDP ─► reassemble::datagrams ─► sockets ─┐
//!                  │                                           ├─► classify ─► pair ─► privacy ─► encode ─► Batch
//!                  └─ TCP ─► reassemble::tcp ──────────────────┘
//! ```
//!
//! There are no sockets, maps or clocks here: the input is bytes and kernel times, the output bytes
//! and verdicts. Nothing fails. Messages that are not delivered are counted, and
//! [`account`](crate::account) states the laws of the counters. In steady state nothing is
//! allocated: buffers and tables grow to their bounds and are reused.
//!
//! The reader should pass records of one socket in the order of their time, as far as it can.
//! [`stream`](crate::reassemble::tcp) says which inversions are repaired. If a response comes before
//! its query, [`pair`](crate::pair) cannot connect them, and the response is delivered unpaired.

mod copies;
mod datagrams;
mod deliver;
mod filter;
mod held;
mod latency;
mod remarks;
mod servers;
mod sockets;
mod unasked;

#[cfg(test)]
mod tests;

pub use self::{filter::Filter, latency::Latencies, servers::Server, sockets::Verdict};
pub use crate::model::{Clock, Frames};

use crate::{
    account::{DeliverCounters, IntakeCounters, PipelineCounters},
    dns::Message,
    encode::Extra,
    events::{
        EventKinds, Events, NsChanges, RateLimits, Responses, Transfers, WatchCounters,
        probed::Probed,
    },
    model::{Direction, Envelope, Notice, Origin, Pending, Protocol, SocketCounts},
    pair::{PairLimits, Pairs},
    pipeline::{
        copies::{Copies, Decision},
        datagrams::Layout,
        deliver::{Deliver, Upstreams},
        held::Held,
        remarks::Remarks,
        servers::Servers,
        sockets::Sockets,
        unasked::{PATIENCE_NS, Unasked},
    },
    privacy::{Anonymiser, Privacy},
    reassemble::{
        datagrams::Assembler,
        tcp::{
            Proxies, StreamLimits, Streams,
            proxy::{self, ProxyHeader},
        },
    },
    record::{Chunk, Recent, Record},
};

/// Most bytes of dnstap `identity` and `version`.
pub const MAX_LABEL: usize = 1024;

/// Longest time for which a message of a probed server waits for its remark, in nanoseconds of
/// kernel time.
pub const REMARK_PATIENCE_NS: u64 = remarks::PATIENCE_NS;

/// Encoded frames by kind; reused by the caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Messages.
    pub messages: Frames,
    /// Notices, if they were asked for, in the same form; see
    /// [`PipelineConfig::report_unanswered`].
    pub notices: Frames,
    /// Events, if they were asked for: `Event` messages; see [`events`](crate::events).
    pub events: Frames,
}

impl Batch {
    /// Empties the batch but keeps its memory.
    pub fn clear(&mut self) {
        for frames in [&mut self.messages, &mut self.notices, &mut self.events] {
            frames.bytes.clear();
            frames.count = 0;
        }
    }
}

/// Configuration of the pipeline.
#[derive(Clone, Debug)]
pub struct PipelineConfig {
    /// dnstap `identity`; empty: left out.
    pub identity: Vec<u8>,
    /// Server that stands in for servers that are not registered.
    pub server: Server,
    /// Inode numbers of the sockets that existed at attach; TCP streams on them are joined midway.
    /// List them after the hooks are attached, so that none is missed. Additional sockets do no
    /// harm.
    pub existing_sockets: Vec<u64>,
    /// Peers whose PROXY headers are believed.
    pub proxies: Proxies,
    /// Members of dnstap `extra`.
    pub extra: Extra,
    /// Messages to leave out.
    pub filter: Filter,
    /// Addresses and names to hide.
    pub privacy: Privacy,
    /// Whether unsolicited responses are delivered, marked in `extra`.
    pub unsolicited: bool,
    /// Whether unanswered queries are reported, as frames of the queries marked in `extra`. They
    /// are only for text, JSON and YAML, because readers of dnstap would take them for queries.
    pub report_unanswered: bool,
    /// Whether whole messages may come of which it is not known whether their connection is
    /// encrypted.
    pub unsure: bool,
    /// Kinds of events to report.
    pub events: EventKinds,
    /// Bounds of the table of queries.
    pub pair_limits: PairLimits,
    /// Bounds of the table of TCP connections.
    pub stream_limits: StreamLimits,
    /// Most UDP sockets on unknown ports that are remembered.
    pub udp_sockets: usize,
}

impl Default for PipelineConfig {
    fn default() -> Self {
        Self {
            identity: Vec::new(),
            server: Server::default(),
            existing_sockets: Vec::new(),
            proxies: Proxies::default(),
            extra: Extra::default(),
            filter: Filter::default(),
            privacy: Privacy::default(),
            unsolicited: false,
            report_unanswered: false,
            unsure: false,
            events: EventKinds::default(),
            pair_limits: PairLimits::default(),
            stream_limits: StreamLimits::default(),
            udp_sockets: 65_536,
        }
    }
}

/// The pipeline with all its stages.
#[derive(Debug)]
pub struct Pipeline {
    recent: Recent,
    assembler: Assembler,
    sockets: Sockets,
    streams: Streams,
    copies: Copies,
    proxies: Proxies,
    deliver: Deliver,
    intake: IntakeCounters,
    /// Nanoseconds for which a query waits for its response.
    patience_ns: u64,
}

impl Pipeline {
    /// Creates a pipeline that has seen nothing yet.
    #[must_use]
    pub fn new(config: PipelineConfig) -> Self {
        let mut streams = Streams::new(
            config.stream_limits,
            config.existing_sockets,
            config.proxies.clone(),
        );
        if config.unsure {
            streams.remember_ends();
        }
        Self {
            recent: Recent::default(),
            assembler: Assembler::default(),
            sockets: Sockets::new(config.udp_sockets),
            streams,
            copies: Copies::default(),
            proxies: config.proxies,
            deliver: Deliver {
                probed: Probed::default(),
                events: Events::new(
                    config.events,
                    config.identity.clone(),
                    config.privacy.clone(),
                ),
                transfers: Transfers::default(),
                ns_changes: NsChanges::default(),
                responses: Responses::default(),
                rate_limits: RateLimits::default(),
                is_ending: false,
                servers: Servers::new(config.identity, config.server),
                extra: config.extra,
                extra_bytes: Vec::new(),
                filter: config.filter,
                anonymiser: Anonymiser::new(config.privacy),
                report_unanswered: config.report_unanswered,
                held: Held::default(),
                remarks: Remarks::default(),
                unsolicited: config.unsolicited,
                unasked: Unasked::default(),
                upstreams: Upstreams::default(),
                clock: Clock::default(),
                pairs: Pairs::new(config.pair_limits),
                counters: DeliverCounters::default(),
                by_type: [0; 14],
                latencies: Latencies::default(),
            },
            intake: IntakeCounters::default(),
            patience_ns: config.pair_limits.age_ns,
        }
    }

    /// Returns whether a record with this origin comes from a server that is not registered.
    pub fn is_unknown_server(&mut self, origin: Origin) -> bool {
        // The end of a connection belongs to no process.
        origin.tgid != 0 && !self.deliver.servers.touch(origin.program_id)
    }

    /// Registers the server that runs `program_id`.
    pub fn register_server(&mut self, program_id: u32, server: Server) {
        self.deliver.servers.insert(program_id, server);
    }

    /// Sets whether the server that runs `program_id` is probed. If so, its own queries and the
    /// responses to them wait for their remarks, at most [`REMARK_PATIENCE_NS`].
    pub fn probe(&mut self, program_id: u32, is_probed: bool, batch: &mut Batch) {
        self.deliver.servers.probe(program_id, is_probed);
        if !is_probed {
            // Later messages of the same sockets do not wait, so the waiting ones are sent first.
            self.deliver.settle(u64::MAX, batch);
        }
    }

    /// Takes the end of a process. What its caches had is gone.
    pub fn process_ended(&mut self, process_id: u32) {
        self.deliver.probed.process_ended(process_id);
    }

    /// Marks the sockets of a process that was already running when it was added: TCP streams on
    /// them are joined midway. Call this before the process's first record. Additional sockets do
    /// no harm.
    pub fn join_midway(&mut self, sockets: impl IntoIterator<Item = u64>) {
        self.streams.midway(sockets);
    }

    /// Takes one record of the ring (header, payload, padding).
    pub fn push(&mut self, record: &[u8], batch: &mut Batch) {
        self.intake.records += 1;
        if let Some((envelope, bytes)) = self.recent.datagram(record) {
            self.intake.udp_records += 1;
            self.intake.udp_bytes += bytes.len() as u64;
            self.intake.udp_messages += 1;
            let mut datagrams = Datagrams {
                sockets: &mut self.sockets,
                proxies: &self.proxies,
                deliver: &mut self.deliver,
                intake: &mut self.intake,
                batch,
            };
            return datagrams.take(envelope, bytes, |_| false);
        }
        self.decode(record, batch);
    }

    /// Takes a record that does not resemble the last one.
    fn decode(&mut self, record: &[u8], batch: &mut Batch) {
        match &Record::parse(record) {
            Ok(Record::Chunk(chunk)) => {
                self.recent.note(record, chunk);
                self.chunk(chunk, batch);
            }
            Ok(Record::ConnectionEnd(end)) => self.connection_end(end, batch),
            Ok(Record::Message(envelope, bytes)) => {
                self.intake.message_records += 1;
                self.intake.copies_delivered += 1;
                self.message(envelope, bytes, batch);
            }
            Ok(Record::Unsure(envelope, bytes)) => {
                self.intake.message_records += 1;
                self.unsure(envelope, bytes, batch);
            }
            Ok(Record::Remark(envelope, payload)) => {
                self.intake.remark_records += 1;
                self.deliver.remark(envelope, payload, batch);
            }
            Ok(Record::Notice(envelope, payload)) => {
                self.intake.notice_records += 1;
                self.intake.notices += 1;
                self.deliver.probed(envelope, payload, batch);
            }
            Err(_) => self.intake.event_errors += 1,
        }
    }

    /// Takes a chunk of what passed a socket, and appends the messages that it completes.
    #[inline]
    fn chunk(&mut self, chunk: &Chunk<'_>, batch: &mut Batch) {
        match chunk.envelope.protocol {
            Protocol::Udp => self.datagrams(chunk, batch),
            // A record of a socket has no other protocol than these two.
            Protocol::Tcp | Protocol::Dot | Protocol::Doh => self.piece(chunk, batch),
        }
    }

    #[inline]
    fn datagrams(&mut self, chunk: &Chunk<'_>, batch: &mut Batch) {
        let Self {
            assembler,
            sockets,
            proxies,
            deliver,
            intake,
            ..
        } = self;
        intake.udp_records += 1;
        intake.udp_bytes += chunk.payload.len() as u64;
        if deliver.unasked.note_losses(chunk) {
            deliver.rate_limits.note_loss(chunk.envelope.ktime_ns);
        }
        let mut bytes = chunk.payload;
        if !chunk.is_whole() {
            let Some(whole) = assembler.push(chunk) else {
                return;
            };
            bytes = whole;
        }
        intake.udp_messages += 1;
        let mut datagrams = Datagrams {
            sockets,
            proxies,
            deliver,
            intake,
            batch,
        };
        if Layout::is_one(chunk, bytes) {
            datagrams.take(&chunk.envelope, bytes, |_| false);
        } else {
            datagrams.take_several(chunk, bytes);
        }
    }

    fn piece(&mut self, chunk: &Chunk<'_>, batch: &mut Batch) {
        self.intake.tcp_records += 1;
        self.intake.tcp_bytes += chunk.payload.len() as u64;
        let deliver = &mut self.deliver;
        let dns_port = deliver.know(&chunk.envelope);
        self.streams.push(chunk, dns_port, &mut |envelope, bytes| {
            deliver.message(envelope, bytes, Message::parse(bytes).as_ref(), batch);
        });
    }

    /// Takes the end of a connection.
    fn connection_end(&mut self, end: &Envelope, batch: &mut Batch) {
        self.intake.tcp_records += 1;
        let deliver = &mut self.deliver;
        deliver.transfers.connection_end(end);
        self.streams.end(end, &mut |envelope, bytes| {
            deliver.message(envelope, bytes, Message::parse(bytes).as_ref(), batch);
        });
    }

    /// Takes a whole message from a source that sees messages rather than sockets. The stages
    /// before `classify` are skipped.
    pub fn message(&mut self, envelope: &Envelope, bytes: &[u8], batch: &mut Batch) {
        self.intake.whole_messages += 1;
        self.deliver
            .message(envelope, bytes, Message::parse(bytes).as_ref(), batch);
    }

    /// Takes a whole message that is encrypted, or that the socket shows, too.
    fn unsure(&mut self, envelope: &Envelope, bytes: &[u8], batch: &mut Batch) {
        let decision = self.copies.decide(&mut self.streams, envelope);
        let Some(decision) = decision else {
            for (envelope, bytes) in self.copies.put(envelope, bytes) {
                let decision = self.copies.give_up(&envelope);
                self.decided(decision, &envelope, &bytes, batch);
            }
            return;
        };
        for (envelope, bytes) in self.copies.take(envelope) {
            self.decided(decision, &envelope, &bytes, batch);
        }
        self.decided(decision, envelope, bytes, batch);
    }

    fn decided(
        &mut self,
        decision: Decision,
        envelope: &Envelope,
        bytes: &[u8],
        batch: &mut Batch,
    ) {
        match decision {
            Decision::Deliver(protocol) => {
                self.intake.copies_delivered += 1;
                let envelope = Envelope {
                    protocol,
                    ..*envelope
                };
                self.message(&envelope, bytes, batch);
            }
            Decision::Plain => self.intake.copies_plain += 1,
            Decision::Unclear => self.intake.copies_unclear += 1,
        }
    }

    /// Decides about the copies that wait. Those from before kernel time `before` wait no longer.
    fn settle_copies(&mut self, before: u64, batch: &mut Batch) {
        if self.copies.waiting() == 0 {
            return;
        }
        for oldest in self.copies.oldest() {
            let mut decision = self.copies.decide(&mut self.streams, &oldest);
            if decision.is_none() && oldest.ktime_ns < before {
                decision = Some(self.copies.give_up(&oldest));
            }
            if let Some(decision) = decision {
                for (envelope, bytes) in self.copies.take(&oldest) {
                    self.decided(decision, &envelope, &bytes, batch);
                }
            }
        }
    }

    /// Takes a notice from a source or a stage.
    pub fn notice(&mut self, notice: Notice, batch: &mut Batch) {
        self.intake.notices += 1;
        self.deliver.notice(notice, batch);
    }

    /// Takes the notices of the table of queries.
    fn notices(&mut self, batch: &mut Batch) {
        for notice in self.deliver.pairs.take_notices() {
            self.notice(notice, batch);
        }
    }

    /// Returns the registered servers.
    pub fn servers(&self) -> impl Iterator<Item = &Server> + Clone {
        self.deliver.servers.all()
    }

    /// Changes the filter for later messages.
    pub fn set_filter(&mut self, filter: Filter) {
        self.deliver.filter = filter;
        // From now on responses may be delivered whose queries were left out.
        let now = self.deliver.pairs.now_ktime_ns();
        self.deliver.unasked.note_blindness(now);
    }

    /// Sets the difference between wall-clock time and kernel time for later messages.
    pub fn set_clock_offset(&mut self, offset_ns: i64) {
        self.deliver.clock.set_offset(offset_ns);
    }

    /// Sends the messages that have waited for a remark for longer than [`REMARK_PATIENCE_NS`] at
    /// kernel time `now_ktime_ns`. Call this whenever the reader has read all records up to that
    /// time.
    #[inline]
    pub fn settle(&mut self, now_ktime_ns: u64, batch: &mut Batch) {
        if self.deliver.servers.any_is_probed() || !self.deliver.remarks.is_empty() {
            self.deliver
                .settle(now_ktime_ns.saturating_sub(REMARK_PATIENCE_NS), batch);
        }
    }

    /// Advances the time: gives up entries that have waited too long at kernel time `now_ktime_ns`.
    /// Call this about every 100 ms, with a time up to which the reader has read all records.
    pub fn tick(&mut self, now_ktime_ns: u64, batch: &mut Batch) {
        let deliver = &mut self.deliver;
        self.streams.tick(now_ktime_ns, &mut |envelope, bytes| {
            deliver.message(envelope, bytes, Message::parse(bytes).as_ref(), batch);
        });
        self.settle_copies(now_ktime_ns.saturating_sub(self.patience_ns), batch);
        self.assembler.tick(now_ktime_ns);
        self.sockets.tick(now_ktime_ns);
        self.deliver.pairs.tick(now_ktime_ns);
        self.notices(batch);
        self.deliver
            .release(now_ktime_ns.saturating_sub(self.patience_ns), batch);
        self.deliver
            .judge(now_ktime_ns.saturating_sub(PATIENCE_NS), batch);
        self.deliver.tick_probed(now_ktime_ns, batch);
        self.settle(now_ktime_ns, batch);
        self.deliver.watch_time(now_ktime_ns, batch);
    }

    /// Ends the pipeline: delivers messages that only waited for their turn, and counts all others
    /// as incomplete or unanswered.
    pub fn finish(&mut self, batch: &mut Batch) {
        self.settle_copies(u64::MAX, batch);
        self.deliver.is_ending = true;
        let deliver = &mut self.deliver;
        self.streams.finish(&mut |envelope, bytes| {
            deliver.message(envelope, bytes, Message::parse(bytes).as_ref(), batch);
        });
        self.assembler.finish();
        self.deliver.pairs.finish();
        self.notices(batch);
        self.deliver.release(u64::MAX, batch);
        self.deliver.judge(u64::MAX, batch);
        self.deliver.settle(u64::MAX, batch);
        self.deliver.end_watch(batch);
    }

    /// Returns the verdicts on sockets since the last call, for the kernel's map. Sockets are
    /// identified by inode number.
    pub fn verdicts(&mut self) -> impl Iterator<Item = (u64, Verdict)> + '_ {
        let intake = &mut self.intake;
        let streams = self
            .streams
            .take_not_dns()
            .map(|socket| (socket, Verdict::NotDns));
        self.sockets
            .take_verdicts()
            .inspect(|(_, verdict)| {
                intake.udp_sockets_not_dns += u64::from(*verdict == Verdict::NotDns);
            })
            .chain(streams)
    }

    /// Returns all counters.
    #[must_use]
    pub fn counters(&self) -> PipelineCounters {
        PipelineCounters {
            intake: self.intake,
            assemble: *self.assembler.counters(),
            stream: *self.streams.counters(),
            pair: *self.deliver.pairs.counters(),
            deliver: self.deliver.counters,
            probed: self.deliver.probed.counters(),
            events: *self.deliver.events.counters(),
            watch: WatchCounters {
                transfers_forgotten: self.deliver.transfers.evicted(),
                name_server_sets_forgotten: self.deliver.ns_changes.evicted(),
                limit_questions_forgotten: self.deliver.rate_limits.evicted(),
            },
            by_type: self.deliver.by_type,
        }
    }

    /// Returns the response times.
    #[must_use]
    pub fn latencies(&self) -> &Latencies {
        &self.deliver.latencies
    }

    /// Returns the number of sockets by verdict. Walks all of them.
    #[must_use]
    pub fn socket_counts(&self) -> SocketCounts {
        let mut counts = SocketCounts::default();
        self.streams.count_sockets(&mut counts);
        self.sockets.count(&mut counts);
        counts
    }

    /// Returns the amounts that the stages hold. Walks all connections.
    #[must_use]
    pub fn pending(&self) -> Pending {
        Pending {
            chunks: self.assembler.pending_chunks(),
            bytes: self.streams.pending_bytes(),
            queries: self.deliver.pairs.waiting(),
            held: self.deliver.waiting(),
            unremarked: self.deliver.remarks.expected(),
            remarks: self.deliver.remarks.remarks(),
            copies: self.copies.waiting(),
        }
    }
}

/// The stages that datagrams pass.
struct Datagrams<'p> {
    sockets: &'p mut Sockets,
    proxies: &'p Proxies,
    deliver: &'p mut Deliver,
    intake: &'p mut IntakeCounters,
    batch: &'p mut Batch,
}

impl Datagrams<'_> {
    /// Takes the bytes of one call, which may be several datagrams.
    fn take_several(&mut self, chunk: &Chunk<'_>, mut bytes: &[u8]) {
        let Some(layout) = Layout::of(chunk, bytes) else {
            self.intake.udp_unclear += 1;
            return;
        };
        self.intake.udp_segments += layout.datagrams as u64 - 1;
        self.intake.udp_truncated += layout.absent as u64;
        // An empty datagram counts, too.
        for index in 0..layout.datagrams - layout.absent {
            let (datagram, behind) = bytes.split_at(layout.size.min(bytes.len()));
            self.take(&chunk.envelope, datagram, |message| {
                layout.is_cut(index, message)
            });
            bytes = behind;
        }
    }

    /// Takes a datagram; `is_cut` returns whether the end of the message in it is missing.
    #[inline]
    fn take(&mut self, envelope: &Envelope, datagram: &[u8], is_cut: impl FnOnce(&[u8]) -> bool) {
        let mut told;
        let (mut envelope, mut message) = (envelope, datagram);
        if proxy::has_signature(datagram) {
            told = *envelope;
            message = self.without_proxy_header(&mut told, datagram);
            envelope = &told;
        }
        if is_cut(message) {
            self.intake.udp_truncated += 1;
        } else {
            self.take_message(envelope, message);
        }
    }

    /// Removes the PROXY header in front of a datagram, if there is one and its peer is believed.
    fn without_proxy_header<'d>(
        &mut self,
        envelope: &mut Envelope,
        datagram: &'d [u8],
    ) -> &'d [u8] {
        let ProxyHeader::Whole { length, proxied } = proxy::header(datagram) else {
            return datagram;
        };
        if !self.proxies.vouch_for(envelope) {
            self.intake.proxy_headers_refused_udp += 1;
            return datagram;
        }
        // A header that the process sends names a client to another server. The ends of this
        // datagram stay the same.
        if envelope.direction == Direction::Received {
            envelope.proxied = proxied;
        }
        self.intake.udp_proxy_headers += 1;
        &datagram[length..]
    }

    #[expect(
        clippy::inline_always,
        reason = "every datagram passes here; a call costs 25 instructions"
    )]
    #[inline(always)]
    fn take_message(&mut self, envelope: &Envelope, bytes: &[u8]) {
        let Self {
            sockets,
            deliver,
            intake,
            batch,
            ..
        } = self;
        let parsed = Message::parse(bytes);
        let parsed = parsed.as_ref();
        let well_formed = parsed.is_some_and(|message| message.well_formed);
        let at = deliver.servers.find(envelope.origin.program_id);
        let ports = &deliver.servers[at].ports;
        let (given, is_given) = (ports.are_given(envelope), ports.is_given(envelope));
        if !well_formed && !is_given && sockets::is_encrypted(envelope, bytes) {
            // The datagram may show that the socket carries nothing else.
            sockets.accept(envelope, parsed);
            intake.udp_encrypted += 1;
        } else if given || deliver.know(envelope) || sockets.accept(envelope, parsed) {
            intake.udp_delivered += 1;
            deliver.message(envelope, bytes, parsed, batch);
        } else {
            intake.udp_not_dns += 1;
        }
    }
}

//! Counters of the pure stages: plain integers with names, one struct per stage, one table for all.
//!
//! # Conservation
//!
//! In these equations, `pending` is what a stage still holds ([`Pending`](crate::model::Pending);
//! nothing after [`Pipeline::finish`](crate::pipeline::Pipeline::finish)). They hold after every
//! call, for any input:
//!
//! ```text
//! records        = event_errors + udp_records + tcp_records + message_records + notice_records + remark_records
//! udp_records    = udp_messages - assembled_messages + assembled_chunks + incomplete_chunks + pending chunks
//! udp_messages + udp_segments = udp_delivered + udp_not_dns + udp_encrypted + udp_truncated + udp_unclear
//! tcp_bytes      = stream_framed_bytes + stream_skipped_bytes + stream_duplicate_bytes
//!                + stream_not_dns_bytes + stream_encrypted_bytes + stream_proxy_header_bytes + pending bytes
//! stream_framed_bytes = bytes of TCP messages delivered + 2 * (stream_messages + stream_empty_messages)
//! messages       = sum over the fourteen dnstap types
//!                = udp_delivered + stream_messages + whole_messages - sum of excluded_* - unsolicited - pending held
//! message_records = copies_delivered + copies_plain + copies_unclear + pending copies
//! notices        = events + notices_unknown + notices_probed
//! notices_probed = notice_records = probed_lines + probed_flushes + probed_rrsets + probed_malformed
//! remark_records = remarks_malformed + remarks_joined + remarks_unjoined + pending remarks
//! remarks_expected = remarks_joined + remarks_missing + pending unremarked
//! responses      = responses_paired + responses_unmatched
//! queries_unanswered = sum of unanswered_*
//! queries        = queries_answered + queries_unanswered + queries_displaced + queries_evicted + pending queries
//! ```
//!
//! For streams these hold, too:
//!
//! ```text
//! stream_search_given_up_bytes <= stream_skipped_bytes
//! stream_connections_with_loss <= stream_messages_lost_at_least; the one is 0 if and only if the other is
//! ```
//!
//! Here `queries` and `responses` are those with a header that `pair` can key. A response that
//! waits for its query (`pending held`) is not yet counted as a response. `unsolicited_delivered`
//! are counted in `messages`.

mod laws;

pub use self::laws::{Hop, exact, flow, stages, unaccounted};
use crate::{
    counters::counters,
    events::{EventCounters, WatchCounters, probed::ProbedCounters},
    model::MESSAGE_TYPES,
    pair::PairCounters,
    reassemble::{datagrams::AssembleCounters, tcp::StreamCounters},
};

counters! {
    /// What came in, and what became of datagrams.
    pub struct IntakeCounters {
        /// Records taken from the ring.
        records,
        /// Records that do not follow the ABI, or whose kind is not known.
        event_errors,
        /// Records of UDP sockets.
        udp_records,
        /// Records of TCP sockets.
        tcp_records,
        /// Records of whole messages, which a probe has copied (`--probe encrypted`).
        message_records,
        /// Whole messages that were delivered.
        copies_delivered,
        /// Whole messages of BIND 9.18 over connections in the clear, left out because the socket shows them, too.
        copies_plain,
        /// Whole messages of BIND 9.18 over connections of which nothing shows whether they are encrypted; lost.
        copies_unclear,
        /// Records of notices.
        notice_records,
        /// Records of what a probed server says about a message (`--probe`).
        remark_records,
        /// Payload bytes of UDP records.
        udp_bytes,
        /// Payload bytes of TCP records.
        tcp_bytes,
        /// Calls on UDP sockets that came whole, most of them one datagram each.
        udp_messages,
        /// Datagrams that shared their call with an earlier one (`UDP_SEGMENT`, `UDP_GRO`).
        udp_segments,
        /// Datagrams that the buffers of the process cut or had no room for, and that were left out for that.
        udp_truncated,
        /// Calls that may have moved several datagrams, without a word about where they end, and that were left out for that.
        udp_unclear,
        /// Datagrams handed on for delivery.
        udp_delivered,
        /// Datagrams that are not DNS, on sockets that do not carry any.
        udp_not_dns,
        /// Datagrams that are encrypted: DTLS or QUIC, on other ports than those of plain DNS.
        udp_encrypted,
        /// PROXY headers in front of datagrams.
        udp_proxy_headers,
        /// Datagrams with a PROXY header of a peer of whom none is believed (`--proxy-from`).
        proxy_headers_refused_udp,
        /// UDP sockets found not to carry DNS in the clear.
        udp_sockets_not_dns,
        /// Whole messages of sources that see messages and not sockets.
        whole_messages,
        /// Notices of sources and stages.
        notices,
    }
}

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
        /// Left out: unsolicited responses (`--unsolicited`).
        unsolicited,
        /// Unsolicited responses that were delivered, on request.
        unsolicited_delivered,
        /// Queries without answer that were reported.
        events,
        /// Notices of which no stage knows the meaning.
        notices_unknown,
        /// Notices of probed functions (`--events`).
        notices_probed,
        /// Messages of probed servers about which the server may say something: what it asks and is answered, and answers with type AUTH.
        remarks_expected,
        /// Remarks of probed servers that have found their message.
        remarks_joined,
        /// Messages of probed servers whose remark has not come; delivered without a zone.
        remarks_missing,
        /// Remarks of probed servers whose message has not come, such as one that was encrypted.
        remarks_unjoined,
        /// Remarks of probed servers that contradict themselves.
        remarks_malformed,
        /// Messages delivered with the zone that the server had in mind (`query_zone`).
        zones,
    }
}

impl DeliverCounters {
    /// Returns the number of messages left out on purpose.
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

/// All counters of the pipeline at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PipelineCounters {
    /// Records and datagrams.
    pub intake: IntakeCounters,
    /// Datagrams in several chunks.
    pub assemble: AssembleCounters,
    /// TCP streams.
    pub stream: StreamCounters,
    /// Queries and responses.
    pub pair: PairCounters,
    /// Encoded messages.
    pub deliver: DeliverCounters,
    /// Notices of probes.
    pub probed: ProbedCounters,
    /// Events by kind.
    pub events: EventCounters,
    /// Memory of the stages that make events of messages.
    pub watch: WatchCounters,
    /// Messages by dnstap type; index is the type's number less one.
    pub by_type: [u64; 14],
}

impl PipelineCounters {
    /// Returns every counter except the types, as name, description and value.
    pub fn documented(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> + use<> {
        self.intake
            .documented()
            .chain(self.assemble.documented())
            .chain(self.stream.documented())
            .chain(self.pair.documented())
            .chain(self.deliver.documented())
            .chain(self.probed.documented())
            .chain(self.events.documented())
            .chain(self.watch.documented())
    }

    /// Returns every counter's name and value in the order of the stages, with the types last.
    pub fn table(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        let types = self.by_type;
        self.intake
            .table()
            .chain(self.assemble.table())
            .chain(self.stream.table())
            .chain(self.pair.table())
            .chain(self.deliver.table())
            .chain(self.probed.table())
            .chain(self.events.table())
            .chain(self.watch.table())
            .chain((0..types.len()).map(move |at| (MESSAGE_TYPES[at].name, types[at])))
    }
}

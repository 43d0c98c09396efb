//! The conservation laws of the stages, as pure functions of the counters.

use std::fmt;

use super::PipelineCounters;
use crate::{model::Pending, pair::PairCounters};

/// Balance of one hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop<'a> {
    /// Name of the hop.
    pub name: &'static str,
    /// Output of the hop, if there is one hop per output.
    pub output: Option<&'a str>,
    /// Amount that came in and is still being processed: messages, or bytes of streams.
    pub in_flight: u64,
    /// Amount that the counters cannot explain. Anything but 0 is a defect of the agent.
    pub unaccounted: u64,
}

impl fmt::Display for Hop<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} unaccounted for at {}",
            self.unaccounted, self.name
        )?;
        match self.output {
            Some(output) => write!(formatter, " ({output})"),
            None => Ok(()),
        }
    }
}

/// Returns the sum of what all hops cannot explain.
#[must_use]
pub fn unaccounted(hops: &[Hop<'_>]) -> u64 {
    hops.iter().map(|hop| hop.unaccounted).sum()
}

/// Returns the balances of the pure stages, which count on one thread: the laws of
/// [`account`](crate::account).
#[must_use]
pub fn stages(all: &PipelineCounters, pending: Pending) -> [Hop<'static>; 14] {
    let (intake, chunks, stream, pair) = (&all.intake, &all.assemble, &all.stream, &all.pair);
    [
        exact(
            "decode",
            intake.records,
            intake.event_errors
                + intake.udp_records
                + intake.tcp_records
                + intake.message_records
                + intake.notice_records
                + intake.remark_records,
            0,
        ),
        exact(
            "assemble",
            intake.udp_records + chunks.assembled_messages,
            intake.udp_messages + chunks.assembled_chunks + chunks.incomplete_chunks,
            pending.chunks,
        ),
        exact(
            "datagrams",
            intake.udp_messages + intake.udp_segments,
            intake.udp_delivered
                + intake.udp_not_dns
                + intake.udp_encrypted
                + intake.udp_truncated
                + intake.udp_unclear,
            0,
        ),
        exact(
            "stream_bytes",
            intake.tcp_bytes,
            stream.stream_framed_bytes
                + stream.stream_skipped_bytes
                + stream.stream_duplicate_bytes
                + stream.stream_not_dns_bytes
                + stream.stream_encrypted_bytes
                + stream.stream_proxy_header_bytes,
            pending.bytes,
        ),
        exact(
            "encode",
            intake.udp_delivered + stream.stream_messages + intake.whole_messages,
            all.by_type.iter().sum::<u64>() + all.deliver.excluded() + all.deliver.unsolicited,
            pending.held,
        ),
        exact(
            "copies",
            intake.message_records,
            intake.copies_delivered + intake.copies_plain + intake.copies_unclear,
            pending.copies,
        ),
        exact(
            "notices",
            intake.notices,
            all.deliver.events + all.deliver.notices_unknown + all.deliver.notices_probed,
            0,
        ),
        exact(
            "probed",
            intake.notice_records,
            all.probed.probed_lines
                + all.probed.probed_flushes
                + all.probed.probed_rrsets
                + all.probed.probed_malformed,
            0,
        ),
        exact(
            "remarks",
            intake.remark_records,
            all.deliver.remarks_malformed
                + all.deliver.remarks_joined
                + all.deliver.remarks_unjoined,
            pending.remarks,
        ),
        exact(
            "remarked_messages",
            all.deliver.remarks_expected,
            all.deliver.remarks_joined + all.deliver.remarks_missing,
            pending.unremarked,
        ),
        exact("types", all.deliver.messages, all.by_type.iter().sum(), 0),
        exact(
            "responses",
            pair.responses,
            pair.responses_paired + pair.responses_unmatched,
            0,
        ),
        exact(
            "queries",
            pair.queries,
            pair.queries_answered
                + pair.queries_unanswered
                + pair.queries_displaced
                + pair.queries_evicted,
            pending.queries,
        ),
        exact("unanswered", pair.queries_unanswered, unanswered(pair), 0),
    ]
}

/// Returns the number of queries that got no response, summed over the reasons.
fn unanswered(pair: &PairCounters) -> u64 {
    pair.table()
        .filter(|(name, _)| name.starts_with("unanswered_"))
        .map(|(_, count)| count)
        .sum()
}

/// Builds a hop whose two sides are counted at the same moment.
#[must_use]
pub fn exact(name: &'static str, came: u64, went: u64, pending: u64) -> Hop<'static> {
    Hop {
        name,
        output: None,
        in_flight: pending,
        unaccounted: came.abs_diff(went + pending),
    }
}

/// Builds a hop whose two sides go on counting; `settled` is the incoming count from a while
/// before.
#[must_use]
pub fn flow(name: &'static str, came: u64, settled: u64, went: u64, at_rest: bool) -> Hop<'static> {
    let unaccounted = if at_rest {
        came.abs_diff(went)
    } else {
        settled.saturating_sub(went)
    };
    Hop {
        name,
        output: None,
        in_flight: came.saturating_sub(went).saturating_sub(unaccounted),
        unaccounted,
    }
}

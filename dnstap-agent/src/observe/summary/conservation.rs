//! The conservation laws as one pure function: at every hop, everything that came in has gone on,
//! was lost or left out with a reason, or is still being processed.
//!
//! A snapshot of a running tap is not one instant: hooks and outputs go on counting while it is
//! taken. If another thread or the kernel counts, the law for a running tap is weaker: everything
//! that came in *a while before* must be accounted for by now; the rest is still being processed.
//! At rest, and wherever one thread does all the counting, the two sides must be equal.

use dnstap_core::account::{Hop, flow};
use serde_json::{Value, json};

use super::{Offered, Snapshot};
use crate::sinks::SinkReport;

/// Returns the balance of every hop.
#[must_use]
pub(crate) fn hops(snapshot: &Snapshot) -> Vec<Hop<'_>> {
    let at_rest = snapshot.at_rest;
    let mut hops: Vec<Hop<'_>> = snapshot.source.hops(at_rest);
    for output in &snapshot.outputs {
        let Offered { ready, handed_over } = snapshot.source.offered(output.takes);
        let name = Some(output.output.as_str());
        for hop in [
            flow(
                "handed_over",
                ready,
                handed_over,
                output.sent + output.absent,
                at_rest,
            ),
            balance(output, at_rest),
        ] {
            hops.push(Hop {
                output: name,
                ..hop
            });
        }
    }
    hops
}

/// Returns the hops' balances as a JSON object.
pub(super) fn to_json(hops: &[Hop<'_>]) -> Value {
    let balances: Vec<_> = hops
        .iter()
        .map(|hop| {
            json!({
                "hop": hop.name,
                "output": hop.output,
                "in_flight": hop.in_flight,
                "unaccounted": hop.unaccounted,
            })
        })
        .collect();
    balances.into()
}

/// Returns the balance of one output: `sent = written + dropped + queued`. The output's thread
/// counts a message as written or dropped before it removes it from the queue. So a message may be
/// in both counts for a moment, but never in neither.
fn balance(report: &SinkReport, at_rest: bool) -> Hop<'static> {
    let accounted = report.written + report.dropped.total() + report.queued;
    let unaccounted = if at_rest {
        report.sent.abs_diff(accounted)
    } else {
        report.sent.saturating_sub(accounted)
    };
    Hop {
        name: "output",
        output: None,
        in_flight: report.queued,
        unaccounted,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{sync::Arc, time::Duration};

    use dnstap_core::{account::unaccounted, model::Pending};
    use dnstap_ebpf::Counter;
    use rstest::rstest;

    use super::*;
    use crate::{
        observe::summary::{Settled, Tapped},
        sinks::{Dropped, Files, SinkState, Takes},
        sources::dnstap::Received,
    };

    /// A balanced running tap, with something in progress at every hop that can hold something.
    pub(crate) fn snapshot() -> Snapshot {
        snapshot_of(balanced())
    }

    /// Returns the counters of such a tap.
    pub(crate) fn balanced() -> Tapped {
        let mut tapped = Tapped::default();
        for (counter, count) in [
            (Counter::Seen, 110),
            (Counter::Emitted, 90),
            (Counter::Records, 106),
            (Counter::RingFull, 7),
            (Counter::NotDns, 3),
            (Counter::ProbeCalls, 13),
            (Counter::ProbeTwice, 2),
            (Counter::ProbeUnwanted, 3),
            (Counter::ProbeFault, 1),
        ] {
            tapped.kernel[counter as usize] = count;
        }
        tapped.settled = Settled {
            seen: 100,
            records: 95,
        };
        let all = &mut tapped.pipeline;
        all.intake.records = 90;
        all.intake.event_errors = 1;
        all.intake.udp_records = 60;
        all.intake.tcp_records = 29;
        all.intake.udp_messages = 54;
        all.assemble.assembled_messages = 2;
        all.assemble.assembled_chunks = 5;
        all.assemble.incomplete_chunks = 1;
        all.intake.udp_delivered = 50;
        all.intake.udp_not_dns = 4;
        all.intake.tcp_bytes = 3_000;
        all.stream.stream_messages = 20;
        all.stream.stream_framed_bytes = 2_500;
        all.stream.stream_skipped_bytes = 400;
        all.intake.notices = 5;
        all.intake.remark_records = 8;
        all.intake.message_records = 3;
        all.intake.copies_delivered = 1;
        all.intake.copies_plain = 1;
        all.intake.whole_messages = 1;
        all.deliver.excluded_type = 1;
        all.intake.records += 8 + 3;
        all.deliver.remarks_expected = 9;
        all.deliver.remarks_joined = 5;
        all.deliver.remarks_missing = 3;
        all.deliver.remarks_unjoined = 1;
        all.deliver.events = 4;
        all.deliver.notices_unknown = 1;
        all.deliver.messages = 66;
        all.deliver.excluded_xfr = 3;
        all.by_type[4] = 40;
        all.by_type[5] = 26;
        all.pair.queries = 40;
        all.pair.queries_answered = 25;
        all.pair.queries_unanswered = 5;
        all.pair.unanswered_client = 5;
        all.pair.responses = 26;
        all.pair.responses_paired = 25;
        all.pair.responses_unmatched = 1;
        tapped.pending = Pending {
            chunks: 2,
            bytes: 100,
            queries: 10,
            held: 1,
            unremarked: 1,
            remarks: 2,
            copies: 1,
        };
        tapped
    }

    /// Returns a running tap with these counters, and one output that has received as many messages
    /// as a balanced tap delivers.
    pub(crate) fn snapshot_of(tapped: Tapped) -> Snapshot {
        Snapshot {
            elapsed: Duration::from_secs(10),
            at_rest: false,
            source: Arc::new(tapped),
            outputs: vec![SinkReport {
                takes: Takes::Messages,
                output: "file:a.fstrm".to_owned(),
                state: SinkState::Running,
                absent: 0,
                sent: 66,
                written: 50,
                written_bytes: 5_000,
                unconfirmed: 0,
                connections: 0,
                files: Files::default(),
                broker: None,
                dropped: Dropped {
                    queue_full: 10,
                    ..Dropped::default()
                },
                queued: 6,
                queued_bytes: 600,
                delay: None,
            }],
        }
    }

    /// Returns the hops with something unaccounted for.
    fn wrong(snapshot: &Snapshot) -> Vec<(&'static str, u64)> {
        hops(snapshot)
            .into_iter()
            .filter(|hop| hop.unaccounted != 0)
            .map(|hop| (hop.name, hop.unaccounted))
            .collect()
    }

    #[test]
    fn a_running_tap_in_balance_has_things_under_way_and_nothing_unaccounted_for() {
        let snapshot = snapshot();
        let hops = hops(&snapshot);
        assert_eq!((wrong(&snapshot), unaccounted(&hops)), (vec![], 0));
        let under_way: Vec<_> = hops
            .iter()
            .filter(|hop| hop.in_flight != 0)
            .map(|hop| (hop.name, hop.in_flight))
            .collect();
        assert_eq!(
            under_way,
            [
                ("hooks", 10),
                ("ring", 5),
                ("assemble", 2),
                ("stream_bytes", 100),
                ("encode", 1),
                ("copies", 1),
                ("remarks", 2),
                ("remarked_messages", 1),
                ("queries", 10),
                ("output", 6),
            ]
        );
    }

    #[rstest]
    #[case::lost_in_a_hook(|tapped: &mut Tapped| tapped.kernel[Counter::Emitted as usize] -= 1, "hooks")]
    #[case::lost_in_the_ring(|tapped: &mut Tapped| tapped.settled.records += 7, "ring")]
    #[case::not_decoded(|tapped: &mut Tapped| tapped.pipeline.intake.event_errors -= 1, "decode")]
    #[case::chunk(|tapped: &mut Tapped| tapped.pending.chunks -= 1, "assemble")]
    #[case::datagram(|tapped: &mut Tapped| tapped.pipeline.intake.udp_not_dns -= 1, "datagrams")]
    #[case::bytes(|tapped: &mut Tapped| tapped.pipeline.stream.stream_skipped_bytes += 9, "stream_bytes")]
    #[case::not_encoded(|tapped: &mut Tapped| tapped.pipeline.deliver.excluded_xfr -= 1, "encode")]
    #[case::copy(|tapped: &mut Tapped| tapped.pipeline.intake.copies_plain -= 1, "copies")]
    #[case::notice(|tapped: &mut Tapped| tapped.pipeline.deliver.notices_unknown -= 1, "notices")]
    #[case::query(|tapped: &mut Tapped| tapped.pending.queries -= 1, "queries")]
    #[case::unanswered(|tapped: &mut Tapped| tapped.pipeline.pair.unanswered_client -= 1, "unanswered")]
    #[case::response(|tapped: &mut Tapped| tapped.pipeline.pair.responses_paired -= 1, "responses")]
    fn what_vanishes_is_named_by_its_hop(
        #[case] vanish: fn(&mut Tapped),
        #[case] hop: &'static str,
    ) {
        let mut tapped = balanced();
        vanish(&mut tapped);
        let wrong = wrong(&snapshot_of(tapped));
        assert!(wrong.len() == 1 && wrong[0].0 == hop, "{wrong:?}");
    }

    #[test]
    fn an_output_must_have_every_message_once_when_it_has_ended() {
        let mut snapshot = snapshot();
        snapshot.outputs[0].written += 2;
        assert_eq!(
            wrong(&snapshot),
            [],
            "counted, and not yet out of the queue"
        );
        snapshot.outputs[0].written -= 3;
        assert_eq!(wrong(&snapshot), [("output", 1)]);
        snapshot.outputs[0].sent -= 1;
        assert_eq!(wrong(&snapshot), [("handed_over", 1)]);
    }

    #[test]
    fn an_output_of_notices_must_have_every_notice_and_no_message() {
        let mut snapshot = snapshot();
        snapshot.outputs[0] = SinkReport {
            takes: Takes::Notices,
            sent: 4,
            written: 4,
            dropped: Dropped::default(),
            queued: 0,
            ..snapshot.outputs[0].clone()
        };
        assert_eq!(wrong(&snapshot), []);
        snapshot.outputs[0].takes = Takes::Messages;
        assert_eq!(wrong(&snapshot), [("handed_over", 62)]);
    }

    #[test]
    fn at_rest_nothing_is_under_way() {
        let mut snapshot = snapshot();
        snapshot.at_rest = true;
        snapshot.outputs[0].written += 2;
        assert_eq!(
            wrong(&snapshot),
            [("hooks", 10), ("ring", 5), ("output", 2)]
        );
        assert!(
            snapshot
                .to_string()
                .contains("warning: 10 unaccounted for at hooks")
        );
        assert_eq!(snapshot.to_json()["unaccounted"], 17);
    }

    #[test]
    fn what_receive_waits_with_is_under_way() {
        let mut snapshot = snapshot();
        snapshot.source = Arc::new(Received {
            messages: 70,
            malformed: 1,
            ..Default::default()
        });
        assert_eq!(wrong(&snapshot), []);
        assert_eq!(hops(&snapshot)[0].in_flight, 3);
        snapshot.at_rest = true;
        assert_eq!(wrong(&snapshot), [("handed_over", 3)]);
    }
}

//! List of all losses, which a viewer needs in order to trust the data.

use super::Snapshot;

/// One kind of loss and its amount; see `docs/architecture.md` for remedies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    /// Place of the loss: `kernel`, `pipeline`, `receiver`, or an output as the operator named it.
    pub hop: String,
    /// Name of the counter.
    pub reason: &'static str,
    /// Number of messages; of bytes, connections or processes if the reason says so; for the output
    /// of events, number of events.
    pub count: u64,
}

impl Snapshot {
    /// Returns all losses that occurred, in the order of the stages.
    #[must_use]
    pub(crate) fn losses(&self) -> Vec<Loss> {
        let mut losses = self.source.losses();
        for output in &self.outputs {
            let dropped = output.dropped.by_reason();
            losses.extend(dropped.map(|(reason, count)| loss(&output.output, reason, count)));
        }
        losses.retain(|loss| loss.count > 0);
        losses
    }
}

/// Builds a loss at a hop.
pub(super) fn loss(hop: &str, reason: &'static str, count: u64) -> Loss {
    Loss {
        hop: hop.to_owned(),
        reason,
        count,
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use dnstap_ebpf::Counter;

    use super::*;
    use crate::{
        observe::summary::{Tapped, conservation},
        sinks::Takes,
    };

    #[test]
    fn losses_are_listed_in_the_order_of_the_journey_and_nothing_else_is() {
        let mut tapped = Tapped::default();
        tapped.kernel[Counter::RingFull as usize] = 3;
        tapped.kernel[Counter::Seen as usize] = 100;
        tapped.kernel[Counter::Unfollowed as usize] = 2;
        tapped.pipeline.stream.stream_skipped_bytes = 7;
        tapped.pipeline.stream.stream_messages_lost_at_least = 4;
        tapped.pipeline.stream.stream_connections_with_loss = 1;
        tapped.pipeline.stream.stream_incomplete_messages = 9;
        tapped.pipeline.intake.udp_not_dns = 5;
        tapped.pipeline.deliver.unsolicited = 6;
        let snapshot = Snapshot {
            elapsed: Duration::ZERO,
            at_rest: true,
            source: Arc::new(tapped),
            outputs: Vec::new(),
        };
        let losses = [
            loss("kernel", "ring_full", 3),
            loss("kernel", "unfollowed", 2),
            loss("pipeline", "stream_skipped_bytes", 7),
            loss("pipeline", "stream_messages_lost_at_least", 4),
            loss("pipeline", "stream_connections_with_loss", 1),
        ];
        assert_eq!(snapshot.losses(), losses);
        let text = snapshot.to_string();
        assert!(text.contains("2 forked processes found no room"), "{text}");
        assert!(
            text.contains("of 1 TCP connection at least 4 messages are missing"),
            "{text}"
        );
        assert!(
            text.contains("left out: 6 responses without a query"),
            "{text}"
        );
    }

    #[test]
    fn what_the_output_of_events_drops_is_lost() {
        let mut snapshot = conservation::tests::snapshot();
        let dropped = |snapshot: &Snapshot| snapshot.totals().last().copied();
        assert_eq!(dropped(&snapshot), Some(("dropped_by_outputs", 10)));
        let mut events = snapshot.outputs[0].clone();
        events.output = "json:events".to_owned();
        events.takes = Takes::Notices;
        events.dropped.queue_full = 4;
        snapshot.outputs.push(events);
        let losses = [
            loss("file:a.fstrm", "queue_full", 10),
            loss("json:events", "queue_full", 4),
        ];
        assert!(snapshot.losses().ends_with(&losses));
        assert_eq!(dropped(&snapshot), Some(("dropped_by_outputs", 14)));
    }
}

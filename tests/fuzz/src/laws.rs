//! Checks the laws of `dnstap_core::account` after every step.

use dnstap_core::{
    account::{PipelineCounters, stages},
    model::Pending,
    pipeline::Pipeline,
    reassemble::tcp::StreamCounters,
};

/// Checks all laws.
///
/// # Panics
///
/// If a law does not hold.
pub fn check(pipeline: &Pipeline) {
    hold(&pipeline.counters(), pipeline.pending());
}

/// Checks only the law for the bytes of streams.
///
/// # Panics
///
/// If it does not hold.
pub fn stream_bytes(received: u64, stream: &StreamCounters, pending: u64) {
    let mut counters = PipelineCounters::default();
    counters.intake.tcp_bytes = received;
    counters.stream = StreamCounters {
        stream_messages: 0, // none reaches the next stage here
        ..*stream
    };
    let pending = Pending {
        bytes: pending,
        ..Pending::default()
    };
    hold(&counters, pending);
}

/// Checks that the pipeline holds nothing after the end.
///
/// # Panics
///
/// If it holds something.
pub fn nothing_pending(pipeline: &Pipeline) {
    assert_eq!(pipeline.pending(), Pending::default());
}

fn hold(counters: &PipelineCounters, pending: Pending) {
    let stream = &counters.stream;
    let (connections, messages) = (
        stream.stream_connections_with_loss,
        stream.stream_messages_lost_at_least,
    );
    assert!(connections <= messages && (connections > 0) == (messages > 0));
    assert!(stream.stream_search_given_up_bytes <= stream.stream_skipped_bytes);
    for hop in stages(counters, pending) {
        assert_eq!(hop.unaccounted, 0, "{hop}: {counters:?}");
    }
}

//! The account of a tap: kernel, ring and pure stages.

mod metrics;

use std::{collections::BTreeMap, fmt, time::Duration};

use dnstap_core::{
    account::{Hop, PipelineCounters, flow, stages},
    model::{MESSAGE_TYPES, Pending, SocketCounts},
    pipeline::Latencies,
};
use dnstap_ebpf::Counter;
use serde_json::{Value, json};

use super::{
    account::{Offered, SourceAccount, list, object},
    losses::{Loss, loss},
};
use crate::{
    observe::families::Families,
    sinks::Takes,
    sources::{probes::ProbeState, socket::ProgramStats},
};

/// Counters of the pipeline for what should have become a message and did not.
const PIPELINE: [&str; 8] = [
    "event_errors",
    "incomplete_messages",
    "stream_missing_bytes",
    "stream_skipped_bytes",
    "stream_messages_lost_at_least",
    "stream_connections_with_loss",
    "stream_evicted",
    "copies_unclear",
];

/// Counters of a tap.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tapped {
    /// Hook, as on the command line.
    pub hook: &'static str,
    /// Ring, as on the command line.
    pub ring: &'static str,
    /// Hooks that the kernel refused before the one in use, each with a reason of one line.
    pub refused: Vec<(&'static str, String)>,
    /// Limits of the hook in use on this kernel.
    pub degraded: Vec<String>,
    /// Probes of the tapped processes, if any were asked for.
    pub probes: Vec<ProbeState>,
    /// Number of times that the kernel did not run the program of a probe.
    pub probes_missed: u64,
    /// Counters of the kernel side.
    pub kernel: [u64; Counter::COUNT],
    /// Some kernel counters from a while before.
    pub settled: Settled,
    /// Run statistics of the kernel for each program, by name.
    pub programs: BTreeMap<String, ProgramStats>,
    /// Counters of the pipeline.
    pub pipeline: PipelineCounters,
    /// Messages and bytes that the pipeline holds.
    pub pending: Pending,
    /// Sockets by verdict.
    pub sockets: SocketCounts,
    /// Response times.
    pub latencies: Latencies,
    /// State of the ring.
    pub ring_use: RingUse,
}

/// State of the ring since the previous snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RingUse {
    /// Size in bytes; if there are several buffers, that of one.
    pub size_bytes: u64,
    /// Most bytes that waited when the ring was read; if there are several buffers, in the fullest
    /// one.
    pub used_bytes: u64,
    /// Longest time that a record had waited when it was read, in nanoseconds.
    pub lag_ns: u64,
}

/// Kernel counters from so long ago that everything they counted must have arrived by now, unless
/// it was lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settled {
    /// Messages that the hooks had seen.
    pub seen: u64,
    /// Records that were in the ring or read.
    pub records: u64,
}

impl Settled {
    /// Takes the counters that will be settled a while later.
    #[must_use]
    pub(crate) fn of(kernel: &[u64; Counter::COUNT]) -> Self {
        Self {
            seen: kernel[Counter::Seen as usize],
            records: kernel[Counter::Records as usize],
        }
    }
}

impl SourceAccount for Tapped {
    fn totals(&self) -> Vec<(&'static str, u64)> {
        let lost = self.kernel_counts(Counter::is_drop);
        vec![
            ("seen", self.kernel[Counter::Seen as usize]),
            ("messages", self.pipeline.deliver.messages),
            ("message_bytes", self.pipeline.deliver.message_bytes),
            ("lost_in_kernel", lost.iter().map(|(_, count)| count).sum()),
        ]
    }

    fn to_json(&self) -> Value {
        let programs: serde_json::Map<_, _> = self
            .programs
            .iter()
            .map(|(name, stats)| {
                let value = json!({"runs": stats.runs, "run_time_ns": stats.run_time_ns, "missed": stats.missed});
                (name.clone(), value)
            })
            .collect();
        let latencies: Vec<_> = self
            .latencies
            .table()
            .map(|(role, family, took)| {
                let quantile = |share| took.quantile(share).map(|bound| bound.as_secs_f64());
                json!({
                    "role": role,
                    "type": family,
                    "count": took.count(),
                    "sum_seconds": took.sum().as_secs_f64(),
                    "median_seconds": quantile(0.5),
                    "p99_seconds": quantile(0.99),
                })
            })
            .collect();
        let refused = self.refused.iter();
        let refused: BTreeMap<_, _> = refused.map(|(hook, reason)| (hook, reason)).collect();
        json!({
            "hook": self.hook,
            "ring": self.ring,
            "refused_hooks": refused,
            "degraded": self.degraded,
            "probes": self.probes,
            "probes_missed": self.probes_missed,
            "kernel": object(self.kernel_counts(|_| true).into_iter()),
            "programs": programs,
            "pipeline": object(self.pipeline.table()),
            "types": object(self.types()),
            "pending": object(self.pending.table()),
            "sockets": object(self.sockets.table()),
            "ring_use": {
                "size_bytes": self.ring_use.size_bytes,
                "used_bytes": self.ring_use.used_bytes,
                "lag_ns": self.ring_use.lag_ns,
            },
            "latencies": latencies,
            // Replaced by the account of the output of notices, if there is one.
            "events": null,
        })
    }

    fn describe(&self, seconds: f64, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let messages: u64 = self.pipeline.by_type.iter().sum();
        writeln!(
            formatter,
            "{messages} messages in {seconds:.1} s (hook {}, ring {}): {}",
            self.hook,
            self.ring,
            list(self.types(), "none"),
        )?;
        writeln!(
            formatter,
            "kernel: {} seen, {} handed over ({} bytes); dropped: {}; skipped: {}",
            self.kernel[Counter::Seen as usize],
            self.kernel[Counter::Emitted as usize],
            self.kernel[Counter::Bytes as usize],
            list(self.kernel_counts(Counter::is_drop), "none"),
            list(self.kernel_counts(Counter::is_skip), "none"),
        )?;
        for (hook, reason) in &self.refused {
            writeln!(formatter, "hook {hook} was refused: {reason}")?;
        }
        for missing in &self.degraded {
            writeln!(formatter, "degraded: {missing}")?;
        }
        self.describe_probes(formatter)?;
        let unfollowed = self.kernel[Counter::Unfollowed as usize];
        if unfollowed != 0 {
            writeln!(
                formatter,
                "kernel: {unfollowed} forked processes found no room: their messages were not seen until there was some"
            )?;
        }
        let calls = self.kernel[Counter::IoUringCalls as usize];
        if calls != 0 {
            writeln!(
                formatter,
                "kernel: {calls} calls of io_uring_enter, and operations of kernel threads: hook syscall does not see the messages that they move; hook fentry does"
            )?;
        }
        for (name, stats) in &self.programs {
            if stats.missed != 0 {
                writeln!(
                    formatter,
                    "kernel: {name} was kept from running: at most {} messages were missed",
                    stats.missed
                )?;
            }
            if let Some(average) = stats.run_time_ns.checked_div(stats.runs) {
                writeln!(
                    formatter,
                    "kernel: {name} ran {} times, {average} ns each",
                    stats.runs
                )?;
            }
        }
        for (what, prefix) in [
            ("TCP connections", "tcp_sockets_"),
            ("UDP sockets", "udp_sockets_"),
            ("queries without answer", "unanswered_"),
            ("events", "events_"),
            ("left out on purpose", "excluded_"),
        ] {
            let counts = list(self.pipeline_counts(prefix), "");
            if !counts.is_empty() {
                writeln!(formatter, "{what}: {counts}")?;
            }
        }
        let connections = self.pipeline.stream.stream_connections_with_loss;
        if connections != 0 {
            writeln!(
                formatter,
                "lost: of {connections} TCP connection{} at least {} messages are missing",
                if connections == 1 { "" } else { "s" },
                self.pipeline.stream.stream_messages_lost_at_least
            )?;
        }
        let unsolicited = self.pipeline.deliver.unsolicited;
        if unsolicited != 0 {
            writeln!(
                formatter,
                "left out: {unsolicited} responses without a query (--unsolicited)"
            )?;
        }
        Ok(())
    }

    fn describe_running(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (role, family, took) in self.latencies.table() {
            let bound = |share| {
                took.quantile(share)
                    .map_or_else(|| "more".to_owned(), |bound| format!("{bound:?}"))
            };
            writeln!(
                formatter,
                "answers as {role}, {family}: {}, half of them within {}, 99 % within {}",
                took.count(),
                bound(0.5),
                bound(0.99)
            )?;
        }
        let ring = &self.ring_use;
        writeln!(
            formatter,
            "ring: at most {} of {} bytes used, {:.1} ms waited",
            ring.used_bytes,
            ring.size_bytes,
            Duration::from_nanos(ring.lag_ns).as_secs_f64() * 1e3
        )
    }

    fn losses(&self) -> Vec<Loss> {
        let kernel = self.kernel_counts(Counter::is_drop);
        let missed = self.programs.values().map(|program| program.missed).sum();
        let beside = [
            Counter::Unfollowed,
            Counter::IoUringCalls,
            Counter::ProbeRingFull,
            Counter::ProbeFault,
        ];
        let beside = beside.map(|counter| (counter.name(), self.kernel[counter as usize]));
        let pipeline = self
            .pipeline
            .table()
            .filter(|(name, _)| PIPELINE.contains(name));
        kernel
            .into_iter()
            .chain([("missed", missed), ("probes_missed", self.probes_missed)])
            .chain(beside)
            .map(|(reason, count)| loss("kernel", reason, count))
            .chain(pipeline.map(|(reason, count)| loss("pipeline", reason, count)))
            .collect()
    }

    fn hops(&self, at_rest: bool) -> Vec<Hop<'static>> {
        let kernel = |counter: Counter| self.kernel[counter as usize];
        let left: u64 = Counter::ALL
            .iter()
            .filter(|counter| {
                counter.is_drop() || counter.is_skip() || matches!(counter, Counter::Emitted)
            })
            .map(|&counter| kernel(counter))
            .sum();
        let decoded = self.pipeline.intake.records;
        let mut hops = vec![
            flow(
                "hooks",
                kernel(Counter::Seen),
                self.settled.seen,
                left,
                at_rest,
            ),
            flow(
                "ring",
                kernel(Counter::Records),
                self.settled.records,
                decoded,
                at_rest,
            ),
            // The calls are counted before what becomes of them.
            flow(
                "probes",
                kernel(Counter::ProbeCalls) + kernel(Counter::ProbeTwice),
                0,
                kernel(Counter::ProbeUnwanted)
                    + kernel(Counter::ProbeRingFull)
                    + kernel(Counter::ProbeFault)
                    + self.pipeline.intake.remark_records
                    + self.pipeline.intake.notice_records
                    + self.pipeline.intake.message_records,
                at_rest,
            ),
        ];
        hops.extend(stages(&self.pipeline, self.pending));
        hops
    }

    fn offered(&self, takes: Takes) -> Offered {
        let encoded = match takes {
            Takes::Messages => self.pipeline.deliver.messages,
            Takes::Notices => self.pipeline.deliver.events,
            Takes::Events => self.pipeline.events.total(),
        };
        Offered {
            ready: encoded,
            // Frames are handed over before a snapshot is taken.
            handed_over: encoded,
        }
    }

    fn unfollowed(&self) -> u64 {
        self.kernel[Counter::Unfollowed as usize]
    }

    fn metrics(&self, all: &mut Families) {
        metrics::add(all, self);
    }
}

impl Tapped {
    /// Writes what was probed, and what became of what the servers said.
    fn describe_probes(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for probe in &self.probes {
            writeln!(formatter, "{probe}")?;
        }
        let [calls, full, faults] = [
            Counter::ProbeCalls,
            Counter::ProbeRingFull,
            Counter::ProbeFault,
        ]
        .map(|counter| self.kernel[counter as usize]);
        if calls == 0 {
            return Ok(());
        }
        writeln!(formatter, "probes: {calls} calls")?;
        let deliver = &self.pipeline.deliver;
        if deliver.remarks_expected + self.pipeline.intake.remark_records != 0 {
            writeln!(
                formatter,
                "probes: {} messages with a zone, {} of {} without what the server says about them; {} remarks without their message",
                deliver.zones,
                deliver.remarks_missing,
                deliver.remarks_expected,
                deliver.remarks_unjoined,
            )?;
        }
        let intake = &self.pipeline.intake;
        if intake.message_records != 0 {
            writeln!(
                formatter,
                "probes: {} messages over TLS and HTTPS; {} copies over TCP in the clear left out, {} lost because nothing showed which",
                intake.copies_delivered, intake.copies_plain, intake.copies_unclear,
            )?;
        }
        let probed = &self.pipeline.probed;
        if intake.notice_records != 0 {
            writeln!(
                formatter,
                "probes: {} lines of the log ({} of a form that is not known), {} flushes and {} RRsets of caches",
                probed.probed_lines,
                probed.probed_lines_unknown,
                probed.probed_flushes,
                probed.probed_rrsets,
            )?;
        }
        if self.probes_missed != 0 {
            writeln!(
                formatter,
                "probes: {} calls were missed: another program was running on the CPU",
                self.probes_missed
            )?;
        }
        if full + faults != 0 {
            writeln!(
                formatter,
                "probes: {full} calls found no room in the ring, {faults} could not be read"
            )?;
        }
        Ok(())
    }

    /// Returns the number of messages by dnstap type.
    pub(crate) fn types(&self) -> impl Iterator<Item = (&'static str, u64)> {
        MESSAGE_TYPES
            .iter()
            .map(|known| known.name)
            .zip(self.pipeline.by_type)
    }

    /// Returns the pipeline counters whose names begin with `prefix`, without that prefix.
    fn pipeline_counts(&self, prefix: &str) -> Vec<(&'static str, u64)> {
        self.pipeline
            .table()
            .filter_map(|(name, count)| Some((name.strip_prefix(prefix)?, count)))
            .collect()
    }

    /// Returns the kernel counters for which `matches` returns true.
    fn kernel_counts(&self, matches: fn(Counter) -> bool) -> Vec<(&'static str, u64)> {
        Counter::ALL
            .iter()
            .filter(|&&counter| matches(counter))
            .map(|&counter| (counter.name(), self.kernel[counter as usize]))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_of_the_pipeline_that_are_losses_exist() {
        let all: Vec<_> = PipelineCounters::default()
            .table()
            .map(|(name, _)| name)
            .collect();
        for name in PIPELINE {
            assert!(all.contains(&name), "{name}");
        }
    }
}

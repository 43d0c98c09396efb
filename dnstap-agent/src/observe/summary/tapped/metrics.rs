//! The counters of a tap as metric families.

use dnstap_core::model::{Pending, SocketCounts};
use dnstap_ebpf::Counter;
use prometheus::proto::{self, Metric, MetricType};

use super::Tapped;
use crate::observe::families::{Families, alone, float, labels};

/// Adds the families of a tap.
pub(super) fn add(all: &mut Families, tapped: &Tapped) {
    all.gauge(
        "tap_info",
        "The hook and the ring in use.",
        [(vec![("hook", tapped.hook), ("ring", tapped.ring)], 1.0)],
    );
    let refused = tapped.refused.iter();
    all.gauge(
        "hook_refused",
        "Hooks that the kernel refused before the one in use; the log and the status socket have the reasons.",
        refused.map(|(hook, _)| (vec![("hook", *hook)], 1.0)),
    );
    all.gauge(
        "degraded",
        "How many things the hook in use cannot do on this kernel; the log and the status socket name them.",
        alone(float(tapped.degraded.len() as u64)),
    );
    let probes = tapped.probes.iter();
    let pids: Vec<_> = probes.clone().map(|probe| probe.pid.to_string()).collect();
    all.gauge(
        "probe_attached",
        "Whether a tapped process is probed; the log and the status socket say why one is not.",
        probes.zip(&pids).map(|(probe, pid)| {
            let labels = vec![("probe", probe.probe), ("pid", pid.as_str())];
            (labels, float(probe.attached.into()))
        }),
    );
    kernel(all, tapped);
    for (name, help, count) in tapped.pipeline.documented() {
        all.counter(&format!("pipeline_{name}"), help, alone(float(count)));
    }
    let types = tapped.types();
    all.counter(
        "messages",
        "Messages encoded, by dnstap type.",
        types.map(|(name, count)| (vec![("type", name)], float(count))),
    );
    for (name, help, count) in Pending::documented(&tapped.pending) {
        let help = format!("Held by the stages:{help}");
        all.gauge(&format!("pending_{name}"), &help, alone(float(count)));
    }
    let sockets = SocketCounts::table(&tapped.sockets);
    all.gauge(
        "sockets",
        "Sockets that are remembered, by protocol and by what they carry.",
        sockets.filter_map(|(name, count)| {
            let (protocol, verdict) = name.split_once('_')?;
            let labels = vec![("protocol", protocol), ("verdict", verdict)];
            Some((labels, float(count)))
        }),
    );
    let ring = &tapped.ring_use;
    for (name, help, value) in [
        (
            "ring_size_bytes",
            "Size of the ring, or of one of its buffers.",
            float(ring.size_bytes),
        ),
        (
            "ring_used_bytes",
            "Most that waited in the ring, or in one of its buffers, within a second.",
            float(ring.used_bytes),
        ),
        (
            "ring_lag_seconds",
            "Longest that a record waited in the ring, within a second.",
            float(ring.lag_ns) / 1e9,
        ),
    ] {
        all.gauge(name, help, alone(value));
    }
    latencies(all, tapped);
}

fn kernel(all: &mut Families, tapped: &Tapped) {
    let count = |counter: Counter| float(tapped.kernel[counter as usize]);
    for (counter, help) in [
        (Counter::Seen, "Messages that the hooks have seen."),
        (Counter::Emitted, "Messages handed to the ring whole."),
        (Counter::Records, "Records handed to the ring."),
        (Counter::Bytes, "Payload bytes handed to the ring."),
        (Counter::Peek, "Peeks, which are no messages."),
        (
            Counter::NoPeer,
            "Messages emitted without the sender's address.",
        ),
        (
            Counter::Unfollowed,
            "Processes, such as those forked by a tapped one, that found no room in the set: their messages are not seen until there is some.",
        ),
        (
            Counter::IoUringCalls,
            "Calls of io_uring_enter with hook syscall, which does not see the messages that they move.",
        ),
        (
            Counter::ProbeCalls,
            "Calls of probed functions in tapped servers (--probe, --events).",
        ),
        (
            Counter::ProbeUnwanted,
            "Calls of probed functions about something that is not asked for.",
        ),
        (
            Counter::ProbeRingFull,
            "Calls of probed functions whose record found no room in the ring.",
        ),
        (
            Counter::ProbeFault,
            "Calls of probed functions whose arguments could not be read, or are not what they have to be.",
        ),
        (
            Counter::ProbeTwice,
            "Calls of probed functions with two records: a remark and the whole message.",
        ),
    ] {
        let name = format!("kernel_{}", counter.name());
        all.counter(&name, help, alone(count(counter)));
    }
    let by_reason = |matches: fn(Counter) -> bool| {
        let counters = Counter::ALL.into_iter().filter(move |&one| matches(one));
        counters.map(move |counter| (vec![("reason", counter.name())], count(counter)))
    };
    all.counter(
        "kernel_dropped",
        "Messages seen and lost in the kernel, by reason.",
        by_reason(Counter::is_drop),
    );
    all.counter(
        "kernel_skipped",
        "Messages seen and left out on purpose, by reason.",
        by_reason(Counter::is_skip),
    );
    let programs = || tapped.programs.iter();
    all.counter(
        "program_runs",
        "Runs of a kernel program while the kernel counted them.",
        programs().map(|(name, stats)| (vec![("program", name.as_str())], float(stats.runs))),
    );
    all.counter(
        "program_run_time_seconds",
        "Time in a kernel program while the kernel counted it.",
        programs().map(|(name, stats)| {
            let seconds = float(stats.run_time_ns) / 1e9;
            (vec![("program", name.as_str())], seconds)
        }),
    );
    all.counter(
        "program_missed",
        "Times that the kernel kept a program from running: at most so many messages were missed.",
        programs().map(|(name, stats)| (vec![("program", name.as_str())], float(stats.missed))),
    );
}

fn latencies(all: &mut Families, tapped: &Tapped) {
    let metrics = tapped.latencies.table().map(|(role, family, took)| {
        let mut histogram = proto::Histogram::default();
        let buckets = took.cumulative().map(|(bound, count)| {
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(bound.as_secs_f64());
            bucket.set_cumulative_count(count);
            bucket
        });
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(took.count());
        histogram.set_sample_sum(took.sum().as_secs_f64());
        let mut metric = Metric::from_label(labels(&[("role", role), ("type", family)]));
        metric.set_histogram(histogram);
        metric
    });
    all.add(
        "query_duration_seconds",
        "From a query to its answer, by the tapped process's role and the family of dnstap types; zone transfers left out.",
        MetricType::HISTOGRAM,
        metrics.collect(),
    );
}

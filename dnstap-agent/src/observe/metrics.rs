//! A snapshot as Prometheus metrics. The names are those of the summary; the help texts are the doc
//! comments of the counters.

use dnstap_core::model::{Pending, SocketCounts};
use dnstap_ebpf::Counter;
use prometheus::{
    TextEncoder,
    proto::{self, LabelPair, Metric, MetricFamily, MetricType},
};

use crate::{
    observe::summary::{Snapshot, Source, Tapped, conservation},
    sinks::SinkReport,
};

/// Content type for scrapers.
pub(super) const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Encodes a snapshot in the text format.
pub fn encode(snapshot: &Snapshot) -> prometheus::Result<String> {
    TextEncoder::new().encode_to_string(&families(snapshot))
}

/// A value with labels.
type Sample<'a> = (Vec<(&'static str, &'a str)>, f64);

/// A value without labels.
fn alone(value: f64) -> Vec<Sample<'static>> {
    vec![(Vec::new(), value)]
}

fn families(snapshot: &Snapshot) -> Vec<MetricFamily> {
    let mut all = Families::default();
    let version = env!("CARGO_PKG_VERSION");
    all.gauge(
        "build_info",
        "The agent's version.",
        [(vec![("version", version)], 1.0)],
    );
    all.gauge(
        "uptime_seconds",
        "How long the command has been at work.",
        alone(snapshot.elapsed.as_secs_f64()),
    );
    match &snapshot.source {
        Source::Tap(tapped) => tap(&mut all, tapped),
        Source::Received(received) => {
            for (name, help, count) in received.documented() {
                all.counter(&format!("received_{name}"), help, alone(float(count)));
            }
        }
    }
    outputs(&mut all, &snapshot.outputs);
    balance(&mut all, snapshot);
    all.0
}

fn tap(all: &mut Families, tapped: &Tapped) {
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

/// Adds the metrics of outputs. They count messages; for the output of unanswered queries, events.
fn outputs(all: &mut Families, outputs: &[SinkReport]) {
    type Member = fn(&SinkReport) -> u64;
    let each = |member: Member| {
        outputs.iter().map(move |output| {
            (
                vec![("output", output.output.as_str())],
                float(member(output)),
            )
        })
    };
    let counters: [(&str, &str, Member); 5] = [
        (
            "sent_messages",
            "Messages (of --unanswered-events: events) handed to an output.",
            |one| one.sent,
        ),
        (
            "written_messages",
            "Messages whole in an output, or handed whole to the system for it.",
            |one| one.written,
        ),
        ("written_bytes", "Bytes of these.", |one| one.written_bytes),
        (
            "unconfirmed_messages",
            "Of the messages written: at most so many were lost with a collector that went away.",
            |one| one.unconfirmed,
        ),
        ("connections", "Connections to a collector.", |one| {
            one.connections
        }),
    ];
    for (name, help, member) in counters {
        all.counter(&format!("output_{name}"), help, each(member));
    }
    let dropped = outputs.iter().flat_map(|output| {
        let reasons = output.dropped.by_reason();
        reasons.map(|(reason, count)| {
            let labels = vec![("output", output.output.as_str()), ("reason", reason)];
            (labels, float(count))
        })
    });
    all.counter(
        "output_dropped_messages",
        "Messages (of --unanswered-events: events) that an output did not take, by reason.",
        dropped,
    );
    let gauges: [(&str, &str, Member); 3] = [
        (
            "queued_messages",
            "Messages waiting for an output.",
            |one| one.queued,
        ),
        ("queued_bytes", "Bytes of these.", |one| one.queued_bytes),
        (
            "up",
            "Whether an output works: 0 if it has failed or has no connection.",
            |one| u64::from(one.state.is_well()),
        ),
    ];
    for (name, help, member) in gauges {
        all.gauge(&format!("output_{name}"), help, each(member));
    }
}

fn balance(all: &mut Families, snapshot: &Snapshot) {
    let hops = conservation::hops(snapshot);
    let of = |member: fn(&dnstap_core::account::Hop<'_>) -> u64| {
        hops.iter().map(move |hop| {
            let labels = vec![
                ("hop", hop.name),
                ("output", hop.output.unwrap_or_default()),
            ];
            (labels, float(member(hop)))
        })
    };
    all.gauge(
        "in_flight",
        "What came to a hop and has not left it; messages, or bytes of streams.",
        of(|hop| hop.in_flight),
    );
    all.gauge(
        "unaccounted",
        "What the counters of a hop cannot explain: anything but 0 is a defect of the agent.",
        of(|hop| hop.unaccounted),
    );
}

/// Metric families under construction.
#[derive(Default)]
struct Families(Vec<MetricFamily>);

impl Families {
    fn counter<'a>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = Sample<'a>>,
    ) {
        let metrics = samples.into_iter().map(|(pairs, value)| {
            let mut counter = proto::Counter::default();
            counter.set_value(value);
            let mut metric = Metric::from_label(labels(&pairs));
            metric.set_counter(counter);
            metric
        });
        let metrics = metrics.collect();
        self.add(&format!("{name}_total"), help, MetricType::COUNTER, metrics);
    }

    fn gauge<'a>(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = Sample<'a>>) {
        let metrics = samples.into_iter().map(|(pairs, value)| {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(value);
            let mut metric = Metric::from_label(labels(&pairs));
            metric.set_gauge(gauge);
            metric
        });
        let metrics = metrics.collect();
        self.add(name, help, MetricType::GAUGE, metrics);
    }

    /// Adds a family, unless it has no samples.
    fn add(&mut self, name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) {
        if metrics.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(format!("dnstap_agent_{name}"));
        family.set_help(help.trim().to_owned());
        family.set_field_type(kind);
        family.set_metric(metrics);
        self.0.push(family);
    }
}

fn labels(pairs: &[(&'static str, &str)]) -> Vec<LabelPair> {
    let pairs = pairs.iter().map(|&(name, value)| {
        let mut label = LabelPair::default();
        label.set_name(name.to_owned());
        label.set_value(value.to_owned());
        label
    });
    pairs.collect()
}

#[expect(
    clippy::cast_precision_loss,
    reason = "the format has floating point numbers only; they are exact up to 2^53"
)]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use dnstap_core::model::{Kind, Role};

    use super::*;
    use crate::{
        observe::summary::{Received, conservation::tests::snapshot},
        sinks::Takes,
        sources::socket::ProgramStats,
    };

    #[test]
    fn every_family_has_help_a_type_and_a_conventional_name() {
        let text = encode(&snapshot()).expect("encoded");
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().expect("a name");
            assert!(name.starts_with("dnstap_agent_"), "{line}");
            let kind = if name.ends_with("_total") {
                "counter"
            } else {
                "gauge"
            };
            if !name.contains("query_duration") {
                assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{line}");
                assert!(text.contains(&format!("# HELP {name} ")), "{line}");
            }
        }
        for line in [
            "dnstap_agent_kernel_dropped_total{reason=\"ring_full\"} 7\n",
            "dnstap_agent_messages_total{type=\"client_query\"} 40\n",
            "dnstap_agent_output_queued_messages{output=\"file:a.fstrm\"} 6\n",
            "dnstap_agent_output_dropped_messages_total{output=\"file:a.fstrm\",reason=\"queue_full\"} 10\n",
            "dnstap_agent_unaccounted{hop=\"hooks\",output=\"\"} 0\n",
            "# HELP dnstap_agent_pipeline_udp_delivered_total Datagrams handed on for delivery.\n",
        ] {
            assert!(text.contains(line), "no {line} in {text}");
        }
    }

    #[test]
    fn every_counter_of_the_kernel_side_is_shown() {
        let text = encode(&snapshot()).expect("encoded");
        for name in Counter::ALL.map(Counter::name) {
            let alone = format!("\ndnstap_agent_kernel_{name}_total ");
            let reason = format!("{{reason=\"{name}\"}}");
            assert!(text.contains(&alone) || text.contains(&reason), "{name}");
        }
    }

    #[test]
    fn hooks_that_were_refused_and_what_is_missing_are_everywhere() {
        let mut snapshot = snapshot();
        if let Source::Tap(tapped) = &mut snapshot.source {
            tapped.refused = vec![("fentry", "not allowed\nthe verifier's log".to_owned())];
            tapped.degraded = vec!["no local address".to_owned()];
        }
        let metrics = encode(&snapshot).expect("encoded");
        for line in [
            "dnstap_agent_hook_refused{hook=\"fentry\"} 1\n",
            "dnstap_agent_degraded 1\n",
        ] {
            assert!(metrics.contains(line), "no {line} in {metrics}");
        }
        let text = snapshot.to_string();
        for line in [
            "hook fentry was refused: not allowed\n",
            "degraded: no local address\n",
        ] {
            assert!(text.contains(line), "no {line} in {text}");
        }
        let json = snapshot.to_json();
        assert_eq!(json["degraded"][0], "no local address");
        let reason = json["refused_hooks"]["fentry"].as_str().expect("a text");
        assert!(reason.starts_with("not allowed"));
    }

    #[test]
    fn the_output_of_events_is_among_the_outputs() {
        let mut snapshot = snapshot();
        let events = SinkReport {
            takes: Takes::Notices,
            output: "json:events".to_owned(),
            ..snapshot.outputs[0].clone()
        };
        snapshot.outputs.push(events);
        let text = encode(&snapshot).expect("encoded");
        for line in [
            "dnstap_agent_output_sent_messages_total{output=\"json:events\"} 66\n",
            "dnstap_agent_output_dropped_messages_total{output=\"json:events\",reason=\"queue_full\"} 10\n",
            "dnstap_agent_output_up{output=\"json:events\"} 1\n",
        ] {
            assert!(text.contains(line), "no {line} in {text}");
        }
    }

    #[test]
    fn the_dashboard_shows_metrics_that_there_are() {
        const DASHBOARD: &str = include_str!("../../../docs/grafana/dnstap-agent.json");
        let mut tap = snapshot();
        if let Source::Tap(tapped) = &mut tap.source {
            tapped
                .latencies
                .record(Role::Responder, Kind::Client, 1_000_000);
            tapped
                .programs
                .insert("a_program".into(), ProgramStats::default());
        }
        let received = Snapshot {
            source: Source::Received(Received::default()),
            ..snapshot()
        };
        let there: BTreeSet<_> = [tap, received]
            .iter()
            .flat_map(families)
            .map(|family| family.name().to_owned())
            .collect();
        let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).expect("JSON");
        let panels = dashboard["panels"].as_array().expect("panels");
        let targets = panels
            .iter()
            .filter_map(|panel| panel["targets"].as_array());
        let mut shown = BTreeSet::new();
        for target in targets.flatten() {
            let query = target["expr"].as_str().expect("a query");
            let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let names: Vec<_> = words
                .filter(|word| word.starts_with("dnstap_agent_"))
                .collect();
            assert!(!names.is_empty(), "{query}");
            shown.extend(names);
        }
        for name in shown {
            let family = name.strip_suffix("_bucket").unwrap_or(name);
            assert!(there.contains(family), "{name} is not among {there:?}");
        }
    }
}

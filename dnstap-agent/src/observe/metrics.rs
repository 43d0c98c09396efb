//! A snapshot as Prometheus metrics. The names are those of the summary; the help texts are the doc
//! comments of the counters.

use super::families::{Families, alone, float};
use crate::{
    observe::summary::{Snapshot, conservation},
    sinks::{Broker, SinkReport},
};

/// Content type for scrapers.
pub(super) const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Encodes a snapshot in the text format.
pub(crate) fn encode(snapshot: &Snapshot) -> prometheus::Result<String> {
    families(snapshot).encode()
}

fn families(snapshot: &Snapshot) -> Families {
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
    snapshot.source.metrics(&mut all);
    outputs(&mut all, &snapshot.outputs);
    balance(&mut all, snapshot);
    all
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
    let brokers = |of: OfBroker| {
        outputs.iter().filter_map(move |output| {
            let count = of(output.broker.as_ref()?);
            Some((vec![("output", output.output.as_str())], float(count)))
        })
    };
    for (name, help, of) in RECORDS {
        all.counter(&format!("output_{name}"), help, brokers(of));
    }
    for (name, help, of) in BROKER {
        all.gauge(&format!("output_{name}"), help, brokers(of));
    }
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

/// Reads a number of an output to Kafka.
type OfBroker = fn(&Broker) -> u64;

/// Counters of outputs to Kafka.
const RECORDS: [(&str, &str, OfBroker); 5] = [
    (
        "retries",
        "Records that were sent once more, because a broker did not answer or could not take them.",
        |broker| broker.records.retries,
    ),
    (
        "errors",
        "Requests to brokers that failed, and connections that ended.",
        |broker| broker.records.errors,
    ),
    (
        "replayed",
        "Records of an earlier run that were delivered from the spool.",
        |broker| broker.records.replayed,
    ),
    (
        "replay_dropped",
        "Records of an earlier run that a broker refused for good.",
        |broker| broker.records.replay_dropped,
    ),
    (
        "damaged_bytes",
        "Bytes of the spool that could not be read.",
        |broker| broker.records.damaged_bytes,
    ),
];

/// State of outputs to Kafka.
const BROKER: [(&str, &str, OfBroker); 4] = [
    ("brokers", "Brokers with a connection.", |broker| {
        broker.brokers
    }),
    (
        "in_flight",
        "Messages that brokers have not acknowledged yet.",
        |broker| broker.in_flight,
    ),
    (
        "spooled",
        "Messages in the spool, those of earlier runs included.",
        |broker| broker.spooled,
    ),
    (
        "spooled_bytes",
        "Bytes of the spool on the disk.",
        |broker| broker.spooled_bytes,
    ),
];

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

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use dnstap_core::model::{Kind, Role};
    use dnstap_ebpf::Counter;

    use super::*;
    use crate::{
        observe::summary::{
            Tapped,
            conservation::tests::{balanced, snapshot, snapshot_of},
        },
        sinks::Takes,
        sources::{dnstap::Received, socket::ProgramStats},
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
        let snapshot = snapshot_of(Tapped {
            refused: vec![("fentry", "not allowed\nthe verifier's log".to_owned())],
            degraded: vec!["no local address".to_owned()],
            ..balanced()
        });
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
        let mut tapped = balanced();
        tapped
            .latencies
            .record(Role::Responder, Kind::Client, 1_000_000);
        tapped
            .programs
            .insert("a_program".into(), ProgramStats::default());
        let tap = snapshot_of(tapped);
        let received = Snapshot {
            source: Arc::new(Received::default()),
            ..snapshot()
        };
        let there: BTreeSet<_> = [tap, received]
            .iter()
            .flat_map(|snapshot| families(snapshot).0)
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

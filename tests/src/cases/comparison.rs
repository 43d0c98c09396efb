//! Compares the tap with BIND's own dnstap on the same traffic: we must record everything that `named` records.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Result, ensure};
use dnstap_proto::{SocketProtocol, message::Type};
use libtest_mimic::Trial;

use super::{note, trial};
use crate::{
    compare::{Rules, Unknown, compare},
    environment::{ClockWatch, Combination, combinations},
    lab::{Lab, Wanted},
    load::mixed,
    record::Record,
    tap::{Summary, Tap},
    wire,
};

pub(super) fn trials() -> Vec<Trial> {
    let mut trials: Vec<_> = combinations()
        .into_iter()
        .map(|how| {
            trial(
                format!("{how}: every message that named records is in our file"),
                move || same_as_named(&[how], &[]),
            )
        })
        .collect();
    trials.extend(combinations().into_iter().map(|how| {
        trial(
            format!("{how}: zones are those that named records"),
            move || same_as_named(&[how], &["--probe", "zone"]),
        )
    }));
    trials.push(trial(
        "all hooks and rings at once record the same messages".into(),
        || same_as_named(&combinations(), &[]),
    ));
    trials
}

/// Runs the mixed load with the given taps attached at the same time and compares each with named's own dnstap.
fn same_as_named(ways: &[Combination], options: &[&str]) -> Result<()> {
    let mut lab = Lab::start(Wanted {
        upstream: true,
        reference: true,
        ..Wanted::default()
    })?;
    let taps: Vec<_> = ways
        .iter()
        .map(|how| Tap::attach(lab.folder(), lab.tapped.pid(), how, options))
        .collect::<Result<_>>()?;
    let clock = ClockWatch::start()?;
    mixed::run(&mut lab)?;
    let lag = clock.lag()?;
    let mut ours = Vec::new();
    for tap in taps {
        let tapped = tap.stop()?;
        let records = tapped.records()?;
        tapped.summary.expect_nothing_dropped()?;
        tapped.summary.expect_written(records.len())?;
        if !options.is_empty() {
            expect_zones(&tapped.summary, &records)?;
        }
        ours.push((records, tapped.summary.missed()?));
    }
    let upstream = lab.upstream_server();
    let reference = lab.finish()?;
    expect_the_whole_load(&reference)?;
    for (how, (records, missed)) in ways.iter().zip(&ours) {
        let transfers = transfers(records);
        let rules = Rules {
            outside: &|_| None,
            unknown: &unknown_to_bind,
            only_ours: &|record| not_recorded_by_bind(record, &transfers, upstream),
        };
        let comparison = compare(&reference, records, &rules);
        // If the kernel skipped a program and counted that, the message cannot be in the file; see
        // `once.rs` of the eBPF side.
        ensure!(
            comparison.unexplained.is_empty() && comparison.missing.len() as u64 <= *missed,
            "{how}: the kernel counted {missed} missed; {comparison}"
        );
        ensure!(
            comparison.times.are_within(lag),
            "{how}: clocks differ: {comparison}"
        );
        if !options.is_empty() {
            let [theirs, mine] = [&reference, records].map(|records| zones(records));
            ensure!(theirs == mine, "{how}: {mine} zones of {theirs}");
        }
        note(format!("{how}: {comparison}"));
    }
    Ok(())
}

fn zones(records: &[Record]) -> usize {
    records
        .iter()
        .filter(|record| record.zone.is_some())
        .count()
}

/// Checks that each type that may have a zone has some, and that no call of the probe failed.
fn expect_zones(summary: &Summary, records: &[Record]) -> Result<()> {
    for kind in [
        Type::ResolverQuery,
        Type::ResolverResponse,
        Type::AuthResponse,
    ] {
        let has_one = |record: &Record| record.kind == kind && record.zone.is_some();
        let found = records.iter().any(has_one);
        ensure!(found, "no {} has a zone", kind.as_str_name());
    }
    let kernel = |counter| summary.kernel(counter);
    let remarks = summary.pipeline("remark_records")?;
    let faults = kernel("probe_fault")? + kernel("probe_ring_full")?;
    ensure!(
        faults == 0 && kernel("probe_calls")? == remarks + kernel("probe_unwanted")?,
        "calls of the probe: {summary}"
    );
    let unjoined = summary.pipeline("remarks_unjoined")? + summary.pipeline("remarks_malformed")?;
    ensure!(
        unjoined == 0 && summary.pipeline("zones")? == zones(records) as u64,
        "remarks without their messages: {summary}"
    );
    Ok(())
}

/// Checks that the reference itself is complete: all of the bulk, and each type that the load is meant to produce.
pub(super) fn expect_the_whole_load(reference: &[Record]) -> Result<()> {
    for (tcp, ipv6, queries) in mixed::BULK {
        let protocol = if tcp {
            SocketProtocol::Tcp
        } else {
            SocketProtocol::Udp
        };
        let recorded = reference
            .iter()
            .filter(|record| record.kind == Type::ClientQuery && record.protocol == protocol)
            .filter(|record| {
                record
                    .query_address
                    .is_some_and(|address| address.is_ipv6())
                    == ipv6
            })
            .count();
        ensure!(
            recorded >= queries,
            "named recorded {recorded} of {queries} queries (TCP {tcp}, IPv6 {ipv6})"
        );
    }
    for protocol in [SocketProtocol::Udp, SocketProtocol::Tcp] {
        for kind in [
            Type::ClientQuery,
            Type::ClientResponse,
            Type::AuthQuery,
            Type::AuthResponse,
            Type::ResolverQuery,
            Type::ResolverResponse,
            Type::UpdateQuery,
            Type::UpdateResponse,
        ] {
            let found = reference
                .iter()
                .any(|record| record.kind == kind && record.protocol == protocol);
            ensure!(
                found,
                "named recorded no {} over {}",
                kind.as_str_name(),
                protocol.as_str_name()
            );
        }
    }
    let longest = reference
        .iter()
        .map(|record| record.message.len())
        .max()
        .unwrap_or(0);
    ensure!(
        longest > 50_000,
        "the longest message that named recorded has {longest} bytes"
    );
    Ok(())
}

/// Returns the fields of a record that BIND 9.18 does not know about its own queries, or names by a rule that cannot be
/// seen from outside.
fn unknown_to_bind(record: &Record) -> Option<(&'static str, Unknown)> {
    let resolver = matches!(record.kind, Type::ResolverQuery | Type::ResolverResponse);
    let query_address = record
        .query_address
        .is_none_or(|address| address.is_unspecified());
    let query_port = record.query_port == 0;
    if resolver && (query_address || query_port) {
        let unknown = Unknown {
            query_address,
            query_port,
            role: false,
        };
        return Some((
            "BIND records no local address or port of its own queries",
            unknown,
        ));
    }
    // BIND's built-in view for class CHAOS offers no recursion, and BIND names those responses by the RD bit alone.
    if record.kind == Type::AuthQuery && wire::recursion_desired(&record.message) {
        let unknown = Unknown {
            role: true,
            ..Unknown::default()
        };
        return Some((
            "BIND knows that recursion is not available to this query, we see the RD bit",
            unknown,
        ));
    }
    None
}

/// Returns the connections with a zone transfer, by initiator.
fn transfers(ours: &[Record]) -> HashSet<(Option<IpAddr>, u16)> {
    ours.iter()
        .filter(|record| record.protocol == SocketProtocol::Tcp)
        .filter(|record| {
            matches!(
                wire::question(&record.message),
                Some((_, wire::TYPE_AXFR | wire::TYPE_IXFR))
            )
        })
        .map(|record| (record.query_address, record.query_port))
        .collect()
}

/// Returns whether a message belongs to a secondary's check for a new serial. Such a check may come at any time: at the
/// start, or after a NOTIFY.
pub(super) fn asks_for_serial(record: &Record) -> bool {
    matches!(wire::question(&record.message), Some((name, wire::TYPE_SOA)) if name == "moving.lab")
}

/// Returns the reason for which BIND does not record a message that it sends or receives, if there is one.
fn not_recorded_by_bind(
    record: &Record,
    transfers: &HashSet<(Option<IpAddr>, u16)>,
    upstream: SocketAddr,
) -> Option<&'static str> {
    let own_query = record.response_port == upstream.port();
    if wire::opcode(&record.message) == Some(wire::OPCODE_NOTIFY) {
        return Some("BIND does not record NOTIFY");
    }
    if own_query && asks_for_serial(record) {
        return Some("BIND does not record the SOA refresh of its secondary zones");
    }
    if transfers.contains(&(record.query_address, record.query_port)) {
        if own_query {
            return Some("BIND does not record its transfers in");
        }
        if record.is_response() {
            return Some("BIND does not record the data of its transfers out");
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPSTREAM: ([u8; 4], u16) = ([127, 0, 0, 1], 5_300);

    #[test]
    fn only_the_answers_of_a_transfer_out_are_explained() {
        let query = wire::query(1, "big.lab", wire::TYPE_AXFR, false);
        let mut data = wire::answer(&wire::query(1, "big.lab", wire::TYPE_AXFR, false));
        data.truncate(12);
        data[5] = 0;
        let passed = [tcp(1_000, query), tcp(1_000, data.clone())];
        let transfers = transfers(&passed);
        assert_eq!(
            reason(&passed[0], &transfers),
            None,
            "BIND records the query"
        );
        assert!(reason(&passed[1], &transfers).is_some());
        assert_eq!(
            reason(&tcp(1_001, data), &transfers),
            None,
            "another connection"
        );
    }

    #[test]
    fn notify_is_explained_and_an_ordinary_query_is_not() {
        let mut notify = wire::query(1, "moving.lab", wire::TYPE_SOA, false);
        assert_eq!(reason(&tcp(1_000, notify.clone()), &HashSet::new()), None);
        notify[2] |= wire::OPCODE_NOTIFY << 3;
        assert!(reason(&tcp(1_000, notify), &HashSet::new()).is_some());
    }

    #[test]
    fn only_bind_s_own_queries_may_lack_a_port() {
        let mut record = tcp(0, wire::query(1, "a.lab", wire::TYPE_A, false));
        assert_eq!(unknown_to_bind(&record), None);
        record.kind = Type::ResolverQuery;
        let unknown = Unknown {
            query_port: true,
            ..Unknown::default()
        };
        assert_eq!(
            unknown_to_bind(&record).map(|(_, unknown)| unknown),
            Some(unknown)
        );
        record.query_port = 1;
        assert_eq!(unknown_to_bind(&record), None);
    }

    fn reason(record: &Record, transfers: &HashSet<(Option<IpAddr>, u16)>) -> Option<&'static str> {
        not_recorded_by_bind(record, transfers, UPSTREAM.into())
    }

    fn tcp(port: u16, message: Vec<u8>) -> Record {
        let (client, server) = (([127, 0, 0, 1], port).into(), ([127, 0, 0, 1], 53).into());
        Record::expected(SocketProtocol::Tcp, client, server, message)
    }
}

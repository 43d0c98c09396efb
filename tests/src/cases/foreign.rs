//! Unbound, Knot and NSD: every message of their clients, and of the server that they ask, is in the file with the type
//! that the documentation gives it.

use std::time::SystemTime;

use anyhow::{Result, ensure};
use dnstap_proto::{SocketProtocol, message::Type};
use libtest_mimic::Trial;

use super::for_each_hook;
use crate::{
    compare::{Rules, compare},
    environment::Combination,
    lab::foreign::{Foreign, Make},
    load::exact::Account,
    record::Record,
    tap::Tap,
    wire,
};

pub(super) fn trials() -> Vec<Trial> {
    [
        for_each_hook(
            "unbound: all that it is asked and asks is in the file",
            |how| tapped(Make::Unbound, how),
        ),
        for_each_hook(
            "knot: all that it is asked and asks is in the file",
            |how| tapped(Make::Knot, how),
        ),
        for_each_hook(
            "nsd: all that it is asked and asks is in the file, also by processes after a reload",
            |how| tapped(Make::Nsd, how),
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn tapped(make: Make, how: &Combination) -> Result<()> {
    let mut lab = Foreign::start(make, None)?;
    let start = SystemTime::now();
    let mut tap = Tap::attach(lab.folder(), lab.pid(), how, &[])?;
    let mut account = Account::new(&lab);
    account.load(&mut lab)?;
    if make != Make::Unbound {
        account.load_authority(&lab)?;
    }
    if make == Make::Nsd {
        lab.reload()?;
        tap.wait_for("a new process", |line| {
            line.contains("tapping a new process")
        })?;
        account.load(&mut lab)?;
    }
    let port = lab.upstream_server().port();
    let stopped = lab.stop()?;
    let tapped = tap.stop()?;
    let records = tapped.records()?;
    tapped.summary.expect_nothing_dropped()?;
    tapped.summary.expect_written(records.len())?;
    expect_all(make, port, &records, &account, &stopped.since(start)?)
}

/// Checks that all messages of the clients and of the upstream are there, with their documented types, and that all
/// other messages have a reason.
fn expect_all(
    make: Make,
    upstream_port: u16,
    records: &[Record],
    account: &Account,
    upstream: &[Record],
) -> Result<()> {
    for record in records {
        let documented = documented(make, record, upstream_port);
        ensure!(
            record.kind == documented,
            "documented is {}: {record}",
            documented.as_str_name()
        );
    }
    for (kind, protocol) in expected_kinds(make) {
        let found = records
            .iter()
            .any(|record| record.kind == *kind && record.protocol == *protocol);
        let (kind, protocol) = (kind.as_str_name(), protocol.as_str_name());
        ensure!(found, "no {kind} over {protocol}");
    }
    let plain: Vec<_> = records
        .iter()
        .cloned()
        .map(Record::with_plain_kind)
        .collect();
    let rest = account.settle(&plain)?;
    // The updates that the upstream gets come from the test itself.
    let upstream: Vec<_> = upstream
        .iter()
        .filter(|record| wire::opcode(&record.message) != Some(wire::OPCODE_UPDATE))
        .cloned()
        .map(Record::with_plain_kind)
        .collect();
    ensure!(!upstream.is_empty(), "it has asked nothing");
    let rules = Rules {
        outside: &|_| None,
        unknown: &|_| None,
        only_ours: &|record| not_recorded_by_upstream(record, upstream_port),
    };
    let comparison = compare(&upstream, &rest, &rules);
    ensure!(comparison.holds(), "of the upstream: {comparison}");
    for response in [false, true] {
        let notified = rest.iter().any(|record| {
            wire::opcode(&record.message) == Some(wire::OPCODE_NOTIFY)
                && record.response_port != upstream_port
                && record.is_response() == response
        });
        ensure!(
            notified || make == Make::Unbound,
            "no NOTIFY, response {response}"
        );
    }
    Ok(())
}

/// Returns the types that the load is meant to produce.
const fn expected_kinds(make: Make) -> &'static [(Type, SocketProtocol)] {
    use SocketProtocol::{Tcp, Udp};
    match make {
        // If a response is too long for UDP, the client asks again over TCP.
        Make::Unbound => &[
            (Type::ClientResponse, Udp),
            (Type::ClientResponse, Tcp),
            (Type::ResolverResponse, Udp),
            (Type::ResolverResponse, Tcp),
            (Type::ForwarderResponse, Udp),
        ],
        Make::Knot => &[
            (Type::AuthResponse, Udp),
            (Type::AuthResponse, Tcp),
            (Type::ResolverResponse, Tcp),
            (Type::UpdateResponse, Udp),
            (Type::UpdateResponse, Tcp),
        ],
        Make::Nsd => &[
            (Type::AuthResponse, Udp),
            (Type::AuthResponse, Tcp),
            (Type::ResolverResponse, Tcp),
        ],
    }
}

/// Returns the type of a message by `docs/types.md`.
fn documented(make: Make, record: &Record, upstream_port: u16) -> Type {
    let message = &record.message;
    let asks = record.response_port == upstream_port;
    let opcode = wire::opcode(message);
    let qtype = wire::question(message).map(|(_, qtype)| qtype);
    let own_matter = opcode == Some(wire::OPCODE_NOTIFY)
        || matches!(qtype, Some(wire::TYPE_AXFR | wire::TYPE_IXFR));
    let (query, response) = match (make, asks) {
        _ if opcode == Some(wire::OPCODE_UPDATE) => (Type::UpdateQuery, Type::UpdateResponse),
        (_, false) if own_matter => (Type::AuthQuery, Type::AuthResponse),
        (_, true) if own_matter => (Type::ResolverQuery, Type::ResolverResponse),
        (Make::Unbound, false) => (Type::ClientQuery, Type::ClientResponse),
        (_, false) => (Type::AuthQuery, Type::AuthResponse),
        (Make::Unbound, true) if wire::recursion_desired(message) => {
            (Type::ForwarderQuery, Type::ForwarderResponse)
        }
        (_, true) if wire::recursion_desired(message) => (Type::StubQuery, Type::StubResponse),
        (_, true) => (Type::ResolverQuery, Type::ResolverResponse),
    };
    if record.is_response() {
        response
    } else {
        query
    }
}

fn not_recorded_by_upstream(record: &Record, upstream_port: u16) -> Option<&'static str> {
    if wire::opcode(&record.message) == Some(wire::OPCODE_NOTIFY) {
        return Some("BIND does not record NOTIFY");
    }
    let data = record.is_response()
        && record.protocol == SocketProtocol::Tcp
        && record.response_port == upstream_port
        && !matches!(wire::question(&record.message), Some((_, qtype)) if qtype != wire::TYPE_AXFR && qtype != wire::TYPE_IXFR);
    data.then_some("BIND does not record the data of its transfers out")
}

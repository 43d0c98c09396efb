//! Tests servers in every role on the same traffic. Each is compared with BIND's own dnstap, with
//! the documented rules, and with the server at the other end.

mod documented;

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use dnstap_proto::{SocketProtocol, message::Type};
use libtest_mimic::Trial;

use super::{for_each_hook, note};
use crate::{
    compare::{Rules, Unknown, compare},
    environment::{self, ClockWatch, Combination},
    load::{
        self,
        proxied::CLIENTS,
        tree::{CHANGES, Sent},
    },
    record::Record,
    tree::{self, HTTPS_PORT, Recorded, Role, TLS_PORT, Tree},
    wire,
};

pub(super) fn trials() -> Vec<Trial> {
    let mut trials = for_each_hook(
        "six servers in their roles record what named records",
        |how| tree::isolated(|| six_servers(how, &[])),
    );
    trials.extend(for_each_hook(
        "six probed servers in their roles record what named records, with its zones",
        |how| tree::isolated(|| six_servers(how, &["--probe", "zone"])),
    ));
    trials
}

fn six_servers(how: &Combination, options: &[&str]) -> Result<()> {
    let mut tree = Tree::start(how, options)?;
    let clock = ClockWatch::start()?;
    let sent = load::tree::run(&mut tree)?;
    let lag = clock.lag()?;
    let recorded = tree.finish()?;
    let mut failures = Vec::new();
    let mut outcome = |of: &str, result: Result<()>| {
        if let Err(error) = result {
            failures.push(format!("{of}: {error:#}"));
        }
    };
    for server in &recorded {
        let name = server.role.name();
        outcome(name, same_as_named(how, server, lag));
        outcome(name, documented::check(server));
        outcome(name, encrypted_bytes(server));
        for other in recorded.iter().filter(|other| other.role != server.role) {
            outcome(name, both_ends(server, other));
        }
    }
    for role in [Role::Zone, Role::Secondary] {
        let records = &recorded[role as usize].plain.0;
        outcome(role.name(), whole_transfers(role, records, &sent));
    }
    if !options.is_empty() {
        for server in &recorded {
            outcome(server.role.name(), zones_of(server));
        }
    }
    let zone = &recorded[Role::Zone as usize];
    outcome("zone", behind_proxies(&zone.plain.0, &sent));
    if !failures.is_empty() {
        let accounts = recorded.iter().map(|server| {
            let (name, summary) = (server.role.name(), &server.plain.1);
            format!("the tap of {name}: {summary}")
        });
        failures.extend(accounts);
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

/// Checks that we have recorded as many zones as named. The comparison has checked that they are
/// the same.
fn zones_of(server: &Recorded) -> Result<()> {
    let zones = |records: &[Record]| {
        let in_clear = records.iter().filter(|one| encrypted(one).is_none());
        in_clear.filter(|one| one.zone.is_some()).count()
    };
    let (theirs, ours) = (zones(&server.reference), zones(&server.mimic.0));
    note(format!("{}: {ours} zones of {theirs}", server.role.name()));
    // All queries to the secondary have RD, so its responses do not have the type AUTH for named.
    let has_some = theirs > 0 || server.role == Role::Secondary;
    ensure!(ours == theirs && has_some, "{ours} zones of {theirs}");
    Ok(())
}

/// Checks that queries that came through a proxy, and their responses, have the address of the client.
fn behind_proxies(records: &[Record], sent: &Sent) -> Result<()> {
    for client in CLIENTS {
        let of_client: Vec<_> = records
            .iter()
            .filter(|record| record.query_address == Some(client.ip()))
            .collect();
        let asked = Role::Zone.server(client.is_ipv6());
        let whole = of_client.iter().all(|record| {
            record.query_port == client.port()
                && record.response_address == Some(asked.ip())
                && record.response_port == asked.port()
        });
        ensure!(
            of_client.len() == 2 * sent.proxied && whole,
            "{} messages of {} questions of {client}",
            of_client.len(),
            sent.proxied
        );
    }
    Ok(())
}

/// Checks that messages between two servers are the same in both files, and that there are some if one asks the other.
fn both_ends(one: &Recorded, other: &Recorded) -> Result<()> {
    let matched = documented::same_at_both_ends(one, other)?;
    let expected = matches!(
        (one.role, other.role),
        (Role::Recursive, Role::Root | Role::Tld | Role::Zone)
            | (Role::Forwarder, Role::Recursive)
            | (Role::Secondary, Role::Zone)
            | (Role::Zone, Role::Secondary)
    );
    ensure!(
        (matched > 0) == expected,
        "{matched} messages to {}",
        other.role.name()
    );
    Ok(())
}

/// Checks that the frames of each transfer contain all records that were transferred.
fn whole_transfers(role: Role, records: &[Record], sent: &Sent) -> Result<()> {
    let whole = documented::transfers(records, "big.lab", wire::TYPE_AXFR);
    let changes = documented::transfers(records, "big.lab", wire::TYPE_IXFR);
    note(format!(
        "{}: big.lab (messages, records) by AXFR {whole:?}, by IXFR {changes:?}",
        role.name()
    ));
    let of_size = |transfers: &[(usize, usize)], size| {
        transfers
            .iter()
            .filter(|(_, records)| *records == size)
            .count()
    };
    ensure!(
        of_size(&whole, sent.records) >= 2 && whole.iter().all(|(messages, _)| *messages > 1),
        "{} records by AXFR: {whole:?}",
        sent.records
    );
    // The secondary has asked the primary for the changes once, after the update. `dig` has asked
    // each server for them once. The primary's file has both.
    let asked = if role == Role::Zone { 2 } else { 1 };
    ensure!(
        of_size(&changes, CHANGES) == asked && of_size(&changes, sent.changes(role)) >= 1,
        "{CHANGES} and {} records by IXFR: {changes:?}",
        sent.changes(role)
    );
    let over_udp = records.iter().filter(|record| {
        record.is_response()
            && record.protocol == SocketProtocol::Udp
            && wire::answers(&record.message) == 1
            && wire::question(&record.message) == Some(("big.lab".to_owned(), wire::TYPE_IXFR))
    });
    let over_udp = over_udp.count();
    ensure!(over_udp == 1, "{over_udp} answers to IXFR over UDP");
    Ok(())
}

/// Checks that DoT and DoH are counted as encrypted, if the server offers them.
fn encrypted_bytes(server: &Recorded) -> Result<()> {
    let bytes = server.plain.1.pipeline("stream_encrypted_bytes")?;
    ensure!(
        (bytes > 0) == (server.role == Role::Recursive),
        "{bytes} encrypted bytes"
    );
    Ok(())
}

/// Checks that the tap with `--mimic` has the same records as BIND.
fn same_as_named(how: &Combination, server: &Recorded, lag: Duration) -> Result<()> {
    expect_a_full_reference(server)?;
    let (records, summary) = &server.mimic;
    summary.expect_nothing_dropped()?;
    summary.expect_written(records.len())?;
    let rules = Rules {
        outside: &encrypted,
        unknown: &unknown_to_bind,
        only_ours: &not_recorded_by_bind,
    };
    let comparison = compare(&server.reference, records, &rules);
    note(format!("{how}, {}: {comparison}", server.role.name()));
    ensure!(
        comparison.unexplained.is_empty() && comparison.missing.len() as u64 <= summary.missed()?,
        "{comparison}"
    );
    ensure!(
        comparison.times.are_within(lag),
        "clocks differ: {comparison}"
    );
    Ok(())
}

/// Checks that the reference has the types and times that its BIND version is known for, so that ours are compared with
/// them.
fn expect_a_full_reference(server: &Recorded) -> Result<()> {
    let corrected = environment::named_version()? >= (9, 20);
    if server.role == Role::Forwarder {
        let wanted = if corrected {
            Type::ForwarderQuery
        } else {
            Type::ResolverQuery
        };
        ensure!(
            server.reference.iter().any(|record| record.kind == wanted),
            "named recorded no {}",
            wanted.as_str_name()
        );
    }
    let untimed = server
        .reference
        .iter()
        .find(|record| record.is_response() && record.query_time.is_none());
    match untimed {
        Some(record) if corrected => bail!("named recorded no time of the query of {record}"),
        _ => Ok(()),
    }
}

fn encrypted(record: &Record) -> Option<&'static str> {
    [TLS_PORT, HTTPS_PORT]
        .contains(&record.response_port)
        .then_some("BIND records what it has decrypted, at the socket it is ciphertext")
}

/// Returns the fields that BIND leaves out of records of its own queries.
fn unknown_to_bind(record: &Record) -> Option<(&'static str, Unknown)> {
    let unknown = Unknown {
        query_address: record
            .query_address
            .is_none_or(|address| address.is_unspecified()),
        query_port: record.query_port == 0,
        role: false,
    };
    (unknown != Unknown::default()).then_some((
        "BIND records no local address or port of its own queries",
        unknown,
    ))
}

/// Returns the reason for which `named` refuses a query before it selects a view, so that it records nothing.
fn not_recorded_by_bind(record: &Record) -> Option<&'static str> {
    if wire::edns(&record.message).is_some_and(|edns| edns != (0, 0)) {
        return Some("BIND does not record queries of another EDNS version, nor BADVERS");
    }
    let stranger = |bytes: &[u8]| bytes == b"\x08stranger";
    if !record.is_response() && record.message.windows(9).any(stranger) {
        return Some("BIND does not record a query with a bad signature");
    }
    None
}

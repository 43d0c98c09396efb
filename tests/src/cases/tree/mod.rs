//! Every role of a server on the same traffic: each against BIND's own dnstap, against the documented rules, and against the
//! server at the other end.

mod documented;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use super::{note, trial};
use crate::{
    compare::{Rules, Unknown, compare},
    environment::{self, Combination, combinations},
    load::{self, tree::Sent},
    record::Record,
    tree::{self, HTTPS_PORT, Recorded, Role, TLS_PORT, Tree},
    wire,
};

/// Each hook with the first of the rings: what differs between rings is not a matter of roles.
pub(super) fn trials() -> Vec<Trial> {
    let combinations = combinations();
    let ring = combinations.first().map(|how| how.ring.clone());
    combinations
        .into_iter()
        .filter(|how| Some(&how.ring) == ring.as_ref())
        .map(|how| {
            trial(
                format!("{how}: six servers in their roles record what named records"),
                move || tree::isolated(|| six_servers(&how)),
            )
        })
        .collect()
}

fn six_servers(how: &Combination) -> Result<()> {
    let mut tree = Tree::start(how)?;
    let sent = load::tree::run(&mut tree)?;
    let recorded = tree.finish()?;
    let mut failures = Vec::new();
    let mut outcome = |of: &str, result: Result<()>| {
        if let Err(error) = result {
            failures.push(format!("{of}: {error:#}"));
        }
    };
    for server in &recorded {
        let name = server.role.name();
        outcome(name, same_as_named(how, server));
        outcome(name, documented::check(server));
        outcome(name, encrypted_bytes(server));
        for other in recorded.iter().filter(|other| other.role != server.role) {
            outcome(name, both_ends(server, other));
        }
    }
    for role in [Role::Zone, Role::Secondary] {
        let records = &recorded[role as usize].plain.0;
        outcome(role.name(), whole_transfers(records, &sent));
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

/// What passed between two servers is the same in both files; something did, where one asks the other.
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

/// The frames of each AXFR of the large zone hold all of its records.
fn whole_transfers(records: &[Record], sent: &Sent) -> Result<()> {
    let mut transfers = documented::transfers(records, "big.lab");
    transfers.sort_unstable();
    note(format!(
        "AXFR of big.lab (messages, records): {transfers:?}"
    ));
    let whole = transfers
        .iter()
        .filter(|(_, answers)| *answers == sent.records)
        .count();
    ensure!(
        whole >= 2 && transfers.iter().all(|(messages, _)| *messages > 1),
        "{} records by AXFR: {transfers:?}",
        sent.records
    );
    Ok(())
}

/// DoT and DoH are counted as ciphertext, where they are served.
fn encrypted_bytes(server: &Recorded) -> Result<()> {
    let bytes = server.plain.1.pipeline("stream_encrypted_bytes")?;
    ensure!(
        (bytes > 0) == (server.role == Role::Recursive),
        "{bytes} encrypted bytes"
    );
    Ok(())
}

/// The tap that names messages as BIND does has what BIND has.
fn same_as_named(how: &Combination, server: &Recorded) -> Result<()> {
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
    let skew = environment::skew()?;
    ensure!(comparison.skew < skew, "clocks differ: {comparison}");
    Ok(())
}

fn encrypted(record: &Record) -> Option<&'static str> {
    [TLS_PORT, HTTPS_PORT]
        .contains(&record.response_port)
        .then_some("BIND records what it has decrypted, at the socket it is ciphertext")
}

/// What BIND leaves out of records of its own queries.
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

/// What `named` refuses before it knows which view is asked, and so records nothing.
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

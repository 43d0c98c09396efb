//! The rules of `docs/types.md`, implemented a second time, and checked on the records of the tap without `--mimic`.

use std::collections::HashMap;

use anyhow::{Context as _, Result, ensure};
use dnstap_proto::{SocketProtocol, message::Type};

use crate::{
    compare::{Rules, Unknown, compare},
    record::Record,
    tree::{Recorded, Role},
    wire,
};

/// Checks everything that can be checked on one server's file.
pub(super) fn check(server: &Recorded) -> Result<()> {
    let (records, summary) = &server.plain;
    summary.expect_nothing_dropped()?;
    summary.expect_written(records.len())?;
    superset(server)?;
    types_and_times(server.role, records)
}

/// Checks that all records of the tap with `--mimic` are also here, with any type.
fn superset(server: &Recorded) -> Result<()> {
    let rules = Rules {
        outside: &|_| None,
        unknown: &|_| {
            let unknown = Unknown {
                role: true,
                ..Unknown::default()
            };
            Some(("its type is another matter", unknown))
        },
        only_ours: &|_| Some("BIND leaves it out"),
    };
    let comparison = compare(&server.mimic.0, &server.plain.0, &rules);
    ensure!(comparison.holds(), "{comparison}");
    Ok(())
}

/// Checks that each query has the type that follows from its header, and that each response has the type and the time
/// of a query before it.
fn types_and_times(role: Role, records: &[Record]) -> Result<()> {
    let mut asked: HashMap<_, &Record> = HashMap::new();
    for record in records {
        let initiator = record.response_address.and_then(Role::of) != Some(role);
        let id = record.message.get(..2);
        let exchange = (
            record.protocol,
            (record.query_address, record.query_port),
            (record.response_address, record.response_port),
            id,
        );
        ensure!(
            record.is_response() == wire::is_response(&record.message),
            "a query is a response: {record}"
        );
        if !record.is_response() {
            let expected = of_query(initiator, &record.message);
            ensure!(
                record.kind == expected,
                "not {}: {record}",
                expected.as_str_name()
            );
            asked.insert(exchange, record);
            continue;
        }
        let query = asked
            .get(&exchange)
            .with_context(|| format!("no query before {record}"))?;
        ensure!(
            record.kind as i32 == query.kind as i32 + 1,
            "{record} answers {query}"
        );
        ensure!(
            record.query_time == Some(query.time) && record.time >= query.time,
            "times {:?} and {:?} of {record}, asked at {:?}",
            record.query_time,
            record.time,
            query.time
        );
    }
    Ok(())
}

/// Returns the type of a query in the generic profile.
fn of_query(initiator: bool, message: &[u8]) -> Type {
    let transfer = matches!(
        wire::question(message),
        Some((_, wire::TYPE_AXFR | wire::TYPE_IXFR))
    );
    let zones = transfer || wire::opcode(message) == Some(wire::OPCODE_NOTIFY);
    let recursion = wire::recursion_desired(message) && !zones;
    match (initiator, recursion) {
        _ if wire::opcode(message) == Some(wire::OPCODE_UPDATE) => Type::UpdateQuery,
        (true, true) => Type::ForwarderQuery,
        (true, false) => Type::ResolverQuery,
        (false, true) => Type::ClientQuery,
        (false, false) => Type::AuthQuery,
    }
}

/// Returns the numbers of messages and records in the responses of each transfer over TCP with this query type.
pub(super) fn transfers(records: &[Record], zone: &str, kind: u16) -> Vec<(usize, usize)> {
    let connection = |record: &Record| (record.query_address, record.query_port);
    let mut open: HashMap<_, (usize, usize)> = HashMap::new();
    let tcp = |record: &&Record| record.protocol == SocketProtocol::Tcp;
    for record in records.iter().filter(tcp) {
        if record.is_response() {
            if let Some((messages, answers)) = open.get_mut(&connection(record)) {
                *messages += 1;
                *answers += wire::answers(&record.message);
            }
        } else if wire::question(&record.message) == Some((zone.to_owned(), kind)) {
            open.insert(connection(record), (0, 0));
        }
    }
    let mut transfers: Vec<_> = open.into_values().collect();
    transfers.sort_unstable();
    transfers
}

/// Checks that messages between two servers are in both files with the same addresses, ports and bytes. Only messages
/// after the later of the two taps attached count. A datagram that arrived after its socket was closed is only in the
/// file of the responding side.
pub(super) fn same_at_both_ends(one: &Recorded, other: &Recorded) -> Result<usize> {
    let from = one.attached.max(other.attached);
    let between = |server: &Recorded| -> Vec<Record> {
        let ends = |record: &Record| {
            record.query_address.and_then(Role::of) == Some(one.role)
                && record.response_address.and_then(Role::of) == Some(other.role)
        };
        let records = server.plain.0.iter();
        records
            .filter(|record| ends(record) && record.time > from)
            .cloned()
            .map(Record::with_plain_kind)
            .collect()
    };
    // The comparison with the server's own record shows whether a message that had arrived was missed.
    let rules = Rules {
        outside: &|_| None,
        unknown: &|_| None,
        only_ours: &|record| {
            let late = record.is_response() && record.protocol == SocketProtocol::Udp;
            late.then_some("who asked had given up")
        },
    };
    let comparison = compare(&between(one), &between(other), &rules);
    ensure!(
        comparison.holds(),
        "{} (-) and {} (+): {comparison}",
        one.role.name(),
        other.role.name()
    );
    Ok(comparison.matched)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfers_and_notifications_are_of_zones_whatever_rd_says() {
        let mut query = wire::query(1, "big.lab", wire::TYPE_AXFR, true);
        assert_eq!(of_query(false, &query), Type::AuthQuery);
        assert_eq!(of_query(true, &query), Type::ResolverQuery);
        query[2] |= wire::OPCODE_UPDATE << 3;
        assert_eq!(of_query(true, &query), Type::UpdateQuery);
        let query = wire::query(1, "a.lab", wire::TYPE_SOA, true);
        assert_eq!(of_query(true, &query), Type::ForwarderQuery);
    }
}

//! How long answers took, by the process's role and the family of types.
//!
//! As the responder: from the query's arrival to its answer. As the initiator: what other servers took. Zone transfers are
//! not among them: many messages answer one query, and how long that takes tells of the zone.

use crate::{
    histogram::Histogram,
    model::{Kind, MESSAGE_TYPES, Role},
};

/// Families of types: two types each.
const FAMILIES: usize = MESSAGE_TYPES.len() / 2;

/// Names of the roles in the order of [`Role`].
const ROLES: [&str; 2] = ["responder", "initiator"];

/// A histogram for each role and family.
#[derive(Clone, Copy, Debug, Default)]
pub struct Latencies([[Histogram; FAMILIES]; ROLES.len()]);

impl Latencies {
    /// Counts an answer that took this long.
    pub fn record(&mut self, role: Role, kind: Kind, nanoseconds: u64) {
        self.0[role as usize][kind as usize].record(nanoseconds);
    }

    /// Role, family and histogram, where anything was answered.
    pub fn table(&self) -> impl Iterator<Item = (&'static str, &'static str, &Histogram)> {
        let rows = self.0.iter().zip(ROLES);
        rows.flat_map(|(row, role)| {
            let cells = row.iter().zip(MESSAGE_TYPES.chunks(2));
            cells.map(move |(histogram, types)| (role, types[0].family(), histogram))
        })
        .filter(|(_, _, histogram)| histogram.count() > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_listed_by_role_and_family() {
        let mut latencies = Latencies::default();
        latencies.record(Role::Initiator, Kind::Update, 5);
        let (role, kind, histogram) = latencies.table().next().unwrap();
        assert_eq!((role, kind, histogram.count()), ("initiator", "update", 1));
        assert_eq!(latencies.table().count(), 1);
    }
}

//! How long answers took, by the process's role and the family of types.
//!
//! As the responder: from the query's arrival to its answer. As the initiator: what other servers took. Zone transfers are
//! not among them: many messages answer one query, and how long that takes tells of the zone.

use crate::{
    classify::{Kind, Role},
    histogram::Histogram,
};

/// Names of the families in the order of [`Kind`].
const KINDS: [&str; 7] = [
    "auth",
    "resolver",
    "client",
    "forwarder",
    "stub",
    "tool",
    "update",
];

/// Names of the roles in the order of [`Role`].
const ROLES: [&str; 2] = ["responder", "initiator"];

/// A histogram for each role and family.
#[derive(Clone, Copy, Debug, Default)]
pub struct Latencies([[Histogram; KINDS.len()]; ROLES.len()]);

impl Latencies {
    /// With one answer to a client.
    #[cfg(test)]
    pub(crate) fn fixture() -> Self {
        let mut latencies = Self::default();
        latencies.record(Role::Responder, Kind::Client, 1_000_000);
        latencies
    }

    pub(super) fn record(&mut self, role: Role, kind: Kind, nanoseconds: u64) {
        self.0[role as usize][kind as usize].record(nanoseconds);
    }

    /// Role, family and histogram, where anything was answered.
    pub fn table(&self) -> impl Iterator<Item = (&'static str, &'static str, &Histogram)> {
        let rows = self.0.iter().zip(ROLES);
        rows.flat_map(|(row, role)| {
            let cells = row.iter().zip(KINDS);
            cells.map(move |(histogram, kind)| (role, kind, histogram))
        })
        .filter(|(_, _, histogram)| histogram.count() > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::TYPE_NAMES;

    #[test]
    fn families_have_the_names_of_their_types() {
        for (at, kind) in KINDS.iter().enumerate() {
            assert_eq!(TYPE_NAMES[2 * at], format!("{kind}_query"));
        }
        let mut latencies = Latencies::default();
        latencies.record(Role::Initiator, Kind::Update, 5);
        let (role, kind, histogram) = latencies.table().next().unwrap();
        assert_eq!((role, kind, histogram.count()), ("initiator", "update", 1));
        assert_eq!(latencies.table().count(), 1);
    }
}

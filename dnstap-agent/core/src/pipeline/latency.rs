//! Response times, by the process's role and the family of types.
//!
//! If the process is the responder, the time from the arrival of a query to its response. If it is
//! the initiator, the time that other servers took. Zone transfers are left out: many messages
//! answer one query, and their duration depends on the zone.

use crate::{
    histogram::Histogram,
    model::{Kind, MESSAGE_TYPES, Role},
};

/// Number of families; each has two types.
const FAMILIES: usize = MESSAGE_TYPES.len() / 2;

/// Names of the roles in the order of [`Role`].
const ROLES: [&str; 2] = ["responder", "initiator"];

/// Histograms for each role and family.
#[derive(Clone, Copy, Debug, Default)]
pub struct Latencies([[Histogram; FAMILIES]; ROLES.len()]);

impl Latencies {
    /// Counts a response that took this long.
    pub fn record(&mut self, role: Role, kind: Kind, nanoseconds: u64) {
        self.0[role as usize][kind as usize].record(nanoseconds);
    }

    /// Returns role, family and histogram for each combination with responses.
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

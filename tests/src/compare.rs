//! Compares the records of a server's own dnstap with those of the tap: a pure function of two lists of records and the
//! rules that allow for differences.
//!
//! ```text
//! reference ── outside the tap's time? ──► set aside, by rule
//!           ── same record in ours? ─────► matched         (each of ours at most once: multisets)
//!           ── same but for the fields that the reference cannot know? ──► matched, by rule
//!           ── else ─────────────────────► MISSING
//! ours left ── a rule says why? ─────────► explained
//!           ── else ─────────────────────► UNEXPLAINED
//! ```

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use crate::{record::Record, times::Times};

/// Largest number of records of each sort that a report shows.
const SHOWN: usize = 15;

/// Fields that the reference does not know, or names by another rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unknown {
    /// Whether `query_address` is left out of the comparison.
    pub(crate) query_address: bool,
    /// Whether `query_port` is left out of the comparison.
    pub(crate) query_port: bool,
    /// Whether only "query or response" is compared of the kind.
    pub(crate) role: bool,
}

/// Rules by which two lists may differ. Each rule returns its reason.
pub(crate) struct Rules<'a> {
    /// For records of the reference from before the tap was attached.
    pub(crate) outside: &'a dyn Fn(&Record) -> Option<&'static str>,
    /// For records of the reference with fields that the server cannot know.
    pub(crate) unknown: &'a dyn Fn(&Record) -> Option<(&'static str, Unknown)>,
    /// For our records that the server does not record.
    pub(crate) only_ours: &'a dyn Fn(&Record) -> Option<&'static str>,
}

/// Result of a comparison.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    /// Number of records of the reference that are in ours.
    pub(crate) matched: usize,
    /// Number of uses of each rule.
    pub(crate) by_rule: BTreeMap<&'static str, usize>,
    /// Records of the reference that are missing in ours, each with the nearest of ours that has the same bytes and
    /// other fields.
    pub(crate) missing: Vec<(Record, Option<Record>)>,
    /// Records of ours that no rule explains.
    pub(crate) unexplained: Vec<Record>,
    /// Number of matched responses that have their query's time in both lists.
    pub(crate) timed: usize,
    /// Times of all matched records.
    pub(crate) times: Times,
}

impl Comparison {
    /// Returns whether no record is missing or unexplained.
    pub(crate) fn holds(&self) -> bool {
        self.missing.is_empty() && self.unexplained.is_empty()
    }
}

/// Compares the server's own records with ours.
pub(crate) fn compare(reference: &[Record], ours: &[Record], rules: &Rules<'_>) -> Comparison {
    let mut result = Comparison::default();
    let mut left = Left::new(ours);
    let mut with_unknown = Vec::new();
    for record in reference {
        if let Some(reason) = (rules.outside)(record) {
            *result.by_rule.entry(reason).or_default() += 1;
        } else if let Some((reason, unknown)) = (rules.unknown)(record) {
            with_unknown.push((record, reason, unknown));
        } else {
            result.settle(record, left.take(record, Unknown::default()), &left);
        }
    }
    // These come last, so that a record with unknown fields cannot take the match of a record that has them.
    for (record, reason, unknown) in with_unknown {
        *result.by_rule.entry(reason).or_default() += 1;
        result.settle(record, left.take(record, unknown), &left);
    }
    for record in left.into_rest() {
        match (rules.only_ours)(record) {
            Some(reason) => *result.by_rule.entry(reason).or_default() += 1,
            None => result.unexplained.push(record.clone()),
        }
    }
    result
}

impl Comparison {
    fn settle(&mut self, record: &Record, found: Option<&Record>, left: &Left<'_>) {
        if let Some(ours) = found {
            self.matched += 1;
            self.times.add(record, ours);
            self.timed += usize::from(record.query_time.is_some());
        } else {
            self.missing
                .push((record.clone(), left.nearest(record).cloned()));
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "{} matched ({} with their query's time), {} missing, {} unexplained\n  theirs less ours: {}",
            self.matched,
            self.timed,
            self.missing.len(),
            self.unexplained.len(),
            self.times
        )?;
        for (reason, count) in &self.by_rule {
            writeln!(formatter, "  {count:6} by rule: {reason}")?;
        }
        for (record, nearest) in self.missing.iter().take(SHOWN) {
            writeln!(formatter, "  - {record}")?;
            if let Some(nearest) = nearest {
                writeln!(formatter, "    same bytes in ours, but: {nearest}")?;
            }
        }
        for record in self.unexplained.iter().take(SHOWN) {
            writeln!(formatter, "  + {record}")?;
        }
        let hidden =
            self.missing.len().saturating_sub(SHOWN) + self.unexplained.len().saturating_sub(SHOWN);
        if hidden > 0 {
            writeln!(formatter, "  and {hidden} more")?;
        }
        Ok(())
    }
}

/// Our records that no record of the reference has claimed, found by their DNS message.
struct Left<'a> {
    records: &'a [Record],
    taken: Vec<bool>,
    by_message: HashMap<&'a [u8], Vec<usize>>,
}

impl<'a> Left<'a> {
    fn new(records: &'a [Record]) -> Self {
        let mut by_message: HashMap<&[u8], Vec<usize>> = HashMap::new();
        for (index, record) in records.iter().enumerate() {
            by_message.entry(&record.message).or_default().push(index);
        }
        Self {
            records,
            taken: vec![false; records.len()],
            by_message,
        }
    }

    fn take(&mut self, wanted: &Record, unknown: Unknown) -> Option<&'a Record> {
        // Among equal messages, such as repeated queries, take the one with the nearest time.
        let index = self
            .candidates(wanted)
            .filter(|&index| same(wanted, &self.records[index], unknown))
            .min_by_key(|&index| wanted.time.abs_diff(self.records[index].time))?;
        self.taken[index] = true;
        Some(&self.records[index])
    }

    fn nearest(&self, wanted: &Record) -> Option<&'a Record> {
        self.candidates(wanted)
            .next()
            .map(|index| &self.records[index])
    }

    fn candidates(&self, wanted: &Record) -> impl Iterator<Item = usize> {
        let indices = self.by_message.get(wanted.message.as_slice());
        indices
            .into_iter()
            .flatten()
            .copied()
            .filter(|&index| !self.taken[index])
    }

    fn into_rest(self) -> impl Iterator<Item = &'a Record> {
        self.records
            .iter()
            .zip(self.taken)
            .filter(|(_, taken)| !taken)
            .map(|(record, _)| record)
    }
}

fn same(reference: &Record, ours: &Record, unknown: Unknown) -> bool {
    (unknown.role || reference.kind == ours.kind)
        && reference.is_response() == ours.is_response()
        && reference.protocol == ours.protocol
        && (reference.query_time.is_none() || ours.query_time.is_some())
        && reference.message == ours.message
        && reference.response_address == ours.response_address
        && reference.response_port == ours.response_port
        && (unknown.query_address || reference.query_address == ours.query_address)
        && (unknown.query_port || reference.query_port == ours.query_port)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dnstap_proto::SocketProtocol;

    use super::*;
    use crate::wire;

    const STRICT: Rules<'_> = Rules {
        outside: &|_| None,
        unknown: &|_| None,
        only_ours: &|_| None,
    };

    #[test]
    fn equal_lists_match_in_any_order() {
        let comparison = compare(&[record(1), record(2)], &[record(2), record(1)], &STRICT);
        assert!(comparison.holds());
        assert_eq!(comparison.matched, 2);
    }

    #[test]
    fn lists_are_multisets() {
        let comparison = compare(&[record(1), record(1)], &[record(1)], &STRICT);
        assert_eq!((comparison.matched, comparison.missing.len()), (1, 1));
        let comparison = compare(&[record(1)], &[record(1), record(1)], &STRICT);
        assert_eq!((comparison.matched, comparison.unexplained.len()), (1, 1));
    }

    #[test]
    fn equal_messages_match_by_their_times() {
        let at = |seconds| Record {
            time: Duration::from_secs(seconds),
            ..record(1)
        };
        let comparison = compare(&[at(9), at(5)], &[at(5), at(9)], &STRICT);
        assert!(comparison.holds() && comparison.times.are_within(Duration::ZERO));
    }

    #[test]
    fn every_field_counts() {
        let changes: [fn(&mut Record); 7] = [
            |record| record.kind = dnstap_proto::message::Type::ClientQuery,
            |record| record.protocol = SocketProtocol::Tcp,
            |record| record.query_address = None,
            |record| record.query_port += 1,
            |record| record.response_address = Some([127, 0, 0, 9].into()),
            |record| record.response_port += 1,
            |record| record.message[13] ^= 1,
        ];
        for (index, change) in changes.iter().enumerate() {
            let mut ours = record(1);
            change(&mut ours);
            let comparison = compare(&[record(1)], std::slice::from_ref(&ours), &STRICT);
            assert_eq!(
                (comparison.missing.len(), comparison.unexplained.len()),
                (1, 1),
                "change {index}"
            );
            assert_eq!(
                comparison.missing[0].1.is_some(),
                index != 6,
                "the nearest has the same bytes"
            );
            assert!(!comparison.holds());
        }
    }

    #[test]
    fn an_unknown_field_is_not_compared_and_never_takes_an_exact_match() {
        let mut blind = record(1);
        blind.query_port = 0;
        let mut other = record(1);
        other.query_port = 4_000;
        let rules = Rules {
            unknown: &|record| {
                let unknown = Unknown {
                    query_port: true,
                    ..Unknown::default()
                };
                (record.query_port == 0).then_some(("no port", unknown))
            },
            ..STRICT
        };
        let comparison = compare(&[blind.clone(), record(1)], &[record(1), other], &rules);
        assert!(comparison.holds(), "{comparison}");
        assert_eq!(comparison.by_rule["no port"], 1);
        let mut elsewhere = record(1);
        elsewhere.query_address = None;
        assert!(!compare(&[blind], &[elsewhere], &rules).holds());
    }

    #[test]
    fn without_a_role_a_query_is_still_no_response() {
        let rules = Rules {
            unknown: &|_| {
                let unknown = Unknown {
                    role: true,
                    ..Unknown::default()
                };
                Some(("another role", unknown))
            },
            ..STRICT
        };
        let mut ours = record(1);
        ours.kind = dnstap_proto::message::Type::ClientQuery;
        assert!(compare(&[record(1)], std::slice::from_ref(&ours), &rules).holds());
        ours.kind = dnstap_proto::message::Type::ClientResponse;
        assert!(!compare(&[record(1)], &[ours], &rules).holds());
    }

    #[test]
    fn what_only_one_side_has_needs_a_rule() {
        let rules = Rules {
            only_ours: &|record| (record.query_port == 53).then_some("port 53"),
            ..STRICT
        };
        let mut explained = record(1);
        explained.query_port = 53;
        let comparison = compare(&[], &[explained, record(2)], &rules);
        assert_eq!(
            (comparison.by_rule["port 53"], comparison.unexplained.len()),
            (1, 1)
        );
        let rules = Rules {
            outside: &|_| Some("too early"),
            ..STRICT
        };
        assert!(compare(&[record(1)], &[], &rules).holds());
    }

    fn record(id: u16) -> Record {
        let query = wire::query(id, "a.lab", wire::TYPE_A, true);
        let (client, server) = (([127, 0, 0, 1], 1_000).into(), ([127, 0, 0, 1], 53).into());
        Record::expected(SocketProtocol::Udp, client, server, query)
    }
}

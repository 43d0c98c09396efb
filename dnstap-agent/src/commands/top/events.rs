//! Events in the view: counts of all kinds, the newest ones that are rare, and the cache by trust and type.
//!
//! Everything counts since the start, because most events are too rare for a window of seconds. Memory is
//! bounded: [`NEWEST`] lines of each list, [`UNDER_WAY`] events that have not ended, and a row for each
//! record type.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Buf as _, Bytes};
use dnstap_core::{dns, events::EventKind};
use dnstap_proto::{
    Cache, Event, RateLimit, Transfer, Trust,
    cache::Outcome,
    event::{Kind, Phase},
    prost::Message as _,
};

use crate::{
    formats::{
        Content,
        render::{self, Renderer},
    },
    tally::tables::Table,
};

/// Lines that each list of newest events holds; more than terminals have.
const NEWEST: usize = 200;

/// Transfers and limits under way that are held. Of more, the first in their order are shown.
const UNDER_WAY: usize = 1_000;

/// Columns of a table of the cache: what follows the first is in the order of [`OUTCOMES`].
const BY_TRUST: &[&str] = &[
    "TRUST",
    "ADDED",
    "REFRESHED",
    "CHANGED",
    "RAISED",
    "NEGATIVE",
    "REFUSED",
];
const BY_TYPE: &[&str] = &[
    "TYPE",
    "ADDED",
    "REFRESHED",
    "CHANGED",
    "RAISED",
    "NEGATIVE",
    "REFUSED",
];
const OUTCOMES: [Outcome; 6] = [
    Outcome::Added,
    Outcome::Refreshed,
    Outcome::Changed,
    Outcome::TrustRaised,
    Outcome::Negative,
    Outcome::Refused,
];

/// Counts of RRsets by [`OUTCOMES`].
type Outcomes = [u64; OUTCOMES.len()];

/// Events since the start.
#[derive(Debug)]
pub(super) struct EventTally {
    renderer: Renderer,
    /// Counts in the order of [`EventKind::ALL`].
    counts: [u64; EventKind::ALL.len()],
    /// Frames that hold no event of a known kind.
    unknown: u64,
    ns_changes: Newest,
    purges: Newest,
    transfers: Newest,
    limits: Newest,
    /// Lines of what has begun and not ended.
    under_way: BTreeMap<Vec<u8>, String>,
    by_trust: BTreeMap<i32, Outcomes>,
    by_type: BTreeMap<u32, Outcomes>,
}

/// What a view shows of the events: the tables of each page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct EventView {
    /// Counts by kind, new name servers, purges.
    pub(super) changes: Vec<Table>,
    /// Transfers and limits: under way, and ended.
    pub(super) transfers: Vec<Table>,
    /// RRsets by trust and by type.
    pub(super) cache: Vec<Table>,
    /// Whether a name has got new name servers.
    pub(super) has_ns_changes: bool,
}

/// The newest lines of a list, newest first.
#[derive(Debug, Default)]
struct Newest(VecDeque<String>);

impl Newest {
    fn add(&mut self, line: String) {
        self.0.truncate(NEWEST - 1);
        self.0.push_front(line);
    }

    fn table(&self, title: &str, most: usize) -> Table {
        lines(title, self.0.iter().take(most))
    }
}

impl Default for EventTally {
    fn default() -> Self {
        Self {
            renderer: Renderer::new(Content::Text, false),
            counts: Default::default(),
            unknown: 0,
            ns_changes: Newest::default(),
            purges: Newest::default(),
            transfers: Newest::default(),
            limits: Newest::default(),
            under_way: BTreeMap::new(),
            by_trust: BTreeMap::new(),
            by_type: BTreeMap::new(),
        }
    }
}

impl EventTally {
    /// Counts whole frames, each behind its length.
    pub(super) fn take(&mut self, mut frames: Bytes) {
        while frames.len() >= 4 {
            let length = usize::try_from(frames.get_u32()).unwrap_or(usize::MAX);
            let frame = frames.split_to(length.min(frames.len()));
            match Event::decode(frame) {
                Ok(event) => self.count(&event),
                Err(_) => self.unknown += 1,
            }
        }
    }

    fn count(&mut self, event: &Event) {
        let Some(content) = &event.kind else {
            self.unknown += 1;
            return;
        };
        self.counts[EventKind::of(content) as usize] += 1;
        match content {
            Kind::Transfer(_) => {
                let line = self.line(event);
                if self.is_end(event, &line) {
                    self.transfers.add(line);
                }
            }
            Kind::RateLimit(_) => {
                let line = self.line(event);
                if self.is_end(event, &line) {
                    self.limits.add(line);
                }
            }
            Kind::NsChange(_) => {
                let line = self.line(event);
                self.ns_changes.add(line);
            }
            Kind::Purge(_) => {
                let line = self.line(event);
                self.purges.add(line);
            }
            Kind::Cache(cache) => self.count_rrset(cache),
            Kind::Expiry(_) | Kind::Unanswered(_) => {}
        }
    }

    /// Notes that something begins or ends. Returns whether it has ended.
    fn is_end(&mut self, event: &Event, line: &str) -> bool {
        let key = key(event);
        if event.phase() == Phase::Start {
            if self.under_way.len() < UNDER_WAY || self.under_way.contains_key(&key) {
                self.under_way.insert(key, line.to_owned());
            }
            return false;
        }
        self.under_way.remove(&key);
        true
    }

    fn count_rrset(&mut self, cache: &Cache) {
        let outcome = OUTCOMES.iter().position(|is| *is == cache.outcome());
        let Some(outcome) = outcome.filter(|_| cache.outcome.is_some()) else {
            return;
        };
        let kind = cache.r#type.filter(|kind| u16::try_from(*kind).is_ok());
        self.by_type.entry(kind.unwrap_or(0)).or_default()[outcome] += 1;
        let trust = cache.trust.filter(|trust| Trust::try_from(*trust).is_ok());
        let trust = trust.unwrap_or(Trust::None.into());
        self.by_trust.entry(trust).or_default()[outcome] += 1;
    }

    fn line(&mut self, event: &Event) -> String {
        let mut line = Vec::new();
        self.renderer.event(event, &mut line);
        String::from_utf8_lossy(&line).trim_end().to_owned()
    }

    /// Returns the tables, each with at most this many rows.
    pub(super) fn view(&self, most: usize) -> EventView {
        let counts = EventKind::ALL.iter().zip(self.counts);
        let mut rows: Vec<_> = counts
            .filter(|(_, count)| *count > 0)
            .map(|(kind, count)| vec![kind.name().to_owned(), count.to_string()])
            .collect();
        if self.unknown > 0 {
            rows.push(vec!["unknown".to_owned(), self.unknown.to_string()]);
        }
        let kinds = Table {
            title: "Events since the start".to_owned(),
            columns: &["KIND", "COUNT"],
            rows,
        };
        let trusts = self.by_trust.iter().rev().map(|(trust, counts)| {
            let trust = Trust::try_from(*trust).unwrap_or(Trust::None);
            (render::trust(trust), counts)
        });
        let mut types: Vec<_> = self.by_type.iter().collect();
        types.sort_by_key(|(_, counts)| std::cmp::Reverse(counts.iter().sum::<u64>()));
        let types = types.into_iter().map(|(kind, counts)| {
            let kind = u16::try_from(*kind).unwrap_or_default();
            (dns::Type(kind).to_string(), counts)
        });
        EventView {
            changes: vec![
                kinds,
                self.ns_changes
                    .table("New name servers, newest first", most),
                self.purges.table("Purges, newest first", most),
            ],
            transfers: vec![
                lines(
                    "Transfers and rate limits under way",
                    self.under_way.values().take(most),
                ),
                self.transfers.table("Transfers, newest first", most),
                self.limits.table("Rate limits, newest first", most),
            ],
            cache: vec![
                rrsets("RRsets into the cache, by trust", BY_TRUST, trusts, most),
                rrsets("RRsets into the cache, by type", BY_TYPE, types, most),
            ],
            has_ns_changes: !self.ns_changes.0.is_empty(),
        }
    }
}

impl EventView {
    /// Returns the tables of all pages.
    pub(super) fn tables(&self) -> impl Iterator<Item = &Table> {
        [&self.changes, &self.transfers, &self.cache]
            .into_iter()
            .flatten()
    }
}

/// Returns what a start and its end have in common, encoded.
fn key(event: &Event) -> Vec<u8> {
    let kind = event.kind.clone().map(|kind| match kind {
        Kind::Transfer(transfer) => Kind::Transfer(Transfer {
            direction: transfer.direction,
            zone: transfer.zone,
            class: transfer.class,
            peer_address: transfer.peer_address,
            peer_port: transfer.peer_port,
            ..Transfer::default()
        }),
        Kind::RateLimit(limit) => Kind::RateLimit(RateLimit {
            client_address: limit.client_address,
            client_prefix_length: limit.client_prefix_length,
            name: limit.name,
            class: limit.class,
            r#type: limit.r#type,
            category: limit.category,
            ..RateLimit::default()
        }),
        other => other,
    });
    let common = Event {
        source: event.source,
        process_id: event.process_id,
        view: event.view.clone(),
        kind,
        ..Event::default()
    };
    common.encode_to_vec()
}

fn lines<'l>(title: &str, lines: impl Iterator<Item = &'l String>) -> Table {
    Table {
        title: title.to_owned(),
        columns: &["EVENT"],
        rows: lines.map(|line| vec![line.clone()]).collect(),
    }
}

fn rrsets<'c>(
    title: &str,
    columns: &'static [&'static str],
    counts: impl Iterator<Item = (String, &'c Outcomes)>,
    most: usize,
) -> Table {
    let row = |(first, counts): (String, &Outcomes)| {
        let counts = counts.iter().map(u64::to_string);
        std::iter::once(first).chain(counts).collect()
    };
    Table {
        title: title.to_owned(),
        columns,
        rows: counts.take(most).map(row).collect(),
    }
}

#[cfg(test)]
mod tests {
    use dnstap_proto::{NsChange, Unanswered};

    use super::*;

    #[test]
    fn what_begins_is_under_way_until_it_ends() {
        let mut tally = EventTally::default();
        let limit = |dropped| {
            Kind::RateLimit(RateLimit {
                client_address: Some(Bytes::from_static(&[192, 0, 2, 0])),
                client_prefix_length: Some(24),
                dropped,
                ..RateLimit::default()
            })
        };
        let transfer = |zone: &'static [u8], status: Option<&str>| {
            Kind::Transfer(Transfer {
                zone: Some(Bytes::from_static(zone)),
                status: status.map(str::to_owned),
                ..Transfer::default()
            })
        };
        take(
            &mut tally,
            &[
                (Phase::Start, transfer(b"\x01a\0", None)),
                (Phase::Start, transfer(b"\x01b\0", None)),
                (Phase::Start, limit(None)),
                (Phase::End, transfer(b"\x01a\0", Some("success"))),
                (Phase::End, limit(Some(7))),
            ],
        );
        let view = tally.view(10);
        let [under_way, transfers, limits] = &view.transfers[..] else {
            panic!("{view:?}");
        };
        for (table, words) in [
            (under_way, " b. "),
            (transfers, " a. "),
            (limits, "192.0.2.0/24"),
        ] {
            assert_eq!(table.rows.len(), 1, "{table:?}");
            assert!(table.rows[0][0].contains(words), "{table:?}");
        }
        assert_eq!(
            view.changes[0].rows,
            [["transfer", "3"], ["rate-limit", "2"], ["unknown", "1"]]
        );
    }

    #[test]
    fn rrsets_are_counted_by_trust_and_by_type() {
        let mut tally = EventTally::default();
        let rrset = |kind, trust: Trust, outcome: Outcome| {
            let cache = Cache {
                r#type: Some(kind),
                trust: Some(trust.into()),
                outcome: Some(outcome.into()),
                ..Cache::default()
            };
            (Phase::Point, Kind::Cache(cache))
        };
        take(
            &mut tally,
            &[
                rrset(28, Trust::Glue, Outcome::Added),
                rrset(1, Trust::Answer, Outcome::Added),
                rrset(1, Trust::Answer, Outcome::Refused),
                rrset(70_000, Trust::Answer, Outcome::Added),
            ],
        );
        let view = tally.view(10);
        assert_eq!(
            view.cache[0].rows,
            [
                ["answer", "2", "0", "0", "0", "0", "1"],
                ["glue", "1", "0", "0", "0", "0", "0"]
            ]
        );
        assert_eq!(view.cache[1].rows[0], ["A", "1", "0", "0", "0", "0", "1"]);
        assert_eq!(view.cache[1].rows.len(), 3);
    }

    #[test]
    fn the_newest_come_first_and_old_ones_go() {
        let mut tally = EventTally::default();
        let change = |ttl| {
            let change = NsChange {
                ttl: Some(ttl),
                ..NsChange::default()
            };
            (Phase::Point, Kind::NsChange(change))
        };
        let changes: Vec<_> = (0..300).map(change).collect();
        take(&mut tally, &changes);
        take(
            &mut tally,
            &[(Phase::Point, Kind::Unanswered(Unanswered::default()))],
        );
        let view = tally.view(1_000);
        let rows = &view.changes[1].rows;
        assert_eq!(rows.len(), NEWEST);
        assert!(rows[0][0].contains("TTL 299"), "{rows:?}");
        assert!(view.has_ns_changes);
        assert_eq!(tally.view(3).changes[1].rows.len(), 3);
    }

    fn take(tally: &mut EventTally, events: &[(Phase, Kind)]) {
        let mut frames = vec![0, 0, 0, 1, 0xff];
        for (phase, kind) in events {
            let event = Event {
                phase: Some((*phase).into()),
                kind: Some(kind.clone()),
                ..Event::default()
            };
            let frame = event.encode_to_vec();
            frames.extend(u32::try_from(frame.len()).expect("short").to_be_bytes());
            frames.extend(frame);
        }
        tally.take(frames.into());
        assert!(tally.unknown > 0);
    }
}

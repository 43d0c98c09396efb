//! Zone transfers, from lines of the log: categories `xfer-in` (BIND's lib/dns/xfrin.c, lib/dns/zone.c) and `xfer-out`
//! (lib/ns/xfrout.c).
//!
//! ```text
//! transfer of 'example.test/IN' from 127.0.0.1#53: connected using 127.0.0.2#40001 TSIG key       START
//! transfer of 'example.test/IN' from 127.0.0.1#53: Transfer status: success                       kept
//! transfer of 'example.test/IN' from 127.0.0.1#53: Transfer completed: 6 messages, ...            END
//! client @0x7f... 127.0.0.1#4711/key t (example.test): transfer of 'example.test/IN':
//!     AXFR started: TSIG t (serial 1)                                                             START
//!     AXFR ended: 6 messages, 3014 records, 66289 bytes, 0.015 secs (... bytes/sec) (serial 1)    END
//! ```
//!
//! The text is read strictly: a line of another form gives no event, and is counted.

use std::{hash::BuildHasher as _, net::IpAddr};

use dnstap_proto::{
    Transfer,
    event::{Kind as Content, Phase},
    transfer::Direction,
};
use foldhash::fast::RandomState;

use super::{Report, names};
use crate::{
    dns::{Class, Type},
    lru::Lru,
};

/// Most transfers that are remembered.
const TRANSFERS: usize = 4_096;

/// Time for which the status of a transfer waits for the line with the counts, in nanoseconds. One function writes both.
const PATIENCE_NS: u64 = 1_000_000_000;

/// Transfers under way.
#[derive(Debug)]
pub(super) struct Transfers {
    under_way: Lru<UnderWay>,
    forgotten: u64,
    hasher: RandomState,
}

#[derive(Debug)]
struct UnderWay {
    process_id: u32,
    view: Option<String>,
    since_ktime_ns: Option<u64>,
    /// Facts from earlier lines.
    known: Transfer,
    /// Time of the line with the status.
    status_ktime_ns: Option<u64>,
}

/// Message about a transfer, with the transfer that it is about.
struct About<'t> {
    direction: Direction,
    zone: &'t str,
    peer: &'t str,
    view: Option<&'t str>,
    message: &'t str,
}

/// Counts at the end of a transfer.
#[derive(Debug, PartialEq, Eq)]
struct Counts {
    messages: u64,
    records: u64,
    bytes: u64,
    duration_ns: u64,
    serial: Option<u32>,
}

impl Default for Transfers {
    fn default() -> Self {
        Self {
            under_way: Lru::new(TRANSFERS),
            forgotten: 0,
            hasher: RandomState::default(),
        }
    }
}

impl Transfers {
    /// Returns the number of transfers that were given up to make room.
    pub(super) const fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Forgets the transfers of a process. Those whose status is known still end by time.
    pub(super) fn process_ended(&mut self, process_id: u32) {
        self.under_way.extract(|under_way| {
            under_way.process_id == process_id && under_way.status_ktime_ns.is_none()
        });
    }

    /// Takes a line of the log. Returns `None` if its form is not known.
    pub(super) fn line(
        &mut self,
        ktime_ns: u64,
        process_id: u32,
        text: &str,
        reports: &mut Vec<Report>,
    ) -> Option<()> {
        let Some(about) = About::parse(text) else {
            return is_known_otherwise(text).then_some(());
        };
        let is_in = about.direction == Direction::In;
        let key = (process_id, is_in, about.zone, about.peer);
        let key = self.hasher.hash_one(key);
        let mut known = about.transfer()?;
        let view = about.zone()?.2.or(about.view).map(str::to_owned);
        let new = |known| UnderWay {
            process_id,
            view: view.clone(),
            since_ktime_ns: None,
            known,
            status_ktime_ns: None,
        };
        let mut report = |phase, content: Transfer| {
            reports.push(Report {
                ktime_ns,
                process_id,
                phase,
                view: view.clone(),
                content: Content::Transfer(content),
            });
        };
        let message = about.message;
        if is_in && let Some(by) = message.strip_prefix("connected using ") {
            known.tls = by.contains(" TLS").then_some(true);
            if let Some((_, key)) = by.split_once(" TSIG ") {
                known.tsig_key = names::parse(key.split(' ').next()?).map(Into::into);
            }
        } else if !is_in && let Some(started) = Started::parse(message) {
            known.requested = Some(started.requested.0.into());
            known.answered = Some(started.answered.0.into());
            (known.old_serial, known.new_serial) = started.serials;
            known.tsig_key = started.key.and_then(names::parse).map(Into::into);
        } else if is_in && let Some(status) = message.strip_prefix("Transfer status: ") {
            let mut under_way = self.under_way.remove(key).unwrap_or_else(|| new(known));
            under_way.known.status = Some(status.to_owned());
            under_way.status_ktime_ns = Some(ktime_ns);
            self.insert(key, under_way);
            return Some(());
        } else if let Some(counts) = Counts::parse(message) {
            let mut ended = self.under_way.remove(key).unwrap_or_else(|| new(known));
            ended.known.messages = Some(counts.messages);
            ended.known.records = Some(counts.records);
            ended.known.bytes = Some(counts.bytes);
            ended.known.duration_ns = Some(counts.duration_ns);
            // The receiver has no serial when it has no zone.
            ended.known.new_serial = counts
                .serial
                .filter(|serial| *serial != 0)
                .or(ended.known.new_serial);
            if !is_in {
                ended.known.status = Some("success".to_owned());
            }
            report(Phase::End, ended.known);
            return Some(());
        } else if !is_in && message.starts_with("IXFR poll up to date") {
            known.requested = Some(Type::IXFR.0.into());
            known.status = Some("up to date".to_owned());
            report(Phase::Point, known);
            return Some(());
        } else if !is_in && let Some(error) = failure(message) {
            let mut ended = self.under_way.remove(key).unwrap_or_else(|| new(known));
            ended.known.status = Some(error.to_owned());
            let since = ended.since_ktime_ns;
            ended.known.duration_ns = since.map(|since| ktime_ns.saturating_sub(since));
            report(Phase::End, ended.known);
            return Some(());
        } else {
            return is_known_detail(message).then_some(());
        }
        report(Phase::Start, known.clone());
        let under_way = UnderWay {
            since_ktime_ns: Some(ktime_ns),
            ..new(known)
        };
        self.insert(key, under_way);
        Some(())
    }

    /// Reports the transfers whose status is known for a while: a server may write no counts.
    pub(super) fn tick(&mut self, now_ktime_ns: u64, reports: &mut Vec<Report>) {
        let is_over = |under_way: &UnderWay| {
            let status = under_way.status_ktime_ns;
            status.is_some_and(|at| now_ktime_ns.saturating_sub(at) > PATIENCE_NS)
        };
        for mut ended in self.under_way.extract(is_over) {
            let at = ended.status_ktime_ns.unwrap_or(now_ktime_ns);
            let since = ended.since_ktime_ns;
            ended.known.duration_ns = since.map(|since| at.saturating_sub(since));
            reports.push(Report {
                ktime_ns: at,
                process_id: ended.process_id,
                phase: Phase::End,
                view: ended.view,
                content: Content::Transfer(ended.known),
            });
        }
    }

    fn insert(&mut self, key: u64, under_way: UnderWay) {
        let displaced = self.under_way.insert(key, under_way);
        self.forgotten += u64::from(displaced.is_some_and(|(other, _)| other != key));
    }
}

impl<'t> About<'t> {
    fn parse(text: &'t str) -> Option<Self> {
        let (before, behind) = text.split_once("transfer of '")?;
        let (zone, rest) = behind.split_once('\'')?;
        if let Some(client) = before.strip_prefix("client ") {
            // client @ADDRESS PEER[/key NAME] (QUESTION)[: view NAME]:
            let mut words = client.split(' ');
            let peer = words.find(|word| word.contains('#'))?;
            let peer = peer.strip_suffix("/key").unwrap_or(peer);
            let view = client.split_once("): view ");
            return Some(Self {
                direction: Direction::Out,
                zone,
                peer: peer.trim_end_matches(':'),
                view: view.and_then(|(_, view)| view.strip_suffix(": ")),
                message: rest.strip_prefix(": ")?,
            });
        }
        // BIND 9.20 has the address of the transfer in front.
        let is_alone = before.is_empty() || before.starts_with("0x") && before.ends_with(": ");
        if !is_alone {
            return None;
        }
        let (peer, message) = rest.strip_prefix(" from ")?.split_once(": ")?;
        Some(Self {
            direction: Direction::In,
            zone,
            peer,
            view: None,
            message,
        })
    }

    /// Returns the name and the class of the zone, and its view: `example.test/IN`, or `example.test/IN/inside` of a
    /// transfer from another server. A view may have the name of a class, and a zone may have a slash in its name.
    fn zone(&self) -> Option<(&'t str, Class, Option<&'t str>)> {
        let (before, last) = self.zone.rsplit_once('/')?;
        let in_view = before.rsplit_once('/').and_then(|(name, class)| {
            let class = class.parse().ok()?;
            Some((name, class, Some(last)))
        });
        in_view.or_else(|| Some((before, last.parse().ok()?, None)))
    }

    fn transfer(&self) -> Option<Transfer> {
        let (zone, class, _) = self.zone()?;
        let (address, port) = self.peer.split_once('#')?;
        let bytes = match address.split('%').next()?.parse().ok()? {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        Some(Transfer {
            direction: Some(self.direction as i32),
            zone: Some(names::parse(zone)?.into()),
            class: Some(class.0.into()),
            peer_address: Some(bytes.into()),
            peer_port: Some(port.parse::<u16>().ok()?.into()),
            ..Transfer::default()
        })
    }
}

/// Start of a transfer to another server.
struct Started<'t> {
    requested: Type,
    answered: Type,
    key: Option<&'t str>,
    serials: (Option<u32>, Option<u32>),
}

impl<'t> Started<'t> {
    /// Reads `AXFR started: TSIG key (serial 1)` and the like.
    fn parse(message: &'t str) -> Option<Self> {
        let (kind, rest) = message.split_once(" started")?;
        let (requested, answered) = match kind {
            "AXFR" => (Type::AXFR, Type::AXFR),
            "IXFR" => (Type::IXFR, Type::IXFR),
            "AXFR-style IXFR" => (Type::IXFR, Type::AXFR),
            _ => return None,
        };
        let (key, serials) = rest.strip_suffix(')')?.rsplit_once(" (serial ")?;
        let key = match key {
            "" => None,
            key => Some(key.strip_prefix(": TSIG ")?),
        };
        let serials = match serials.split_once(" -> ") {
            Some((old, new)) => (Some(old.parse().ok()?), Some(new.parse().ok()?)),
            None => (None, Some(serials.parse().ok()?)),
        };
        Some(Self {
            requested,
            answered,
            key,
            serials,
        })
    }
}

impl Counts {
    /// Reads `Transfer completed: 6 messages, 3014 records, 65611 bytes, 0.012 secs (1 bytes/sec) (serial 1)` and the
    /// like.
    fn parse(message: &str) -> Option<Self> {
        let (kind, rest) = message
            .split_once(" ended: ")
            .or_else(|| message.split_once(" completed: "))?;
        if !["AXFR", "IXFR", "AXFR-style IXFR", "Transfer"].contains(&kind) {
            return None;
        }
        let mut parts = rest.split(", ");
        let mut number =
            |unit: &str| -> Option<u64> { parts.next()?.strip_suffix(unit)?.parse().ok() };
        let (messages, records) = (number(" messages")?, number(" records")?);
        let bytes = number(" bytes")?;
        let (seconds, behind) = parts.next()?.split_once(" secs ")?;
        let (whole, milliseconds) = seconds.split_once('.')?;
        let whole: u64 = whole.parse().ok()?;
        let milliseconds: u64 = milliseconds.parse().ok()?;
        let serial = match behind.split_once("(serial ") {
            Some((_, serial)) => Some(serial.strip_suffix(')')?.parse().ok()?),
            None => None,
        };
        Some(Self {
            messages,
            records,
            bytes,
            duration_ns: whole
                .checked_mul(1_000)?
                .checked_add(milliseconds)?
                .checked_mul(1_000_000)?,
            serial,
        })
    }
}

/// Returns the reason if the message reports that the server gave up a transfer to another server.
fn failure(message: &str) -> Option<&str> {
    [
        "send: ",
        "sending zone data: ",
        "aborted: ",
        "request denied: ",
    ]
    .into_iter()
    .find_map(|words| message.strip_prefix(words))
}

/// Returns whether the message is one that comes in addition to others, and says nothing that an event has.
fn is_known_detail(message: &str) -> bool {
    [
        "failed while ",
        "failed to connect: ",
        "connected but unable to transfer",
        "resetting",
        "retrying with AXFR",
        "got incremental response",
        "got nonincremental response",
        "IXFR version not in journal",
        "IXFR delta size",
        "IXFR delta response disabled",
        "sending IXFR UDP response",
        "zone transfer setup failed",
        "freeing transfer context",
        "missing question section",
        "maximum transfer time exceeded",
        "maximum idle time exceeded",
        "too many records",
        "serial number in response",
    ]
    .iter()
    .any(|words| message.starts_with(words))
}

/// Returns whether the line is about a zone rather than about a transfer with its peer.
fn is_known_otherwise(text: &str) -> bool {
    text.starts_with("zone ")
        && [
            ": Transfer started.",
            ": transferred serial ",
            ": zone transfer deferred due to quota",
            ": zone transfer finished: ",
            ": requesting ",
            ": no database exists yet, requesting AXFR of initial version from ",
        ]
        .iter()
        .any(|words| text.contains(words))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn take(transfers: &mut Transfers, text: &str) -> Option<Vec<(Phase, Transfer)>> {
        let mut reports = Vec::new();
        transfers.line(5_000, 7, text, &mut reports)?;
        Some(reports.into_iter().map(transfer).collect())
    }

    fn transfer(report: Report) -> (Phase, Transfer) {
        match report.content {
            Content::Transfer(transfer) => (report.phase, transfer),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_transfer_in_has_its_status_and_its_counts() {
        for prefix in ["", "0x7f00001234: "] {
            let mut transfers = Transfers::default();
            let mut said = |message: &str| {
                let line =
                    format!("{prefix}transfer of 'example.test/IN' from 127.0.0.1#53: {message}");
                take(&mut transfers, &line).expect("a known line")
            };
            let started = said("connected using 127.0.0.2#40001 TSIG key.test");
            let (phase, started) = &started[0];
            assert_eq!(*phase, Phase::Start);
            assert_eq!(started.direction, Some(Direction::In as i32));
            assert_eq!(started.peer_address.as_deref(), Some(&[127, 0, 0, 1][..]));
            assert_eq!((started.peer_port, started.class), (Some(53), Some(1)));
            assert_eq!(started.tsig_key.as_deref(), Some(&b"\x03key\x04test\0"[..]));
            assert_eq!(said("Transfer status: success"), []);
            let ended = said(
                "Transfer completed: 6 messages, 3014 records, 65611 bytes, 1.012 secs (64832 bytes/sec) (serial 9)",
            );
            let (phase, ended) = &ended[0];
            assert_eq!(*phase, Phase::End);
            assert_eq!(ended.status.as_deref(), Some("success"));
            assert_eq!(
                (ended.messages, ended.records, ended.bytes),
                (Some(6), Some(3_014), Some(65_611))
            );
            assert_eq!(
                (ended.duration_ns, ended.new_serial),
                (Some(1_012_000_000), Some(9))
            );
            assert_eq!(
                ended.tsig_key, started.tsig_key,
                "it is known from the start"
            );
        }
    }

    #[rstest]
    #[case("example.test/IN", b"\x07example\x04test\0", None)]
    #[case("example.test/IN/inside", b"\x07example\x04test\0", Some("inside"))]
    #[case("example.test/IN/CH", b"\x07example\x04test\0", Some("CH"))]
    #[case("0/25.test/IN", b"\x040/25\x04test\0", None)]
    #[case("0/25.test/IN/inside", b"\x040/25\x04test\0", Some("inside"))]
    fn a_zone_in_a_view_is_told_with_its_view(
        #[case] zone: &str,
        #[case] name: &[u8],
        #[case] view: Option<&str>,
    ) {
        let mut transfers = Transfers::default();
        let mut reports = Vec::new();
        let mut say = |message: &str, reports: &mut Vec<_>| {
            let line = format!("transfer of '{zone}' from 127.0.0.1#53: {message}");
            transfers.line(5_000, 7, &line, reports)
        };
        say("connected using 127.0.0.2#40001", &mut reports).expect("a known line");
        say("Transfer status: timed out", &mut reports).expect("a known line");
        transfers.tick(5_001 + PATIENCE_NS, &mut reports);
        assert_eq!(reports.len(), 2);
        for report in reports {
            assert_eq!(report.view.as_deref(), view);
            let (_, transfer) = transfer(report);
            assert_eq!(transfer.zone.as_deref(), Some(name));
            assert_eq!(transfer.class, Some(1));
        }
    }

    #[test]
    fn a_status_without_counts_ends_the_transfer_a_little_later() {
        let mut transfers = Transfers::default();
        let line = "transfer of 'example.test/IN' from 2001:db8::1#53: Transfer status: timed out";
        assert_eq!(take(&mut transfers, line), Some(vec![]));
        let mut reports = Vec::new();
        transfers.tick(5_000 + PATIENCE_NS, &mut reports);
        assert_eq!(reports.len(), 0);
        transfers.process_ended(7);
        transfers.tick(5_001 + PATIENCE_NS, &mut reports);
        let (phase, ended) = transfer(reports.remove(0));
        assert_eq!(
            (phase, ended.status.as_deref()),
            (Phase::End, Some("timed out"))
        );
        assert_eq!(ended.peer_address.map(|address| address.len()), Some(16));
        transfers.tick(9_000 + PATIENCE_NS, &mut reports);
        assert_eq!(reports.len(), 0, "once");
    }

    #[rstest]
    #[case("AXFR started: TSIG t (serial 1)", 252, 252, (None, Some(1)), true)]
    #[case("AXFR started (serial 1)", 252, 252, (None, Some(1)), false)]
    #[case("IXFR started (serial 1 -> 2)", 251, 251, (Some(1), Some(2)), false)]
    #[case("AXFR-style IXFR started: TSIG t (serial 2)", 251, 252, (None, Some(2)), true)]
    fn a_transfer_out_has_its_form_and_its_serials(
        #[case] message: &str,
        #[case] requested: u32,
        #[case] answered: u32,
        #[case] serials: (Option<u32>, Option<u32>),
        #[case] signed: bool,
    ) {
        let mut transfers = Transfers::default();
        let client = if signed {
            "127.0.0.1#4711/key t (example.test)"
        } else {
            "127.0.0.1#4711 (example.test): view inside"
        };
        let said = |message: &str| {
            format!("client @0x7f11 {client}: transfer of 'example.test/IN': {message}")
        };
        let mut reports = Vec::new();
        transfers
            .line(5_000, 7, &said(message), &mut reports)
            .expect("a known line");
        assert_eq!(reports[0].view.as_deref(), (!signed).then_some("inside"));
        let (phase, started) = transfer(reports.remove(0));
        assert_eq!(
            (phase, started.requested, started.answered),
            (Phase::Start, Some(requested), Some(answered))
        );
        assert_eq!((started.old_serial, started.new_serial), serials);
        assert_eq!(started.tsig_key.is_some(), signed);
        assert_eq!(started.peer_port, Some(4_711));
        let kind = message.split(" started").next().unwrap();
        let line = said(&format!(
            "{kind} ended: 1 messages, 4 records, 200 bytes, 0.001 secs (200000 bytes/sec) (serial 2)"
        ));
        let (phase, ended) = take(&mut transfers, &line).unwrap().remove(0);
        assert_eq!(
            (phase, ended.status.as_deref()),
            (Phase::End, Some("success"))
        );
        assert_eq!((ended.requested, ended.records), (Some(requested), Some(4)));
    }

    #[test]
    fn what_the_server_gives_up_ends_with_the_reason() {
        let mut transfers = Transfers::default();
        let said = |message: &str| {
            format!("client @0x7f11 127.0.0.1#4711 (a): transfer of 'a/IN': {message}")
        };
        take(&mut transfers, &said("AXFR started (serial 1)")).unwrap();
        let (phase, ended) = take(&mut transfers, &said("send: end of file"))
            .unwrap()
            .remove(0);
        assert_eq!(
            (phase, ended.status.as_deref()),
            (Phase::End, Some("end of file"))
        );
        assert_eq!(ended.duration_ns, Some(0));
        let (phase, polled) = take(&mut transfers, &said("IXFR poll up to date: TSIG t"))
            .unwrap()
            .remove(0);
        assert_eq!(
            (phase, polled.status.as_deref()),
            (Phase::Point, Some("up to date"))
        );
    }

    #[rstest]
    #[case("zone example.test/IN: Transfer started.", true)]
    #[case(
        "transfer of 'a/IN' from 127.0.0.1#53: failed while receiving responses: NOTAUTH",
        true
    )]
    #[case("transfer of 'a/IN' from 127.0.0.1#53: something new", false)]
    #[case("transfer of 'a/IN' from nowhere: Transfer status: success", false)]
    #[case("transfer of 'a", false)]
    #[case("something new", false)]
    fn lines_without_an_event_are_known_or_not(#[case] text: &str, #[case] is_known: bool) {
        let taken = take(&mut Transfers::default(), text);
        assert_eq!(taken, is_known.then(Vec::new));
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut transfers = Transfers::default();
        let line = |number: usize, message: &str| {
            format!("client @0x1 127.0.0.1#53 (a): transfer of 'z{number}/IN': {message}")
        };
        // The numbers fall, so that the oldest transfer has the largest name.
        for number in (0..TRANSFERS + 10).rev().chain([5]) {
            let started = line(number, "AXFR started (serial 1)");
            take(&mut transfers, &started).expect("a known line");
        }
        assert_eq!(
            (transfers.under_way.len(), transfers.forgotten()),
            (TRANSFERS, 10)
        );
        for (number, duration) in [
            (TRANSFERS + 9, None),
            (TRANSFERS - 1, Some(0)),
            (0, Some(0)),
        ] {
            let ended = take(&mut transfers, &line(number, "send: end of file")).unwrap();
            assert_eq!(ended[0].1.duration_ns, duration, "{number}");
        }
        transfers.process_ended(8);
        assert_eq!(
            transfers.under_way.len(),
            TRANSFERS - 2,
            "of another process"
        );
        transfers.process_ended(7);
        assert_eq!(transfers.under_way.len(), 0);
    }

    proptest! {
        #[test]
        fn any_text_is_known_or_not(text in "(client @0x1 )?.{0,20}(transfer of '.{0,10}/IN')?( from 1.2.3.4#5)?(: )?(AXFR |IXFR |Transfer )?(started|ended: |completed: )?.{0,60}") {
            let _known = take(&mut Transfers::default(), &text);
        }
    }
}

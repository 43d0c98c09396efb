//! Rate limits, from lines of the log (`make_log_buf` and `log_end` in BIND's lib/dns/rrl.c).
//!
//! ```text
//! limit NXDOMAIN responses to 127.0.1.0/24 for example.test  (adb014c1)                  START
//! client @0x7f... 127.0.1.9#38871 (www.example.test): rate limit drop response to
//!     127.0.1.0/24 for www.example.test IN A  (53640410)                                 counted
//! *stop limiting responses to 127.0.1.0/24 for www.example.test IN A  (53640410)         END
//! ```
//!
//! With `log-only yes`, the lines begin with "would". The text is read strictly: a line of another form gives no event.

use std::hash::BuildHasher as _;

use dnstap_proto::{
    RateLimit,
    event::{Kind as Content, Phase},
    prost::bytes::Bytes,
    rate_limit::Category,
};
use foldhash::fast::RandomState;

use super::{Report, names};
use crate::{
    dns::{Class, Type},
    lru::Lru,
};

/// Most limits in force that are remembered.
const LIMITS: usize = 16_384;

/// Limits in force.
#[derive(Debug)]
pub(super) struct RateLimits {
    active: Lru<Active>,
    forgotten: u64,
    hasher: RandomState,
}

#[derive(Debug)]
struct Active {
    process_id: u32,
    name: Option<Bytes>,
    since_ktime_ns: u64,
    dropped: u64,
    slipped: u64,
}

/// Action that a line reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Start,
    Continue,
    Stop,
    Drop,
    Slip,
}

/// A line, decoded.
#[derive(Debug, PartialEq)]
struct Line {
    action: Action,
    limit: RateLimit,
    /// Hash of the name, as the line has it.
    hash: Option<u32>,
}

impl Default for RateLimits {
    fn default() -> Self {
        Self {
            active: Lru::new(LIMITS),
            forgotten: 0,
            hasher: RandomState::default(),
        }
    }
}

impl RateLimits {
    /// Returns the number of limits that were given up to make room.
    pub(super) const fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Forgets the limits of a process.
    pub(super) fn process_ended(&mut self, process_id: u32) {
        self.active
            .extract(|active| active.process_id == process_id);
    }

    /// Takes a line of the log. Returns `None` if its form is not known.
    pub(super) fn line(
        &mut self,
        ktime_ns: u64,
        process_id: u32,
        text: &str,
        reports: &mut Vec<Report>,
    ) -> Option<()> {
        let Line {
            action,
            mut limit,
            hash,
        } = Line::parse(text)?;
        // The name is not in the key: the server keeps few names, and later writes "(?)" with the same hash.
        let key = self.hasher.hash_one((
            process_id,
            hash,
            limit.client_address.as_deref(),
            limit.client_prefix_length,
            limit.category,
            (limit.class, limit.r#type),
        ));
        let phase = match action {
            Action::Start => {
                let active = Active {
                    process_id,
                    name: limit.name.clone(),
                    since_ktime_ns: ktime_ns,
                    dropped: 0,
                    slipped: 0,
                };
                let displaced = self.active.insert(key, active);
                self.forgotten += u64::from(displaced.is_some_and(|(other, _)| other != key));
                Phase::Start
            }
            Action::Stop => {
                if let Some(active) = self.active.remove(key) {
                    limit.name = limit.name.or(active.name);
                    limit.dropped = Some(active.dropped);
                    limit.slipped = Some(active.slipped);
                    limit.duration_ns = Some(ktime_ns.saturating_sub(active.since_ktime_ns));
                }
                Phase::End
            }
            Action::Drop | Action::Slip => {
                if let Some(active) = self.active.get(key) {
                    active.dropped += u64::from(action == Action::Drop);
                    active.slipped += u64::from(action == Action::Slip);
                }
                return Some(());
            }
            Action::Continue => return Some(()),
        };
        reports.push(Report {
            ktime_ns,
            process_id,
            phase,
            view: None,
            content: Content::RateLimit(limit),
        });
        Some(())
    }
}

impl Line {
    fn parse(text: &str) -> Option<Self> {
        // A line about one response names the client first.
        let text = match text.strip_prefix("client ") {
            Some(line) => {
                let words = ["would rate limit ", "rate limit "];
                let start = words.iter().find_map(|words| line.find(words))?;
                line.get(start..)?
            }
            None => text.strip_prefix('*').unwrap_or(text),
        };
        let (would, text) = strip(text, "would ");
        let (action, rest) = [
            ("limit ", Action::Start),
            ("continue limiting ", Action::Continue),
            ("stop limiting ", Action::Stop),
            ("rate limit drop ", Action::Drop),
            ("rate limit slip ", Action::Slip),
        ]
        .into_iter()
        .find_map(|(words, action)| Some((action, text.strip_prefix(words)?)))?;
        let (kind, rest) = match action {
            Action::Drop | Action::Slip => rest.split_once("response to ")?,
            _ => rest.split_once("responses to ")?,
        };
        let category = match kind {
            "" => Some(Category::Response),
            "referral " => Some(Category::Referral),
            "NODATA " => Some(Category::Nodata),
            "NXDOMAIN " => Some(Category::Nxdomain),
            "all " => Some(Category::All),
            "TCP " => None,
            kind if kind.ends_with("error ") => Some(Category::Error),
            _ => return None,
        };
        let (client, rest) = rest
            .split_once(" for ")
            .map_or((rest, None), |(client, rest)| (client, Some(rest)));
        let (address, length) = net(client)?;
        let mut limit = RateLimit {
            client_address: Some(address.into()),
            client_prefix_length: Some(length),
            category: category.map(|category| category as i32),
            log_only: Some(would),
            ..RateLimit::default()
        };
        let mut hash = None;
        if let Some(rest) = rest {
            let (what, number) = rest.strip_suffix(')')?.rsplit_once("  (")?;
            hash = Some(u32::from_str_radix(number, 16).ok()?);
            let mut words = what.split(' ');
            let name = words.next()?;
            limit.name = match name {
                "(?)" => None,
                name => Some(names::parse(name)?.into()),
            };
            if let Some(class) = words.next() {
                limit.class = Some(class.parse::<Class>().ok()?.0.into());
            }
            // NODATA is limited for all types together.
            if let Some(word) = words.next() {
                limit.r#type = Some(word.parse::<Type>().ok()?.0.into());
            }
            if words.next().is_some() {
                return None;
            }
        }
        Some(Self {
            action,
            limit,
            hash,
        })
    }
}

/// Returns whether the text begins with these words, and the text without them.
fn strip<'t>(text: &'t str, words: &str) -> (bool, &'t str) {
    text.strip_prefix(words)
        .map_or((false, text), |rest| (true, rest))
}

/// Reads a block of addresses. Returns its first address in 4 or 16 bytes, and the length of the prefix.
fn net(text: &str) -> Option<(Vec<u8>, u32)> {
    let (address, length) = text.split_once('/')?;
    let address: std::net::IpAddr = address.parse().ok()?;
    let length: u32 = length.parse().ok()?;
    let bytes = match address {
        std::net::IpAddr::V4(address) => address.octets().to_vec(),
        std::net::IpAddr::V6(address) => address.octets().to_vec(),
    };
    (length as usize <= 8 * bytes.len()).then_some((bytes, length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const TAIL: &str = "127.0.1.0/24 for www.example.test IN A  (53640410)";

    fn phases(
        limits: &mut RateLimits,
        ktime_ns: u64,
        text: &str,
    ) -> Option<Vec<(Phase, RateLimit)>> {
        let mut reports = Vec::new();
        limits.line(ktime_ns, 7, text, &mut reports)?;
        let limit = |report: Report| match report.content {
            Content::RateLimit(limit) => (report.phase, limit),
            other => panic!("{other:?}"),
        };
        Some(reports.into_iter().map(limit).collect())
    }

    #[test]
    fn what_is_dropped_and_slipped_is_counted_from_start_to_stop() {
        let mut limits = RateLimits::default();
        let started = phases(&mut limits, 1_000, &format!("limit responses to {TAIL}")).unwrap();
        let (phase, limit) = &started[0];
        assert_eq!(*phase, Phase::Start);
        assert_eq!(limit.client_address.as_deref(), Some(&[127, 0, 1, 0][..]));
        assert_eq!(
            limit.name.as_deref(),
            Some(&b"\x03www\x07example\x04test\0"[..])
        );
        assert_eq!((limit.class, limit.r#type), (Some(1), Some(1)));
        assert_eq!((limit.dropped, limit.log_only), (None, Some(false)));
        for action in ["slip", "drop", "slip"] {
            let client = "client @0x7fc64fadd098 127.0.1.9#38871 (www.example.test): rate limit";
            let line = format!("{client} {action} response to {TAIL}");
            assert_eq!(phases(&mut limits, 1_500, &line), Some(vec![]), "{line}");
        }
        let line = format!("continue limiting responses to {TAIL}");
        assert_eq!(phases(&mut limits, 2_500, &line), Some(vec![]));
        let line = format!("*stop limiting responses to {TAIL}");
        let ended = phases(&mut limits, 3_000, &line).unwrap();
        let (phase, limit) = &ended[0];
        assert_eq!(*phase, Phase::End);
        assert_eq!(
            (limit.dropped, limit.slipped, limit.duration_ns),
            (Some(1), Some(2), Some(2_000))
        );
        let (_, again) = &phases(&mut limits, 3_100, &line).unwrap()[0];
        assert_eq!(
            (again.dropped, again.duration_ns),
            (None, None),
            "its start is not known"
        );
    }

    #[test]
    fn the_end_has_the_name_of_the_start_when_the_server_has_forgotten_it() {
        let mut limits = RateLimits::default();
        for (time, kind, hash) in [(1_000, "A", 1), (1_100, "AAAA", 1), (1_200, "A", 2)] {
            let line =
                format!("limit responses to 127.0.1.0/24 for a.test IN {kind}  ({hash:08x})");
            phases(&mut limits, time, &line).unwrap();
        }
        let dropped = "client @0x1 127.0.1.9#1 (a.test): rate limit drop response to 127.0.1.0/24 for (?) IN A  (00000001)";
        phases(&mut limits, 2_000, dropped).unwrap();
        let line = "stop limiting responses to 127.0.1.0/24 for (?) IN A  (00000001)";
        let (phase, limit) = &phases(&mut limits, 3_000, line).unwrap()[0];
        assert_eq!(*phase, Phase::End);
        assert_eq!(limit.name.as_deref(), Some(&b"\x01a\x04test\0"[..]));
        assert_eq!((limit.class, limit.r#type), (Some(1), Some(1)));
        assert_eq!((limit.dropped, limit.duration_ns), (Some(1), Some(2_000)));
        assert_eq!(limits.active.len(), 2, "the other two go on");
        limits.process_ended(8);
        assert_eq!(limits.active.len(), 2, "of another process");
        limits.process_ended(7);
        assert_eq!(limits.active.len(), 0);
    }

    #[test]
    fn a_limit_that_makes_room_for_another_one_is_counted() {
        let mut limits = RateLimits::default();
        for hash in (0..LIMITS + 10).chain([LIMITS]) {
            let line = format!("limit responses to 127.0.1.0/24 for a.test IN A  ({hash:08x})");
            phases(&mut limits, 1_000, &line).unwrap();
        }
        assert_eq!((limits.active.len(), limits.forgotten()), (LIMITS, 10));
    }

    #[rstest]
    #[case(
        "limit NXDOMAIN responses to 127.0.0.0/24 for un.test  (adb014c1)",
        Some(Category::Nxdomain)
    )]
    #[case(
        "limit referral responses to 2001:db8::/56 for a.test IN TYPE65280  (00000001)",
        Some(Category::Referral)
    )]
    #[case(
        "limit SERVFAIL error responses to 127.0.0.0/24",
        Some(Category::Error)
    )]
    #[case("limit error responses to 127.0.0.0/24", Some(Category::Error))]
    #[case("limit all responses to 127.0.0.0/24", Some(Category::All))]
    #[case(
        "limit NODATA responses to 127.0.0.0/24 for (?) IN A  (adb014c1)",
        Some(Category::Nodata)
    )]
    #[case(
        "limit NODATA responses to 127.0.0.0/24 for limit.lab IN  (0d0846eb)",
        Some(Category::Nodata)
    )]
    #[case("limit TCP responses to 127.0.0.0/24", None)]
    fn kinds_are_told_apart(#[case] text: &str, #[case] category: Option<Category>) {
        let line = Line::parse(text).expect("a line");
        assert_eq!(
            line.limit.category,
            category.map(|category| category as i32)
        );
    }

    #[test]
    fn a_limit_that_is_only_logged_is_marked() {
        for text in [
            "would limit all responses to 127.0.0.0/24",
            "*would stop limiting all responses to 127.0.0.0/24",
            "client @0x1 127.0.0.1#1 (a): would rate limit drop all response to 127.0.0.0/24",
        ] {
            assert_eq!(
                Line::parse(text).unwrap().limit.log_only,
                Some(true),
                "{text}"
            );
        }
    }

    #[rstest]
    #[case("")]
    #[case("limit responses to 127.0.0.0")]
    #[case("limit responses to 127.0.0.0/33")]
    #[case("limit strange responses to 127.0.0.0/24")]
    #[case("limit responses to 127.0.0.0/24 for a b c d  (00000000)")]
    #[case("limit responses to 127.0.0.0/24 for a IN A")]
    #[case("configured with 3 limits")]
    fn other_texts_are_refused(#[case] text: &str) {
        assert_eq!(Line::parse(text), None);
    }

    proptest! {
        #[test]
        fn any_text_gives_a_line_or_none(text in "(would |\\*|client |rate )?(limit |stop limiting )?.{0,60}") {
            let _line = Line::parse(&text);
        }
    }
}

//! Writes answers in Common Output Format, and in the text formats of `dnsdbq`.
//!
//! **JSON** is Common Output Format (draft-dulaunoy-dnsop-passive-dns-cof), with one object on each line. `rrname` and
//! `bailiwick` have no dot at the end. `rrtype` is the name of the type, or a number if the type has no name. `rdata`
//! is always an array of data in presentation form.
//!
//! | field | meaning |
//! |---|---|
//! | `rrname` | owner |
//! | `rrtype` | type |
//! | `rdata` | data of each record, with absolute names |
//! | `time_first`, `time_last` | first and last sighting, in seconds since 1970 |
//! | `count` | number of sightings |
//! | `bailiwick` | zone that vouches for the RRset; absent for records that were found by their data |

use std::{fmt::Write as _, str::FromStr};

use dnstap_core::dns::Type;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{Answer, rdata};

/// Output format of answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// Syntax of zone files, with comments.
    #[default]
    Text,
    /// Common Output Format.
    Json,
    /// CSV with one line for each record.
    Csv,
    /// Only the data if the query was for owners, and only the owners if it was for data. The command prints each line
    /// once.
    Minimal,
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 4] = [Self::Text, Self::Json, Self::Csv, Self::Minimal];

    /// Returns the name of the format on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
            Self::Csv => "csv",
            Self::Minimal => "minimal",
        }
    }

    /// Returns the text before the first answer.
    #[must_use]
    pub const fn head(self) -> &'static str {
        match self {
            Self::Csv => {
                "time_first,time_last,zone_first,zone_last,count,bailiwick,rrname,rrtype,rdata\n"
            }
            _ => "",
        }
    }

    /// Returns an answer as lines of text.
    #[must_use]
    pub fn write(self, answer: &Answer) -> String {
        match self {
            Self::Text => text(answer),
            Self::Json => format!("{}\n", cof(answer)),
            Self::Csv => csv(answer),
            Self::Minimal if answer.by_data => format!("{}\n", answer.set.owner),
            Self::Minimal => data(answer).map(|data| data + "\n").collect(),
        }
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|format| format.name() == text);
        found.ok_or_else(|| format!("{text:?} is none of text, json, csv, minimal"))
    }
}

/// Returns an answer as version 2 of the DNSDB API has it: in Common Output Format, but names end with a dot, and the
/// data of a single record is a string.
#[must_use]
pub fn dnsdb(answer: &Answer) -> Value {
    let mut object = cof(answer);
    object["rrname"] = json!(answer.set.owner.to_string());
    object["rrtype"] = json!(Type(answer.set.kind).to_string());
    if let Some(zone) = &answer.set.bailiwick {
        object["bailiwick"] = json!(zone.to_string());
    }
    if answer.by_data {
        object["rdata"] = data(answer).next().into();
    }
    object
}

/// Returns an answer in Common Output Format.
#[must_use]
pub fn cof(answer: &Answer) -> Value {
    let kind = Type(answer.set.kind);
    let mut object = json!({
        "rrname": answer.set.owner.undotted(),
        "rrtype": if kind.is_known() { json!(kind.to_string()) } else { json!(kind.0) },
        "rdata": data(answer).collect::<Vec<_>>(),
        "time_first": answer.seen.first,
        "time_last": answer.seen.last,
        "count": answer.seen.count,
    });
    if let Some(zone) = &answer.set.bailiwick {
        object["bailiwick"] = json!(zone.undotted());
    }
    object
}

fn data(answer: &Answer) -> impl Iterator<Item = String> {
    let kind = answer.set.kind;
    answer
        .set
        .data
        .iter()
        .map(move |data| rdata::text(kind, data))
}

fn text(answer: &Answer) -> String {
    let seen = answer.seen;
    let mut out = format!(
        ";; record times: {} .. {} ({})\n;; count: {}",
        time(seen.first),
        time(seen.last),
        duration(seen.last.saturating_sub(seen.first).saturating_add(1)),
        seen.count
    );
    if let Some(zone) = &answer.set.bailiwick {
        let _infallible = write!(out, "; bailiwick: {zone}");
    }
    out.push('\n');
    for data in data(answer) {
        let (owner, kind) = (&answer.set.owner, Type(answer.set.kind));
        let _infallible = writeln!(out, "{owner}  {kind}  {data}");
    }
    out.push('\n');
    out
}

fn csv(answer: &Answer) -> String {
    let seen = answer.seen;
    let mut out = String::new();
    let zone = answer.set.bailiwick.as_ref();
    let zone = zone.map_or_else(String::new, |zone| quoted(&zone.to_string()));
    for data in data(answer) {
        let _infallible = writeln!(
            out,
            "\"{}\",\"{}\",,,{},{zone},{},\"{}\",{}",
            time(seen.first),
            time(seen.last),
            seen.count,
            quoted(&answer.set.owner.to_string()),
            Type(answer.set.kind),
            quoted(&data),
        );
    }
    out
}

/// Quotes a field of CSV (RFC 4180 section 2). `dnsdbq` does not escape quotes in a field.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// Returns a time in UTC, or the number of seconds if it is outside of the calendar.
fn time(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok();
    let time = time.and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.map_or_else(
        || seconds.to_string(),
        |time| time.strftime("%Y-%m-%d %H:%M:%S").to_string(),
    )
}

/// Returns a duration as `dnsdbq` shows it. Years and days are approximate, and much smaller units are left out.
fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let years = days / 365;
    let parts = [
        (years, "~", "y"),
        (days % 365, "~", "d"),
        (if years > 0 { 0 } else { hours % 24 }, "", "h"),
        (if years > 0 { 0 } else { minutes % 60 }, "", "m"),
        (if days > 0 { 0 } else { seconds % 60 }, "", "s"),
    ];
    let parts = parts.into_iter().filter(|(number, ..)| *number > 0);
    let parts: Vec<_> = parts
        .map(|(number, about, unit)| format!("{about}{number}{unit}"))
        .collect();
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::{Rrset, Seen};

    fn answer(owner: &str, kind: u16, data: &[&[u8]]) -> Answer {
        Answer {
            set: Rrset {
                owner: owner.parse().expect("a name"),
                kind,
                bailiwick: Some("io".parse().expect("a name")),
                data: data.iter().map(|data| Box::from(*data)).collect(),
            },
            seen: Seen {
                first: 1_300_000_000,
                last: 1_500_000_000,
                count: 12,
            },
            by_data: false,
        }
    }

    // Output of dnsdbq 2.6.4 for these numbers of seconds.
    #[rstest]
    #[case(1, "1s")]
    #[case(60, "1m")]
    #[case(3701, "1h 1m 41s")]
    #[case(86_399, "23h 59m 59s")]
    #[case(86_401, "~1d")]
    #[case(90_001, "~1d 1h")]
    #[case(183_846, "~2d 3h 4m")]
    #[case(365 * 86_400 + 1, "~1y")]
    #[case(366 * 86_400 + 7508, "~1y ~1d")]
    #[case(200_000_001, "~6y ~124d")]
    fn durations_are_those_of_dnsdbq(#[case] seconds: u64, #[case] text: &str) {
        assert_eq!(duration(seconds), text);
    }

    #[test]
    fn an_rrset_is_written_in_each_format() {
        let answer = answer(
            "fsi.io",
            2,
            &[b"\x03ns1\x03fsi\x02io\0", b"\x03ns2\x03fsi\x02io\0"],
        );
        assert_eq!(
            Format::Text.write(&answer),
            ";; record times: 2011-03-13 07:06:40 .. 2017-07-14 02:40:00 (~6y ~124d)\n\
             ;; count: 12; bailiwick: io.\n\
             fsi.io.  NS  ns1.fsi.io.\nfsi.io.  NS  ns2.fsi.io.\n\n"
        );
        assert_eq!(
            serde_json::from_str::<Value>(&Format::Json.write(&answer)).expect("JSON"),
            json!({"rrname": "fsi.io", "rrtype": "NS", "rdata": ["ns1.fsi.io.", "ns2.fsi.io."],
                   "time_first": 1_300_000_000, "time_last": 1_500_000_000, "count": 12, "bailiwick": "io"})
        );
        let line =
            "\"2011-03-13 07:06:40\",\"2017-07-14 02:40:00\",,,12,\"io.\",\"fsi.io.\",\"NS\",";
        let csv = format!("{line}\"ns1.fsi.io.\"\n{line}\"ns2.fsi.io.\"\n");
        assert_eq!(Format::Csv.write(&answer), csv);
        assert_eq!(Format::Minimal.write(&answer), "ns1.fsi.io.\nns2.fsi.io.\n");
    }

    #[test]
    fn an_unknown_type_is_a_number_in_json_and_a_line_stays_a_line() {
        let unknown = cof(&answer("a\\010b", 65280, &[b"\n"]));
        assert_eq!(unknown["rrtype"], json!(65280));
        assert_eq!(unknown["rdata"], json!(["\\# 1 0A"]));
        assert_eq!(unknown["rrname"], json!("a\\010b"));
        let text = Format::Csv.write(&answer("x", 16, &[b"\x01\""]));
        assert!(text.ends_with(",\"\"\"\\\"\"\"\"\"\n"), "{text}");
    }
}

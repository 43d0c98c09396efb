//! Reads and writes Common Output Format, for the exchange with other stores and programs.
//!
//! A line has the sightings of an RRset by one origin. `sensor_id` names the origin: for a store it is the store's id,
//! as 32 hexadecimal digits. So sightings that arrive twice, or over several paths, are counted once. Data that cannot
//! be read back from its text is written in the generic form (RFC 3597 section 5).

use data_encoding::HEXLOWER;
use dnstap_core::dns::Type;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::{Answer, Counted, Name, Rrset, Seen, output::cof, presentation::parse, rdata};

/// Id of the store or program that has seen an RRset.
pub type Origin = [u8; 16];

/// Content of a line.
pub type Sighting = Counted;

/// Reason why a line is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LineError {
    /// The line is not a JSON object.
    #[error("no JSON object")]
    Json,
    /// The line is not UTF-8. Names must not be guessed from other bytes.
    #[error("no UTF-8")]
    Text,
    /// The line has more records than a message can have.
    #[error("more than {MOST_RECORDS} records")]
    Records,
    /// A field is missing or invalid.
    #[error("{0} is missing or wrong")]
    Field(&'static str),
    /// The data does not fit its type, or the type is unknown. The fields are the type and the data; of long data, only
    /// the beginning.
    #[error("data of type {0} that cannot be read: {1}")]
    Data(String, String),
}

/// Largest number of records in a message of 65,535 bytes. Each record has an owner of at least one byte, and ten bytes
/// before its data (RFC 1035 section 4.1.3).
const MOST_RECORDS: usize = (65_535 - 12) / 11;

/// Last second of the year 9999. A later time cannot be the time of a sighting.
const LATEST: u64 = 253_402_300_799;

/// Number of characters of invalid data that an error shows.
const SHOWN: usize = 100;

/// Returns a line without the newline.
#[must_use]
pub fn line(set: &Rrset, seen: Seen, origin: Origin) -> String {
    let kind = set.kind;
    let mut object = cof(&Answer {
        set: set.clone(),
        seen,
        by_data: false,
    });
    let data = set.data.iter().map(|data| {
        let text = rdata::text(kind, data);
        match parse(kind, &text) {
            Some(read) if read == *data => text,
            _ => generic(data),
        }
    });
    object["rdata"] = data.collect();
    object["sensor_id"] = json!(HEXLOWER.encode(&origin));
    object.to_string()
}

fn generic(data: &[u8]) -> String {
    match data {
        [] => "\\# 0".to_owned(),
        data => format!("\\# {} {}", data.len(), HEXLOWER.encode(data)),
    }
}

/// Reads a line. `unnamed` is the origin of lines that name none.
pub fn read(line: &[u8], unnamed: Origin) -> Result<Sighting, LineError> {
    let line = str::from_utf8(line).map_err(|_invalid| LineError::Text)?;
    let object: Value = serde_json::from_str(line).map_err(|_invalid| LineError::Json)?;
    if !object.is_object() {
        return Err(LineError::Json);
    }
    let name = |field: &'static str| {
        let text = object[field].as_str();
        let name = text.and_then(|text| text.parse::<Name>().ok());
        name.ok_or(LineError::Field(field))
    };
    let owner = name("rrname")?;
    let kind = match &object["rrtype"] {
        Value::String(word) => word.parse::<Type>().ok().map(|kind| kind.0),
        Value::Number(number) => number
            .as_u64()
            .and_then(|number| u16::try_from(number).ok()),
        _ => None,
    };
    let kind = kind.filter(|kind| !rdata::is_meta(*kind));
    let kind = kind.ok_or(LineError::Field("rrtype"))?;
    let texts: Option<Vec<&str>> = match &object["rdata"] {
        Value::String(text) => Some(vec![text]),
        Value::Array(texts) => texts.iter().map(Value::as_str).collect(),
        _ => None,
    };
    let texts = texts
        .filter(|texts| !texts.is_empty())
        .ok_or(LineError::Field("rdata"))?;
    if texts.len() > MOST_RECORDS {
        return Err(LineError::Records);
    }
    let data = texts.into_iter().map(|text| {
        let unread = || LineError::Data(Type(kind).to_string(), shortened(text));
        parse(kind, text).ok_or_else(unread)
    });
    let data: Result<Vec<_>, _> = data.collect();
    let mut data = data?;
    data.sort_unstable();
    data.dedup();
    // Sightings from a zone file have their times in other fields.
    let time = |field: &'static str, of_zone: &'static str| {
        let time = object[field].as_u64().or_else(|| object[of_zone].as_u64());
        time.ok_or(LineError::Field(field))
    };
    let (first, last) = (
        time("time_first", "zone_time_first")?,
        time("time_last", "zone_time_last")?,
    );
    if first > last || last > LATEST {
        return Err(LineError::Field("time_last"));
    }
    let count = match &object["count"] {
        Value::Null => 1,
        count => count
            .as_u64()
            .filter(|count| *count > 0)
            .ok_or(LineError::Field("count"))?,
    };
    let bailiwick = match &object["bailiwick"] {
        Value::Null => None,
        _ => Some(name("bailiwick")?),
    };
    if bailiwick
        .as_ref()
        .is_some_and(|zone| !owner.is_within(zone))
    {
        return Err(LineError::Field("bailiwick"));
    }
    let set = Rrset {
        owner,
        kind,
        bailiwick,
        data,
    };
    let origin = match &object["sensor_id"] {
        Value::String(text) => origin(text),
        _ => unnamed,
    };
    Ok((set, Seen { first, last, count }, origin))
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// Returns the approximate bytes that a sighting takes in memory. They limit how much is merged at once.
#[must_use]
pub fn weight((set, ..): &Sighting) -> usize {
    let overhead = size_of::<Sighting>() + set.owner.wire().len();
    let data = set.data.iter().map(|data| data.len() + size_of_val(data));
    overhead + data.sum::<usize>()
}

/// Returns the origin for a name. The id of a store is used as it is; any other name is hashed.
#[must_use]
pub fn origin(name: &str) -> Origin {
    let ours = HEXLOWER.decode(name.as_bytes()).ok();
    if let Some(ours) = ours.and_then(|ours| ours.try_into().ok()) {
        return ours;
    }
    let hash: [u8; 32] = Sha256::digest(name.as_bytes()).into();
    let mut origin = [0; 16];
    origin.copy_from_slice(&hash[..16]);
    origin
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use rstest::rstest;

    use super::*;
    use crate::name::tests::any_name;

    proptest! {
        #[test]
        fn a_line_is_read_back_whatever_the_data(
            owner in any_name(),
            kind in (1..300_u16).prop_filter("a type of zones", |kind| !rdata::is_meta(*kind)),
            data in prop::collection::btree_set(vec(any::<u8>(), 0..80), 1..4),
            zone in any::<Option<prop::sample::Index>>(),
            numbers in (any::<u32>(), any::<u32>(), 1..u64::MAX),
            origin in any::<Origin>(),
        ) {
            let canonical = |data: Vec<u8>| {
                let mut out = Vec::new();
                rdata::canonical(kind, &data, 0, data.len(), &mut out).map(|()| Box::from(out))
            };
            let mut data: Vec<Box<[u8]>> = data.into_iter().filter_map(canonical).collect();
            data.sort();
            data.dedup();
            prop_assume!(!data.is_empty());
            let bailiwick = zone.map(|zone| owner.suffix(zone.index(owner.labels() + 1)));
            let set = Rrset { owner, kind, bailiwick, data };
            let first = u64::from(numbers.0);
            let seen = Seen { first, last: first + u64::from(numbers.1), count: numbers.2 };
            let line = line(&set, seen, origin);
            prop_assert!(!line.contains('\n'));
            prop_assert_eq!(read(line.as_bytes(), [0; 16]), Ok((set, seen, origin)));
        }

        #[test]
        fn any_line_is_read_without_panic(line in ".{0,120}") {
            let _any = read(line.as_bytes(), [0; 16]);
        }
    }

    #[test]
    fn lines_of_others_may_leave_out_what_they_may() {
        let line = r#"{"rrname":"WWW.example.com.","rrtype":"A","rdata":"192.0.2.1","zone_time_first":5,"zone_time_last":7}"#;
        let (set, seen, origin) = read(line.as_bytes(), [9; 16]).expect("sound");
        assert_eq!(
            (set.owner.to_string().as_str(), set.bailiwick),
            ("www.example.com.", None)
        );
        assert_eq!(
            (seen, origin),
            (
                Seen {
                    first: 5,
                    last: 7,
                    count: 1
                },
                [9; 16]
            )
        );
    }

    #[rstest]
    #[case("", LineError::Json)]
    #[case("[]", LineError::Json)]
    #[case("{}", LineError::Field("rrname"))]
    #[case(r#"{"rrname":"a","rrtype":"NOTYPE"}"#, LineError::Field("rrtype"))]
    #[case(r#"{"rrname":"a","rrtype":70000}"#, LineError::Field("rrtype"))]
    #[case(r#"{"rrname":"a","rrtype":"A","rdata":[]}"#, LineError::Field("rdata"))]
    #[case(
        r#"{"rrname":"a","rrtype":"A","rdata":["1.2.3.4"],"time_first":"5"}"#,
        LineError::Field("time_first")
    )]
    #[case(
        r#"{"rrname":"a","rrtype":"A","rdata":["1.2.3.4"],"time_first":5,"time_last":4}"#,
        LineError::Field("time_last")
    )]
    #[case(
        r#"{"rrname":"a","rrtype":"A","rdata":["1.2.3.4"],"time_first":5,"time_last":5,"count":0}"#,
        LineError::Field("count")
    )]
    #[case(r#"{"rrname":"a","rrtype":"A","rdata":["1.2.3.4"],"time_first":5,"time_last":5,"bailiwick":"b"}"#, LineError::Field("bailiwick"))]
    #[case(
        r#"{"rrname":"a","rrtype":"OPT","rdata":["\\# 0"]}"#,
        LineError::Field("rrtype")
    )]
    #[case(
        r#"{"rrname":"a","rrtype":"TYPE255","rdata":["\\# 0"]}"#,
        LineError::Field("rrtype")
    )]
    #[case(
        r#"{"rrname":"a","rrtype":"A","rdata":["1.2.3.4"],"time_first":0,"time_last":253402300800}"#,
        LineError::Field("time_last")
    )]
    #[case(
        r#"{"rrname":"a","rrtype":"A","rdata":["1.2.3.4"],"time_first":0,"time_last":18446744073709551615}"#,
        LineError::Field("time_last")
    )]
    #[case(r#"{"rrname":"a","rrtype":"A","rdata":["x"]}"#, LineError::Data("A".into(), "x".into()))]
    fn a_line_that_is_wrong_is_told_why(#[case] line: &str, #[case] error: LineError) {
        assert_eq!(read(line.as_bytes(), [0; 16]), Err(error));
    }

    #[test]
    fn bytes_that_are_no_text_are_refused_not_replaced() {
        let line = b"{\"rrname\":\"a\xff\",\"rrtype\":\"A\",\"rdata\":[\"1.2.3.4\"],\"time_first\":1,\"time_last\":1}";
        assert_eq!(read(line, [0; 16]), Err(LineError::Text));
    }

    #[test]
    fn of_long_data_that_is_wrong_only_the_beginning_is_told() {
        let line = json!({"rrname": "a", "rrtype": "A", "rdata": ["é".repeat(5000)]}).to_string();
        let error = read(line.as_bytes(), [0; 16]).expect_err("no address");
        let shown = "é".repeat(100) + "...";
        assert_eq!(error, LineError::Data("A".into(), shown));
    }

    #[test]
    fn no_more_records_are_read_than_a_message_can_have() {
        let line = |count: usize| {
            let data: Vec<_> = (0..count).map(|nth| nth.to_string()).collect();
            json!({"rrname": "a", "rrtype": "TXT", "rdata": data, "time_first": 1, "time_last": 1})
                .to_string()
        };
        let read = |count| read(line(count).as_bytes(), [0; 16]);
        let sighting = read(MOST_RECORDS).expect("sound");
        assert_eq!(sighting.0.data.len(), MOST_RECORDS);
        assert!(weight(&sighting) > MOST_RECORDS * 16);
        assert_eq!(read(MOST_RECORDS + 1), Err(LineError::Records));
    }
}

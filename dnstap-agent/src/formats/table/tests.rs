//! The join, the bounds, and the bytes as the crate's own reader sees them. Other readers: `tests/contrib/parquet.py`.

use dnstap_proto::{Message, SocketProtocol, message::Type as Kind};
use parquet::{
    file::{
        properties::ReaderProperties,
        reader::{FileReader as _, SerializedFileReader},
        serialized_reader::ReadOptionsBuilder,
    },
    record::RowAccessor as _,
};
use rstest::rstest;

use super::*;

const SECOND: u64 = 1_000_000_000;

/// Builds a message with a time in seconds, an id and a name of one label, or without a question.
fn message(kind: Kind, second: u64, id: u16, name: Option<&str>) -> Dnstap {
    let is_response = (kind as i32) % 2 == 0;
    let mut dns = id.to_be_bytes().to_vec();
    dns.extend([
        if is_response { 0x80 } else { 0 },
        0,
        0,
        u8::from(name.is_some()),
    ]);
    dns.extend([0; 6]);
    if let Some(name) = name {
        dns.push(u8::try_from(name.len()).expect("a label"));
        dns.extend(name.as_bytes());
        dns.extend([0, 0, 1, 0, 1]);
    }
    let mut message = Message {
        r#type: kind.into(),
        query_address: Some(vec![192, 0, 2, 1].into()),
        query_port: Some(5353),
        socket_protocol: Some(SocketProtocol::Udp.into()),
        ..Message::default()
    };
    if is_response {
        message.response_time_sec = Some(second);
        message.response_message = Some(dns.into());
    } else {
        message.query_time_sec = Some(second);
        message.query_message = Some(dns.into());
    }
    Dnstap {
        message: Some(message),
        r#type: 1,
        ..Dnstap::default()
    }
}

fn query(second: u64, id: u16) -> Dnstap {
    message(Kind::ClientQuery, second, id, Some("www"))
}

fn response(second: u64, id: u16) -> Dnstap {
    message(Kind::ClientResponse, second, id, Some("www"))
}

/// Returns the seconds of query and response of each row, in the order in which rows came to be.
fn joined(messages: &[Dnstap]) -> Vec<[Option<u64>; 2]> {
    let mut table = Table::new(Limits::default());
    for dnstap in messages {
        let message = dnstap.message.as_ref().expect("a message");
        let second = message.query_time_sec.max(message.response_time_sec);
        assert!(table.take(dnstap, second.expect("a time") * SECOND));
    }
    table.end();
    assert_eq!(table.messages(), messages.len() as u64);
    let seconds = |time: i64| u64::try_from(time).expect("positive") / SECOND;
    let mut rows: Vec<_> = table
        .rows
        .exchanges
        .iter()
        .map(|row| row.times.map(|time| time.map(seconds)))
        .collect();
    rows.sort_unstable();
    rows
}

#[test]
fn a_query_and_its_response_are_one_row_in_any_order() {
    let rows = joined(&[query(1, 1), response(2, 1), response(3, 2), query(3, 2)]);
    assert_eq!(rows, [[Some(1), Some(2)], [Some(3), Some(3)]]);
}

#[rstest]
#[case::id(message(Kind::ClientResponse, 2, 2, Some("www")))]
#[case::name(message(Kind::ClientResponse, 2, 1, Some("mail")))]
#[case::family(message(Kind::AuthResponse, 2, 1, Some("www")))]
fn another_id_name_or_family_is_another_row(#[case] other: Dnstap) {
    assert_eq!(
        joined(&[query(1, 1), other]),
        [[None, Some(2)], [Some(1), None]]
    );
}

#[test]
fn case_makes_no_difference_and_an_error_needs_no_question() {
    let upper = message(Kind::ClientResponse, 2, 1, Some("WWW"));
    assert_eq!(joined(&[query(1, 1), upper]), [[Some(1), Some(2)]]);
    let terse = message(Kind::ClientResponse, 2, 1, None);
    assert_eq!(joined(&[query(1, 1), terse]), [[Some(1), Some(2)]]);
}

#[test]
fn repeated_queries_are_answered_in_their_order_or_by_their_time() {
    let messages = [query(1, 1), query(2, 1), response(3, 1), response(4, 1)];
    assert_eq!(joined(&messages), [[Some(1), Some(3)], [Some(2), Some(4)]]);
    let mut exact = response(3, 1);
    exact.message.as_mut().expect("a message").query_time_sec = Some(2);
    let rows = joined(&[query(1, 1), query(2, 1), exact]);
    assert_eq!(rows, [[Some(1), None], [Some(2), Some(3)]]);
}

#[test]
fn who_waits_too_long_is_a_row_alone() {
    let mut table = Table::new(Limits::default());
    for (dnstap, now) in [(query(1, 1), 1), (response(2, 7), 2)] {
        assert!(table.take(&dnstap, now * SECOND));
    }
    table.give_up(3 * SECOND);
    assert_eq!(
        (table.rows.exchanges.len(), table.messages()),
        (1, 2),
        "the response"
    );
    table.give_up(16 * SECOND);
    assert_eq!((table.rows.exchanges.len(), table.evicted()), (2, 0));
    assert!(table.take(&response(17, 1), 17 * SECOND));
    table.end();
    assert_eq!(table.rows.exchanges.len(), 3, "too late");
}

#[test]
fn a_flood_of_queries_takes_bounded_memory_and_is_counted() {
    let limits = Limits {
        memory: 1 << 20,
        ..Limits::default()
    };
    let mut table = Table::new(limits);
    let mut rows = 0;
    for nth in 0..30_000_u32 {
        let mut query = query(1, 1);
        query.message.as_mut().expect("a message").query_port = Some(nth);
        assert!(table.take(&query, SECOND));
        assert!(table.rows.size + table.waiting.size() <= limits.memory + 1000);
        if table.is_full() {
            rows += table.rows.exchanges.len() as u64;
            table.clear();
        }
    }
    rows += table.rows.exchanges.len() as u64;
    assert!(rows > 20_000);
    assert_eq!(
        (table.evicted(), table.waiting.messages()),
        (rows, 30_000 - rows)
    );
}

#[test]
fn one_id_again_and_again_is_no_long_chain() {
    let mut table = Table::new(Limits::default());
    for second in 0..100 {
        assert!(table.take(&query(second, 1), 0));
    }
    assert_eq!((table.waiting.messages(), table.evicted()), (16, 84));
    // The oldest went first.
    assert!(table.take(&response(200, 1), 0));
    let answered = table.rows.exchanges.last().expect("a row");
    assert_eq!(answered.times[0], Some(84 * 1_000_000_000));
}

/// Returns a file of these groups of messages.
fn file(groups: &[&[Dnstap]]) -> Vec<u8> {
    let mut table = Table::new(Limits::default());
    let mut directory = table.directory();
    let mut file = HEAD.to_vec();
    for messages in groups {
        for dnstap in *messages {
            assert!(table.take(dnstap, 0));
        }
        table.end();
        let group = table.encode().expect("memory").expect("rows");
        directory.push(&group, file.len() as u64).expect("a place");
        file.extend(group.bytes);
        table.clear();
    }
    file.extend(directory.foot().expect("memory"));
    file
}

#[test]
fn each_row_group_is_sorted_by_the_reversed_name_and_then_by_time() {
    let named = |second, name| message(Kind::ClientQuery, second, 1, Some(name));
    let one = [
        named(3, "b"),
        named(2, "b"),
        named(9, "a"),
        message(Kind::ClientQuery, 5, 1, None),
    ];
    let other = [named(1, "Z")];
    let properties = ReaderProperties::builder().set_read_bloom_filter(true);
    let options = ReadOptionsBuilder::new().with_reader_properties(properties.build());
    let bytes = bytes::Bytes::from(file(&[&one, &other]));
    let reader = SerializedFileReader::new_with_options(bytes, options.build());
    let reader = reader.expect("a file");
    let metadata = reader.metadata();
    let place = |name: &str| columns::place(name).expect("a column");
    for (nth, group) in metadata.row_groups().iter().enumerate() {
        let sorted = group.sorting_columns().expect("declared").iter();
        let sorted: Vec<_> = sorted.map(|by| usize::try_from(by.column_idx)).collect();
        assert_eq!(sorted, [place("dns_qname_reversed"), place("time")].map(Ok));
        let filter = reader.get_row_group(nth).expect("there");
        let filter = filter
            .get_column_bloom_filter(place("dns_qname"))
            .expect("a filter");
        assert_eq!(
            (filter.check(&"a"), filter.check(&"z")),
            (nth == 0, nth == 1)
        );
    }
    let rows = reader.get_row_iter(None).expect("rows").map(|row| {
        let row = row.expect("a row");
        let text = |name| {
            row.get_string(place(name))
                .map_or("", String::as_str)
                .to_owned()
        };
        let time = row
            .get_long(place("time"))
            .map_or(0, |time| time / 1_000_000_000);
        (text("dns_qname"), text("dns_qname_full"), time)
    });
    let rows: Vec<_> = rows.collect();
    let expected = [
        ("", "", 5),
        ("a", "", 9),
        ("b", "", 2),
        ("b", "", 3),
        ("z", "Z", 1),
    ];
    let expected = expected.map(|(name, exact, time)| (name.to_owned(), exact.to_owned(), time));
    assert_eq!(rows, expected);
}

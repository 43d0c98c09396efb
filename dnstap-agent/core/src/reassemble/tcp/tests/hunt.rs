//! The search for a message: it must not find messages inside others, and its cost is limited.

use super::{
    super::search::{Budget, Scan, scan},
    writers::Noise,
    *,
};
use crate::dns::{Fit, fit, fixture::with_opt};

/// Builds a query whose OPT record contains other messages behind their lengths.
fn enclosing(flags: u16, spoil: fn(&mut Vec<u8>)) -> Vec<u8> {
    let hidden = framed(&messages(0, 2)[0]).repeat(5);
    let mut query = message(0x5151, flags, "enclosing", 0);
    spoil(&mut query);
    let mut query = with_opt(query, 0);
    let end = query.len();
    query[end - 2..].copy_from_slice(&u16::try_from(hidden.len()).unwrap().to_be_bytes());
    query.extend(hidden);
    query
}

#[test]
fn what_a_message_encloses_is_not_delivered_however_odd_it_is() {
    let spoils: [fn(&mut Vec<u8>); 5] = [
        |_| {},
        |query| query[2] = 0x78,
        |query| {
            let end = query.len();
            query[end - 2..].copy_from_slice(&[0xab, 0xcd]);
        },
        |query| {
            let end = query.len();
            query[end - 4..end - 2].fill(0);
        },
        |query| {
            query[5] = 2;
            query.extend([0xc0, 12, 0, 1, 0, 1]);
        },
    ];
    for flags in [0x0100, 0x0140, 0x018f, 0x7fff] {
        for spoil in spoils {
            for cut in [1, 50, 9_000] {
                let query = enclosing(flags, spoil);
                let mut behind = message(9, 0x0100, "behind", 0);
                let mut tap = Tap::new(&[SOCKET]);
                let stream = stream_of(&[query.clone(), behind.clone(), query.clone()]);
                for (at, piece) in pieces(&stream, &[cut]) {
                    tap.piece(SOCKET, sequence(0, at), piece);
                }
                assert_eq!(tap.of(SOCKET), [&query[..], &behind, &query]);
                // The following bytes do not fit, so a search does not deliver the enclosing
                // message, nor the messages inside it.
                behind.truncate(14);
                behind.extend([0xff; 30]);
                let mut stream = vec![0xff; 5];
                stream.extend(stream_of(&[query, behind]));
                let mut tap = Tap::new(&[SOCKET]);
                for (at, piece) in pieces(&stream, &[cut]) {
                    tap.piece(SOCKET, sequence(0, at), piece);
                }
                tap.finish();
                assert!(tap.out.iter().all(|(_, out)| out.len() > 100), "{cut}");
            }
        }
    }
}

/// Many servers answer a query that is followed by other bytes within its length.
#[test]
fn what_stands_behind_a_query_within_its_length_is_not_delivered() {
    let mut query = message(0x5151, 0x0100, "enclosing", 0);
    query.extend(framed(&messages(0, 2)[0]).repeat(5));
    let next = message(9, 0x0100, "next", 0);
    for cut in [1, 50, 9_000] {
        let mut tap = Tap::new(&[SOCKET]);
        for (at, piece) in pieces(&stream_of(&[query.clone(), next.clone()]), &[cut]) {
            tap.piece(SOCKET, sequence(0, at), piece);
        }
        tap.finish();
        assert_eq!(tap.of(SOCKET), [&next[..]], "{cut}");
        assert_eq!(tap.streams.counters().stream_messages_lost_at_least, 1);
    }
}

#[test]
fn odd_queries_are_found_by_the_search() {
    let mut odd = message(1, 0x7b7f, "odd", 0);
    let end = odd.len();
    odd[end - 1] = 0xee;
    let messages = [
        message(2, 0x0100, "one", 0),
        odd.clone(),
        odd,
        message(3, 0x0100, "two", 0),
    ];
    let stream = stream_of(&messages);
    for cut in [1, 10, 1_000] {
        let mut tap = Tap::new(&[SOCKET]);
        for (at, piece) in pieces(&stream[5..], &[cut]) {
            tap.piece(SOCKET, sequence(0, at), piece);
        }
        tap.finish();
        assert_eq!(tap.of(SOCKET), messages[1..]);
    }
}

/// Builds a message of a transfer, with records of all kinds and this TTL.
fn transfer(noise: &mut Noise, ttl: u32, size: usize) -> Vec<u8> {
    let mut bytes = message(7, 0x8400, "zone", 0);
    let mut records = 0u16;
    while bytes.len() < size {
        let data: Vec<u8> = match noise.below(7) {
            0 | 1 => vec![192, 0, 2, u8::try_from(noise.below(256)).unwrap()],
            2 => (0..16)
                .map(|_| u8::try_from(noise.below(256)).unwrap())
                .collect(),
            3 => vec![0, 10, 0xc0, 12],
            4 => [&[2, b'n', b's'][..], &[0xc0, 12]].concat(),
            5 => {
                let text = vec![b'v'; 1 + noise.below(200)];
                [&[u8::try_from(text.len()).unwrap()], &text[..]].concat()
            }
            _ => [&[0xc0, 12, 0xc0, 12, 0, 0, 0, 1][..], &[0; 16]].concat(),
        };
        let kind = match data.len() {
            4 if data[0] == 192 => 1,
            4 => 15,
            5 => 2,
            16 => 28,
            24 => 6,
            _ => 16,
        };
        if noise.below(3) == 0 {
            bytes.extend([0xc0, 12]);
        } else {
            let name = format!("host-{}", noise.below(1_000));
            bytes.push(u8::try_from(name.len()).unwrap());
            bytes.extend(name.as_bytes());
            bytes.extend([0xc0, 12]);
        }
        bytes.extend([0, kind, 0, 1]);
        bytes.extend(ttl.to_be_bytes());
        bytes.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        bytes.extend(data);
        records += 1;
    }
    bytes[6..8].copy_from_slice(&records.to_be_bytes());
    bytes
}

#[test]
fn no_place_within_a_transfer_is_taken_for_a_message() {
    let mut noise = Noise(11);
    let (mut places, mut wrong) = (0, 0);
    for ttl in [0, 1, 5, 20, 60, 300, 3_600, 86_400, 604_800] {
        for size in [1_000, 16_000, 60_000] {
            let bytes = [
                framed(&transfer(&mut noise, ttl, size)),
                framed(&transfer(&mut noise, ttl, 2_000)),
            ]
            .concat();
            for at in 1..size {
                places += 1;
                let fits = fit(&bytes[at..]);
                wrong += usize::from(matches!(fits, Fit::Whole(_) | Fit::Loose(_)));
            }
        }
    }
    assert!(wrong * 1_000_000 <= places, "{wrong} of {places}");
}

#[test]
fn no_random_bytes_are_taken_for_a_message() {
    let mut noise = Noise(12);
    for zeroes in [0, 2, 3] {
        let bytes: Vec<u8> = (0..1 << 20)
            .map(|_| {
                let byte = u8::try_from(noise.below(256)).unwrap();
                if noise.below(8) < zeroes { 0 } else { byte }
            })
            .collect();
        let wrong = (0..bytes.len())
            .filter(|at| matches!(fit(&bytes[*at..]), Fit::Whole(_) | Fit::Loose(_)));
        assert_eq!(wrong.count(), 0, "{zeroes}");
    }
}

#[test]
fn a_transfer_joined_midway_is_found_at_its_next_message() {
    let mut noise = Noise(13);
    for ttl in [0, 5, 60, 3_600, 86_400] {
        let messages: Vec<_> = (0..6).map(|_| transfer(&mut noise, ttl, 60_000)).collect();
        let stream = stream_of(&messages);
        for cut in [20, 900, 33_333, 59_000] {
            let mut tap = Tap::new(&[SOCKET]);
            for (at, piece) in pieces(&stream[cut..], &[16_000]) {
                tap.directed(Direction::Sent, SOCKET, sequence(0, at), piece);
            }
            assert!(
                tap.of(SOCKET) == messages[1..],
                "{ttl} {cut}: {}",
                tap.out.len()
            );
            assert_eq!(tap.streams.counters().stream_search_given_up_bytes, 0);
        }
    }
}

/// Builds bytes in which each record may begin a message whose records are all walked without
/// success.
fn crafted(length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < length {
        bytes.extend([0xc0, 0, 0, 16, 0, 1, 0, 0, 0, 60, 0, 19]);
        bytes.extend([0xf3, 0x01, 9, 9, 0x81, 0x80, 0, 1, 0x07, 0xd0, 0, 0, 0, 0]);
        bytes.extend([0, 0, 1, 0, 1]);
    }
    bytes
}

#[test]
fn a_search_costs_no_more_than_its_bytes_pay_for() {
    let bytes = crafted(1 << 20);
    for cut in [1_000, 16_384, 65_536, 1 << 20] {
        let mut tap = Tap::new(&[SOCKET]);
        tap.dns_port = true;
        for (at, piece) in pieces(&bytes, &[cut]) {
            tap.piece(SOCKET, sequence(0, at), piece);
        }
        let c = tap.streams.counters();
        assert!(c.stream_search_given_up_bytes > 500_000, "{c:?}");
        assert!(c.stream_search_given_up_bytes <= c.stream_skipped_bytes);
        // The search goes on afterwards.
        let next = messages(1, 3);
        for (at, piece) in pieces(&stream_of(&next), &[90_000]) {
            tap.piece(SOCKET, sequence(0, bytes.len() + at), piece);
        }
        tap.finish();
        assert!(is_in_order(&tap.of(SOCKET), &next));
    }
}

#[test]
fn the_budget_is_what_bytes_pay() {
    let bytes = crafted(65_000);
    let mut budget = Budget::new();
    assert_eq!(scan(&bytes, &mut budget), Scan::Spent);
    budget.earn(1 << 20);
    assert_ne!(scan(&bytes[..60], &mut budget), Scan::Spent);
}

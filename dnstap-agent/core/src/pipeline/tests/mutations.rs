//! Random mutations of valid records: nothing may panic, memory must stay within its bounds, and
//! the counters must add up.
//!
//! `DNSTAP_AGENT_MUTATIONS` sets their number, a million by default. This takes seconds in a
//! release build, about 15 in a debug build.

use super::*;
use crate::{
    classify::{Naming, bind::BindRules},
    dns::fixture::{asking, with_opt},
    reassemble::tcp::proxy::fixture::client,
};

/// Offset of the socket's number.
const SOCKET: usize = std::mem::offset_of!(EventHeader, socket);

/// Xorshift generator, so that each run is the same.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Builds queries and answers, transfers, PROXY headers, and several messages at once, each over
/// UDP and TCP.
fn originals() -> Vec<Vec<u8>> {
    let payloads = [
        message(1, 0x0100, "example", 0),
        message(1, 0x8180, "example", 3),
        with_opt(asking(6, 0), 0x8000),
        asking(252, 0),
        message(7, 0x8400, "zone", 9),
        asking(6, 0x2400),
        asking(6, 0x2800),
        [client(), message(2, 0x0100, "example", 0)].concat(),
    ];
    let mut records = Vec::new();
    for (number, payload) in payloads.iter().enumerate() {
        let response = payload[2] & 0x80 != 0;
        for direction in [u8::from(response), u8::from(!response)] {
            let mut header = at(0, direction);
            header.socket = number as u64 / 2;
            records.push(whole(header, payload));
            header.protocol = IPPROTO_TCP;
            header.socket += 8;
            let stream = match payload.strip_prefix(&client()[..]) {
                Some(behind) => [client(), framed(behind)].concat(),
                None => [framed(payload), framed(payload)].concat(),
            };
            let (first, second) = stream.split_at(stream.len() / 3);
            records.push(whole(header, first));
            header.tcp_seq = u32::try_from(first.len()).unwrap();
            records.push(whole(header, second));
        }
    }
    records
}

fn mutations() -> u64 {
    let asked = std::env::var("DNSTAP_AGENT_MUTATIONS").ok();
    asked.map_or(1_000_000, |number| number.parse().unwrap())
}

#[test]
fn a_million_mutations_break_nothing() {
    let originals = originals();
    for (seed, naming) in [
        (0x2545_f491_4f6c_dd1d, Naming::default()),
        (
            0x9e37_79b9_7f4a_7c15,
            Naming::Bind(BindRules::of_version("9.18.1")),
        ),
    ] {
        let mut pipeline = Pipeline::new(named(naming));
        let mut random = Random(seed);
        let mut batch = Batch::default();
        let rounds = mutations() / 2;
        for round in 0..rounds {
            let choice = random.next();
            let mut record = originals[choice as usize % originals.len()].clone();
            record[..8].copy_from_slice(&round.to_ne_bytes());
            // Use new connections now and then, because a dropped one is joined midway from then
            // on.
            record[SOCKET] = record[SOCKET].wrapping_add((round >> 2) as u8 & 0xf0);
            record[SOCKET + 1] = (round >> 10) as u8;
            record[SOCKET + 2] = (round >> 18) as u8;
            for _ in 0..choice >> 61 {
                // Half of the mutations hit the payload.
                let (place, byte) = (random.next() as usize, random.next());
                let span = if byte & 256 == 0 {
                    crate::record::HEADER
                } else {
                    record.len()
                };
                record[place % span] = byte as u8;
            }
            if choice & 0xf00 == 0 {
                record.truncate(random.next() as usize % record.len());
            }
            pipeline.push(&record, &mut batch);
            if round % 1_000 == 0 {
                pipeline.tick(round, &mut batch);
                decoded(&batch);
                batch.clear();
                check(&pipeline);
                let pending = pipeline.pending();
                assert!(
                    pending.bytes <= 16 * 2 * (2 * 65_537 + 128 * 1_024),
                    "{pending:?}"
                );
                assert!(pending.queries <= 64 && pending.held <= 65_536 && pending.chunks <= 4_096);
                pipeline.verdicts().for_each(drop);
            }
        }
        pipeline.finish(&mut batch);
        check(&pipeline);
        assert_eq!(pipeline.pending(), Pending::default());
        let counters = pipeline.counters();
        assert_eq!(counters.intake.records, rounds);
        assert!(
            counters.intake.event_errors > rounds / 100
                && counters.deliver.messages > rounds / 100
                && counters.stream.stream_proxy_headers > 0
                && counters.intake.udp_proxy_headers > 0,
            "{counters:?}"
        );
    }
}

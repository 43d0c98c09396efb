//! Figures of the store: `cargo bench -p dnstap-pdns --bench store [-- RRSETS [RESPONSES]]`.
//!
//! Frames are decoded as if they came from a file. Each response has four RRsets: the answer, the name servers of the
//! zone, and their addresses. The figures are for one thread, together with the threads of fjall.

#![allow(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    missing_docs,
    reason = "a benchmark"
)]

use std::{
    env, fs,
    hint::black_box,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use dnstap_pdns::{
    Collector, Fence, Kinds, Name, Names, Options, Pairing, Query, Retention, Store, What,
    addresses,
};
use dnstap_proto::{DnstapRef, MessageRef, Timestamp, lenient, message::Type};

fn main() {
    let mut numbers = env::args().filter_map(|word| word.parse::<u64>().ok());
    let rrsets = numbers.next().unwrap_or(1_000_000);
    let responses = numbers.next().unwrap_or(1_000_000);
    repeats(responses);
    fresh(rrsets);
}

/// Measures responses of which 95 in 100 have been seen before.
fn repeats(responses: u64) {
    let folder = tempfile::tempdir().unwrap();
    let mut collector = collector(&folder);
    let mut chance = Chance(1);
    let frames: Vec<_> = (0..responses)
        .map(|nth| {
            let is_new = chance.below(100) < 5;
            frame(
                if is_new {
                    1 << 40 | nth
                } else {
                    chance.below(20_000)
                },
                nth,
            )
        })
        .collect();
    let begun = Instant::now();
    take(&mut collector, &frames);
    let counts = collector.counts().clone();
    report(
        "responses with 95 % repeats",
        responses,
        begun.elapsed(),
        &format!("{} RRsets seen, {} new", counts.rrsets, counts.new),
    );
}

/// Measures responses that are all new.
fn fresh(rrsets: u64) {
    let folder = tempfile::tempdir().unwrap();
    let mut collector = collector(&folder);
    let begun = Instant::now();
    let mut spent = Duration::ZERO;
    // Each response has its own zone, and so four new RRsets.
    for piece in 0..(rrsets / 4).div_ceil(50_000) {
        let frames: Vec<_> = (piece * 50_000..((piece + 1) * 50_000).min(rrsets / 4))
            .map(|nth| frame(nth, nth))
            .collect();
        let begun = Instant::now();
        take(&mut collector, &frames);
        spent += begun.elapsed();
    }
    let new = collector.counts().new;
    report(
        "new RRsets",
        new,
        spent,
        &format!("{:.0?} with the making of frames", begun.elapsed()),
    );
    let store = collector.store();
    let before = store.stats().unwrap();
    let begun = Instant::now();
    store.compact(Retention::default()).unwrap();
    let took = begun.elapsed();
    let stats = store.stats().unwrap();
    let per = |bytes: u64| bytes as f64 / stats.rrsets as f64;
    println!(
        "{} RRsets: {:.1} bytes each as collected, {:.1} after compaction ({took:.1?}), without the journal; {} entries of the index",
        stats.rrsets,
        per(before.bytes - before.journal_bytes),
        per(stats.bytes - stats.journal_bytes),
        stats.index,
    );
    println!("resident: {}", resident());
    drop(collector);
    let store = Store::open(folder.path()).unwrap();
    let mut chance = Chance(7);
    for (what, times) in [("first", 2_000), ("again", 2_000)] {
        chance.0 = 7;
        let owners = (0..times).map(|_| owner(chance.below(rrsets / 4)));
        ask(
            &store,
            &format!("owner, {what}"),
            owners.map(|name| What::Owner(Names::Exactly(name))),
        );
    }
    let networks = (0..200).map(|_| {
        let [_, a, b, _] = u32::try_from(chance.below(rrsets / 4))
            .unwrap()
            .to_be_bytes();
        What::Address(addresses(&format!("10.{a}.{b}.0/24")).unwrap())
    });
    ask(&store, "/24", networks);
    let query = query(What::Owner(Names::Below(
        "example".parse::<Name>().unwrap(),
    )));
    let begun = Instant::now();
    let mut answers = store.ask(&query);
    black_box(answers.next().unwrap().unwrap());
    let first = begun.elapsed();
    let count = 1 + answers.take(9_999).map(Result::unwrap).count();
    println!(
        "*.example: first answer after {first:.2?}, {count} after {:.2?}",
        begun.elapsed()
    );
    println!("resident: {}", resident());
}

fn ask(store: &Store, what: &str, queries: impl Iterator<Item = What>) {
    let mut times = Vec::new();
    let mut answers = 0;
    for what in queries {
        let query = query(what);
        let begun = Instant::now();
        answers += store.ask(&query).map(Result::unwrap).count();
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    let at = |part: usize| times[times.len() * part / 100];
    println!(
        "look-up by {what}: {} queries, {answers} answers, p50 {:.2?}, p99 {:.2?}",
        times.len(),
        at(50),
        at(99)
    );
}

fn query(what: What) -> Query {
    Query {
        what,
        kinds: Kinds::Any,
        bailiwick: None,
        fence: Fence::default(),
    }
}

fn collector(folder: &tempfile::TempDir) -> Collector {
    let options = Options {
        memory: 32 << 20,
        pairing: Pairing::ByWriter,
        roots: Vec::new(),
    };
    Collector::new(Store::create(folder.path()).unwrap(), &options)
}

fn take(collector: &mut Collector, frames: &[Vec<u8>]) {
    for frame in frames {
        let frame = bytes::Bytes::copy_from_slice(frame);
        collector.take(&lenient::decode(frame).unwrap());
        if collector.is_full() {
            collector.write(None, &mut |_, _| {}).unwrap();
        }
    }
    collector.write(None, &mut |_, _| {}).unwrap();
}

fn report(what: &str, count: u64, took: Duration, more: &str) {
    let rate = count as f64 / took.as_secs_f64();
    println!(
        "{count} {what}: {took:.2?}, {rate:.0}/s; {more}; resident: {}",
        resident()
    );
}

fn resident() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let lines = status
        .lines()
        .filter(|line| line.starts_with("VmRSS") || line.starts_with("VmHWM"));
    lines.collect::<Vec<_>>().join(" ").replace('\t', " ")
}

fn owner(nth: u64) -> Name {
    format!("www.site{nth}.example").parse().unwrap()
}

/// Returns a response of a server of `example` about the nth site: an address, two servers and their addresses.
fn frame(nth: u64, time: u64) -> Vec<u8> {
    let site = format!("site{nth}");
    let site = [&[u8::try_from(site.len()).unwrap()], site.as_bytes()].concat();
    let mut message = vec![0, 1, 0x84, 0, 0, 1, 0, 1, 0, 2, 0, 2, 3, b'w', b'w', b'w'];
    let zone = u8::try_from(message.len()).unwrap();
    message.extend(&site);
    message.extend(b"\x07example\0\0\x01\0\x01");
    let address = Ipv4Addr::from(0x0a00_0000 | u32::try_from(nth & 0xff_ffff).unwrap()).octets();
    let mut record = |owner: &[u8], kind: u8, data: &[u8]| {
        message.extend(owner);
        message.extend([
            0,
            kind,
            0,
            1,
            0,
            0,
            1,
            44,
            0,
            u8::try_from(data.len()).unwrap(),
        ]);
        message.extend(data);
    };
    record(&[0xc0, 12], 1, &address);
    for server in [b"\x03ns1", b"\x03ns2"] {
        record(&[0xc0, zone], 2, &[&server[..], &[0xc0, zone]].concat());
    }
    for server in [b"\x03ns1", b"\x03ns2"] {
        record(&[&server[..], &[0xc0, zone]].concat(), 1, &address);
    }
    let time = Some(Timestamp {
        seconds: 1_700_000_000 + time / 1000,
        nanoseconds: 0,
    });
    let message = MessageRef {
        response_address: Some(&[192, 0, 2, 53]),
        query_zone: Some(b"\x07example\0"),
        response_message: Some(&message),
        query_time: time,
        response_time: time,
        ..MessageRef::new(Type::ResolverResponse)
    };
    let mut frame = Vec::new();
    DnstapRef::new(message).append_frame(&mut frame);
    frame.split_off(4)
}

struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

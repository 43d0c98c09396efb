//! Attacks on the tapped server: noise, malformed DNS, wrong lengths, and connections that are broken within a message.
//! The server answers other clients as before, each datagram is in the file byte for byte, and the counters add up.

use std::{
    collections::HashMap,
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use socket2::SockRef;

use super::{expect_records, for_each_combination};
use crate::{
    environment::Combination,
    lab::{Lab, Wanted, scratch},
    load::client::{Cut, TcpClient, UdpClient},
    process::PATIENCE,
    record::Record,
    system,
    tap::{Tap, Tapped},
    toy::{By, Puppet},
    wire,
};

/// Number of datagrams with noise and with damaged queries.
const NOISE: usize = 200;
/// Largest payload of a UDP datagram over IPv4 (RFC 768, RFC 791).
const LARGEST_DATAGRAM: usize = 65_507;
/// Number of broken connections.
const TORN: usize = 1_000;
/// Number of sockets of a process with many sockets, and number of descriptors that it needs in addition.
const SOCKETS: usize = 10_000;
const BESIDES: u64 = 100;
/// Seed of the random numbers; the numbers are the same each time.
const SEED: u64 = 0x5eed_cafe_f00d_0001;

pub(super) fn trials() -> Vec<Trial> {
    let mut trials = for_each_combination(
        "hostile datagrams are in the file byte for byte and do not disturb",
        datagrams,
    );
    trials.extend(for_each_combination(
        "hostile streams are accounted for and do not disturb",
        streams,
    ));
    trials.extend(for_each_combination(
        "1,000 connections torn amid a message are accounted for",
        torn,
    ));
    trials.extend(for_each_combination(
        "a process with 10,000 sockets is tapped on the first and on the last",
        many_sockets,
    ));
    trials
}

fn datagrams(how: &Combination) -> Result<()> {
    let lab = Lab::start(Wanted::default())?;
    // Half of the noise has the QR bit set: these are unsolicited responses.
    let options = ["--unsolicited"];
    let tap = Tap::attach(lab.folder(), lab.tapped.pid(), how, &options)?;
    let mut noise = Noise(SEED);
    let mut sent: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut friend = UdpClient::connect(lab.server(false))?;
    let attackers = [false, true].map(|ipv6| attacker(lab.server(ipv6)));
    let mut hostile: Vec<_> = malformed();
    for number in 0..NOISE {
        hostile.push(if number % 2 == 0 {
            let length = 1 + noise.below(1_400);
            noise.bytes(length)
        } else {
            let mut query = wire::query_of_size(noise.word(), "h1.auth.lab", 200);
            for _ in 0..=noise.below(4) {
                let at = noise.below(query.len());
                query[at] = noise.byte();
            }
            query
        });
    }
    for (number, message) in hostile.into_iter().enumerate() {
        for attacker in &attackers {
            let attacker = attacker
                .as_ref()
                .map_err(|error| anyhow::anyhow!("{error:#}"))?;
            attacker
                .send(&message)
                .with_context(|| format!("{} bytes", message.len()))?;
            // An empty datagram carries no message.
            if !message.is_empty() {
                *sent.entry(message.clone()).or_default() += 1;
            }
            // This slows the attack down so that the server's sockets lose nothing. The friend's queries do not do
            // that, because another worker may answer them.
            system::until_read(lab.server(false).port())?;
            ask(&mut friend, number)?;
        }
    }
    let tapped = tap.stop()?;
    let mut seen: HashMap<Vec<u8>, usize> = HashMap::new();
    for record in tapped.records()? {
        *seen.entry(record.message).or_default() += 1;
    }
    for (message, times) in &sent {
        ensure!(
            seen.get(message) == Some(times),
            "sent {times} times, in the file {:?} times: {}",
            seen.get(message),
            wire::describe(message)
        );
    }
    let responses = sent.iter().filter(|(message, _)| {
        let flags = message.get(2);
        flags.is_some_and(|flags| flags & 0x80 != 0)
    });
    let responses: usize = responses.map(|(_, times)| times).sum();
    let unsolicited = tapped.summary.pipeline("unsolicited_delivered")?;
    ensure!(
        unsolicited == responses as u64,
        "unsolicited: {unsolicited}, sent {responses}"
    );
    let short = sent.iter().filter(|(message, _)| message.len() < 12);
    let short: usize = short.map(|(_, times)| times).sum();
    let malformed = tapped.summary.pipeline("malformed")?;
    ensure!(
        malformed >= short as u64,
        "malformed: {malformed}, of them too short {short}"
    );
    expect_both_ways(&tapped, &friend.passed)?;
    tapped.summary.expect_nothing_dropped()?;
    lab.tapped.stop()
}

fn streams(how: &Combination) -> Result<()> {
    let lab = Lab::start(Wanted::default())?;
    let tap = Tap::attach(lab.folder(), lab.tapped.pid(), how, &[])?;
    let server = lab.server(false);
    let mut noise = Noise(SEED);
    let query = wire::query(1, "h1.auth.lab", wire::TYPE_A, true);
    let largest = wire::framed(&wire::query_of_size(2, "h1.auth.lab", 65_535));
    let mut hostile = vec![
        // Many empty messages, then a good one.
        [&[0; 2_000][..], &wire::framed(&query)].concat(),
        // The length is larger than the message, then smaller.
        [&[0xff, 0xff][..], &query].concat(),
        [&[0, 5][..], &query].concat(),
        [&[0, 1][..], &query].concat(),
        vec![0],
        largest.clone(),
        largest[..40_000].to_vec(),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec(), // the signature of a PROXY header, without a client
    ];
    hostile.extend(malformed().iter().map(|message| wire::framed(message)));
    for _ in 0..50 {
        let length = 1 + noise.below(3_000);
        hostile.push(noise.bytes(length));
    }
    let mut expected = Vec::new();
    for (number, bytes) in hostile.iter().enumerate() {
        let mut attacker = TcpClient::connect(server)?;
        // The server may have closed already: it does not have to read all bytes of a message that it refuses.
        let _refused = attacker.send_raw(bytes);
        drop(attacker);
        let mut friend = TcpClient::connect(server)?;
        let id = u16::try_from(number)?;
        friend.send(
            &wire::query(id, "h1.auth.lab", wire::TYPE_A, true),
            Cut::Halves,
        )?;
        friend.receive()?;
        expected.append(&mut friend.passed);
    }
    let tapped = tap.stop()?;
    expect_both_ways(&tapped, &expected)?;
    ensure!(
        tapped.summary.pipeline("stream_skipped_bytes")? > 0
            && tapped.summary.pipeline("stream_empty_messages")? > 0,
        "{}",
        tapped.summary
    );
    tapped.summary.expect_nothing_dropped()?;
    lab.tapped.stop()
}

fn torn(how: &Combination) -> Result<()> {
    let lab = Lab::start(Wanted::default())?;
    let tap = Tap::attach(lab.folder(), lab.tapped.pid(), how, &[])?;
    let server = lab.server(false);
    let mut friend = UdpClient::connect(server)?;
    let framed = wire::framed(&wire::query_of_size(7, "h1.auth.lab", 1_000));
    let (mut halves, mut read) = (0, 0);
    for number in 0..TORN {
        let mut stream = TcpStream::connect(server)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let part = 1 + number % (framed.len() - 1);
        stream.write_all(&framed[..part])?;
        if number % 2 == 0 {
            // With a reset the server may never read it.
            SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        } else {
            // The end of the server's side shows that it has read everything.
            stream.shutdown(Shutdown::Write)?;
            let answered = stream.read(&mut [0; 16])?;
            ensure!(answered == 0, "an answer to a part of a query");
            halves += part as u64;
            read += 1;
        }
        if number % 50 == 0 {
            ask(&mut friend, number)?;
        }
    }
    let mut last = TcpClient::connect(server)?;
    last.send(
        &wire::query(9, "h1.auth.lab", wire::TYPE_A, true),
        Cut::Bytes,
    )?;
    last.receive()?;
    friend.passed.append(&mut last.passed);
    let tapped = tap.stop()?;
    // Only the friend's messages may be there: a part of a query is not a message.
    expect_records(&tapped, &friend.passed)?;
    let skipped = tapped.summary.pipeline("stream_skipped_bytes")?;
    ensure!(skipped >= halves, "skipped {skipped} bytes, of {halves}");
    // The state of a connection is removed with the connection. A connection that was never read has no state.
    let ended = tapped.summary.pipeline("stream_ended")?;
    ensure!(
        (read..=TORN as u64).contains(&ended),
        "{ended} connections have ended, of {read} that were read"
    );
    tapped.summary.expect_nothing_dropped()?;
    lab.tapped.stop()
}

fn many_sockets(how: &Combination) -> Result<()> {
    system::allow_descriptors(SOCKETS as u64 + BESIDES)?;
    let folder = scratch()?;
    let mut puppet = Puppet::start()?;
    let sockets = puppet.udp_many("127.0.0.1:0", SOCKETS)?;
    let tap = Tap::attach(folder.path(), puppet.pid(), how, &[])?;
    let mut expected = Vec::new();
    for (socket, address) in [sockets.first(), sockets.last()].into_iter().flatten() {
        let mut client = UdpClient::connect(*address)?;
        let query = wire::query(1, "many.lab", wire::TYPE_A, true);
        client.send(&query)?;
        puppet.receive(*socket, By::Recvfrom, 512, 0)?;
        puppet.send(*socket, By::Recvfrom, &wire::answer(&query))?;
        client.receive()?;
        expected.append(&mut client.passed);
    }
    let memory = system::memory_peak(tap.pid())?;
    ensure!(memory < 200 << 20, "the agent took {} MiB", memory >> 20);
    let tapped = tap.stop()?;
    expect_records(&tapped, &expected)?;
    tapped.summary.expect_nothing_dropped()
}

/// Checks that each of these records is in the file, which may have others.
fn expect_both_ways(tapped: &Tapped, expected: &[Record]) -> Result<()> {
    let records: Vec<_> = tapped
        .records()?
        .into_iter()
        .map(Record::with_plain_kind)
        .collect();
    for record in expected {
        let same = |seen: &&Record| {
            (seen.protocol, seen.query_port, &seen.message)
                == (record.protocol, record.query_port, &record.message)
        };
        ensure!(
            records.iter().any(|seen| same(&seen)),
            "not in the file: {record}"
        );
    }
    Ok(())
}

/// Sends a query that the server must answer.
fn ask(client: &mut UdpClient, number: usize) -> Result<()> {
    let id = u16::try_from(number)?;
    client.send(&wire::query(id, "h1.auth.lab", wire::TYPE_A, true))?;
    let answer = client.receive()?;
    ensure!(
        answer.starts_with(&id.to_be_bytes()),
        "an answer to another query"
    );
    Ok(())
}

/// Opens a socket whose responses are not read.
fn attacker(server: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((if server.is_ipv6() { "::1" } else { "127.0.0.1" }, 0))?;
    socket.connect(server)?;
    Ok(socket)
}

/// Returns messages with all kinds of errors that have broken DNS software before.
fn malformed() -> Vec<Vec<u8>> {
    let header = |flags: u16, counts: [u16; 4]| -> Vec<u8> {
        [0xbad0, flags]
            .into_iter()
            .chain(counts)
            .flat_map(u16::to_be_bytes)
            .collect()
    };
    let with = |flags, counts, rest: &[u8]| [&header(flags, counts)[..], rest].concat();
    let good = wire::query(0xbad1, "h1.auth.lab", wire::TYPE_A, true);
    let mut messages = vec![
        Vec::new(),
        vec![0],
        vec![0xff; 11],
        header(0x0100, [0; 4]),
        header(0x0100, [0xffff; 4]),
        // Pointers to themselves, to each other, and beyond the end.
        with(0x0100, [1, 0, 0, 0], &[0xc0, 12, 0, 1, 0, 1]),
        with(0x0100, [1, 0, 0, 0], &[0xc0, 14, 0xc0, 12, 0, 1, 0, 1]),
        with(0x0100, [1, 0, 0, 0], &[0xff, 0xff, 0, 1, 0, 1]),
        // Labels longer than the rest of the message, and of the reserved kinds.
        with(0x0100, [1, 0, 0, 0], &[63, b'a']),
        with(0x0100, [1, 0, 0, 0], &[0x40, b'a', 0, 0, 1, 0, 1]),
        with(0x0100, [1, 0, 0, 0], &[0x80, b'a', 0, 0, 1, 0, 1]),
        // As many labels as fit into a name, and many more.
        with(
            0x0100,
            [1, 0, 0, 0],
            &[&[1, b'a'].repeat(127)[..], &[0, 0, 1, 0, 1]].concat(),
        ),
        with(0x0100, [1, 0, 0, 0], &[1, b'a'].repeat(1_000)),
        with(0x0100, [1, 0, 0, 0], &[1, b'a'].repeat(16_000)),
        // All bits of the flags set.
        with(0xffff, [1, 1, 1, 1], &good[12..]),
        // An unsolicited response.
        wire::answer(&wire::query(0xbad2, "h1.auth.lab", wire::TYPE_A, true)),
    ];
    for opcode in 1..16_u16 {
        messages.push(with(opcode << 11, [1, 0, 0, 0], &good[12..]));
    }
    // EDNS: wrong lengths, several OPT records, and as many options as fit.
    let opt = |length: u16, options: &[u8]| {
        [
            &[0, 0, 41, 0x10, 0, 0, 0, 0x80, 0][..],
            &length.to_be_bytes(),
            options,
        ]
        .concat()
    };
    let asked = |additional: u16, records: &[u8]| {
        [
            &header(0x0100, [1, 0, 0, additional])[..],
            &good[12..],
            records,
        ]
        .concat()
    };
    messages.push(asked(1, &opt(0xffff, &[])));
    messages.push(asked(1, &opt(4, &[0, 10, 0xff, 0xff])));
    messages.push(asked(3, &opt(0, &[]).repeat(3)));
    messages.push(asked(3_000, &opt(0, &[]).repeat(3_000)));
    messages.push(asked(1, &opt(60_000, &[0xfd, 0xe9, 0, 0].repeat(15_000))));
    messages.push(wire::query_of_size(0xbad3, "h1.auth.lab", LARGEST_DATAGRAM));
    messages
}

/// Pseudo-random numbers (xorshift64).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }

    fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::from(self.word()) % limit
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.byte()).collect()
    }
}

//! Sends over TCP that the kernel accepts only in parts, or for which a server passes the same bytes twice because the
//! first call only connected. Each message is in the file once.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    thread,
};

use anyhow::{Result, anyhow, ensure};
use dnstap_proto::SocketProtocol;
use libtest_mimic::Trial;

use super::{expect_records, for_each_combination};
use crate::{
    environment::Combination,
    lab,
    load::client::{Cut, TcpClient},
    process::PATIENCE,
    record::Record,
    tap::Tap,
    toy::{By, Puppet},
    wire,
};

/// Room for any query of these tests.
const ROOM: usize = 2_048;
/// Size of a message, and of a send buffer that is too small for it.
const LONG: usize = 60_000;
const SMALL_BUFFER: usize = 4_096;
/// Number of calls, which is larger than the number of the message's segments.
const MANY: usize = 5;

pub(super) fn trials() -> Vec<Trial> {
    let mut trials = for_each_combination(
        "a long answer that the socket takes in many parts is one message",
        in_parts,
    );
    trials.extend(for_each_combination(
        "answers sent in one call from a short segment and a long one are recorded",
        in_two_segments,
    ));
    trials.extend(for_each_combination(
        "a query sent with TCP Fast Open is one message, also if its bytes are handed over twice",
        fast_open,
    ));
    trials
}

fn in_parts(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let mut puppet = Puppet::start()?;
    let (listener, address) = puppet.listen("127.0.0.1:0")?;
    let tap = Tap::attach(scratch.path(), puppet.pid(), how, &[])?;
    let mut client = TcpClient::connect_narrowly(address)?;
    let stream = puppet.accept(listener)?;
    for id in 1..4 {
        client.send(&wire::query_of_size(id, "parts.lab", 100), Cut::Whole)?;
        puppet.receive(stream, By::Read, ROOM, 0)?;
        let answer = wire::framed(&wire::answer(&wire::query_of_size(id, "parts.lab", LONG)));
        let calls = thread::scope(|scope| {
            let reader = scope.spawn(|| client.receive());
            let calls = puppet.send_in_parts(stream, SMALL_BUFFER, &answer);
            reader
                .join()
                .map_err(|_panic| anyhow!("the reader panicked"))??;
            calls
        })?;
        ensure!(
            calls > MANY,
            "the socket took {LONG} bytes in {calls} calls"
        );
    }
    let tapped = tap.stop()?;
    expect_records(&tapped, &client.passed)?;
    tapped.summary.expect_nothing_dropped()
}

/// The first segment needs a record of its own, and the second one needs more records than are left then.
fn in_two_segments(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let mut puppet = Puppet::start()?;
    let (listener, address) = puppet.listen("127.0.0.1:0")?;
    let tap = Tap::attach(scratch.path(), puppet.pid(), how, &[])?;
    let mut client = TcpClient::connect(address)?;
    let stream = puppet.accept(listener)?;
    for (first, long) in [(43, 55_000), (43, 65_000), (2, 65_000), (33_000, 65_000)] {
        let ids = [1, 2];
        let queries = ids.map(|id| wire::query_of_size(id, "segments.lab", 100));
        for query in &queries {
            client.send(query, Cut::Whole)?;
            puppet.receive(stream, By::Read, ROOM, 0)?;
        }
        let answer = |id| {
            let longer = wire::query_of_size(id, "segments.lab", long);
            wire::framed(&wire::answer(&longer))
        };
        let answers = ids.map(answer).concat();
        thread::scope(|scope| {
            let reader = scope.spawn(|| client.receive().and_then(|_first| client.receive()));
            let sent = puppet.send_in_two(stream, first, &answers);
            reader
                .join()
                .map_err(|_panic| anyhow!("the reader panicked"))??;
            sent
        })?;
    }
    let tapped = tap.stop()?;
    expect_records(&tapped, &client.passed)?;
    tapped.summary.expect_nothing_dropped()
}

fn fast_open(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let server = TcpListener::bind("127.0.0.1:0")?;
    let address = server.local_addr()?;
    let mut puppet = Puppet::start()?;
    puppet.udp("127.0.0.1:0")?;
    let tap = Tap::attach(scratch.path(), puppet.pid(), how, &[])?;
    let mut expected = Vec::new();
    // Without a cookie of the server, the first call only connects. If no cookie is needed, it also sends.
    for (id, cookie, wanted) in [(1, true, 2), (2, false, 1), (3, true, 2)] {
        let query = wire::query(id, "fastopen.lab", wire::TYPE_A, true);
        let (socket, client, calls) = puppet.fast_open(address, cookie, &wire::framed(&query))?;
        ensure!(calls == wanted, "query {id} took {calls} calls");
        let mut stream = server.accept()?.0;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut received = vec![0; 2 + query.len()];
        stream.read_exact(&mut received)?;
        let answer = wire::answer(&query);
        stream.write_all(&wire::framed(&answer))?;
        let length = puppet.receive(socket, By::Read, ROOM, 0)?;
        ensure!(length == received.len(), "{length} bytes of an answer");
        for message in [query, answer] {
            let record = Record::expected(SocketProtocol::Tcp, client, address, message);
            expected.push(record);
        }
    }
    let tapped = tap.stop()?;
    expect_records(&tapped, &expected)?;
    tapped.summary.expect_nothing_dropped()
}

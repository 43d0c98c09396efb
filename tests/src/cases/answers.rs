//! Matching of responses to queries when ids are reused, when messages are repeated, late or in another order, and when
//! connections are reset.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use dnstap_proto::SocketProtocol;
use libtest_mimic::Trial;
use socket2::Socket;

use super::{expect_records, for_each_combination};
use crate::{
    environment::Combination,
    lab,
    load::client::{Cut, TcpClient, UdpClient},
    process::PATIENCE,
    record::Record,
    tap::{Tap, Tapped},
    toy::{By, Puppet},
    wire,
};

/// Room for any message of these tests.
const ROOM: usize = 2_048;

pub(super) fn trials() -> Vec<Trial> {
    let mut trials = for_each_combination(
        "each answer has its query's time, whatever is repeated, late or overtaken",
        datagrams,
    );
    trials.extend(for_each_combination(
        "answers on a connection have their queries' times in any order",
        pipelined,
    ));
    trials.extend(for_each_combination(
        "a socket that is reset and connected elsewhere begins a new stream",
        reset,
    ));
    trials
}

fn datagrams(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let mut puppet = Puppet::start()?;
    let (socket, address) = puppet.udp("127.0.0.1:0")?;
    let late = [
        "--unanswered",
        "1",
        "--unanswered-events",
        "json:/dev/stderr",
    ];
    let mut tap = Tap::attach(scratch.path(), puppet.pid(), how, &late)?;
    let mut client = UdpClient::connect(address)?;
    let mut ask = |puppet: &mut Puppet, id, name| -> Result<()> {
        client.send(&wire::query(id, name, wire::TYPE_A, true))?;
        puppet.receive(socket, By::Recvfrom, ROOM, 0).map(drop)
    };
    let answer = |puppet: &mut Puppet, id, name| {
        let query = wire::query(id, name, wire::TYPE_A, true);
        puppet.send(socket, By::Recvfrom, &wire::answer(&query))
    };
    // Two queries have one id; the later one is answered first.
    ask(&mut puppet, 1, "one.lab")?;
    ask(&mut puppet, 1, "two.lab")?;
    answer(&mut puppet, 1, "two.lab")?;
    answer(&mut puppet, 1, "one.lab")?;
    // A query is repeated, both are answered, and one response is repeated.
    ask(&mut puppet, 2, "again.lab")?;
    ask(&mut puppet, 2, "again.lab")?;
    for _ in 0..3 {
        answer(&mut puppet, 2, "again.lab")?;
    }
    ask(&mut puppet, 3, "late.lab")?;
    tap.wait_for("a query without answer", |line| line.contains("late.lab"))?;
    answer(&mut puppet, 3, "late.lab")?;
    let answers = [Some(1), Some(0), Some(2), Some(3), None, None];
    for _ in answers {
        client.receive()?;
    }
    let tapped = tap.stop()?;
    expect_records(&tapped, &client.passed)?;
    expect_query_times(&tapped.records()?, &answers)?;
    expect_counts(
        &tapped,
        &[
            ("queries_answered", 4),
            ("queries_unanswered", 1),
            ("responses_unmatched", 2),
        ],
    )
}

fn pipelined(how: &Combination) -> Result<()> {
    const ORDER: [u16; 4] = [3, 0, 2, 1];
    let scratch = lab::scratch()?;
    let mut puppet = Puppet::start()?;
    let (listener, address) = puppet.listen("127.0.0.1:0")?;
    let tap = Tap::attach(scratch.path(), puppet.pid(), how, &[])?;
    let mut client = TcpClient::connect(address)?;
    let stream = puppet.accept(listener)?;
    let query = |id| wire::query(id, "order.lab", wire::TYPE_A, false);
    for id in 0..4 {
        client.send(&query(id), Cut::Whole)?;
        // This is how many servers read: the length, then the message.
        puppet.receive(stream, By::Recv, 2, libc::MSG_WAITALL)?;
        let length = puppet.receive(stream, By::Recv, query(id).len(), libc::MSG_WAITALL)?;
        ensure!(length == query(id).len(), "{length} bytes of a query");
    }
    let answers = ORDER.map(|id| wire::framed(&wire::answer(&query(id))));
    puppet.send(stream, By::Read, &answers.concat())?;
    for _ in ORDER {
        client.receive()?;
    }
    let tapped = tap.stop()?;
    expect_records(&tapped, &client.passed)?;
    expect_query_times(&tapped.records()?, &ORDER.map(|id| Some(usize::from(id))))?;
    expect_counts(
        &tapped,
        &[("queries_answered", 4), ("responses_unmatched", 0)],
    )
}

fn reset(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let servers = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0"));
    let [first, second] = servers;
    let (first, second) = (first?, second?);
    let mut puppet = Puppet::start()?;
    puppet.udp("127.0.0.1:0")?;
    let tap = Tap::attach(scratch.path(), puppet.pid(), how, &[])?;
    let mut expected = Vec::new();
    let (socket, mut client) = puppet.connect(first.local_addr()?)?;
    let mut stream = accept(&first)?;
    exchange(&mut puppet, socket, client, &mut stream, 1, &mut expected)?;
    // Send half of a message in each direction, then end the connection.
    let half = wire::framed(&wire::query_of_size(2, "half.lab", 400));
    puppet.send(socket, By::Read, &half[..200])?;
    stream.read_exact(&mut [0; 200])?;
    stream.write_all(&half[..100])?;
    puppet.receive(socket, By::Read, ROOM, 0)?;
    reset_by_peer(stream)?;
    let error = puppet.receive(socket, By::Read, ROOM, 0);
    ensure!(error.is_err(), "the connection was not reset");
    for (id, server) in [(3, &second), (4, &second)] {
        client = puppet.connect_again(socket, server.local_addr()?)?;
        let mut stream = accept(server)?;
        exchange(&mut puppet, socket, client, &mut stream, id, &mut expected)?;
    }
    let tapped = tap.stop()?;
    expect_records(&tapped, &expected)?;
    tapped.summary.expect_nothing_dropped()?;
    expect_counts(&tapped, &[("stream_skipped_bytes", 300)])
}

/// Makes the close of a connection an RST and not a FIN, so that nothing waits for bytes that were not read or sent.
fn reset_by_peer(stream: TcpStream) -> Result<()> {
    Ok(Socket::from(stream).set_linger(Some(Duration::ZERO))?)
}

fn accept(server: &TcpListener) -> Result<TcpStream> {
    let stream = server.accept()?.0;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Lets the puppet send a query and receive the response.
fn exchange(
    puppet: &mut Puppet,
    socket: usize,
    client: SocketAddr,
    server: &mut TcpStream,
    id: u16,
    expected: &mut Vec<Record>,
) -> Result<()> {
    let query = wire::query(id, "reset.lab", wire::TYPE_A, true);
    let answer = wire::answer(&query);
    puppet.send(socket, By::Read, &wire::framed(&query))?;
    server.read_exact(&mut vec![0; 2 + query.len()])?;
    server.write_all(&wire::framed(&answer))?;
    let length = puppet.receive(socket, By::Read, ROOM, 0)?;
    ensure!(length == 2 + answer.len(), "{length} bytes of an answer");
    for message in [query, answer] {
        let address = server.local_addr()?;
        expected.push(Record::expected(
            SocketProtocol::Tcp,
            client,
            address,
            message,
        ));
    }
    Ok(())
}

/// Checks that the responses, in their order, have the times of these queries, or none.
fn expect_query_times(records: &[Record], queries: &[Option<usize>]) -> Result<()> {
    let asked: Vec<_> = records
        .iter()
        .filter(|record| !record.is_response())
        .collect();
    let answers: Vec<_> = records
        .iter()
        .filter(|record| record.is_response())
        .collect();
    ensure!(answers.len() == queries.len(), "{} answers", answers.len());
    for (number, (answer, query)) in answers.iter().zip(queries).enumerate() {
        let query = query.map(|query| asked.get(query).context("a query is missing"));
        let query = query.transpose()?;
        ensure!(
            answer.query_time == query.map(|query| query.time),
            "answer {number} has the time {:?}, its query {query:?}",
            answer.query_time
        );
        ensure!(
            query.is_none_or(|query| answer.time > query.time),
            "answer {number} is not later than its query"
        );
    }
    Ok(())
}

fn expect_counts(tapped: &Tapped, expected: &[(&str, u64)]) -> Result<()> {
    for (counter, expected) in expected {
        let counted = tapped.summary.pipeline(counter)?;
        ensure!(
            counted == *expected,
            "{counter}: {counted}, expected {expected}\n{}",
            tapped.summary
        );
    }
    Ok(())
}

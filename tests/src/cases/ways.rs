//! Ways to move bytes over a socket that are no socket calls, or that no DNS server is known to use: each message is in
//! the file, or something counts it. `docs/system-calls.md` has the table that these rules stand for.

use std::{net::UdpSocket, os::fd::AsRawFd as _};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use super::{expect_counters, expect_records, for_each_hook_in_turn, trial};
use crate::{
    environment::Combination,
    lab,
    load::client::{Cut, TcpClient, UdpClient},
    record::Record,
    tap::{Tap, Tapped},
    toy::{By, Puppet, Way},
    wire,
};

/// Room for any query of these tests.
const ROOM: usize = 2_048;
/// Number of queries on each socket.
const QUERIES: u16 = 3;

/// Transport of a test's messages.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Transport {
    Udp,
    Tcp,
}

/// Direction, from the server's point of view.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Received,
    Sent,
}

/// What a hook makes of messages that move in a certain way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Each is in the file.
    Seen,
    /// Each is counted by this counter of the kernel side.
    Counted(&'static str),
    /// Calls or operations of `io_uring` are counted, not messages.
    Operations,
    /// Nothing fires. The stream has a gap of so many bytes as soon as it goes on.
    Gap,
}

pub(super) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for way in Way::ALL {
        let combinations = super::diagonal(super::combinations());
        trials.extend(combinations.into_iter().map(|how| {
            trial(
                format!("{how}: messages moved by {way:?} are in the file, or counted, as the table says"),
                move || moved(&how, way),
            )
        }));
    }
    trials.extend(for_each_hook_in_turn(
        "a socket that comes from another process by pidfd_getfd is one of the server's sockets",
        fetched,
    ));
    trials.extend(for_each_hook_in_turn(
        "packets of a raw socket are counted as no DNS",
        raw,
    ));
    trials
}

/// The table: the outcome for a way.
fn rule(hook: &str, way: Way, transport: Transport, direction: Direction) -> Outcome {
    let by_splice = matches!(way, Way::Splice | Way::RingSplice);
    // The kernel takes the bytes of a TCP stream in functions of their own for these.
    let is_beside = transport == Transport::Tcp
        && direction == Direction::Received
        && (by_splice || way == Way::MappedReceive);
    match (hook, way) {
        (_, Way::Preadv2 | Way::ZeroCopy) => Outcome::Seen,
        (_, Way::MappedReceive) => Outcome::Gap,
        ("syscall", way) if way.is_of_ring() => Outcome::Operations,
        ("syscall", _) => Outcome::Counted("unsupported_call"),
        _ if is_beside => Outcome::Gap,
        ("socket", _) => Outcome::Counted("unsupported_call"),
        (_, Way::Splice | Way::Vmsplice | Way::Tee | Way::Sendfile) => {
            Outcome::Counted("unsupported_iterator")
        }
        (_, Way::RingFixed | Way::RingSplice) => Outcome::Counted("unsupported_iterator"),
        _ => Outcome::Seen,
    }
}

fn moved(how: &Combination, way: Way) -> Result<()> {
    for transport in [Transport::Udp, Transport::Tcp] {
        if way == Way::MappedReceive && transport == Transport::Udp {
            continue;
        }
        let received = way
            .receives()
            .then(|| rule(&how.hook, way, transport, Direction::Received));
        let sent = way
            .sends()
            .then(|| rule(&how.hook, way, transport, Direction::Sent));
        if received == Some(Outcome::Gap) {
            beside_the_hooks(how, way)?;
            // The other direction alone.
            if sent.is_some() {
                exchange(how, way, transport, None, sent)?;
            }
        } else {
            exchange(how, way, transport, received, sent)?;
        }
    }
    Ok(())
}

/// Lets a server receive and send in this way; a direction without an outcome uses plain calls, which are seen.
fn exchange(
    how: &Combination,
    way: Way,
    transport: Transport,
    received: Option<Outcome>,
    sent: Option<Outcome>,
) -> Result<()> {
    let scratch = lab::scratch()?;
    let mut puppet = puppet(way)?;
    let (tap, passed) = match transport {
        Transport::Udp => {
            let (socket, address) = puppet.udp("127.0.0.1:0")?;
            let tap = Tap::attach(scratch.path(), puppet.pid(), how, &[])?;
            let mut client = UdpClient::connect(address)?;
            puppet.join(socket, client.address())?;
            for id in 0..QUERIES {
                let query = wire::query(id, "ways.lab", wire::TYPE_A, true);
                client.send(&query)?;
                take(&mut puppet, socket, way, received, query.len())?;
                put(&mut puppet, socket, way, sent, &wire::answer(&query))?;
                client.receive()?;
            }
            (tap, client.passed)
        }
        Transport::Tcp => {
            let (listener, address) = puppet.listen("127.0.0.1:0")?;
            let tap = Tap::attach(scratch.path(), puppet.pid(), how, &[])?;
            let mut client = TcpClient::connect(address)?;
            let socket = puppet.accept(listener)?;
            for id in 0..QUERIES {
                let query = wire::query(id, "ways.lab", wire::TYPE_A, true);
                client.send(&query, Cut::Whole)?;
                take(&mut puppet, socket, way, received, 2 + query.len())?;
                let answer = wire::framed(&wire::answer(&query));
                put(&mut puppet, socket, way, sent, &answer)?;
                client.receive()?;
            }
            (tap, client.passed)
        }
    };
    let tapped = tap.stop()?;
    let is_seen = |outcome: Option<Outcome>| outcome.is_none_or(|outcome| outcome == Outcome::Seen);
    // Each query comes before its answer.
    let expected: Vec<Record> = passed
        .into_iter()
        .enumerate()
        .filter(|(at, _)| is_seen(if at % 2 == 0 { received } else { sent }))
        .map(|(_, record)| record)
        .collect();
    expect_records(&tapped, &expected)?;
    expect_outcomes(&tapped, &[received, sent])
}

fn take(
    puppet: &mut Puppet,
    socket: usize,
    way: Way,
    outcome: Option<Outcome>,
    length: usize,
) -> Result<()> {
    let received = match outcome {
        Some(_) => puppet.take(socket, way, ROOM)?,
        None => puppet.receive(socket, By::Read, ROOM, 0)?,
    };
    ensure!(received == length, "received {received} of {length} bytes");
    Ok(())
}

fn put(
    puppet: &mut Puppet,
    socket: usize,
    way: Way,
    outcome: Option<Outcome>,
    bytes: &[u8],
) -> Result<()> {
    match outcome {
        Some(_) => puppet.put(socket, way, bytes),
        None => puppet.send(socket, By::Read, bytes),
    }
}

/// Checks the kernel side's counters after an exchange in which each direction had [`QUERIES`] messages.
fn expect_outcomes(tapped: &Tapped, outcomes: &[Option<Outcome>]) -> Result<()> {
    let of = |wanted: fn(Outcome) -> bool| {
        let fitting = outcomes
            .iter()
            .filter(|outcome| outcome.is_some_and(wanted));
        fitting.count() * usize::from(QUERIES)
    };
    let plain = outcomes.iter().filter(|outcome| outcome.is_none()).count() * usize::from(QUERIES);
    let seen = of(|outcome| matches!(outcome, Outcome::Seen | Outcome::Counted(_))) + plain;
    expect_counters(tapped, &[("seen", seen)])?;
    for counter in ["unsupported_call", "unsupported_iterator"] {
        let counted = outcomes
            .iter()
            .filter(|outcome| **outcome == Some(Outcome::Counted(counter)))
            .count();
        expect_counters(tapped, &[(counter, counted * usize::from(QUERIES))])?;
    }
    let operations = tapped.summary.kernel("io_uring_calls")?;
    let wanted = of(|outcome| outcome == Outcome::Operations);
    ensure!(
        (operations >= wanted as u64) && (wanted > 0 || operations == 0),
        "{operations} operations of io_uring are counted, {wanted} moved messages\n{}",
        tapped.summary
    );
    if wanted == 0 && of(|outcome| matches!(outcome, Outcome::Counted(_))) == 0 {
        return tapped.summary.expect_nothing_dropped();
    }
    Ok(())
}

/// The second of many queries on a connection moves where no hook is. The stream shows it.
fn beside_the_hooks(how: &Combination, way: Way) -> Result<()> {
    const UNSEEN: u16 = 2;
    let scratch = lab::scratch()?;
    let mut puppet = puppet(way)?;
    let (listener, address) = puppet.listen("127.0.0.1:0")?;
    let tap = Tap::attach(scratch.path(), puppet.pid(), how, &[])?;
    let mut client = TcpClient::connect(address)?;
    let socket = puppet.accept(listener)?;
    let query = |id| wire::query(id, "beside.lab", wire::TYPE_A, true);
    for id in 1..6 {
        client.send(&query(id), Cut::Whole)?;
        let outcome = (id == UNSEEN).then_some(Outcome::Gap);
        take(&mut puppet, socket, way, outcome, 2 + query(id).len())?;
        put(
            &mut puppet,
            socket,
            way,
            None,
            &wire::framed(&wire::answer(&query(id))),
        )?;
        client.receive()?;
    }
    let tapped = tap.stop()?;
    let pipeline = |counter| tapped.summary.pipeline(counter);
    let missing = pipeline("stream_missing_bytes")?;
    let length = 2 + query(UNSEEN).len() as u64;
    ensure!(
        (pipeline("stream_gaps")?, missing) == (1, length)
            && pipeline("stream_messages_lost_at_least")? >= 1,
        "{missing} of {length} bytes are missing\n{}",
        tapped.summary
    );
    Ok(())
}

fn fetched(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let mut puppet = Puppet::start()?;
    let tap = Tap::attach(scratch.path(), puppet.pid(), how, &["--allow-no-sockets"])?;
    let ours = UdpSocket::bind("127.0.0.1:0")?;
    let socket = puppet.fetch(std::process::id(), ours.as_raw_fd())?;
    let mut client = UdpClient::connect(ours.local_addr()?)?;
    for id in 0..QUERIES {
        let query = wire::query(id, "fetched.lab", wire::TYPE_A, true);
        client.send(&query)?;
        puppet.receive(socket, By::Recvfrom, ROOM, 0)?;
        puppet.send(socket, By::Recvfrom, &wire::answer(&query))?;
        client.receive()?;
    }
    let tapped = tap.stop()?;
    expect_records(&tapped, &client.passed)?;
    tapped.summary.expect_nothing_dropped()
}

/// A raw socket of UDP gets whole packets, in which a DNS message stands behind two headers.
fn raw(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let mut puppet = Puppet::start()?;
    // An address of its own keeps the packets of other tests away.
    let socket = puppet.raw("127.9.8.7:0")?;
    let tap = Tap::attach(scratch.path(), puppet.pid(), how, &["--allow-no-sockets"])?;
    let receiver = UdpSocket::bind("127.9.8.7:0")?;
    let mut client = UdpClient::connect(receiver.local_addr()?)?;
    for id in 0..QUERIES {
        client.send(&wire::query(id, "raw.lab", wire::TYPE_A, true))?;
        puppet.receive(socket, By::Read, ROOM, 0)?;
    }
    let tapped = tap.stop()?;
    expect_records(&tapped, &[])?;
    expect_counters(&tapped, &[("seen", usize::from(QUERIES))])?;
    let strange = tapped.summary.pipeline("udp_not_dns")?;
    ensure!(
        strange == u64::from(QUERIES),
        "{strange} packets are counted as no DNS\n{}",
        tapped.summary
    );
    Ok(())
}

/// Starts a puppet that can move bytes in this way.
fn puppet(way: Way) -> Result<Puppet> {
    let mut puppet = Puppet::start()?;
    if way.is_of_ring() {
        puppet.set_up_ring()?;
    }
    Ok(puppet)
}

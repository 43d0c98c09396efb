//! Rare uses of datagrams: a server does not ask for the sender, takes less than there is, peeks first, or gets empty
//! datagrams. The counters must tell what happened to each.

use std::{net::UdpSocket, os::fd::AsFd as _, thread, time::Duration};

use anyhow::{Result, ensure};
use dnstap_proto::SocketProtocol;
use libtest_mimic::Trial;

use super::{expect_counters, expect_records, for_each_hook_in_turn};
use crate::{
    environment::Combination,
    lab,
    load::client::UdpClient,
    record::Record,
    tap::Tap,
    toy::{
        By, Puppet,
        actor::{Actor, Put, Sending, Take, UDP_GRO, UDP_SEGMENT, set_option},
    },
    wire,
};

/// Room for any query of these tests.
const ROOM: usize = 2_048;
/// Buffer size smaller than the long query.
const LITTLE: usize = 100;
const LONG: usize = 300;

pub(super) fn trials() -> Vec<Trial> {
    let mut trials = for_each_hook_in_turn(
        "a datagram whose sender nobody asks for is delivered, with what the kernel knows",
        sender_not_asked,
    );
    trials.extend(for_each_hook_in_turn(
        "a datagram with QR that nobody asked for is left out and counted",
        nobody_asked,
    ));
    trials.extend(for_each_hook_in_turn(
        "garbage from strangers hides nobody on a socket that only waits",
        garbage,
    ));
    trials.extend(for_each_hook_in_turn(
        "a peek is no message, nor is an empty datagram",
        peeked_and_empty,
    ));
    trials.extend(for_each_hook_in_turn(
        "a datagram that is cut short is counted, and one that just fits is delivered",
        cut_short,
    ));
    trials.extend(for_each_hook_in_turn(
        "datagrams that the kernel hands over as one are told apart or counted",
        coalesced,
    ));
    trials.extend(for_each_hook_in_turn(
        "a datagram that lay there before its socket was connected is its sender's",
        queued_before_connect,
    ));
    trials.extend(for_each_hook_in_turn(
        "the size of datagrams is found behind other control messages, or the call is counted",
        many_controls,
    ));
    trials
}

/// Rule: with an address, `recvfrom` shows the sender to every hook. With `recvmsg`, the kernel has the sender even if
/// the process does not take it, so `fentry` and `socket` know it. `syscall` reads the memory of the process, where it
/// is missing. With `recv` and `read` the kernel does not look it up: the message is delivered without its sender, and
/// counted.
fn sender_not_asked(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let mut puppet = Puppet::start()?;
    let sockets = [puppet.udp("127.0.0.1:0")?, puppet.udp("[::1]:0")?];
    let tap = Tap::attach(scratch.path(), puppet.pid(), how, &[])?;
    let mut expected = Vec::new();
    let mut unknown = 0;
    for (socket, address) in sockets {
        let mut client = UdpClient::connect(address)?;
        // This comes before any datagram with a sender, and after one: the sender of one datagram must not be used for
        // the next.
        let calls = [
            By::Read,
            By::Recvfrom,
            By::Recv,
            By::Recvmsg,
            By::Recvfrom,
            By::Read,
        ];
        for (id, by) in (1..).zip(calls) {
            let query = wire::query(id, "sender.lab", wire::TYPE_A, true);
            client.send(&query)?;
            let received = puppet.receive(socket, by, ROOM, 0)?;
            ensure!(received == query.len(), "{by:?}: {received}");
            let known = match by {
                By::Recvfrom => true,
                By::Recvmsg => how.hook != "syscall",
                By::Read | By::Recv | By::Ring => false,
            };
            if !known {
                unknown += 1;
                if let Some(query) = client.passed.last_mut() {
                    (query.query_address, query.query_port) = (None, 0);
                }
            }
            if by == By::Recvfrom {
                puppet.send(socket, By::Recvmsg, &wire::answer(&query))?;
                client.receive()?;
            }
        }
        expected.append(&mut client.passed);
    }
    let tapped = tap.stop()?;
    expect_records(&tapped, &expected)?;
    expect_counters(&tapped, &[("seen", expected.len()), ("no_peer", unknown)])?;
    tapped.summary.expect_nothing_dropped()
}

/// The server has sent no query, so any response to it is unsolicited.
fn nobody_asked(how: &Combination) -> Result<()> {
    const FORGED: u16 = 5;
    let scratch = lab::scratch()?;
    let mut puppet = Puppet::start()?;
    let (socket, address) = puppet.udp("127.0.0.1:0")?;
    let tap = Tap::attach(scratch.path(), puppet.pid(), how, &[])?;
    let mut client = UdpClient::connect(address)?;
    let mut stranger = UdpClient::connect(address)?;
    let query = |id| wire::query(id, "asked.lab", wire::TYPE_A, true);
    for id in 1..=FORGED {
        client.send(&query(id))?;
        puppet.receive(socket, By::Recvfrom, ROOM, 0)?;
        puppet.send(socket, By::Recvmsg, &wire::answer(&query(id)))?;
        client.receive()?;
        stranger.send(&wire::answer(&query(id)))?;
        puppet.receive(socket, By::Recvfrom, ROOM, 0)?;
    }
    let tapped = tap.stop()?;
    expect_records(&tapped, &client.passed)?;
    let unsolicited = tapped.summary.pipeline("unsolicited")?;
    ensure!(
        unsolicited == u64::from(FORGED),
        "{unsolicited} unsolicited\n{}",
        tapped.summary
    );
    tapped.summary.expect_nothing_dropped()
}

/// Sends more garbage than is needed for a negative verdict on the socket, if the garbage counted, and gives the
/// verdict time to reach the kernel.
fn garbage(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let mut puppet = Puppet::start()?;
    let (socket, address) = puppet.udp("127.0.0.1:0")?;
    let tap = Tap::attach(scratch.path(), puppet.pid(), how, &[])?;
    let mut stranger = UdpClient::connect(address)?;
    for _ in 0..40 {
        stranger.send(b"nothing that a DNS server could read")?;
        puppet.receive(socket, By::Recvfrom, ROOM, 0)?;
    }
    thread::sleep(Duration::from_millis(500));
    let mut client = UdpClient::connect(address)?;
    for id in 1..=10 {
        let query = wire::query(id, "others.lab", wire::TYPE_A, true);
        client.send(&query)?;
        puppet.receive(socket, By::Recvfrom, ROOM, 0)?;
        puppet.send(socket, By::Recvmsg, &wire::answer(&query))?;
        client.receive()?;
    }
    let tapped = tap.stop()?;
    expect_records(&tapped, &client.passed)?;
    expect_counters(&tapped, &[("not_dns", 0)])?;
    let strange = tapped.summary.pipeline("udp_not_dns")?;
    ensure!(strange == 40, "{strange} not DNS\n{}", tapped.summary);
    Ok(())
}

fn peeked_and_empty(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let mut puppet = Puppet::start()?;
    let (socket, address) = puppet.udp("127.0.0.1:0")?;
    let tap = Tap::attach(scratch.path(), puppet.pid(), how, &[])?;
    let mut client = UdpClient::connect(address)?;
    let query = wire::query(1, "peek.lab", wire::TYPE_A, true);
    client.send(&query)?;
    for size in [ROOM, 1] {
        let seen = puppet.receive(socket, By::Recvfrom, size, libc::MSG_PEEK)?;
        ensure!(seen == query.len().min(size), "peeked at {seen} bytes");
    }
    puppet.receive(socket, By::Recvfrom, ROOM, 0)?;
    for by in [By::Read, By::Recv, By::Recvfrom, By::Recvmsg] {
        client.send_nothing()?;
        let received = puppet.receive(socket, by, ROOM, 0)?;
        ensure!(
            received == 0,
            "{by:?}: {received} bytes of an empty datagram"
        );
    }
    puppet.send(socket, By::Recvfrom, &wire::answer(&query))?;
    client.receive()?;
    let tapped = tap.stop()?;
    expect_records(&tapped, &client.passed)?;
    expect_counters(&tapped, &[("seen", 2), ("peek", 2), ("no_peer", 0)])?;
    tapped.summary.expect_nothing_dropped()
}

/// Rule: a datagram that is longer than the buffer counts as `truncated`, whether the call reports it or not, and its
/// beginning is not a message. A datagram that fills the buffer exactly is whole.
fn cut_short(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let mut puppet = Puppet::start()?;
    let (socket, address) = puppet.udp("127.0.0.1:0")?;
    let tap = Tap::attach(scratch.path(), puppet.pid(), how, &[])?;
    let mut client = UdpClient::connect(address)?;
    let mut expected: Vec<Record> = Vec::new();
    let turns = [
        (By::Recvfrom, ROOM, 0, LONG),
        (By::Recvfrom, LITTLE, 0, LITTLE),
        (By::Recvfrom, LITTLE, libc::MSG_TRUNC, LONG),
        (By::Recvmsg, LITTLE, 0, LITTLE),
        (By::Read, LITTLE, 0, LITTLE),
        (By::Recvfrom, LONG, 0, LONG),
        (By::Recvmsg, LONG, 0, LONG),
        (By::Recvfrom, LONG, libc::MSG_TRUNC, LONG),
        (By::Recvfrom, LONG - 1, 0, LONG - 1),
        (By::Recvfrom, LONG - 1, libc::MSG_TRUNC, LONG),
    ];
    for (id, (by, size, flags, result)) in (1..).zip(turns) {
        client.send(&wire::query_of_size(id, "cut.lab", LONG))?;
        let received = puppet.receive(socket, by, size, flags)?;
        ensure!(received == result, "{by:?} {size} {flags}: {received}");
        let query = client.passed.pop();
        if let Some(mut query) = query.filter(|_| size >= LONG) {
            if by == By::Recvmsg && how.hook == "syscall" {
                (query.query_address, query.query_port) = (None, 0);
            }
            expected.push(query);
        }
    }
    let tapped = tap.stop()?;
    expect_records(&tapped, &expected)?;
    let truncated = turns.len() - expected.len();
    expect_counters(
        &tapped,
        &[
            ("seen", turns.len()),
            ("emitted", expected.len()),
            ("truncated", truncated),
        ],
    )?;
    ensure!(
        tapped.summary.kernel_drops()? == truncated as u64,
        "dropped for other reasons\n{}",
        tapped.summary
    );
    Ok(())
}

/// Datagrams that the peer sends in one call, and the buffers and the call that receive them.
struct Burst {
    messages: Vec<Vec<u8>>,
    room: usize,
    call: Take,
    /// Number of messages that are recorded; `cut` of the others are counted as `truncated`.
    whole: usize,
    cut: u64,
}

/// Rule: if the kernel returns several datagrams as one message (`UDP_GRO`), each of them is recorded, whatever their
/// bytes look like. Those that did not fit are counted. If the hook cannot learn the number, a message that can only be
/// one datagram is recorded, and all others are counted.
fn coalesced(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let mut actor = Actor::start()?;
    let server = actor.make("udp 1 127.0.0.1:0")?;
    actor.call(&format!("option 1 {} {UDP_GRO} 1", libc::SOL_UDP), &[])?;
    let tap = Tap::attach(scratch.path(), actor.pid(), how, &[])?;
    let client = UdpSocket::bind("127.0.0.1:0")?;
    client.connect(server)?;
    let query = |id| wire::query_of_size(id, "gro.lab", LITTLE);
    let with_tail = |id| [&query(id)[..], b"tail"].concat();
    let two = |id| [query(id), query(id + 1)].concat();
    let burst = |messages, call| Burst {
        messages,
        room: ROOM,
        call,
        whole: usize::MAX,
        cut: 0,
    };
    let bursts = [
        burst(vec![query(1)], Take::Recvmsg),
        burst(vec![query(2), query(3), query(4)], Take::Recvmsg),
        burst(vec![query(5), query(6)], Take::Recvmmsg),
        burst(vec![with_tail(7), with_tail(8)], Take::Recvmsg),
        burst(vec![two(9)], Take::Recvmsg),
        burst(vec![two(11), two(13)], Take::Recvmsg),
        Burst {
            room: LITTLE + 1,
            whole: 1,
            cut: 1,
            ..burst(vec![query(15), query(16)], Take::Recvmsg)
        },
        Burst {
            room: LITTLE,
            whole: 1,
            cut: 1,
            ..burst(vec![query(17), query(18)], Take::Recvmsg)
        },
        burst(vec![query(19)], Take::Read),
        burst(vec![query(20), query(21)], Take::Read),
    ];
    let (mut expected, mut cut, mut unclear) = (Vec::new(), 0, 0);
    let mut seen = 0;
    for one in bursts {
        let size = i32::try_from(one.messages[0].len())?;
        let segment = if one.messages.len() > 1 { size } else { 0 };
        set_option(client.as_fd(), libc::SOL_UDP, UDP_SEGMENT, segment)?;
        client.send(&one.messages.concat())?;
        let got = actor.take(1, one.call, 0, true, &[one.room])??;
        let whole = one.messages.concat();
        ensure!(
            got.len() == 1 && got[0].bytes == whole[..one.room.min(whole.len())],
            "{:?}: {} bytes",
            one.call,
            got[0].length
        );
        let several = one.messages.len() > 1;
        if one.call == Take::Read && several && how.hook == "syscall" {
            unclear += 1;
            seen += 1;
            continue;
        }
        seen += one.messages.len();
        cut += one.cut;
        let messages = one.messages.into_iter().take(one.whole);
        expected.extend(messages.map(|message| {
            let mut record =
                Record::expected(SocketProtocol::Udp, client.local_addr()?, server, message);
            if one.call == Take::Read {
                (record.query_address, record.query_port) = (None, 0);
            }
            anyhow::Ok(record)
        }));
    }
    let expected: Vec<_> = expected.into_iter().collect::<Result<_>>()?;
    let tapped = tap.stop()?;
    expect_records(&tapped, &expected)?;
    expect_counters(
        &tapped,
        &[
            ("seen", seen),
            ("emitted", expected.len()),
            ("truncated", usize::try_from(cut)?),
            ("unsupported_call", unclear),
        ],
    )
}

/// Rule: any host can send to a socket before it is connected. Such a datagram has its real sender, even if it is read
/// after the connect.
fn queued_before_connect(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let mut actor = Actor::start()?;
    let tap = Tap::attach(
        scratch.path(),
        actor.pid(),
        how,
        &["--allow-no-sockets", "--unsolicited"],
    )?;
    let mut expected = Vec::new();
    let calls = [Take::Recvmsg, Take::Recvmmsg, Take::Recvfrom];
    for (key, (call, v6)) in (1..).zip(
        calls
            .into_iter()
            .flat_map(|call| [(call, false), (call, true)]),
    ) {
        let loopback = if v6 { "[::1]:0" } else { "127.0.0.1:0" };
        let local = actor.make(&format!("udp {key} {loopback}"))?;
        let (upstream, stranger) = (UdpSocket::bind(loopback)?, UdpSocket::bind(loopback)?);
        let query = wire::query(key, "upstream.lab", wire::TYPE_A, true);
        let forged = wire::answer(&wire::query(key, "stranger.lab", wire::TYPE_A, true));
        stranger.send_to(&forged, local)?;
        let remote = upstream.local_addr()?;
        actor.call(&format!("join {key} {remote}"), &[])?;
        upstream.send_to(&wire::answer(&query), local)?;
        for (from, message) in [(&stranger, forged), (&upstream, wire::answer(&query))] {
            let got = actor.take(key.into(), call, 0, true, &[ROOM])??;
            ensure!(got[0].bytes == message, "{call:?}: another datagram");
            let from = from.local_addr()?;
            expected.push(Record::expected(SocketProtocol::Udp, local, from, message));
        }
    }
    let tapped = tap.stop()?;
    expect_records(&tapped, &expected)?;
    tapped.summary.expect_nothing_dropped()
}

/// Rule: the hook finds the size of the datagrams (`UDP_SEGMENT`) after other control messages. If there are too many
/// of them, the call is counted.
fn many_controls(how: &Combination) -> Result<()> {
    const OTHERS: [usize; 5] = [0, 1, 6, 7, 12];
    let scratch = lab::scratch()?;
    let mut actor = Actor::start()?;
    let local = actor.make("udp 1 127.0.0.1:0")?;
    let tap = Tap::attach(scratch.path(), actor.pid(), how, &[])?;
    let peer = UdpSocket::bind("127.0.0.1:0")?;
    let remote = peer.local_addr()?;
    actor.call(&format!("join 1 {remote}"), &[])?;
    let (mut expected, mut counted) = (Vec::new(), 0);
    for (id, others) in (1..).step_by(2).zip(OTHERS) {
        let queries = [id, id + 1].map(|id| wire::query_of_size(id, "many.lab", LITTLE));
        let sending = Sending {
            call: Put::Sendmsg,
            flags: 0,
            to: None,
            segment: u16::try_from(LITTLE)?,
            others,
            cuts: &[],
        };
        actor.put(1, &sending, &queries.concat(), || Ok(()))??;
        for query in queries {
            let mut space = [0; ROOM];
            let received = peer.recv(&mut space)?;
            ensure!(space[..received] == query, "not cut");
            if others < 8 {
                expected.push(Record::expected(SocketProtocol::Udp, local, remote, query));
            }
        }
        counted += usize::from(others >= 8);
    }
    let tapped = tap.stop()?;
    expect_records(&tapped, &expected)?;
    expect_counters(&tapped, &[("unsupported_call", counted)])
}

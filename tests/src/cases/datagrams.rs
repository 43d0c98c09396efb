//! What servers seldom do with datagrams: not ask who sent them, take less than there is, look before they take, get empty ones.
//! The counters say what became of each.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use super::{expect_counters, expect_records, for_each_hook_in_turn};
use crate::{
    environment::Combination,
    lab,
    load::client::UdpClient,
    record::Record,
    tap::Tap,
    toy::{By, Puppet},
    wire,
};

/// Room for any query of these tests.
const ROOM: usize = 2_048;
/// Less than the long query has.
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
    trials
}

/// Rule: `recvfrom` with an address tells every hook the sender. For `recvmsg` the kernel has it although the process does not
/// take it, so `fentry` and `socket` do; `syscall` reads the memory of the process, which has nothing. For `recv` and `read`
/// the kernel does not even look: the message is delivered without its sender, and counted.
fn sender_not_asked(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let mut puppet = Puppet::start()?;
    let sockets = [puppet.udp("127.0.0.1:0")?, puppet.udp("[::1]:0")?];
    let tap = Tap::attach(scratch.path(), puppet.pid(), how, &[])?;
    let mut expected = Vec::new();
    let mut unknown = 0;
    for (socket, address) in sockets {
        let mut client = UdpClient::connect(address)?;
        // Before any datagram with a sender, and after one: a sender must not be taken for that of the next.
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

/// The server has asked nobody; whatever answers it has no question.
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

/// More than enough garbage to have a socket given up, if it counted, and time for the verdict to reach the kernel.
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

/// Rule: a datagram that is longer than the buffer counts as `truncated`, whether the call tells it or not, and a beginning of it is no message.
/// One that fills the buffer to the last byte is whole.
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

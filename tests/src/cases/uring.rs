//! A server that receives and sends through `io_uring` without the socket calls. Rule: `fentry` sees every message,
//! because they all pass through the socket's own functions. `socket` sees that there was a message, but not where its
//! bytes are, and counts it as `unsupported_call`. `syscall` sees no message, and counts the calls.

use anyhow::{Result, bail, ensure};
use libtest_mimic::Trial;

use super::{expect_counters, expect_records, for_each_hook_in_turn};
use crate::{
    environment::Combination,
    lab,
    load::client::{Cut, TcpClient, UdpClient},
    record::Record,
    tap::{Tap, Tapped},
    toy::{By, Puppet},
    wire,
};

/// Room for any query of these tests.
const ROOM: usize = 8_192;
/// Number of queries on each socket.
const QUERIES: u16 = 10;

pub(super) fn trials() -> Vec<Trial> {
    let mut trials = for_each_hook_in_turn(
        "messages through io_uring are in the file, or counted, or unseen, as the hook's rule says",
        through_the_ring,
    );
    trials.extend(for_each_hook_in_turn(
        "a receive of io_uring in the midst of a read is not taken for that read",
        in_the_midst,
    ));
    trials
}

fn through_the_ring(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let mut puppet = Puppet::start()?;
    puppet.set_up_ring()?;
    let datagrams = [puppet.udp("127.0.0.1:0")?, puppet.udp("[::1]:0")?];
    let listeners = [puppet.listen("127.0.0.1:0")?, puppet.listen("[::1]:0")?];
    let tap = Tap::attach(scratch.path(), puppet.pid(), how, &[])?;
    let mut expected = Vec::new();
    for (socket, address) in datagrams {
        let mut client = UdpClient::connect(address)?;
        for id in 0..QUERIES {
            let query = wire::query_of_size(id, "ring.lab", 60 + usize::from(id) * 100);
            client.send(&query)?;
            let received = puppet.receive(socket, By::Ring, ROOM, 0)?;
            ensure!(received == query.len(), "received {received} bytes");
            puppet.send(socket, By::Ring, &wire::answer(&query))?;
            client.receive()?;
        }
        expected.append(&mut client.passed);
    }
    for (listener, address) in listeners {
        let mut client = TcpClient::connect(address)?;
        let stream = puppet.accept(listener)?;
        for id in 0..QUERIES {
            let query = wire::query_of_size(id, "ring.lab", 60 + usize::from(id) * 100);
            client.send(&query, Cut::Whole)?;
            let received = puppet.receive(stream, By::Ring, ROOM, 0)?;
            ensure!(received == query.len() + 2, "received {received} bytes");
            puppet.send(stream, By::Ring, &wire::framed(&wire::answer(&query)))?;
            client.receive()?;
        }
        expected.append(&mut client.passed);
    }
    expect_by_rule(how, &tap.stop()?, &expected)
}

/// The kernel completes a waiting receive at the end of any system call that the thread is in: here a `read` of the
/// puppet's input, which has another buffer.
fn in_the_midst(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let mut puppet = Puppet::start()?;
    puppet.set_up_ring()?;
    let (socket, address) = puppet.udp("127.0.0.1:0")?;
    let tap = Tap::attach(scratch.path(), puppet.pid(), how, &[])?;
    let mut client = UdpClient::connect(address)?;
    for id in 0..QUERIES {
        puppet.begin_receive(socket, ROOM)?;
        let query = wire::query(id, "midst.lab", wire::TYPE_A, true);
        client.send(&query)?;
        let received = puppet.end_receive()?;
        ensure!(received == query.len(), "received {received} bytes");
        if let Some(query) = client.passed.last_mut() {
            // `RECV` does not ask for the sender.
            (query.query_address, query.query_port) = (None, 0);
        }
    }
    expect_by_rule(how, &tap.stop()?, &client.passed)
}

/// Checks what each hook has made of messages that passed through the ring.
fn expect_by_rule(how: &Combination, tapped: &Tapped, passed: &[Record]) -> Result<()> {
    let messages = passed.len();
    match how.hook.as_str() {
        "fentry" => {
            expect_records(tapped, passed)?;
            expect_counters(tapped, &[("seen", messages)])?;
            tapped.summary.expect_nothing_dropped()
        }
        "socket" => {
            expect_records(tapped, &[])?;
            expect_counters(
                tapped,
                &[("seen", messages), ("unsupported_call", messages)],
            )
        }
        "syscall" => {
            expect_records(tapped, &[])?;
            expect_counters(tapped, &[("seen", 0)])?;
            let calls = tapped.summary.kernel("io_uring_calls")?;
            ensure!(calls > 0, "no call is counted\n{}", tapped.summary);
            Ok(())
        }
        hook => bail!("no rule for hook {hook}"),
    }
}

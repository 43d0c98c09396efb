//! Every filter is added and removed while the tap is attached. Wanted exchanges are there with both messages, others
//! are counted, and a connection that is let in within a message is recorded from the next message on.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Configured;
use crate::{
    environment::Combination,
    lab,
    load::client::{Cut, TcpClient, UdpClient},
    record,
    toy::{By, Puppet},
    wire,
};

/// Number of queries of each client in each phase.
const EACH: u16 = 20;

/// A client of the puppet.
struct Way {
    name: &'static str,
    socket: usize,
    client: UdpClient,
}

/// Configuration of a phase, and for each client the counter of its filtered messages; empty if they are delivered.
type Phase = (String, [&'static str; 3]);

pub(super) fn come_and_go(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let mut puppet = Puppet::start()?;
    let (one, first) = puppet.udp("127.0.0.1:0")?;
    let (two, second) = puppet.udp("127.0.0.1:0")?;
    let mut ways = ways([(one, first), (two, second)])?;
    let phases = phases(first.port(), second.port());
    let mut agent = Configured::attach(scratch.path(), puppet.pid(), how, &["kept"])?;
    let mut expected = BTreeMap::new();
    let mut left_out: BTreeMap<_, u64> = BTreeMap::new();
    for (number, (configured, counters)) in (0..).zip(&phases) {
        agent.configure(&["kept"], configured)?;
        agent.reload(if number == 0 {
            &[]
        } else {
            &["the configuration has changed"]
        })?;
        for (way, counter) in ways.iter_mut().zip(counters) {
            for id in 0..EACH {
                let name = format!("q{id}.{}.phase{number}.lab", way.name);
                ask(&mut puppet, way, id, &name)?;
                if counter.is_empty() {
                    expected.insert(name, 2);
                }
            }
            if !counter.is_empty() {
                *left_out.entry(*counter).or_default() += u64::from(2 * EACH);
            }
        }
    }
    agent.configure(&["kept"], "sample = 2\n")?;
    agent.reload(&["the configuration has changed"])?;
    for way in &mut ways {
        for id in 0..EACH {
            ask(
                &mut puppet,
                way,
                id,
                &format!("q{id}.{}.sample.lab", way.name),
            )?;
        }
    }

    let outputs = agent.stop()?;
    let mut found: BTreeMap<String, i32> = BTreeMap::new();
    for record in record::read(&scratch.path().join("kept"))? {
        let (name, _) = wire::question(&record.message).context("no question")?;
        *found.entry(name).or_default() += 1;
    }
    let sample: Vec<_> = found
        .extract_if(.., |name, _| name.ends_with(".sample.lab"))
        .collect();
    // Chance practically never selects none or all of 60.
    ensure!(
        (1..3 * usize::from(EACH)).contains(&sample.len())
            && sample.iter().all(|(_, messages)| *messages == 2),
        "in the sample: {sample:?}"
    );
    ensure!(found == expected, "{found:?}\n{}", outputs.summary);
    let kernel = |counter: &str| counted(&outputs.summary, counter);
    for (counter, messages) in &left_out {
        ensure!(
            kernel(counter)? == *messages,
            "{counter} is not {messages}: {}",
            outputs.summary
        );
    }
    let not_sampled = 6 * u64::from(EACH) - 2 * sample.len() as u64;
    ensure!(
        kernel("sampled_out")? == not_sampled && outputs.summary["unaccounted"] == 0,
        "{}",
        outputs.summary
    );
    Ok(())
}

/// Makes two clients of the first socket, one of them with another address, and one client of the second socket.
fn ways([(one, first), (two, second)]: [(usize, SocketAddr); 2]) -> Result<[Way; 3]> {
    let near = UdpClient::connect(first)?;
    let far = UdpClient::connect_from("127.0.0.5".parse()?, first)?;
    let second = UdpClient::connect(second)?;
    let way = |name, socket, client| Way {
        name,
        socket,
        client,
    };
    Ok([
        way("first", one, near),
        way("second", two, second),
        way("far", one, far),
    ])
}

fn phases(first: u16, second: u16) -> [Phase; 7] {
    [
        (String::new(), [""; 3]),
        (
            format!("port = [{second}]\n"),
            ["filtered_port", "", "filtered_port"],
        ),
        (
            format!("port = [{first}]\nnet = ['127.0.0.4/31', '::/0']\n"),
            ["filtered_net", "filtered_port", ""],
        ),
        ("net = ['127.0.0.1']\n".into(), ["", "", "filtered_net"]),
        ("only = ['resolver']\n".into(), ["filtered_role"; 3]),
        (
            "only = ['CQ', 'CR']\nexclude = ['notify']\n".into(),
            [""; 3],
        ),
        (String::new(), [""; 3]),
    ]
}

fn ask(puppet: &mut Puppet, way: &mut Way, id: u16, name: &str) -> Result<()> {
    let query = wire::query(id, name, wire::TYPE_A, true);
    way.client.send(&query)?;
    puppet.receive(way.socket, By::Recvfrom, 512, 0)?;
    puppet.send(way.socket, By::Recvfrom, &wire::answer(&query))?;
    way.client.receive()?;
    Ok(())
}

/// The port is a DNS port, so bytes from the start of a connection are delivered whatever they are.
pub(super) fn let_in_midway(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let mut puppet = Puppet::start()?;
    let (_, other) = puppet.udp("127.0.0.1:0")?;
    let (_, server) = puppet.udp("127.0.0.1:0")?;
    let (listener, server) = puppet.listen(&server.to_string())?;
    let mut agent = Configured::attach(scratch.path(), puppet.pid(), how, &["kept"])?;
    agent.configure(&["kept"], &format!("port = [{}]\n", other.port()))?;
    agent.reload(&["the configuration has changed"])?;

    let mut client = connected(&mut puppet, listener, server)?;
    let half = wire::framed(&question(0));
    client.0.send_raw(&half)?;
    let socket = client.1;
    puppet.receive(socket, By::Recv, half.len() / 2, 0)?;
    agent.configure(&["kept"], "")?;
    agent.reload(&["the configuration has changed"])?;
    puppet.receive(socket, By::Recv, half.len(), 0)?;
    let mut expected = Vec::new();
    // A new connection, for comparison, and the connection that is let in.
    for (client, socket) in [connected(&mut puppet, listener, server)?, client] {
        let mut client = client;
        for id in 1..=EACH {
            client.send(&question(id), Cut::Whole)?;
            puppet.receive(socket, By::Recv, 512, 0)?;
            puppet.send(
                socket,
                By::Recv,
                &wire::framed(&wire::answer(&question(id))),
            )?;
            client.receive()?;
        }
        expected.extend(client.passed);
    }
    let outputs = agent.stop()?;
    let found = record::read(&scratch.path().join("kept"))?;
    ensure!(
        found.len() == expected.len()
            && expected
                .iter()
                .all(|passed| found.iter().any(|record| record.message == passed.message)),
        "{} messages, expected {}: {}",
        found.len(),
        expected.len(),
        outputs.summary
    );
    let joined = outputs.summary["pipeline"]["stream_joined_midway"].as_u64();
    ensure!(joined == Some(1), "{}", outputs.summary);
    Ok(())
}

fn connected(
    puppet: &mut Puppet,
    listener: usize,
    server: SocketAddr,
) -> Result<(TcpClient, usize)> {
    let client = TcpClient::connect(server)?;
    Ok((client, puppet.accept(listener)?))
}

fn question(id: u16) -> Vec<u8> {
    wire::query(id, &format!("h{id}.auth.lab"), wire::TYPE_A, true)
}

fn counted(summary: &Value, counter: &str) -> Result<u64> {
    let value = summary["kernel"][counter].as_u64();
    value.with_context(|| format!("no {counter} in {summary}"))
}

//! Queries without a response are reported as events; queries that were answered or left out are not.

use std::{collections::BTreeSet, fs};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use super::{expect_records, for_each_hook_in_turn};
use crate::{
    environment::Combination,
    lab,
    load::client::UdpClient,
    tap::Tap,
    toy::{By, Puppet},
    wire,
};

/// Number of queries; every third one is answered.
const QUERIES: u16 = 30;

pub(super) fn trials() -> Vec<Trial> {
    for_each_hook_in_turn(
        "queries without answer are JSON events, and the file of messages has none of these",
        unanswered,
    )
}

fn unanswered(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let mut puppet = Puppet::start()?;
    let (socket, address) = puppet.udp("127.0.0.1:0")?;
    let (silent, elsewhere) = puppet.udp("127.0.0.1:0")?;
    let events = scratch.path().join("events.json");
    let (port, output) = (
        address.port().to_string(),
        format!("json:{}", events.display()),
    );
    let more = ["--port", &port, "--unanswered-events", &output];
    let tap = Tap::attach(scratch.path(), puppet.pid(), how, &more)?;
    let mut client = UdpClient::connect(address)?;
    let mut left_out = UdpClient::connect(elsewhere)?;
    for id in 0..QUERIES {
        let query = wire::query(id, &format!("q{id}.lab"), wire::TYPE_A, true);
        left_out.send(&query)?;
        puppet.receive(silent, By::Recvfrom, 512, 0)?;
        client.send(&query)?;
        puppet.receive(socket, By::Recvfrom, 512, 0)?;
        if id % 3 == 0 {
            puppet.send(socket, By::Recvfrom, &wire::answer(&query))?;
            client.receive()?;
        }
    }
    let tapped = tap.stop()?;
    expect_records(&tapped, &client.passed)?;
    tapped.summary.expect_nothing_dropped()?;
    let text = fs::read_to_string(&events).context("the events")?;
    let mut asked = BTreeSet::new();
    for line in text.lines() {
        let event: Value = serde_json::from_str(line)?;
        ensure!(
            event["extra"]["event"] == "unanswered"
                && event["extra"]["waited_ns"].is_u64()
                && event["type"] == "CLIENT_QUERY"
                && event["response_port"] == address.port(),
            "{line}"
        );
        let name = event["message"]["qname"]
            .as_str()
            .with_context(|| line.to_owned())?;
        ensure!(asked.insert(name.to_owned()), "{name} twice");
    }
    let expected: BTreeSet<_> = (0..QUERIES)
        .filter(|id| id % 3 != 0)
        .map(|id| format!("q{id}.lab."))
        .collect();
    ensure!(asked == expected, "{asked:?}");
    let counted = tapped.summary.pipeline("queries_unanswered")?;
    ensure!(counted == expected.len() as u64, "{counted} counted");
    Ok(())
}

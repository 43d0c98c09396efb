//! `named` is restarted again and again under an agent that follows it by name.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::{once, stop};
use crate::{
    cases::{expect_records, note},
    environment::Combination,
    lab,
    load::client::{Cut, TcpClient, UdpClient},
    process::{PATIENCE, descriptors},
    soak::server::{self, Server},
    tap::Tap,
    wire,
};

/// Number of restarts.
const TIMES: u16 = 50;
/// Number of queries over UDP, and over one TCP connection, to each life of the server.
const QUESTIONS: u16 = 10;

pub(super) fn trials() -> Vec<Trial> {
    once(
        "named restarted 50 times is followed, from its first message to its last",
        restarted,
    )
}

fn restarted(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let folder = scratch.path();
    let name = server::name();
    let targets = ["--name", &name];
    let tap = Tap::attach_to(folder, &targets, how, &["--follow"])?;
    let before = descriptors(tap.pid())?;
    let mut server = Server::start(folder)?;
    let mut passed = Vec::new();
    for life in 0..=TIMES {
        if life > 0 {
            server.restart()?;
        }
        let mut udp = UdpClient::connect(server.address)?;
        let mut tcp = TcpClient::connect(server.address)?;
        for number in 0..QUESTIONS {
            let name = format!("h{number}.life-{life}.soak.lab");
            let query = wire::query(life, &name, wire::TYPE_A, true);
            udp.send(&query)?;
            udp.receive()?;
            tcp.send(&query, Cut::Whole)?;
            tcp.receive()?;
        }
        passed.append(&mut udp.passed);
        passed.append(&mut tcp.passed);
    }
    server.stop()?;
    // Each search for new processes opens a few descriptors for a moment. Only those that stay open are a leak.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let after = descriptors(tap.pid())?;
        if after <= before {
            break;
        }
        ensure!(
            Instant::now() < deadline,
            "{before} descriptors before, {after} after"
        );
        thread::sleep(Duration::from_millis(10)); // until the agent has searched again
    }
    let tapped = stop(tap)?;
    tapped.summary.expect_nothing_dropped()?;
    expect_records(&tapped, &passed).context("of all lives")?;
    note(format!(
        "{how}: {TIMES} restarts, {} messages",
        passed.len()
    ));
    Ok(())
}

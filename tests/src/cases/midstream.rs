//! Connections that are older than the tap, and traffic that is not DNS.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use super::trial;
use crate::{
    compare::{Rules, compare},
    environment::{Combination, combinations},
    lab::{Lab, Wanted},
    load::client::{Cut, TcpClient},
    record::Record,
    tap::Tap,
    wire,
};

const STRICT: Rules<'_> = Rules {
    outside: &|_| None,
    unknown: &|_| None,
    only_ours: &|_| None,
};

pub(super) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for how in combinations() {
        let also = how.clone();
        trials.push(trial(
            format!(
                "{how}: an old TCP connection is read from the next message on, and rndc is not DNS"
            ),
            move || old_connection(&how),
        ));
        let how = also;
        trials.push(trial(
            format!(
                "{how}: a message that was half read before the tap does not spoil those after it"
            ),
            move || half_a_message(&how),
        ));
    }
    trials
}

fn old_connection(how: &Combination) -> Result<()> {
    let lab = Lab::start(Wanted::default())?;
    let mut clients = [
        TcpClient::connect(lab.server(false))?,
        TcpClient::connect(lab.server(true))?,
    ];
    for client in &mut clients {
        ask(client, 0..3)?;
        client.passed.clear();
    }
    lab.tapped.rndc(&["status"])?;
    let tap = Tap::attach(lab.folder(), lab.tapped.pid(), how, &[])?;
    for client in &mut clients {
        ask(client, 10..30)?;
    }
    ensure!(
        lab.tapped.rndc(&["status"])?.contains("server is up"),
        "rndc did not get its answer"
    );
    let large = wire::query(99, "t60000.auth.lab", wire::TYPE_TXT, true);
    clients[0].send(&large, Cut::Whole)?;
    clients[0].receive()?;
    expect_exactly(tap, clients.into_iter().flat_map(|client| client.passed))
}

fn half_a_message(how: &Combination) -> Result<()> {
    let lab = Lab::start(Wanted::default())?;
    let mut client = TcpClient::connect(lab.server(false))?;
    ask(&mut client, 0..3)?;
    client.passed.clear();
    let broken = wire::framed(&wire::query(7, "h7.auth.lab", wire::TYPE_A, true));
    client.send_raw(&broken[..broken.len() / 2])?;
    // The server reads the pieces of each connection in order, but this piece must be read before the tap attaches.
    let mut other = TcpClient::connect(lab.server(false))?;
    ask(&mut other, 0..200)?;
    other.passed.clear();
    let tap = Tap::attach(lab.folder(), lab.tapped.pid(), how, &[])?;
    client.send_raw(&broken[broken.len() / 2..])?;
    client.receive()?;
    ask(&mut client, 10..30)?;
    expect_exactly(tap, client.passed.into_iter().chain(other.passed))
}

fn ask(client: &mut TcpClient, ids: std::ops::Range<u16>) -> Result<()> {
    for id in ids {
        client.send(
            &wire::query(id, &format!("h{id}.auth.lab"), wire::TYPE_A, id % 2 == 0),
            Cut::Whole,
        )?;
        client.receive()?;
    }
    Ok(())
}

/// Checks that the tap has recorded these messages and no other.
fn expect_exactly(tap: Tap, passed: impl Iterator<Item = Record>) -> Result<()> {
    let tapped = tap.stop()?;
    let expected: Vec<_> = passed.collect();
    let records: Vec<_> = tapped
        .records()?
        .into_iter()
        .map(Record::with_plain_kind)
        .collect();
    let comparison = compare(&expected, &records, &STRICT);
    ensure!(comparison.holds(), "{comparison}{}", tapped.summary);
    tapped.summary.expect_nothing_dropped()
}

//! The dnstap that Unbound and Knot send themselves: `receive` accepts all of it, and the tap of the same server has
//! the same messages with the same types.
//!
//! Both servers silently drop messages when the queue to their dnstap thread is full, which happens on a busy machine.
//! So a relay stores what they have written: `receive` must have all of that. It is not the agent's fault if a server
//! has not written a message.

use std::{
    fs::File,
    mem, thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Result, ensure};
use dnstap_proto::message::Type;
use libtest_mimic::Trial;

use super::{note, trial};
use crate::{
    compare::{Rules, Unknown, compare},
    environment::combinations,
    lab::{
        foreign::{Foreign, Make},
        scratch,
    },
    load::exact::Account,
    process::PATIENCE,
    receive::{Agent, Socket, payloads_up_to_the_end},
    record::{self, Record},
    relay::Relay,
    tap::Tap,
};

/// Interval for checking the size of the file, because nothing reports that it has grown.
const LOOK: Duration = Duration::from_millis(100);

/// Longest time that a server with unsent messages may send nothing: several times its flush interval.
const SILENCE: Duration = Duration::from_secs(5);

/// The server may drop one of this many messages.
const DROPPED: usize = 10;

pub(super) fn trials() -> Vec<Trial> {
    [
        (Make::Unbound, false),
        (Make::Unbound, true),
        (Make::Knot, false),
    ]
    .into_iter()
    .map(|(make, tcp)| {
        let over = if tcp { "tcp" } else { "unix" };
        trial(
            format!("receive collects over {over} what {make}'s own dnstap sends, which is what the tap sees"),
            move || own_dnstap(make, tcp),
        )
    })
    .collect()
}

fn own_dnstap(make: Make, tcp: bool) -> Result<()> {
    let scratch = scratch()?;
    let folder = scratch.path();
    let file = folder.join("received.fstrm");
    let collector = Socket::new(folder, tcp)?;
    let output = format!("file:{}", file.display());
    let mut agent = Agent::start(folder, "agent", &["-l", &collector.argument()], &output)?;
    let relay = Relay::start(folder, &collector)?;
    let mut lab = Foreign::start(make, Some(&relay.front))?;
    agent
        .process
        .wait_for("a connection", |line| line.contains("connected"))?;
    let start = SystemTime::now();
    let how = &combinations()[0];
    let tap = Tap::attach(lab.folder(), lab.pid(), how, &[])?;
    let mut account = Account::new(&lab);
    account.load(&mut lab)?;
    let upstream_port = lab.upstream_server().port();
    let ours = tap.stop()?.records()?;
    // The server flushes its messages from time to time, and does not send the rest when it ends.
    let since = start.duration_since(SystemTime::UNIX_EPOCH)?;
    let rules = Rules {
        outside: &|record| (record.time < since).then_some("from before the tap"),
        unknown: &|record| unknown(make, record),
        only_ours: &|record| not_recorded(make, record, upstream_port),
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (said, silence) = relay.said()?;
        let (frames, _end) = payloads_up_to_the_end(File::open(&file)?)?;
        let (received, _end) = record::read_up_to_the_end(&file)?;
        let mut comparison = compare(&received, &ours, &rules);
        let mut dropped = 0;
        if silence > SILENCE && comparison.missing.is_empty() {
            dropped = mem::take(&mut comparison.unexplained).len();
        }
        if comparison.holds() && frames == said {
            note(format!(
                "{make}'s own dnstap, {dropped} dropped by {make}: {comparison}"
            ));
            ensure!(dropped <= ours.len() / DROPPED, "too many to compare");
            break;
        }
        ensure!(
            Instant::now() < deadline,
            "{} frames of {} written, {silence:?} ago: {comparison}",
            frames.len(),
            said.len()
        );
        thread::sleep(LOOK);
    }
    let plain: Vec<_> = ours
        .into_iter()
        .filter(|record| not_recorded(make, record, upstream_port).is_none())
        .map(Record::with_plain_kind)
        .collect();
    account.settle(&plain)?;
    drop(lab.stop()?);
    let summary = agent.stop()?;
    ensure!(
        summary["received"]["messages"] == summary["outputs"][0]["written"],
        "{summary}"
    );
    Ok(())
}

/// Returns the fields of a record that the server does not know about its own queries, or names by a rule other than
/// ours.
fn unknown(make: Make, record: &Record) -> Option<(&'static str, Unknown)> {
    let initiator = !matches!(
        record.kind,
        Type::ClientQuery | Type::ClientResponse | Type::AuthQuery | Type::AuthResponse
    );
    if make == Make::Unbound && initiator {
        let unknown = Unknown {
            query_address: true,
            query_port: true,
            role: false,
        };
        return Some((
            "Unbound records no local address of its own queries",
            unknown,
        ));
    }
    None
}

fn not_recorded(make: Make, record: &Record, upstream_port: u16) -> Option<&'static str> {
    (make != Make::Unbound && record.response_port == upstream_port)
        .then_some("it records only what it is asked")
}

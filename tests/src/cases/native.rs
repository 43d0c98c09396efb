//! The dnstap that Unbound and Knot send themselves: `receive` takes all of it, and the tap of the same server has the same messages
//! under the same types.

use std::{
    thread,
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
    receive::{Agent, Socket},
    record::{self, Record},
    tap::Tap,
};

/// How often the file is looked at, which tells nobody that it has grown.
const LOOK: Duration = Duration::from_millis(100);

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
    let mut lab = Foreign::start(make, Some(&collector))?;
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
    // It sends what it has gathered once in a while, and what is left when it ends it does not send.
    let since = start.duration_since(SystemTime::UNIX_EPOCH)?;
    let rules = Rules {
        outside: &|record| (record.time < since).then_some("from before the tap"),
        unknown: &|record| unknown(make, record),
        only_ours: &|record| not_recorded(make, record, upstream_port),
    };
    let deadline = Instant::now() + PATIENCE;
    let received = loop {
        let (received, _end) = record::read_up_to_the_end(&file)?;
        let comparison = compare(&received, &ours, &rules);
        if comparison.holds() {
            note(format!("{make}'s own dnstap: {comparison}"));
            break received;
        }
        ensure!(Instant::now() < deadline, "{comparison}");
        thread::sleep(LOOK);
    };
    let plain: Vec<_> = received
        .into_iter()
        .filter(|record| record.time >= since)
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

/// What the server cannot know of its own queries, and names by another rule than ours.
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

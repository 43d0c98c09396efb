//! A server that is faster than the agent: while it gets queries, the ring is never empty.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use super::once;
use crate::{
    cases::note,
    environment::Combination,
    kernel,
    lab::{Lab, Wanted},
    load::dnsperf::{self, Load},
    process::Finished,
    tap::{Summary, Tap},
};

/// Size of a ring that the agent needs several of its turns to empty.
const RING: &str = "4M";
/// Times for which the agent runs and is stopped, alternating.
const TURN: Duration = Duration::from_millis(2);
const REST: Duration = Duration::from_millis(100);
/// Time before the agent is told to end, and time by which it must have ended.
const BEFORE: Duration = Duration::from_secs(3);
const AFTER: Duration = Duration::from_secs(20);

/// Load that lasts longer than that: each query follows when a response arrives.
const LOAD: Load = Load {
    queries: 2_000_000,
    rate: None,
    tcp: false,
    recursive: false,
};

pub(super) fn trials() -> Vec<Trial> {
    once(
        "it ends when told to, though messages come faster than it takes them",
        overrun,
    )
}

fn overrun(how: &Combination) -> Result<()> {
    let lab = Lab::start(Wanted::default())?;
    let more = ["--ring-size", RING];
    let tap = Tap::attach(lab.folder(), lab.tapped.pid(), how, &more)?;
    let summary = tap.summary().to_owned();
    let load = dnsperf::start(lab.folder(), lab.server(false), &LOAD)?;
    slowed(&tap, BEFORE)?;
    tap.signal(libc::SIGINT)?;
    let took = slowed(&tap, AFTER)?;
    drop(load);
    ensure!(took < AFTER, "told to end, it has not within {AFTER:?}");
    let Finished { status, lines } = tap.finish()?;
    ensure!(status.success(), "{status}\n{}", lines.join("\n"));
    let summary = Summary::read(&summary)?;
    summary.expect_accounted()?;
    let (seen, full) = (summary.kernel("seen")?, summary.kernel("ring_full")?);
    ensure!(full > 0, "the ring was never full: {summary}");
    note(format!(
        "{how}: {seen} messages seen, {full} found the ring full, ended in {took:.1?}"
    ));
    Ok(())
}

/// Lets the agent run very little, for `most` or until it has ended. Returns the time.
fn slowed(tap: &Tap, most: Duration) -> Result<Duration> {
    let start = Instant::now();
    while start.elapsed() < most && !kernel::has_ended(tap.pid())? {
        tap.signal(libc::SIGSTOP)?;
        thread::sleep(REST);
        tap.signal(libc::SIGCONT)?;
        thread::sleep(TURN);
    }
    Ok(start.elapsed())
}

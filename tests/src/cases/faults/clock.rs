//! Clocks that are not the ones of the kernel, or not what they were.

use std::{
    process::Command,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::{once, stop};
use crate::{
    environment::{self, Combination, Skip},
    lab::{Lab, Wanted},
    load::client::UdpClient,
    process::output,
    system,
    tap::{self, Tap, Tapped},
    wire,
};

/// By how much the agent's monotonic clock is ahead of the kernel's, in seconds.
const AHEAD: &str = "86400";
/// What the clock is set forward by, and back by twice of.
const STEP: Duration = Duration::from_hours(1);
/// After so long the agent has the new time of the day, also on an emulated machine; on a real one it is a tenth of a second.
const SETTLED: Duration = Duration::from_secs(2);
/// How exactly the two clocks are compared; an emulated machine may stop between two readings, and what counts there is the step.
const RESOLUTION: Duration = Duration::from_millis(1);
const RESOLUTION_EMULATED: Duration = Duration::from_secs(1);
/// Questions each time.
const QUESTIONS: u16 = 20;

pub(super) fn trials() -> Vec<Trial> {
    [
        once(
            "in a time namespace times are the ones of the day all the same",
            time_namespace,
        ),
        once(
            "when the clock is set, times follow it and nothing is lost",
            steps,
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Between two readings of the clock.
type Span = (Duration, Duration);

fn time_namespace(how: &Combination) -> Result<()> {
    let unshare = environment::tool("unshare")?;
    let inside = ["--time", "--monotonic", AHEAD];
    let mut probe = Command::new(&unshare);
    probe.args(inside).arg("true");
    output(probe).map_err(|error| Skip(format!("no time namespace: {error:#}")))?;

    let lab = Lab::start(Wanted::default())?;
    let agent = tap::command(&environment::agent()?, lab.tapped.pid(), how);
    let mut command = Command::new(unshare);
    command
        .args(inside)
        .arg(agent.get_program())
        .args(agent.get_args());
    let tap = Tap::attach_by(command, lab.folder(), "elsewhen", how, &[])?;
    let spans = ask(&lab)?;
    expect_times(&stop(tap)?, &spans, RESOLUTION)
}

/// Sets the clock of the machine, which must be the test's own.
fn steps(how: &Combination) -> Result<()> {
    environment::own_machine()?;
    let lab = Lab::start(Wanted::default())?;
    let tap = Tap::attach(lab.folder(), lab.tapped.pid(), how, &[])?;
    let mut spans = ask(&lab)?;
    system::set_clock(now()? + STEP)?;
    thread::sleep(SETTLED);
    spans.extend(ask(&lab)?);
    system::set_clock(now()?.saturating_sub(2 * STEP))?;
    thread::sleep(SETTLED);
    spans.extend(ask(&lab)?);
    system::set_clock(now()? + STEP)?;
    let tapped = stop(tap)?;
    tapped.summary.expect_nothing_dropped()?;
    expect_times(&tapped, &spans, RESOLUTION_EMULATED)
}

/// Asks some questions, one after the other; when each was asked and answered.
fn ask(lab: &Lab) -> Result<Vec<Span>> {
    let mut client = UdpClient::connect(lab.server(false))?;
    let mut spans = Vec::new();
    for id in 0..QUESTIONS {
        let before = now()?;
        client.send(&wire::query(id, "h1.auth.lab", wire::TYPE_A, true))?;
        client.receive()?;
        spans.push((before, now()?));
    }
    Ok(spans)
}

/// A query and a response for each span, with times in it.
fn expect_times(tapped: &Tapped, spans: &[Span], resolution: Duration) -> Result<()> {
    let records = tapped.records()?;
    ensure!(records.len() == 2 * spans.len(), "{}", tapped.summary);
    for (record, (before, after)) in records
        .iter()
        .zip(spans.iter().flat_map(|span| [span, span]))
    {
        let span = before.saturating_sub(resolution)..=*after + resolution;
        ensure!(
            span.contains(&record.time),
            "{:?} is not in {span:?}",
            record.time
        );
        if record.is_response() {
            let asked = record.query_time.context("no query time")?;
            ensure!(span.contains(&asked), "{asked:?} is not in {span:?}");
        }
    }
    Ok(())
}

fn now() -> Result<Duration> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?)
}

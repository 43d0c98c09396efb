//! Clocks that differ from the kernel's, or that are changed.

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

/// Seconds by which the agent's monotonic clock is ahead of the kernel's.
const AHEAD: &str = "86400";
/// Time by which the clock is set forward; it is then set back by twice as much.
const STEP: Duration = Duration::from_hours(1);
/// After this time the agent uses the new time of day, even on an emulated machine. A real machine needs a tenth of a
/// second.
const SETTLED: Duration = Duration::from_secs(2);
/// Tolerance for comparing the two clocks. An emulated machine may stop between two readings, but the step is larger
/// than its tolerance.
const RESOLUTION: Duration = Duration::from_millis(1);
const RESOLUTION_EMULATED: Duration = Duration::from_secs(1);
/// Number of queries each time.
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

/// Time between two readings of the clock.
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

/// Sends some queries, one after the other. Returns the times of each query and its response.
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

/// Checks that there are a query and a response for each span, with times within it.
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

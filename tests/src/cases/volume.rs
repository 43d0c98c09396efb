//! Volume: no loss at a steady rate, and everything is accounted for when the reader stands still.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use super::{note, trial};
use crate::{
    environment::{self, Combination, combinations},
    lab::{Lab, Wanted},
    load::dnsperf::{self, Load},
    tap::Tap,
};

/// Number of queries of the overload.
const OVERLOAD: usize = 30_000;

pub(super) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for how in combinations() {
        let also = how.clone();
        trials.push(trial(
            format!("{how}: queries at a steady rate are twice as many frames, none dropped"),
            move || steady(&how),
        ));
        for (size, stopped) in [("4096", true), ("65536", true), ("4096", false)] {
            let how = also.clone();
            let reader = if stopped {
                "a reader that stands still"
            } else {
                "full speed"
            };
            let name = format!(
                "{how}: a ring of {size} bytes and {reader} disturb nobody, and every drop is counted"
            );
            trials.push(trial(name, move || overload(&how, size, stopped)));
        }
    }
    trials
}

fn steady(how: &Combination) -> Result<()> {
    let (queries, rate) = environment::steady_load()?;
    let lab = Lab::start(Wanted::default())?;
    let tap = Tap::attach(lab.folder(), lab.tapped.pid(), how, &[])?;
    let load = Load {
        queries,
        rate: Some(rate),
        tcp: false,
        recursive: false,
    };
    dnsperf::run(lab.folder(), lab.server(false), &load)?;
    let tapped = tap.stop()?;
    let frames = tapped.records()?.len();
    let missed = tapped.summary.missed()?;
    ensure!(
        frames <= 2 * queries && frames as u64 + missed >= 2 * queries as u64,
        "{frames} frames, and the kernel counted {missed} missed"
    );
    tapped.summary.expect_nothing_dropped()?;
    tapped.summary.expect_written(frames)?;
    ensure!(
        tapped.summary.kernel("seen")? == frames as u64,
        "the hook saw more than the load"
    );
    // The kernel reports the run time of the programs if `kernel.bpf_stats_enabled` is 1.
    let cost = match tapped.summary.program_time()? / frames as u64 {
        0 => String::new(),
        cost => format!(", {cost} ns per message"),
    };
    let missing = match 2 * queries - frames {
        0 => String::new(),
        missing => format!(" ({missing} missing, the kernel counted {missed} missed)"),
    };
    note(format!(
        "{how}: {queries} queries at {rate}/s, {frames} frames{missing}{cost}"
    ));
    Ok(())
}

/// Checks that the server is not affected (`dnsperf` gets all its responses), and that seen = written + dropped.
fn overload(how: &Combination, ring: &str, stopped: bool) -> Result<()> {
    let lab = Lab::start(Wanted::default())?;
    let tap = Tap::attach(lab.folder(), lab.tapped.pid(), how, &["--ring-size", ring])?;
    if stopped {
        tap.signal(libc::SIGSTOP)?;
    }
    let load = Load {
        queries: OVERLOAD,
        rate: None,
        tcp: false,
        recursive: false,
    };
    dnsperf::run(lab.folder(), lab.server(false), &load)?;
    if stopped {
        tap.signal(libc::SIGCONT)?;
    }
    let tapped = tap.stop()?;
    let frames = tapped.records()?.len();
    tapped.summary.expect_written(frames)?;
    let summary = &tapped.summary;
    let (seen, dropped) = (
        summary.kernel("seen")?,
        summary.kernel_drops()? + summary.output_drops()?,
    );
    ensure!(seen == 2 * OVERLOAD as u64, "the hook saw {seen} messages");
    ensure!(
        seen == frames as u64 + dropped,
        "seen {seen}, in the file {frames}, dropped {dropped}"
    );
    // At full speed the reader may keep up; standing still it cannot.
    ensure!(
        !stopped || dropped > seen / 2,
        "only {dropped} of {seen} dropped by a ring of {ring} bytes"
    );
    Ok(())
}

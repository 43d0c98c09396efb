//! The agent is stopped and continued (SIGSTOP, SIGCONT) at random moments, while it attaches and while it reads.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result};
use libtest_mimic::Trial;

use super::{expect_balance, stop, under_load};
use crate::{
    cases::{for_each_hook, note},
    chance::{self, Chance},
    environment::Combination,
    kernel,
    lab::{Lab, Wanted},
    tap::Tap,
};

/// Number of pauses while it attaches, and while it reads under load.
const EARLY: usize = 20;
const LATE: usize = 20;
/// Longest time between two pauses, and longest pause.
const BETWEEN: Duration = Duration::from_millis(60);
const PAUSE: Duration = Duration::from_millis(80);

pub(super) fn trials() -> Vec<Trial> {
    for_each_hook(
        "stopped and continued at random moments, it loses nothing that it does not count",
        paused,
    )
}

fn paused(how: &Combination) -> Result<()> {
    let seed = chance::seed()?;
    let mut chance = Chance::new(seed);
    let lab = Lab::start(Wanted::default())?;
    let mut tap = Tap::launch(lab.folder(), "paused", lab.tapped.pid(), how, &[], |_| {})?;
    pause(&tap, EARLY, &mut chance)?;
    tap.attached()?;
    let ((), answered) = under_load(lab.server(false), || pause(&tap, LATE, &mut chance))
        .with_context(|| format!("seed {seed}"))?;
    let tapped = stop(tap)?;
    let written = expect_balance(&tapped, answered).with_context(|| format!("seed {seed}"))?;
    note(format!(
        "{how}: {} pauses (seed {seed}), {answered} questions answered, {written} messages written, {} dropped",
        EARLY + LATE,
        2 * answered - written
    ));
    Ok(())
}

fn pause(tap: &Tap, times: usize, chance: &mut Chance) -> Result<()> {
    for _ in 0..times {
        thread::sleep(chance.up_to(BETWEEN));
        tap.signal(libc::SIGSTOP)?;
        kernel::stopped(tap.pid())?;
        thread::sleep(chance.up_to(PAUSE));
        tap.signal(libc::SIGCONT)?;
    }
    Ok(())
}

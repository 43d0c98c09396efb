//! The agent gets almost no CPU time: it has the idle policy, and every CPU is busy.

use std::{
    hint,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use libtest_mimic::Trial;

use super::{expect_balance, once, stop, under_load};
use crate::{
    cases::note,
    environment::Combination,
    lab::{Lab, Wanted},
    system::processors,
    tap::Tap,
};

/// Time for which the CPUs are busy.
const BUSY: Duration = Duration::from_secs(3);

pub(super) fn trials() -> Vec<Trial> {
    once(
        "at idle priority beside busy CPUs it drops rather than delays, and counts",
        starved,
    )
}

fn starved(how: &Combination) -> Result<()> {
    let lab = Lab::start(Wanted::default())?;
    // This ring is full after a few hundred messages.
    let more = ["--ring-size", "64K"];
    let tap = Tap::attach(lab.folder(), lab.tapped.pid(), how, &more)?;
    processors::make_idle(tap.pid()).context("the idle policy")?;
    let stop_burning = AtomicBool::new(false);
    let ((), answered) = thread::scope(|scope| {
        for cpu in processors::cpus()? {
            let stop_burning = &stop_burning;
            scope.spawn(move || {
                processors::pin_to(cpu)?;
                while !stop_burning.load(Ordering::Relaxed) {
                    hint::spin_loop();
                }
                anyhow::Ok(())
            });
        }
        let result = under_load(lab.server(false), || {
            thread::sleep(BUSY);
            Ok(())
        });
        stop_burning.store(true, Ordering::Relaxed);
        result
    })?;
    let tapped = stop(tap)?;
    let written = expect_balance(&tapped, answered)?;
    note(format!(
        "{how}: starved for {BUSY:?}, {answered} questions answered, {written} messages written, {} dropped",
        2 * answered - written
    ));
    Ok(())
}

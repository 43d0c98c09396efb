//! Attaches and detaches again and again under load: the server answers every query, and nothing of ours stays in the
//! kernel.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::trial;
use crate::{
    environment::{Combination, combinations},
    kernel::{self, Objects},
    lab::{Lab, Wanted},
    load::client,
    tap::Tap,
};

/// Number of times, all combinations together.
const TIMES: usize = 40;
/// Number of clients that send queries without a pause.
const CLIENTS: usize = 2;

pub(super) fn trials() -> Vec<Trial> {
    let combinations = combinations();
    let times = TIMES.div_ceil(combinations.len().max(1));
    combinations
        .into_iter()
        .map(|how| {
            let name = format!(
                "{how}: attached and detached {times} times under load, nothing stays in the kernel"
            );
            trial(name, move || again_and_again(&how, times))
        })
        .collect()
}

fn again_and_again(how: &Combination, times: usize) -> Result<()> {
    let lab = Lab::start(Wanted::default())?;
    let stop = AtomicBool::new(false);
    let server = lab.server(false);
    let (answered, ours) = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| scope.spawn(|| client::ask_until(server, Duration::ZERO, &stop)))
            .collect();
        let mut ours = Objects::new();
        let taps = (0..times).try_for_each(|time| {
            ours.append(&mut attach_once(&lab, how).with_context(|| format!("time {time}"))?);
            Ok(())
        });
        stop.store(true, Ordering::Relaxed);
        let answered = clients
            .into_iter()
            .map(|client| {
                client
                    .join()
                    .map_err(|_panic| anyhow::anyhow!("a client panicked"))?
            })
            .sum::<Result<u64>>();
        taps.and(answered).map(|answered| (answered, ours))
    })?;
    ensure!(
        answered > 50 * times as u64,
        "only {answered} queries during {times} taps"
    );
    ensure!(
        ours.len() >= 3 * times,
        "only {} objects in {times} taps",
        ours.len()
    );
    kernel::expect_gone(&ours)
}

/// Attaches and detaches. Returns the objects that were in the kernel in between.
fn attach_once(lab: &Lab, how: &Combination) -> Result<Objects> {
    let tap = Tap::attach(lab.folder(), lab.tapped.pid(), how, &[])?;
    let held = kernel::of_process(tap.pid())?;
    let all = kernel::all()?;
    ensure!(
        !held.is_empty() && held.is_subset(&all),
        "the agent holds {held:?}, the kernel has {all:?}: the check at the end would prove nothing"
    );
    let tapped = tap.stop()?;
    // The load has no pause. On a busy machine the agent may drop messages, but it counts them.
    let frames = tapped.records()?.len();
    tapped.summary.expect_written(frames)?;
    let (seen, dropped) = (
        tapped.summary.kernel("seen")?,
        tapped.summary.kernel_drops()?,
    );
    ensure!(
        seen == frames as u64 + dropped && tapped.summary.output_drops()? == 0,
        "seen {seen}, in the file {frames}, dropped {dropped}: {}",
        tapped.summary
    );
    Ok(held)
}

//! Attaching and detaching again and again under load: the server answers all, and nothing of ours stays in the kernel.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::trial;
use crate::{
    environment::{Combination, combinations},
    lab::{Lab, Wanted},
    load::client,
    process::PATIENCE,
    system,
    tap::Tap,
};

/// How often.
const TIMES: usize = 20;
/// Clients that ask without a pause.
const CLIENTS: usize = 2;

pub(super) fn trials() -> Vec<Trial> {
    combinations()
        .into_iter()
        .map(|how| {
            let name = format!(
                "{how}: attached and detached {TIMES} times under load, nothing stays in the kernel"
            );
            trial(name, move || again_and_again(&how))
        })
        .collect()
}

fn again_and_again(how: &Combination) -> Result<()> {
    let lab = Lab::start(Wanted::default())?;
    let before = system::bpf_programs().context("listing the kernel's BPF programs")?;
    let stop = AtomicBool::new(false);
    let server = lab.server(false);
    let answered = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| scope.spawn(|| client::ask_until(server, &stop)))
            .collect();
        let taps = (0..TIMES)
            .try_for_each(|time| attach_once(&lab, how).with_context(|| format!("time {time}")));
        stop.store(true, Ordering::Relaxed);
        let answered = clients
            .into_iter()
            .map(|client| {
                client
                    .join()
                    .map_err(|_panic| anyhow::anyhow!("a client panicked"))?
            })
            .sum::<Result<u64>>();
        taps.and(answered)
    })?;
    ensure!(
        answered > 1_000,
        "only {answered} queries during {TIMES} taps"
    );
    // The kernel frees programs after a grace period of its own.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left: Vec<_> = system::bpf_programs()?
            .difference(&before)
            .copied()
            .collect();
        if left.is_empty() {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "programs left in the kernel: {left:?}"
        );
        thread::sleep(Duration::from_millis(20));
    }
}

fn attach_once(lab: &Lab, how: &Combination) -> Result<()> {
    let programs = system::bpf_programs()?;
    let tap = Tap::attach(lab.folder(), lab.tapped.pid(), how, &[])?;
    let ours = system::bpf_programs()?.difference(&programs).count();
    ensure!(
        ours > 0,
        "an attached agent has no program in the kernel: the check below would prove nothing"
    );
    let tapped = tap.stop()?;
    tapped.summary.expect_nothing_dropped()?;
    tapped.summary.expect_written(tapped.records()?.len())
}

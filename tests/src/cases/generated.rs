//! Programs of socket calls that a machine thinks up: some that stay the same, and some that are new each time.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::Result;
use libtest_mimic::Trial;

use super::{for_each_combination, note};
use crate::{
    chance,
    environment::{self, Combination},
    generator,
};

/// Seeds that are tried each time: an emulated machine, where each takes long, tries the first ones only.
const FIXED: std::ops::Range<u64> = 1..7;
const FEW: std::ops::Range<u64> = 1..3;
/// How long new ones are tried.
const FRESH: Duration = Duration::from_secs(4);

/// The next seed that is new, once there is a first one.
static NEXT: AtomicU64 = AtomicU64::new(0);

pub(super) fn trials() -> Vec<Trial> {
    for_each_combination(
        "the record of programs that a machine thinks up is what they did",
        generated,
    )
}

fn generated(how: &Combination) -> Result<()> {
    let fixed = environment::own_machine().map_or(FIXED, |()| FEW);
    let mut messages = generator::check(fixed.clone(), how)?;
    let first = chance::seed()?.max(1);
    // Each combination goes on where the one before it has ended.
    let set = NEXT.compare_exchange(0, first, Ordering::Relaxed, Ordering::Relaxed);
    let first = set.map_or_else(|begun| begun, |_| first);
    let (start, mut seed) = (Instant::now(), first);
    while start.elapsed() < FRESH {
        messages += generator::check([seed], how)?;
        seed += 1;
    }
    NEXT.store(seed, Ordering::Relaxed);
    note(format!(
        "{how}: {messages} messages of programs with seeds {fixed:?} and {first}..{seed}"
    ));
    Ok(())
}

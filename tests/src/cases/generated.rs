//! Generated programs of socket calls, with the same seeds each time. `cargo xtask generate` plays new ones.

use anyhow::Result;
use libtest_mimic::Trial;

use super::{for_each_combination, note};
use crate::{
    environment::{self, Combination},
    generator,
};

/// Seeds to try. An emulated machine, where each takes long, tries only the first ones.
const SEEDS: std::ops::Range<u64> = 500..520;
const FEW: std::ops::Range<u64> = 500..502;

pub(super) fn trials() -> Vec<Trial> {
    for_each_combination(
        "the record of programs that a machine thinks up is what they did",
        generated,
    )
}

fn generated(how: &Combination) -> Result<()> {
    let seeds = environment::own_machine().map_or(SEEDS, |()| FEW);
    println!("{how}: seeds {seeds:?}");
    let messages = generator::check(seeds.clone(), how)?;
    note(format!(
        "{how}: {messages} messages of programs with seeds {seeds:?}"
    ));
    Ok(())
}

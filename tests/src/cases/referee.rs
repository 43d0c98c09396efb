//! The short run of the referee: some servers, with ordinary and hostile traffic, compared with a packet capture. All
//! hooks are attached to the same process at the same time, so each server runs once. The full run is
//! `cargo xtask referee`.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use super::trial;
use crate::referee::{SHORT, entry, judge, ways};

pub(super) fn trials() -> Vec<Trial> {
    SHORT
        .into_iter()
        .map(|name| {
            let sentence = format!("referee: {name}: the file is what a packet capture shows");
            trial(sentence, move || judged(name))
        })
        .collect()
}

fn judged(name: &str) -> Result<()> {
    let outcome = judge(entry(name)?, &ways(&[]))?;
    let wrong: Vec<_> = outcome
        .judgements
        .iter()
        .filter(|(_, judgement)| !judgement.holds())
        .map(|(how, judgement)| format!("{how}: {judgement}"))
        .collect();
    ensure!(wrong.is_empty(), "{}", wrong.concat());
    Ok(())
}

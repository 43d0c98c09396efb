//! The referee's short form: some servers, with ordinary traffic and with strangers', against a packet capture. All hooks at the same
//! time on the same process, so that a server is played with once. The whole form is `cargo xtask referee`.

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

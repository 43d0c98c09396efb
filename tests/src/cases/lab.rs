//! Tests of the lab itself, without the agent. If these fail, the other results mean nothing.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use super::{comparison, trial};
use crate::{
    lab::{Lab, Wanted},
    load::mixed,
    toy::{Calls, Toy},
};

pub(super) fn trials() -> Vec<Trial> {
    let mut trials = vec![trial(
        "lab: named records the whole mixed load itself".into(),
        named_records_the_load,
    )];
    trials.extend(Calls::ALL.map(|calls| {
        trial(
            format!("lab: the toy server answers every query through {calls}"),
            move || toy_answers(calls),
        )
    }));
    trials
}

fn named_records_the_load() -> Result<()> {
    let mut lab = Lab::start(Wanted {
        upstream: true,
        reference: true,
        ..Wanted::default()
    })?;
    mixed::run(&mut lab)?;
    comparison::expect_the_whole_load(&lab.finish()?)
}

fn toy_answers(calls: Calls) -> Result<()> {
    let (passed, fullest) = Toy::start(calls)?.talk()?;
    let answers = passed.iter().filter(|record| record.is_response()).count();
    ensure!(
        answers * 2 == passed.len(),
        "{answers} answers among {} messages",
        passed.len()
    );
    ensure!(
        calls != Calls::Batch || fullest > 4,
        "no batch had more than {fullest} messages"
    );
    Ok(())
}

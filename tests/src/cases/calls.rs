//! Every socket call that a server may use, each with UDP and TCP, IPv4, IPv6 and IPv4 on an IPv6 socket: the toy
//! server's messages are in the file exactly once, verbatim, with the right addresses.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use super::trial;
use crate::{
    compare::{Rules, compare},
    environment::{Combination, combinations},
    lab,
    tap::Tap,
    toy::{Calls, Toy},
};

pub(super) fn trials() -> Vec<Trial> {
    combinations()
        .into_iter()
        .flat_map(|how| {
            Calls::ALL
                .into_iter()
                .map(move |calls| (how.clone(), calls))
        })
        .map(|(how, calls)| {
            trial(
                format!("{how}: every message through {calls} is in the file exactly once"),
                move || every_message(&how, calls),
            )
        })
        .collect()
}

fn every_message(how: &Combination, calls: Calls) -> Result<()> {
    let scratch = lab::scratch()?;
    let mut toy = Toy::start(calls)?;
    let tap = Tap::attach(scratch.path(), toy.pid(), how, &[])?;
    let (expected, fullest) = toy.talk()?;
    let tapped = tap.stop()?;
    ensure!(
        calls != Calls::Batch || fullest > 4,
        "no batch had more than {fullest} messages"
    );
    let records: Vec<_> = tapped
        .records()?
        .into_iter()
        .map(crate::record::Record::with_plain_kind)
        .collect();
    let rules = Rules {
        outside: &|_| None,
        unknown: &|_| None,
        only_ours: &|_| None,
    };
    let comparison = compare(&expected, &records, &rules);
    ensure!(comparison.holds(), "{comparison}{}", tapped.summary);
    tapped.summary.expect_nothing_dropped()
}

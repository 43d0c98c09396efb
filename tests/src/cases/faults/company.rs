//! Two agents on the same process: neither disturbs the other, however it ends.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::{expect_balance, objects, once, stop, under_load};
use crate::{
    environment::{Combination, combinations},
    kernel,
    lab::{Lab, Wanted},
    tap::Tap,
};

/// Duration of each state.
const WHILE: Duration = Duration::from_millis(150);

pub(super) fn trials() -> Vec<Trial> {
    once(
        "beside a second agent that comes, is killed and ends, one misses nothing",
        beside,
    )
}

fn beside(how: &Combination) -> Result<()> {
    let lab = Lab::start(Wanted::default())?;
    let pid = lab.tapped.pid();
    let other = combinations().pop().context("no way to attach")?;
    let mut steady = Tap::launch(lab.folder(), "steady", pid, how, &[], |_| {})?;
    steady.attached()?;
    let (gone, answered) = under_load(lab.server(false), || {
        let mut gone = Vec::new();
        // One agent attaches in the same way as the first, one in the other way. Each is killed once and ended
        // regularly once.
        for (life, second) in [how, &other].into_iter().enumerate() {
            for killed in [true, false] {
                let name = format!("second-{life}-{killed}");
                let mut tap = Tap::launch(lab.folder(), &name, pid, second, &[], |_| {})?;
                tap.attached()?;
                thread::sleep(WHILE);
                gone.push(objects(&tap)?);
                if killed {
                    tap.signal(libc::SIGKILL)?;
                    tap.finish()?;
                } else {
                    let tapped = tap.stop()?;
                    tapped.summary.expect_nothing_dropped()?;
                    let records = tapped.records()?.len();
                    ensure!(records > 0, "the second has nothing: {}", tapped.summary);
                }
                thread::sleep(WHILE);
            }
        }
        Ok(gone)
    })?;
    for objects in &gone {
        kernel::expect_gone(objects).context("of the second")?;
    }
    let tapped = stop(steady)?;
    tapped.summary.expect_nothing_dropped()?;
    expect_balance(&tapped, answered)?;
    Ok(())
}

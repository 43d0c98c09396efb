//! The agent is killed at random moments: while it loads, attaches, and writes.

use std::{fs, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::under_load;
use crate::{
    cases::{note, trial},
    chance::{self, Chance},
    environment::{self, Combination, combinations},
    kernel::{self, Objects},
    lab::{Lab, Wanted},
    process::{PATIENCE, Running, Watch},
    record, tap,
};

/// Number of kills, all combinations together.
const TIMES: usize = 100;
/// Latest moment of the kill, after the start of the agent and after it has attached, alternating. The time to attach
/// depends on the machine, and both phases must be covered.
const LATEST: Duration = Duration::from_millis(300);

pub(super) fn trials() -> Vec<Trial> {
    let combinations = combinations();
    let times = TIMES.div_ceil(combinations.len().max(1));
    combinations
        .into_iter()
        .map(|how| {
            let name = format!(
                "{how}: killed {times} times at random moments under load, nothing stays, files are readable"
            );
            trial(name, move || killed(&how, times))
        })
        .collect()
}

fn killed(how: &Combination, times: usize) -> Result<()> {
    let seed = chance::seed()?;
    let mut chance = Chance::new(seed);
    let lab = Lab::start(Wanted::default())?;
    let mut ours = Objects::new();
    let (mut attached, mut frames) = (0, 0);
    let ((), answered) = under_load(lab.server(false), || {
        (0..times).try_for_each(|time| {
            let (objects, records) = kill_once(&lab, how, &mut chance, time % 2 == 1)
                .with_context(|| format!("time {time}, seed {seed}"))?;
            attached += usize::from(!objects.is_empty());
            frames += records;
            ours.extend(objects);
            Ok(())
        })
    })
    .with_context(|| format!("seed {seed}"))?;
    note(format!(
        "{how}: killed {times} times (seed {seed}), {attached} times with objects in the kernel ({} in all), {frames} frames \
         in the files, {answered} questions answered",
        ours.len()
    ));
    ensure!(
        attached > 0 && frames > 0,
        "never killed at work: seed {seed}, {attached} times with objects, {frames} frames"
    );
    kernel::expect_gone(&ours).with_context(|| format!("seed {seed}"))
}

/// Starts an agent and kills it. Returns the objects that it had in the kernel, and the number of records in its file.
/// Half of the time it is stopped before: then its objects are read at its last moment, but the kill does not hit it in
/// a system call.
fn kill_once(
    lab: &Lab,
    how: &Combination,
    chance: &mut Chance,
    attached: bool,
) -> Result<(Objects, usize)> {
    let file = lab.folder().join("killed.fstrm");
    let mut command = tap::command(&environment::agent()?, lab.tapped.pid(), how);
    command.arg("-o").arg(format!("file:{}", file.display()));
    let mut agent = Running::start("dnstap-agent", command, Watch::Stderr)?;
    if attached {
        agent.wait_for("attached", |line| line.contains("attached"))?;
    }
    thread::sleep(chance.up_to(LATEST));
    if chance.below(2) == 0 {
        agent.signal(libc::SIGSTOP)?;
        kernel::stopped(agent.pid())?;
    }
    let objects = kernel::of_process(agent.pid())?;
    agent.signal(libc::SIGKILL)?;
    let finished = agent.finish(PATIENCE)?;
    let said = finished.lines.join("\n");
    ensure!(finished.status.code().is_none(), "it ended before: {said}");
    if !file.exists() {
        return Ok((objects, 0));
    }
    let (records, _cut) = record::read_up_to_the_end(&file)?;
    fs::remove_file(&file)?;
    Ok((objects, records.len()))
}

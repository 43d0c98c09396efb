//! Too little memory: the agent works, ends with a reason, or is killed; in each case nothing of it stays.

use std::{os::unix::process::ExitStatusExt as _, thread, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;

use super::{objects, once, under_load};
use crate::{
    cases::note,
    environment::{self, Combination, Skip},
    kernel::{self, Objects},
    lab::{Lab, Wanted},
    load::dnsperf::{self, Load},
    process::{Finished, PATIENCE, Running, Watch},
    record,
    system::limits::{self, MemoryGroup},
    tap::{self, Tap},
};

/// Limits on the agent's data in MiB, from what is too little to start to what is nearly enough.
const DATA: [u64; 7] = [1, 4, 8, 12, 16, 24, 32];
/// Limits on its memory in MiB, that of its maps and programs in the kernel included.
const MEMORY: [u64; 5] = [1, 3, 6, 12, 18];
/// Questions, as fast as they are answered, whose messages fill its queue.
const FLOOD: usize = 60_000;
/// What it gets beyond what it has when it is attached, in bytes.
const ROOM: u64 = 1 << 20;

pub(super) fn trials() -> Vec<Trial> {
    [
        once(
            "with too little memory it works or ends with a reason, and nothing stays",
            data,
        ),
        once(
            "in a control group with too little memory it works or ends, and nothing stays",
            group,
        ),
        once(
            "killed for its memory in the midst of work, nothing stays and the file is readable",
            killed,
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What became of an agent.
struct Outcome {
    /// It attached.
    attached: bool,
    /// What it had in the kernel then.
    objects: Objects,
    finished: Finished,
}

fn data(how: &Combination) -> Result<()> {
    let lab = Lab::start(Wanted::default())?;
    let (ends, answered) = under_load(lab.server(false), || {
        DATA.iter()
            .map(|&megabytes| {
                let mut command = tap::command(&environment::agent()?, lab.tapped.pid(), how);
                limits::allow_data_of(&mut command, megabytes << 20);
                let outcome = run(command, &lab, |_| Ok(()))?;
                let said = outcome.finished.lines.join("\n");
                // Rust's own end of a program that gets no memory, or an error that says what failed.
                ensure!(
                    outcome.attached || said.to_lowercase().contains("memory"),
                    "{megabytes} MiB: {}\n{said}",
                    outcome.finished.status
                );
                ensure!(!said.contains("CONFIG_DEBUG_INFO_BTF"), "{said}");
                kernel::expect_gone(&outcome.objects)?;
                Ok(outcome.attached)
            })
            .collect::<Result<Vec<_>>>()
    })?;
    let attached = ends.iter().filter(|attached| **attached).count();
    note(format!(
        "{how}: {} limits on data, attached with {attached}, {answered} questions answered",
        ends.len()
    ));
    ensure!(attached < ends.len(), "it never had too little");
    Ok(())
}

fn group(how: &Combination) -> Result<()> {
    let group = memory_group()?;
    let lab = Lab::start(Wanted::default())?;
    let (ends, answered) = under_load(lab.server(false), || {
        MEMORY
            .iter()
            .map(|&megabytes| {
                group.limit(megabytes << 20)?;
                let command = tap::command(&environment::agent()?, lab.tapped.pid(), how);
                let outcome = run(command, &lab, |pid| Ok(group.take(pid)?))?;
                let Finished { status, lines } = &outcome.finished;
                let said = lines.join("\n");
                ensure!(
                    outcome.attached
                        || status.signal() == Some(libc::SIGKILL)
                        || said.to_lowercase().contains("memory"),
                    "{megabytes} MiB: {status}\n{said}"
                );
                kernel::expect_gone(&outcome.objects)?;
                Ok(outcome.attached)
            })
            .collect::<Result<Vec<_>>>()
    })?;
    let attached = ends.iter().filter(|attached| **attached).count();
    note(format!(
        "{how}: {} limits on memory, attached with {attached}, {answered} questions answered",
        ends.len()
    ));
    ensure!(attached < ends.len(), "it never had too little");
    Ok(())
}

/// Its queue grows, because nobody takes what is in it, until the kernel kills it.
fn killed(how: &Combination) -> Result<()> {
    let group = memory_group()?;
    let lab = Lab::start(Wanted::default())?;
    let nobody = format!("unix:{}", lab.folder().join("nobody").display());
    let more = ["-o", &nobody];
    let mut tap = Tap::launch(lab.folder(), "killed", lab.tapped.pid(), how, &more, |_| {})?;
    group.take(tap.pid())?;
    tap.attached()?;
    let file = tap.file().to_owned();
    let load = Load {
        queries: FLOOD,
        rate: None,
        tcp: false,
        recursive: false,
    };
    let ((objects, finished), answered) = under_load(lab.server(false), || {
        let objects = objects(&tap)?;
        group.limit(group.usage()? + ROOM)?;
        let flood = dnsperf::start(lab.folder(), lab.server(false), &load)?;
        let finished = tap.finish()?;
        flood.finish(FLOOD)?;
        Ok((objects, finished))
    })?;
    ensure!(
        finished.status.signal() == Some(libc::SIGKILL),
        "it ended with {}\n{}",
        finished.status,
        finished.lines.join("\n")
    );
    kernel::expect_gone(&objects)?;
    let (records, _cut) = record::read_up_to_the_end(&file)?;
    note(format!(
        "{how}: killed for its memory, {} messages in the file, {answered} questions answered",
        records.len()
    ));
    ensure!(!records.is_empty(), "nothing in the file");
    Ok(())
}

/// Starts an agent and ends it if it attaches.
fn run(
    mut command: std::process::Command,
    lab: &Lab,
    begun: impl FnOnce(u32) -> Result<()>,
) -> Result<Outcome> {
    let file = lab.folder().join("little.fstrm");
    command.arg("-o").arg(format!("file:{}", file.display()));
    let mut agent = Running::start("dnstap-agent", command, Watch::Stderr)?;
    begun(agent.pid())?;
    let attached = agent.wait_for("attached", |line| line.contains("attached to"));
    if attached.is_err() {
        let finished = agent.finish(PATIENCE)?;
        let said = finished.lines.join("\n");
        ensure!(
            !finished.status.success() && !said.contains("panicked"),
            "{}\n{said}",
            finished.status
        );
        return Ok(Outcome {
            attached: false,
            objects: Objects::new(),
            finished,
        });
    }
    thread::sleep(Duration::from_millis(100)); // at work
    let objects = kernel::of_process(agent.pid())?;
    let Ok(()) = agent.signal(libc::SIGINT) else {
        bail!("gone without a word")
    };
    let finished = agent.finish(PATIENCE).context("its end")?;
    Ok(Outcome {
        attached: true,
        objects,
        finished,
    })
}

fn memory_group() -> Result<MemoryGroup> {
    MemoryGroup::new().map_err(|error| Skip(format!("no memory control group: {error}")).into())
}

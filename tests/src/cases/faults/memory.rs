//! Too little memory: the agent works, ends with a reason, or is killed. In each case it leaves nothing behind.

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};
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

/// Limits on the agent's data in MiB, from too little to start up to enough.
/// With less than the first one, the kernel cannot load the program: its writable segments take 1.2 MB.
const DATA: [u64; 7] = [2, 4, 8, 12, 16, 24, 64];
/// Limits on its memory in MiB, including its maps and programs in the kernel.
const MEMORY: [u64; 6] = [1, 6, 12, 18, 24, 128];
/// Number of queries, sent as fast as they are answered, whose messages fill its queue.
const FLOOD: usize = 60_000;
/// Size of its file from which on it counts as working, in bytes.
const BEGUN: u64 = 2_000;
/// Memory that it gets in addition to what it uses when it has attached, in bytes.
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

/// Result of one run of the agent.
struct Outcome {
    /// Whether it attached.
    attached: bool,
    /// Objects that it had in the kernel.
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
                // Rust ends a program that gets no memory with a message, or the agent reports what failed.
                ensure!(
                    outcome.attached || said.to_lowercase().contains("memory"),
                    "{megabytes} MiB: {}\n{said}",
                    outcome.finished.status
                );
                ensure!(!said.contains("CONFIG_DEBUG_INFO_BTF"), "{said}");
                kernel::expect_gone(&outcome.objects)?;
                Ok((outcome.attached, outcome.objects.len()))
            })
            .collect::<Result<Vec<_>>>()
    })?;
    expect_some_failed(&format!("{how}: limits on data"), &ends, answered)
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
                Ok((outcome.attached, outcome.objects.len()))
            })
            .collect::<Result<Vec<_>>>()
    })?;
    expect_some_failed(&format!("{how}: limits on memory"), &ends, answered)
}

/// Checks that the agent attached with some limits and not with others. `ends` has, for each limit, whether it attached
/// and the number of its objects in the kernel.
fn expect_some_failed(what: &str, ends: &[(bool, usize)], answered: u64) -> Result<()> {
    let attached = ends.iter().filter(|(attached, _)| *attached).count();
    let objects: usize = ends.iter().map(|(_, objects)| objects).sum();
    note(format!(
        "{what}: attached with {attached} of {}, {objects} kernel objects gone, {answered} questions answered",
        ends.len()
    ));
    ensure!(attached < ends.len(), "it never had too little");
    Ok(())
}

/// The agent's queue grows because nothing reads from it, until the kernel kills the agent.
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
        let deadline = Instant::now() + PATIENCE;
        while fs::metadata(&file)?.len() < BEGUN {
            ensure!(Instant::now() < deadline, "nothing in the file");
            thread::sleep(Duration::from_millis(5));
        }
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
fn run(mut command: Command, lab: &Lab, begun: impl FnOnce(u32) -> Result<()>) -> Result<Outcome> {
    let file = lab.folder().join("little.fstrm");
    command.arg("-o").arg(format!("file:{}", file.display()));
    let mut agent = Running::start("dnstap-agent", command, Watch::Stderr)?;
    let (pid, over) = (agent.pid(), AtomicBool::new(false));
    let (attached, finished, objects) = thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut objects = Objects::new();
            while !over.load(Ordering::Relaxed) {
                // An agent that has ended has none.
                objects.extend(kernel::of_process(pid).unwrap_or_default());
                thread::sleep(Duration::from_millis(1));
            }
            objects
        });
        let end = || {
            begun(pid)?;
            let attached = agent
                .wait_for("attached", |line| line.contains("attached to"))
                .is_ok();
            if attached {
                agent.signal(libc::SIGINT)?;
            }
            Ok((attached, agent.finish(PATIENCE)?))
        };
        let ended: Result<_> = end();
        over.store(true, Ordering::Relaxed);
        let objects = watch.join().map_err(|_panic| anyhow!("the watch"))?;
        let (attached, finished) = ended?;
        anyhow::Ok((attached, finished, objects))
    })?;
    let said = finished.lines.join("\n");
    ensure!(
        finished.status.success() == attached && !said.contains("panicked"),
        "attached: {attached}, {}\n{said}",
        finished.status
    );
    Ok(Outcome {
        attached,
        objects,
        finished,
    })
}

fn memory_group() -> Result<MemoryGroup> {
    MemoryGroup::new().map_err(|error| Skip(format!("no memory control group: {error}")).into())
}

//! The agent runs out of descriptors. At the start it reports how many it needs; later everything that is open
//! continues to work.

use std::{fs, process::Command, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::{expect_balance, objects, once, stop, under_load};
use crate::{
    cases::{expect_records, note, processes::Group},
    environment::{self, Combination},
    kernel,
    lab::{self, Lab, Wanted},
    load::client::UdpClient,
    process::{Finished, PATIENCE, Running, Watch, output},
    system::limits,
    tap::{self, Tap},
    toy::Workers,
    wire,
};

/// "A privilege or a kernel feature is missing" (`EX_NOPERM`).
const EXIT_NO_PERMISSION: i32 = 77;
/// Limits that are too low.
const TOO_FEW: [u64; 6] = [8, 16, 32, 48, 52, 100];
/// Limit with which no more descriptors can be opened. The limit applies to their numbers, and these are always open.
const NONE: u64 = 3;
/// Time without descriptors: in it the agent reads its counters several times.
const WITHOUT: Duration = Duration::from_millis(2_500);

pub(super) fn trials() -> Vec<Trial> {
    [
        once(
            "with too few descriptors it says how many it needs, and works with so many",
            at_start,
        ),
        once(
            "without descriptors left it goes on, and refuses what is new with a reason",
            later,
        ),
        once(
            "without descriptors left it stays attached, and taps what has joined when there are some",
            joined,
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn at_start(how: &Combination) -> Result<()> {
    let lab = Lab::start(Wanted::default())?;
    let mut needed = 0;
    for limit in TOO_FEW {
        let mut command = tap::command(&environment::agent()?, lab.tapped.pid(), how);
        let file = lab.folder().join("few.fstrm");
        command.arg("-o").arg(format!("file:{}", file.display()));
        limits::allow_descriptors_of(&mut command, limit, limit);
        let Finished { status, lines } =
            Running::start("dnstap-agent", command, Watch::Stderr)?.finish(PATIENCE)?;
        let said = lines.join("\n");
        ensure!(
            status.code() == Some(EXIT_NO_PERMISSION) && lines.len() == 1,
            "{limit}: {status}\n{said}"
        );
        let number = said
            .split("raise it to ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next());
        needed = number.with_context(|| said.clone())?.parse()?;
        ensure!(
            said.contains(&format!("may open {limit} files")) && !file.exists(),
            "{said}"
        );
    }
    // The number that the agent reports is enough. It raises its soft limit by itself.
    for soft in [8, needed] {
        let name = format!("enough-{soft}");
        let prepare = |command: &mut Command| {
            limits::allow_descriptors_of(command, soft, needed);
        };
        let mut tap = Tap::launch(lab.folder(), &name, lab.tapped.pid(), how, &[], prepare)?;
        tap.attached()?;
        let ((), answered) = under_load(lab.server(false), || {
            thread::sleep(Duration::from_millis(100));
            Ok(())
        })?;
        expect_balance(&stop(tap)?, answered)?;
    }
    Ok(())
}

fn later(how: &Combination) -> Result<()> {
    let lab = Lab::start(Wanted::default())?;
    let folder = lab.folder();
    let at = |name: &str| folder.join(name).display().to_string();
    let (socket, file, configuration) = (at("status"), at("configured"), at("agent.toml"));
    let configure =
        |outputs: &[&str]| fs::write(&configuration, format!("[attach]\noutput = {outputs:?}\n"));
    let [kept, new] = [format!("file:{file}"), format!("file:{}", at("new"))];
    configure(&[&kept])?;
    let summary = at("later.json");
    let mut command = tap::command(&environment::agent()?, lab.tapped.pid(), how);
    command
        .args(["--config", &configuration, "--summary-json", &summary])
        .args(["--status-socket", &socket]);
    let mut agent = Running::start("dnstap-agent", command, Watch::Stderr)?;
    agent.wait_for("attached", |line| line.contains("attached"))?;
    let objects = kernel::of_process(agent.pid())?;
    let ((), answered) = under_load(lab.server(false), || {
        limits::limit_descriptors_for_now(agent.pid(), Some(NONE))?;
        configure(&[&kept, &new])?;
        agent.signal(libc::SIGHUP)?;
        agent.wait_for("what it cannot open", |line| {
            line.contains("agent.toml") && line.contains("Too many open files")
        })?;
        agent.wait_for("that it does not reload", |line| {
            line.contains("not reloaded")
        })?;
        thread::sleep(WITHOUT);
        limits::limit_descriptors_for_now(agent.pid(), None)?;
        agent.signal(libc::SIGHUP)?;
        agent.wait_for("that it reloads", |line| {
            line.contains("the configuration has changed")
        })?;
        let mut status = Command::new(environment::agent()?);
        status.args(["status", "--json", "--socket", &socket]);
        let (status, _) = output(status)?;
        ensure!(status.contains("\"unaccounted\":0"), "{status}");
        Ok(())
    })?;
    let finished = agent.stop(libc::SIGINT)?;
    let said = finished.lines.join("\n");
    ensure!(finished.status.success(), "{}\n{said}", finished.status);
    kernel::expect_gone(&objects)?;
    let summary = tap::Summary::read(summary.as_ref())?;
    summary.expect_nothing_dropped()?;
    let written = summary.output(0)["written"].as_u64();
    ensure!(
        summary.kernel("seen")? == 2 * answered && written == Some(2 * answered),
        "{answered} questions answered: {summary}\n{said}"
    );
    note(format!(
        "{how}: {WITHOUT:?} without descriptors, {answered} questions answered, all in the file"
    ));
    Ok(())
}

/// A process joins a followed cgroup while the agent cannot read the cgroup.
fn joined(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let group = Group::new()?;
    let mut first = Workers::start()?;
    group.take(first.pid())?;
    let targets = ["--unit", group.name()];
    let mut tap = Tap::attach_to(scratch.path(), &targets, how, &["--follow"])?;
    first.fork()?;
    let mut passed = Vec::new();
    let mut ask = |server: &mut Workers| -> Result<_> {
        let mut client = UdpClient::connect(server.address)?;
        client.send(&wire::query(1, "toy.lab", wire::TYPE_A, true))?;
        server.answer(0)?;
        client.receive()?;
        passed.append(&mut client.passed);
        Ok(())
    };
    limits::limit_descriptors_for_now(tap.pid(), Some(NONE))?;
    tap.wait_for("why it does not look", |line| {
        line.contains("cannot look for new processes") && line.contains("Too many open files")
    })?;
    ask(&mut first)?;
    let mut second = Workers::start()?;
    group.take(second.pid())?;
    let held = objects(&tap)?;
    limits::limit_descriptors_for_now(tap.pid(), None)?;
    let pid = second.pid().to_string();
    tap.wait_for("the new process", |line| {
        line.contains("tapping") && line.contains(&pid)
    })?;
    second.fork()?;
    ask(&mut second)?;
    expect_records(&stop(tap)?, &passed)?;
    kernel::expect_gone(&held)?;
    first.stop()?;
    second.stop()
}

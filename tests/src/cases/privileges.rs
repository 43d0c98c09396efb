//! Privileges: which ones attaching needs, which ones are left afterwards, and that the agent works with those.
//!
//! Tests run as root, which may do everything, and as `nobody` with the capabilities of the unit, like the service.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::trial;
use crate::{
    environment::{self, Combination, Skip, combinations},
    lab,
    process::{Finished, PATIENCE, Running, Watch},
    record, system,
    tap::{self, Tap},
    toy::{Calls, Toy},
};

/// The unit of the package.
const UNIT: &str = include_str!("../../../packaging/dnstap-agent.service");

/// The agent's exit code (`dnstap_agent::host::exit`).
const EXIT_NO_PERMISSION: i32 = 77;

/// User and group `nobody`.
const NOBODY: u32 = 65_534;

/// Bits of capability sets (linux/capability.h).
const CAP_DAC_OVERRIDE: u64 = 1 << 1;
const CAP_BPF: u64 = 1 << 39;

/// `seccomp(2)`: a filter is on.
const SECCOMP_MODE_FILTER: u64 = 2;

type Test = fn(&Combination) -> Result<()>;

pub(super) fn trials() -> Vec<Trial> {
    let Some(how) = combinations().into_iter().next() else {
        return Vec::new();
    };
    let tests: [(&str, Test); 5] = [
        (
            "after attaching no thread has privileges beyond its duties, and all works on",
            given_up,
        ),
        ("with --no-sandbox all privileges are kept", kept),
        (
            "a file system that is read-only but for its folder is enough, as under the unit",
            read_only,
        ),
        (
            "the unit's capabilities are enough for a server of another user",
            enough,
        ),
        (
            "without any one of the unit's capabilities the agent says which it needs",
            each_needed,
        ),
    ];
    let mut trials: Vec<_> = tests
        .into_iter()
        .map(|(name, test)| {
            let how = how.clone();
            trial(format!("{how}: {name}"), move || test(&how))
        })
        .collect();
    trials.push(trial(
        "receive has no privileges left once it listens".into(),
        receive,
    ));
    trials
}

fn given_up(how: &Combination) -> Result<()> {
    root()?;
    let scratch = lab::scratch()?;
    let folder = scratch.path();
    let collected = folder.join("collected.fstrm");
    let socket = format!("unix:{}", folder.join("collector").display());
    let mut toy = Toy::start(Calls::Address)?;
    let tap = Tap::attach(folder, toy.pid(), how, &["-o", &socket])?;
    // The agent may have to open files of other users again.
    expect_threads(tap.pid(), CAP_DAC_OVERRIDE | maps()?)?;
    // These come after the sandbox is active: a collector, messages, the end.
    let mut collector = receiver(&socket, &collected, &folder.join("collector.json"))?;
    collector.wait_for("listening", |line| line.contains("listening on"))?;
    let (passed, _) = toy.talk()?;
    collector.wait_for("a connection", |line| line.contains("connected"))?;
    expect_threads(tap.pid(), CAP_DAC_OVERRIDE | maps()?)?;
    let tapped = tap.stop()?;
    tapped.summary.expect_nothing_dropped()?;
    collector.stop(libc::SIGTERM)?;
    for file in [&tapped.file, &collected] {
        let records = record::read(file)?.len();
        ensure!(
            records == passed.len(),
            "{}: {records} of {} messages",
            file.display(),
            passed.len()
        );
        let mode = fs::metadata(file)?.permissions().mode() & 0o777;
        ensure!(mode & 0o137 == 0, "{}: mode {mode:o}", file.display());
    }
    let summary = fs::metadata(folder.join("collector.json"))?;
    let mode = summary.permissions().mode() & 0o777;
    ensure!(mode & 0o137 == 0, "summary: mode {mode:o}");
    Ok(())
}

fn kept(how: &Combination) -> Result<()> {
    root()?;
    let scratch = lab::scratch()?;
    let toy = Toy::start(Calls::Address)?;
    let tap = Tap::attach(scratch.path(), toy.pid(), how, &["--no-sandbox"])?;
    let own = status(Path::new("/proc/self/status"))?;
    for (thread, status) in threads(tap.pid())? {
        for member in ["CapEff", "CapPrm", "NoNewPrivs", "Seccomp"] {
            ensure!(
                status[member] == own[member],
                "{thread}: {member} {:x}",
                status[member]
            );
        }
    }
    tap.stop().map(drop)
}

/// Shell script that makes all mounts read-only (`ProtectSystem=strict`) except `$1`, checks that this works, and runs
/// the rest of its arguments.
const READ_ONLY: &str = "\
set -e
mount --make-rprivate /
mount --bind \"$1\" \"$1\"
for point in / /run /var /tmp; do
    if mountpoint -q $point; then mount -o remount,bind,ro $point; fi
done
if touch /written-to 2>/dev/null; then rm /written-to; exit 99; fi
touch \"$1/written-to\"
shift
exec \"$@\"";

fn read_only(how: &Combination) -> Result<()> {
    root()?;
    let scratch = lab::scratch()?;
    let mut toy = Toy::start(Calls::Address)?;
    let agent = tap::command(&environment::agent()?, toy.pid(), how);
    let mut command = Command::new(environment::tool("unshare")?);
    command
        .args(["--mount", "--", "sh", "-c", READ_ONLY, "sh"])
        .arg(scratch.path())
        .arg(agent.get_program())
        .args(agent.get_args())
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let tap = Tap::attach_by(command, scratch.path(), "read-only", how, &[])?;
    let (passed, _) = toy.talk()?;
    let tapped = tap.stop()?;
    tapped.summary.expect_nothing_dropped()?;
    let records = tapped.records()?.len();
    ensure!(
        records == passed.len(),
        "{records} of {} messages",
        passed.len()
    );
    Ok(())
}

fn enough(how: &Combination) -> Result<()> {
    root()?;
    let scratch = lab::scratch()?;
    let folder = theirs(scratch.path())?;
    let mut toy = Toy::start(Calls::Address)?;
    let file = folder.join("tap.fstrm");
    let command = as_service(scratch.path(), toy.pid(), how, &file, &capabilities()?)?;
    let mut agent = Running::start("dnstap-agent as a service", command, Watch::Stderr)?;
    agent.wait_for("attached", |line| line.contains("attached"))?;
    expect_threads(agent.pid(), maps()?)?;
    let (passed, _) = toy.talk()?;
    let Finished { status, lines } = agent.stop(libc::SIGTERM)?;
    ensure!(status.success(), "{status}\n{}", lines.join("\n"));
    let records = record::read(&file)?.len();
    ensure!(
        records == passed.len(),
        "{records} of {} messages",
        passed.len()
    );
    Ok(())
}

fn each_needed(how: &Combination) -> Result<()> {
    root()?;
    let scratch = lab::scratch()?;
    let folder = theirs(scratch.path())?;
    let toy = Toy::start(Calls::Address)?;
    let all = capabilities()?;
    ensure!(all.len() == 5, "{all:?}");
    for missing in &all {
        let rest: Vec<_> = all
            .iter()
            .filter(|name| *name != missing)
            .cloned()
            .collect();
        let command = as_service(scratch.path(), toy.pid(), how, &folder.join("tap"), &rest)?;
        let Finished { status, lines } =
            Running::start("dnstap-agent", command, Watch::Stderr)?.finish(PATIENCE)?;
        let said = lines.join("\n");
        let name = format!("CAP_{}", missing.to_uppercase());
        ensure!(
            status.code() == Some(EXIT_NO_PERMISSION) && said.contains(&name),
            "without {name}: {status}\n{said}"
        );
    }
    // Only hook `socket` attaches programs to a cgroup.
    let other = Combination {
        hook: "syscall".to_owned(),
        ..how.clone()
    };
    let mut rest = all;
    rest.retain(|name| name != "net_admin");
    let command = as_service(
        scratch.path(),
        toy.pid(),
        &other,
        &folder.join("tap"),
        &rest,
    )?;
    let mut agent = Running::start("dnstap-agent", command, Watch::Stderr)?;
    agent.wait_for("attached", |line| line.contains("attached"))?;
    let Finished { status, lines } = agent.stop(libc::SIGTERM)?;
    ensure!(status.success(), "{status}\n{}", lines.join("\n"));
    Ok(())
}

fn receive() -> Result<()> {
    root()?;
    let scratch = lab::scratch()?;
    let file = scratch.path().join("received.fstrm");
    let mut receiver = receiver("tcp:localhost:0", &file, &scratch.path().join("json"))?;
    receiver.wait_for("listening", |line| line.contains("listening on"))?;
    expect_threads(receiver.pid(), CAP_DAC_OVERRIDE)?;
    receiver.stop(libc::SIGTERM).map(drop)
}

/// Checks that every thread of the agent has at most these capabilities, can gain none, and has a system call filter.
pub(super) fn expect_threads(pid: u32, allowed: u64) -> Result<()> {
    let threads = threads(pid)?;
    ensure!(threads.len() > 1, "the agent has one thread only");
    for (thread, status) in threads {
        for member in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
            let excess = status[member] & !allowed;
            ensure!(excess == 0, "{thread}: {member} has {excess:x} too much");
        }
        let sealed = (status["NoNewPrivs"], status["Seccomp"]);
        ensure!(
            sealed == (1, SECCOMP_MODE_FILTER),
            "{thread}: NoNewPrivs, Seccomp: {sealed:?}"
        );
    }
    Ok(())
}

/// Returns the capabilities that are needed to read maps: kernels before 5.19 may require one.
pub(super) fn maps() -> Result<u64> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(['.', '-']).map(str::parse::<u32>);
    let version = (
        numbers.next().context("major")??,
        numbers.next().context("minor")??,
    );
    Ok(if version < (5, 19) { CAP_BPF } else { 0 })
}

/// Returns name and status of each thread.
fn threads(pid: u32) -> Result<Vec<(String, BTreeMap<String, u64>)>> {
    let mut threads = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let folder = task?.path();
        let name = fs::read_to_string(folder.join("comm"))?.trim().to_owned();
        threads.push((name, status(&folder.join("status"))?));
    }
    Ok(threads)
}

/// Returns the members of a `status` file that describe what a thread may do.
fn status(path: &Path) -> Result<BTreeMap<String, u64>> {
    let text = fs::read_to_string(path)?;
    let mut members = BTreeMap::new();
    for line in text.lines() {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        if name.starts_with("Cap") || ["NoNewPrivs", "Seccomp"].contains(&name) {
            members.insert(name.to_owned(), u64::from_str_radix(value.trim(), 16)?);
        }
    }
    Ok(members)
}

/// Returns the capabilities of the package's unit, by the names of setpriv(1).
pub(super) fn capabilities() -> Result<Vec<String>> {
    capabilities_of(UNIT)
}

/// Returns the capabilities of a unit, by the names of setpriv(1).
pub(super) fn capabilities_of(unit: &str) -> Result<Vec<String>> {
    let of = |setting: &str| unit.lines().find_map(|line| line.strip_prefix(setting));
    let bounding = of("CapabilityBoundingSet=").context("no bounding set in the unit")?;
    let ambient = of("AmbientCapabilities=").context("no ambient set in the unit")?;
    ensure!(bounding == ambient, "{bounding} is not {ambient}");
    let names = bounding.split(' ');
    Ok(names
        .map(|name| name.trim_start_matches("CAP_").to_lowercase())
        .collect())
}

/// Returns the command for `attach` as the unit runs it: as a user without rights of its own, with these capabilities
/// and no way to get more.
fn as_service(
    folder: &Path,
    pid: u32,
    how: &Combination,
    file: &Path,
    capabilities: &[String],
) -> Result<Command> {
    // The copy is in a place where the user may read it.
    let agent = folder.join("dnstap-agent");
    if !agent.exists() {
        fs::copy(environment::agent()?, &agent)?;
    }
    let attach = tap::command(&agent, pid, how);
    let mut command = confined((NOBODY, NOBODY), capabilities)?;
    command
        .arg(attach.get_program())
        .args(attach.get_args())
        .arg("-o")
        .arg(format!("file:{}", file.display()));
    Ok(command)
}

/// Begins a command that runs as this user and group, with these capabilities and no way to get more.
pub(super) fn confined((user, group): (u32, u32), capabilities: &[String]) -> Result<Command> {
    let names = capabilities.iter().map(|name| format!(",+{name}"));
    let set = format!("-all{}", names.collect::<String>());
    let mut command = Command::new(environment::tool("setpriv")?);
    command
        .args(["--reuid", &user.to_string(), "--regid", &group.to_string()])
        .args(["--clear-groups", "--no-new-privs"])
        .args(["--inh-caps", &set, "--ambient-caps", &set])
        .args(["--bounding-set", &set, "--"])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    Ok(command)
}

/// Makes a folder for the service's files.
fn theirs(folder: &Path) -> Result<std::path::PathBuf> {
    let theirs = folder.join("theirs");
    fs::create_dir(&theirs)?;
    chown(&theirs, Some(NOBODY), Some(NOBODY))?;
    Ok(theirs)
}

/// Starts `receive` on a socket, with a file as its output.
pub(super) fn receiver(listen: &str, file: &Path, summary: &Path) -> Result<Running> {
    let mut command = Command::new(environment::agent()?);
    command
        .args(["receive", "--listen", listen, "-o"])
        .arg(format!("file:{}", file.display()))
        .arg("--summary-json")
        .arg(summary)
        .stdin(Stdio::null());
    Running::start("dnstap-agent receive", command, Watch::Stderr)
}

pub(super) fn root() -> Result<()> {
    ensure!(
        system::is_root(),
        Skip("this test tells root from others, and is not root".into())
    );
    Ok(())
}

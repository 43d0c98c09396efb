//! Failures around the agent. Each gives a message with the cause or the fix, the documented exit code, and a file that
//! is readable up to its end.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use super::trial;
use crate::{
    environment::{self, Combination, Skip, combinations},
    lab::{self, Lab, Wanted},
    load::dnsperf::{self, Load},
    process::{Finished, PATIENCE, Running, Watch},
    record,
    system::{self, SmallDisk},
    tap::{self, Tap},
    toy::{self, Calls, Toy},
};

/// The agent's exit codes (`dnstap_agent::host::exit`), written again here because scripts rely on them.
const EXIT_OK: i32 = 0;
const EXIT_USAGE: i32 = 64;
const EXIT_NO_TARGET: i32 = 69;
const EXIT_CANNOT_CREATE: i32 = 73;
const EXIT_OUTPUT: i32 = 74;
const EXIT_NO_PERMISSION: i32 = 77;

/// Size of the small disk in bytes, and a number of queries whose frames do not fit on it.
const DISK: usize = 64 * 1024;
const TOO_MANY: usize = 5_000;

/// User and group `nobody`.
const NOBODY: u32 = 65_534;

type Test = fn(&Combination) -> Result<()>;

pub(super) fn trials() -> Vec<Trial> {
    let Some(how) = combinations().into_iter().next() else {
        return Vec::new();
    };
    let tests: [(&str, Test); 8] = [
        (
            "all mistakes of the options are told before privileges are looked at",
            mistakes_first,
        ),
        (
            "without privileges the agent says which it needs",
            without_privileges,
        ),
        (
            "in a PID namespace of its own the agent says that it needs the host's",
            own_pid_namespace,
        ),
        ("a process that does not exist is named", no_such_process),
        ("a process without sockets is refused", no_sockets),
        ("the end of the process ends the tap in order", process_ends),
        (
            "an output in a folder that does not exist is named",
            no_folder,
        ),
        ("a full disk leaves a readable file", full_disk),
    ];
    tests
        .map(|(name, test)| {
            let how = how.clone();
            trial(format!("{how}: {name}"), move || test(&how))
        })
        .into()
}

fn without_privileges(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let agent = scratch.path().join("dnstap-agent");
    fs::copy(environment::agent()?, &agent)?;
    let folder = scratch.path().join("theirs");
    fs::create_dir(&folder)?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777))?;
    let toy = Toy::start(Calls::Plain)?;
    let mut command = tap::command(&agent, toy.pid(), how);
    command
        .uid(NOBODY)
        .gid(NOBODY)
        .arg("-o")
        .arg(output(&folder.join("tap.fstrm")));
    expect(command, EXIT_NO_PERMISSION, &["root", "CAP_"])
}

fn mistakes_first(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let agent = scratch.path().join("dnstap-agent");
    fs::copy(environment::agent()?, &agent)?;
    let mut command = tap::command(&agent, 1, how);
    command
        .uid(NOBODY)
        .gid(NOBODY)
        .args(["--queue-size=much", "--duration=long", "--no-such"])
        .env("DNSTAP_AGENT_PORT", "dns");
    let parts = ["'much'", "'long'", "--no-such", "DNSTAP_AGENT_PORT: "];
    expect(command, EXIT_USAGE, &parts)
}

/// In its PID namespace the agent is process 1; for the host this id is another process.
fn own_pid_namespace(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let agent = tap::command(&environment::agent()?, 1, how);
    let mut command = Command::new(environment::tool("unshare")?);
    command
        .args(["--pid", "--fork", "--mount-proc"])
        .arg(agent.get_program())
        .args(agent.get_args())
        .arg("-o")
        .arg(output(&scratch.path().join("tap.fstrm")))
        .stdin(Stdio::null());
    expect(command, EXIT_NO_PERMISSION, &["--pid=host"])
}

fn no_such_process(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let gone = idle()?;
    let pid = gone.pid();
    gone.stop(libc::SIGKILL)?;
    let mut command = tap::command(&environment::agent()?, pid, how);
    command
        .arg("-o")
        .arg(output(&scratch.path().join("tap.fstrm")));
    expect(command, EXIT_NO_TARGET, &[&pid.to_string()])
}

fn no_sockets(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let idle = idle()?;
    let mut command = tap::command(&environment::agent()?, idle.pid(), how);
    command
        .arg("-o")
        .arg(output(&scratch.path().join("tap.fstrm")));
    expect(command, EXIT_NO_TARGET, &["socket"])
}

fn process_ends(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let mut toy = Toy::start(Calls::Address)?;
    let tap = Tap::attach(scratch.path(), toy.pid(), how, &[])?;
    let (passed, _) = toy.talk()?;
    let pid = toy.pid().to_string();
    toy.stop()?;
    let file = tap.file().to_owned();
    let Finished { status, lines } = tap.finish()?;
    let said = lines.join("\n");
    ensure!(status.code() == Some(EXIT_OK), "{status}\n{said}");
    ensure!(
        said.contains(&pid) && (said.contains("ended") || said.contains("exited")),
        "{said}"
    );
    let records = record::read(&file)?.len();
    ensure!(
        records == passed.len(),
        "{records} of {} messages",
        passed.len()
    );
    Ok(())
}

fn no_folder(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let toy = Toy::start(Calls::Plain)?;
    let missing = scratch.path().join("missing");
    let mut command = tap::command(&environment::agent()?, toy.pid(), how);
    command.arg("-o").arg(output(&missing.join("tap.fstrm")));
    expect(
        command,
        EXIT_CANNOT_CREATE,
        &[&missing.display().to_string()],
    )
}

fn full_disk(how: &Combination) -> Result<()> {
    let lab = Lab::start(Wanted::default())?;
    let folder = lab.folder().join("small");
    fs::create_dir(&folder)?;
    let _disk = SmallDisk::mount(&folder, DISK)
        .map_err(|error| Skip(format!("cannot mount a tmpfs: {error}")))?;
    let summary = lab.folder().join("summary.json");
    let tap = Tap::attach_with(
        &folder.join("tap.fstrm"),
        &summary,
        lab.tapped.pid(),
        how,
        &[],
    )?;
    let load = Load {
        queries: TOO_MANY,
        rate: None,
        tcp: false,
        recursive: false,
    };
    dnsperf::run(lab.folder(), lab.server(false), &load)?;
    let file = tap.file().to_owned();
    // The agent may have ended by itself already. It can still be signalled until its parent has waited for it.
    tap.signal(libc::SIGINT)?;
    let Finished { status, lines } = tap.finish()?;
    let said = lines.join("\n");
    ensure!(status.code() == Some(EXIT_OUTPUT), "{status}\n{said}");
    ensure!(
        said.contains("No space left") && said.contains("tap.fstrm"),
        "{said}"
    );
    let (records, _cut) = record::read_up_to_the_end(&file)?;
    ensure!(
        !records.is_empty() && records.len() < 2 * TOO_MANY,
        "{} frames in the file",
        records.len()
    );
    let summary = tap::Summary::read(&summary)?;
    summary.expect_written(records.len())?;
    let dropped = summary.kernel_drops()? + summary.output_drops()?;
    let seen = summary.kernel("seen")?;
    ensure!(
        seen == records.len() as u64 + dropped,
        "seen {seen}, in the file {}, dropped {dropped}",
        records.len()
    );
    Ok(())
}

/// Checks that the command ends with the code and prints one of the words.
fn expect(command: Command, code: i32, words: &[&str]) -> Result<()> {
    ensure!(
        system::is_root(),
        Skip("this test tells root from others, and is not root".into())
    );
    let Finished { status, lines } =
        Running::start("dnstap-agent", command, Watch::Stderr)?.finish(PATIENCE)?;
    let said = lines.join("\n");
    ensure!(
        status.code() == Some(code),
        "expected exit code {code}, got {status}\n{said}"
    );
    ensure!(
        words.iter().all(|word| said.contains(word)),
        "not all of {words:?} in:\n{said}"
    );
    ensure!(!said.contains("panicked"), "{said}");
    Ok(())
}

/// Starts a process that has no sockets.
fn idle() -> Result<Running> {
    let mut command = Command::new(toy::program());
    command.arg(toy::IDLE).stdin(Stdio::piped());
    Running::start("idle process", command, Watch::Stdout)
}

fn output(file: &Path) -> String {
    format!("file:{}", file.display())
}

//! `dnstap-agent check`: it lists what `attach` needs and would use, with a remedy for everything that is missing, and
//! `attach` really uses it. If the kernel description lacks a member, `attach` names that member and does not guess.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use super::{
    privileges::{capabilities, confined},
    trial,
};
use crate::{
    environment::{self, Combination, Skip, combinations},
    lab,
    process::{Finished, PATIENCE, Running, Watch},
    record,
    system::{self, limits},
    tap::{self, Tap},
    toy::{Calls, Toy},
};

/// The agent's exit codes (`dnstap_agent::host::exit`).
const EXIT_OK: i32 = 0;
const EXIT_NO_PERMISSION: i32 = 77;

/// User and group `nobody`.
const NOBODY: u32 = 65_534;

/// Requirements that `check` must look for.
const FINDINGS: [&str; 11] = [
    "CAP_BPF",
    "CAP_PERFMON",
    "CAP_NET_ADMIN",
    "CAP_SYS_PTRACE",
    "CAP_DAC_READ_SEARCH",
    "PID namespace",
    "open files",
    "BTF",
    "hook fentry",
    "hook socket",
    "hook syscall",
];

/// Too few descriptors for a tap.
const FEW: u64 = 60;

/// Description of the running kernel's structures.
const BTF: &str = "/sys/kernel/btf/vmlinux";

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "check: attach uses the hook and the ring that check names".into(),
            attach_agrees,
        ),
        trial(
            "check: people read the same as programs".into(),
            text_agrees,
        ),
        trial(
            "check: without privileges every missing one has its remedy".into(),
            without_privileges,
        ),
        trial(
            "check: with too few descriptors it says, as attach does, that attaching would not work"
                .into(),
            few_descriptors,
        ),
        trial(
            "check: without CAP_SYS_PTRACE it says, as attach does, that attaching would not work"
                .into(),
            without_one_capability,
        ),
        trial(
            "check: a member that the kernel does not have is named, and nothing is delivered"
                .into(),
            missing_member,
        ),
    ]
}

fn attach_agrees() -> Result<()> {
    root()?;
    let report = report(&Agent::of_root()?, EXIT_OK)?;
    report.expect_complete()?;
    for Combination { hook, .. } in combinations() {
        ensure!(
            report.ok(&format!("hook {hook}"))?,
            "hook {hook} is refused: {}",
            report.0
        );
    }
    let word = |key: &str| {
        report.0[key]
            .as_str()
            .context("not named")
            .map(str::to_owned)
    };
    let (hook, ring) = (word("hook")?, word("ring")?);
    let scratch = lab::scratch()?;
    let mut toy = Toy::start(Calls::Address)?;
    let auto = Combination {
        hook: "auto".into(),
        ring: "auto".into(),
    };
    let tap = Tap::attach(scratch.path(), toy.pid(), &auto, &[])?;
    let (passed, _) = toy.talk()?;
    let said = tap.said().to_owned();
    let records = tap.stop()?.records()?;
    ensure!(
        said.contains(&format!("hook {hook}, ring {ring};")),
        "check names hook {hook} and ring {ring}, attach says: {said}"
    );
    ensure!(
        records.len() == passed.len(),
        "{} of {} messages",
        records.len(),
        passed.len()
    );
    Ok(())
}

fn text_agrees() -> Result<()> {
    root()?;
    let agent = Agent::of_root()?;
    let report = report(&agent, EXIT_OK)?;
    let text = check(&agent, &[], EXIT_OK)?;
    for finding in report.findings()? {
        let name = finding["name"].as_str().context("name")?;
        let state = if finding["ok"] == true {
            "ok"
        } else {
            "missing"
        };
        let line = text
            .iter()
            .position(|line| line.starts_with(state) && line.contains(name))
            .with_context(|| format!("no line `{state} {name}` in {text:#?}"))?;
        let remedy = finding["remedy"].as_str().context("remedy")?;
        ensure!(
            remedy.is_empty() || text[line + 1].contains(remedy),
            "no remedy behind {name} in {text:#?}"
        );
    }
    let hook = report.0["hook"].as_str().context("hook")?;
    ensure!(
        text.iter()
            .any(|line| line.contains("attach") && line.contains(&format!("hook {hook}"))),
        "hook {hook} is not named in {text:#?}"
    );
    Ok(())
}

fn without_privileges() -> Result<()> {
    root()?;
    let scratch = lab::scratch()?;
    let agent = Agent {
        path: scratch.path().join("dnstap-agent"),
        user: Some(NOBODY),
    };
    fs::copy(environment::agent()?, &agent.path)?;
    let report = report(&agent, EXIT_NO_PERMISSION)?;
    report.expect_complete()?;
    for capability in ["CAP_BPF", "CAP_PERFMON"] {
        ensure!(
            !report.ok(capability)?,
            "nobody has {capability}: {}",
            report.0
        );
    }
    ensure!(report.0["hook"].is_null(), "a hook: {}", report.0);
    Ok(())
}

fn few_descriptors() -> Result<()> {
    root()?;
    let agent = environment::agent()?;
    expect_refusal("open files", || {
        let mut command = Command::new(&agent);
        limits::allow_descriptors_of(&mut command, FEW, FEW);
        Ok(command)
    })
}

fn without_one_capability() -> Result<()> {
    root()?;
    let scratch = lab::scratch()?;
    let agent = scratch.path().join("dnstap-agent");
    fs::copy(environment::agent()?, &agent)?;
    let mut rest = capabilities()?;
    rest.retain(|name| name != "sys_ptrace");
    expect_refusal("CAP_SYS_PTRACE", || {
        let mut command = confined((NOBODY, NOBODY), &rest)?;
        command.arg(&agent);
        Ok(command)
    })
}

/// Checks that the `agent` does not attach without `missing`, and that `check` does not say that it would.
fn expect_refusal(missing: &str, agent: impl Fn() -> Result<Command>) -> Result<()> {
    let toy = Toy::start(Calls::Address)?;
    let mut attach = agent()?;
    attach.args(["attach", "-o", "-", "--pid", &toy.pid().to_string()]);
    attach.stdout(Stdio::null());
    let Finished { status, lines } =
        Running::start("dnstap-agent", attach, Watch::Stderr)?.finish(PATIENCE)?;
    ensure!(
        status.code() == Some(EXIT_NO_PERMISSION),
        "attach: {status}: {lines:#?}"
    );
    let report = Report::of(&lines_of(agent()?, &["--json"], EXIT_NO_PERMISSION)?)?;
    report.expect_complete()?;
    ensure!(
        !report.ok(missing)? && report.0["hook"].is_null(),
        "{missing} is not missing, or there is a hook: {}",
        report.0
    );
    let text = lines_of(agent()?, &[], EXIT_NO_PERMISSION)?.join("\n");
    ensure!(text.contains("attach would not work"), "{text}");
    Ok(())
}

fn missing_member() -> Result<()> {
    root()?;
    let scratch = lab::scratch()?;
    let damaged = damaged_btf(scratch.path(), "skc_dport")?;
    let toy = Toy::start(Calls::Address)?;
    for how in combinations() {
        let file = scratch.path().join("tap.fstrm");
        let mut command = tap::command(&environment::agent()?, toy.pid(), &how);
        command
            .env("DNSTAP_AGENT_BTF", &damaged)
            .arg("-o")
            .arg(format!("file:{}", file.display()));
        let Finished { status, lines } =
            Running::start("dnstap-agent", command, Watch::Stderr)?.finish(PATIENCE)?;
        let said = lines.join("\n");
        ensure!(
            status.code() == Some(EXIT_NO_PERMISSION),
            "{how}: {status}\n{said}"
        );
        for name in ["sock", "skc_dport"] {
            ensure!(said.contains(name), "{how}: no {name} in: {said}");
        }
        ensure!(
            !said.contains("attached") && !said.contains("panicked"),
            "{how}: {said}"
        );
        if file.exists() {
            let delivered = record::read(&file)?.len();
            ensure!(delivered == 0, "{how}: {delivered} frames\n{said}");
        }
    }
    Ok(())
}

/// Makes a copy of the kernel's BTF in which the member has another name.
fn damaged_btf(folder: &Path, member: &str) -> Result<PathBuf> {
    let mut bytes = fs::read(BTF).map_err(|error| Skip(format!("cannot read {BTF}: {error}")))?;
    // Names are NUL-terminated in one section of strings, each once.
    let name = [b"\0", member.as_bytes(), b"\0"].concat();
    let at = bytes
        .windows(name.len())
        .position(|window| window == name)
        .with_context(|| format!("no {member} in {BTF}"))?;
    bytes[at + 1] = b'X';
    let path = folder.join("damaged.btf");
    fs::write(&path, bytes)?;
    Ok(path)
}

/// Agent to run, and the user to run it as if not root.
struct Agent {
    path: PathBuf,
    user: Option<u32>,
}

impl Agent {
    fn of_root() -> Result<Self> {
        Ok(Self {
            path: environment::agent()?,
            user: None,
        })
    }
}

/// The JSON object of `check --json`.
struct Report(Value);

impl Report {
    fn of(lines: &[String]) -> Result<Self> {
        let text = lines.join("\n");
        Ok(Self(serde_json::from_str(&text).with_context(|| text)?))
    }

    fn findings(&self) -> Result<&Vec<Value>> {
        self.0["findings"].as_array().context("no findings")
    }

    /// Returns whether this requirement is met.
    fn ok(&self, name: &str) -> Result<bool> {
        self.findings()?
            .iter()
            .find(|finding| {
                finding["name"]
                    .as_str()
                    .is_some_and(|found| found.contains(name))
            })
            .and_then(|finding| finding["ok"].as_bool())
            .with_context(|| format!("no {name} in {}", self.0))
    }

    /// Checks that every requirement was looked for, and that each missing one has a reason and a remedy.
    fn expect_complete(&self) -> Result<()> {
        for name in FINDINGS {
            self.ok(name)?;
        }
        for finding in self.findings()? {
            let said = |key: &str| finding[key].as_str().is_some_and(|text| !text.is_empty());
            ensure!(
                said("detail") && (finding["ok"] == true || said("remedy")),
                "no detail or no remedy: {finding}"
            );
        }
        Ok(())
    }
}

fn report(agent: &Agent, code: i32) -> Result<Report> {
    Report::of(&check(agent, &["--json"], code)?)
}

/// Runs `check`, which must end with `code`, and returns its lines.
fn check(agent: &Agent, arguments: &[&str], code: i32) -> Result<Vec<String>> {
    let mut command = Command::new(&agent.path);
    if let Some(user) = agent.user {
        command.uid(user).gid(user);
    }
    lines_of(command, arguments, code)
}

/// Does the same with the agent that `command` starts.
fn lines_of(mut command: Command, arguments: &[&str], code: i32) -> Result<Vec<String>> {
    command.arg("check").args(arguments);
    // The agent's log would mix with this program's own report; everything important is in its answer.
    command.stderr(Stdio::null());
    let Finished { status, lines } =
        Running::start("dnstap-agent check", command, Watch::Stdout)?.finish(PATIENCE)?;
    ensure!(
        status.code() == Some(code),
        "expected exit code {code}, got {status}: {lines:#?}"
    );
    Ok(lines)
}

fn root() -> Result<()> {
    ensure!(
        system::is_root(),
        Skip("this test tells root from others, and is not root".into())
    );
    Ok(())
}

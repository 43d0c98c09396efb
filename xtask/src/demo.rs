//! `cargo xtask demo`: shows the tap on a real BIND, from the start to a dnstap file, in less than a minute after the
//! build.
//!
//! Two private servers run on loopback addresses and free high ports: `resolver` is tapped, and `upstream` stands for
//! the rest of the Internet (the root and one zone below it), so nothing leaves loopback. Every process started here is
//! a child. Dropping its handle stops it, also on failure, and the kernel stops it if this process is killed.

mod client;
mod named;

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    build,
    child::{Child, Log},
    exec, packages, paths,
    scratch::Scratch,
    servers, setup, ui,
};

/// Seconds that the agent stays attached. The queries take about two.
const SECONDS: u32 = 8;
/// Longest time for the agent to attach, and to end.
const PATIENCE: Duration = Duration::from_secs(20);
/// Number of messages of the file that are printed when it is read.
const SHOWN: usize = 4;

/// Sets up, builds, taps a private `named`, and shows the result.
pub(crate) fn run() -> Result<()> {
    ensure!(
        packages::is_root(),
        "the demo attaches to a server, which takes root: run it as root"
    );
    setup::run(setup::Purpose::Demo)?;
    let agent = build::release()?;

    let folder = paths::target().join("demo");
    let scratch = Scratch::create(folder.join("servers"))?;
    ui::step("starting two private named on loopback");
    let lab = named::Lab::start(&servers::bind9()?, scratch.path())?;
    ui::note(&lab);

    let file = folder.join("demo.fstrm");
    let tapped = tap(&agent, &lab, &file);
    drop(lab);
    tapped?;
    read_back(&agent, &file)
}

/// Attaches to the running server, sends queries to it, and waits for the agent to end by itself.
fn tap(agent: &Path, lab: &named::Lab, file: &Path) -> Result<()> {
    ui::step("attaching to the running named; below are its messages as they pass");
    let mut attach = Command::new(agent);
    attach
        .arg("attach")
        .args([
            "--pid",
            &lab.resolver_pid().to_string(),
            "--duration",
            &SECONDS.to_string(),
        ])
        .args(["-o", "-", "-o"])
        .arg(format!("file:{}", file.display()));
    let mut attached = Child::spawn(&attach, Log::Shown)?;
    attached
        .wait_for("attached", PATIENCE, |line| line.contains("attached to "))
        .context("the agent did not attach")?;
    client::ask(lab)?;
    attached.finish(PATIENCE).map(drop)
}

/// Reads the file with the agent and, as an independent check, with BIND's own reader.
fn read_back(agent: &Path, file: &Path) -> Result<()> {
    ui::step("reading the file back");
    let mut read = Command::new(agent);
    let text = exec::output(read.arg("read").arg(file))?;
    let messages = text.lines().count();
    if messages == 0 {
        bail!("no messages were captured: {} is empty", file.display());
    }
    ui::note(format_args!(
        "dnstap-agent read: {messages} messages, the first {}:",
        SHOWN.min(messages)
    ));
    for line in text.lines().take(SHOWN) {
        println!("{line}");
    }
    if let Ok(text) = exec::output(Command::new("dnstap-read").arg(file)) {
        let second = text.lines().count();
        ui::note(format_args!("dnstap-read (BIND's own): {second} messages"));
        ensure!(
            second == messages,
            "the two readers disagree: {messages} and {second} messages"
        );
    }
    let size = fs::metadata(file)
        .with_context(|| format!("cannot read {}", file.display()))?
        .len();
    ui::step(format_args!(
        "done: {messages} messages, {size} bytes in {}",
        file.display()
    ));
    ui::note(format_args!(
        "read it again: {} read {}",
        agent.display(),
        file.display()
    ));
    Ok(())
}

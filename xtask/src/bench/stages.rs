//! Counts the instructions per message of each stage of the agent with valgrind. The figure is the same in every run,
//! even on a busy machine.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{exec, ui};

/// Number of messages in `dnstap-agent/benches/recorded`.
const MESSAGES: u64 = 20_000;

/// Counts each stage twice, with one pass and with three. The difference is the cost of two passes.
pub(super) fn run() -> Result<()> {
    ui::step("building the stages");
    let build = exec::output(exec::cargo().args([
        "bench",
        "--package=dnstap-agent",
        "--bench=instructions",
        "--no-run",
        "--message-format=json",
    ]))?;
    let program: PathBuf = build
        .lines()
        .filter(|line| line.contains("\"name\":\"instructions\""))
        .find_map(|line| {
            let (_, rest) = line.split_once("\"executable\":\"")?;
            rest.split('"').next().map(PathBuf::from)
        })
        .context("cargo names no program")?;
    let stages = exec::output(&mut Command::new(&program))?;
    ui::step("counting instructions");
    println!("| stage | instructions per message |\n|---|--:|");
    for stage in stages.lines() {
        let [once, thrice] = ["1", "3"].map(|times| count(&program, stage, times));
        println!("| {stage} | {} |", (thrice? - once?) / (2 * MESSAGES));
    }
    Ok(())
}

fn count(program: &PathBuf, stage: &str, times: &str) -> Result<u64> {
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args([stage, times]);
    let output = valgrind.output().context("cannot run valgrind")?;
    let text = String::from_utf8_lossy(&output.stderr);
    text.lines()
        .find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok())
        .with_context(|| format!("valgrind counted nothing:\n{text}"))
}

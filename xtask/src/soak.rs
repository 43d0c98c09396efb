//! `cargo xtask soak`: runs a `named`, agents and a collector under load, with all kinds of events in random order.
//!
//! The soak itself is a part of the integration tests' program (`tests/src/soak`); here it is built and started.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::SystemTime,
};

use anyhow::{Context as _, Result};

use crate::{build, exec, servers, setup};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long
    #[arg(long, value_name = "N", default_value_t = 60.0)]
    minutes: f64,
    /// Seed of the order of events [default: another one each time]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Write the report to this file, too
    #[arg(long, value_name = "PATH")]
    report: Option<PathBuf>,
}

/// Builds the programs that it needs, runs it, and prints the report.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::run(setup::Purpose::Test)?;
    let agent = build::release()?;
    let tests = build::tests()?;
    let mut text = String::new();
    let held = exec::watched(
        &mut command(&tests, &agent, args.minutes, args.seed)?,
        |line| {
            text.push_str(line);
            text.push('\n');
        },
    )?;
    if let Some(path) = &args.report {
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(if held {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Returns the command for the soak of an agent, which fails if a check fails.
pub(crate) fn command(
    tests: &Path,
    agent: &Path,
    minutes: f64,
    seed: Option<u64>,
) -> Result<Command> {
    let seed = match seed {
        Some(seed) => seed,
        None => SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .context("a clock before 1970")?
            .as_secs(),
    };
    let mut command = Command::new(tests);
    command
        .args(["soak", &minutes.to_string(), &seed.to_string()])
        .env("DNSTAP_AGENT", agent)
        .env("NAMED", servers::bind9()?);
    Ok(command)
}

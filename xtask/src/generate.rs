//! `cargo xtask generate`: runs random programs of socket calls until the record of one is wrong.
//!
//! The generator itself is a part of the integration tests' program (`tests/src/generator`); here it is built and started.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::{build, exec, setup};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long; with 0, one program for each hook and ring
    #[arg(long, value_name = "N", default_value_t = 60.0)]
    seconds: f64,
    /// Seed of the random programs [default: another one each time]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Hooks to try, in turn
    #[arg(long, value_name = "HOOK,...", default_value = "socket,syscall")]
    hook: String,
    /// Rings to try, in turn
    #[arg(long, value_name = "RING,...", default_value = "bpf,perf")]
    ring: String,
}

/// Builds the programs that it needs and runs it. The first finding ends it.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::run(setup::Purpose::Test)?;
    let agent = build::release()?;
    let mut command = Command::new(build::tests()?);
    command
        .args(["generate", &args.seconds.to_string()])
        .args(args.seed.map(|seed| seed.to_string()))
        .env("DNSTAP_AGENT", agent)
        .env("DNSTAP_HOOKS", &args.hook)
        .env("DNSTAP_RINGS", &args.ring);
    Ok(if exec::watched(&mut command, |_| ())? {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

//! The project's commands, run as `cargo xtask COMMAND`.
//!
//! This file only dispatches: one file per task, and everything that runs another program goes through [`exec`].
//! Progress goes to standard error; standard output carries results (test counts, the demo's messages).

mod arch;
mod archive;
mod bench;
mod build;
mod child;
mod cross;
mod demo;
mod deny;
mod dist;
mod exec;
mod fuzz;
mod generate;
mod modules;
mod named;
mod packages;
mod paths;
mod referee;
mod results;
mod scratch;
mod servers;
mod setup;
mod soak;
mod tally;
mod test;
mod toolchain;
mod ui;
mod vm;
mod workers;
mod zig;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The project's commands
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what building, testing and the demo need; quick when nothing is missing
    Setup(setup::Args),
    /// Compile the eBPF object and the agent that embeds it
    Build(build::Args),
    /// Run format, lints, documentation, unit tests and integration tests
    Test(test::Args),
    /// Run the integration tests on other kernels, in virtual machines
    Vm(vm::Args),
    /// Run a server, agents and a collector under load, with restarts, kills and rotations in random order; needs root
    Soak(soak::Args),
    /// Generate random programs of socket calls, run them, and compare the record with what they did; needs root
    Generate(generate::Args),
    /// Run Debian's and other servers with a packet capture beside the tap, and compare the tap's file with the packets; needs root
    Referee(referee::Args),
    /// Run the coverage-guided fuzz targets of the parsers and the pure stages
    Fuzz(fuzz::Args),
    /// Measure what tapping costs, next to the server's own dnstap and packet captures; needs root
    Bench(bench::Args),
    /// Make Debian and RPM packages and a tarball of a release build that runs on every distribution, in target/dist
    Dist(dist::Args),
    /// Find import cycles among the modules of each crate
    Modules(modules::Args),
    /// Tap a private BIND on loopback and show what comes out; needs root
    Demo,
}

fn main() -> ExitCode {
    match dispatch(&Cli::parse().task) {
        Ok(code) => code,
        Err(error) => {
            ui::error(&error);
            ExitCode::FAILURE
        }
    }
}

fn dispatch(task: &Task) -> Result<ExitCode> {
    match task {
        Task::Setup(args) => setup::run(args.purpose)?,
        Task::Build(args) => build::run(args)?,
        Task::Bench(args) => bench::run(args)?,
        Task::Demo => demo::run()?,
        Task::Dist(args) => dist::run(args)?,
        Task::Generate(args) => return generate::run(args),
        Task::Referee(args) => return referee::run(args),
        Task::Soak(args) => return soak::run(args),
        Task::Test(args) => return Ok(test::run(args)),
        Task::Vm(args) => return vm::run(args),
        Task::Fuzz(args) => return fuzz::run(args),
        Task::Modules(args) => {
            return Ok(if modules::run(args)? {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            });
        }
    }
    Ok(ExitCode::SUCCESS)
}

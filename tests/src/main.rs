//! Integration tests: the agent against real servers, on loopback, as root.
//!
//! ```text
//! environment ─► lab (servers) ─► tap (the agent) + reference (the server's own dnstap) ◄─ load (traffic)
//!                                   └──────────────► record ─► compare ◄── rules of the cases
//! ```
//!
//! The tests are one program. It needs only the agent (`DNSTAP_AGENT`), a `named` (`NAMED`) and the DNS tools, so it
//! runs on a development machine and in an emulated machine that has nothing else. `UNBOUND`, `KNOTD` and `NSD` are
//! more servers to tap. Scratch folders are made below `TMPDIR`. `DNSTAP_PACKAGE` is the Debian package to install.
//! `DNSTAP_HOOKS` and `DNSTAP_RINGS` select the combinations to try, `DNSTAP_QUERIES` and `DNSTAP_RATE` the steady
//! load, `DNSTAP_ZONE_RECORDS` the size of a zone, `DNSTAP_LAG_MS` the largest lag of named's clock.
//! `DNSTAP_OWN_MACHINE` allows the tests to set the machine's clock. `DNSTAP_TESTS_KEEP` keeps scratch folders.
//! Arguments are libtest's.
//!
//! Some cases run at the same time, then most run alone, then one checks what the others have left behind. These are
//! runs of their own, each with a result line. `cases` tells which cases these are, and why.

mod cases;
mod chance;
mod compare;
mod disk;
mod environment;
mod generator;
mod kernel;
mod lab;
mod load;
mod process;
mod receive;
mod record;
mod referee;
mod reference;
mod relay;
mod soak;
mod system;
mod tap;
mod times;
mod toy;
mod tree;
mod wire;

use std::{env, io, process::ExitCode};

use anyhow::{Context as _, Result};
use libtest_mimic::{Arguments, Conclusion};

fn main() -> Result<ExitCode> {
    let words: Vec<String> = env::args().skip(1).collect();
    match words.first().map(String::as_str) {
        Some(toy::ARGUMENT) => toy::serve(words.get(1).context("which calls?")?.parse()?)?,
        Some(toy::PUPPET) => toy::obey()?,
        Some(toy::ACTOR) => toy::act()?,
        Some(toy::WORKERS) => toy::raise()?,
        Some(toy::WORKER) => toy::go_on(&words[1..])?,
        Some(soak::ARGUMENT) => {
            return Ok(if soak::run(&words[1..])? {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            });
        }
        Some(generator::ARGUMENT) => {
            return Ok(if generator::run(&words[1..])? {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            });
        }
        Some(referee::ARGUMENT) => {
            return Ok(if referee::run(&words[1..])? {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            });
        }
        Some(referee::TOY) => referee::be_a_toy(&words[1..])?,
        Some(toy::IDLE) => drop(io::copy(&mut io::stdin(), &mut io::sink())?),
        _ => return Ok(run()),
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs the trials.
fn run() -> ExitCode {
    let mut arguments = Arguments::from_args();
    let threads = arguments.test_threads.unwrap_or_else(cases::threads);
    if system::is_root()
        && let Err(error) = system::private_mounts()
    {
        eprintln!("no private mounts ({error}): what tests mount is seen by all");
    }
    let mut run = |threads, trials| {
        arguments.test_threads = Some(threads);
        libtest_mimic::run(&arguments, trials)
    };
    let mut conclusions = vec![
        run(threads, cases::beside_each_other()),
        run(1, cases::alone()),
    ];
    if kernel::had_taps() {
        // This trial belongs to any selection of trials.
        (arguments.filter, arguments.skip) = (None, Vec::new());
        conclusions.push(libtest_mimic::run(&arguments, vec![cases::after_all()]));
    }
    for line in cases::times().into_iter().chain(cases::notes()) {
        eprintln!("{line}");
    }
    let failed = conclusions.iter().find(|run| run.has_failed());
    failed.map_or(ExitCode::SUCCESS, Conclusion::exit_code)
}

//! `cargo xtask bench`: measures the cost of tapping a server, and compares it with that of the server's own dnstap and
//! of packet captures.
//!
//! Every run is a fresh `named` on loopback, one contender next to it, and one load by `dnsperf`. The contenders take
//! turns (A B C, A B C, ...), so that changes of the machine in the meantime affect all of them equally. Figures are
//! medians over the rounds. A comparison with the untapped server is made within each round; [`stats`] describes the
//! comparison with the server's own dnstap.
//!
//! ```text
//! hooks ─► plan ─► server + contender + load ─► run (figures of one run) ─► report ─► JSON, Markdown, SVG
//! ```

#![expect(
    clippy::cast_precision_loss,
    reason = "times and counts of seconds are far below 2^52"
)]

mod contender;
mod count;
mod figures;
mod hooks;
mod instructions;
mod load;
mod machine;
mod plan;
mod plot;
mod process;
mod report;
mod run;
mod server;
mod stages;
mod stats;
mod table;
mod tools;

use std::{fs, path::PathBuf, time::Instant};

use anyhow::{Context as _, Result, ensure};

use crate::{build, packages, paths, results::Results, scratch::Scratch, servers, setup, ui};

#[derive(Default, clap::Args)]
pub(crate) struct Args {
    /// Fewer contenders, loads and rounds: below three minutes instead of a dozen
    #[arg(long)]
    quick: bool,
    /// Rounds of the main loads [default: 7, with --quick 3]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Only loads whose name holds this
    #[arg(long, value_name = "TEXT")]
    load: Option<String>,
    /// Only contenders whose name holds this, besides untapped and the server's own dnstap
    #[arg(long, value_name = "TEXT")]
    contender: Option<String>,
    /// Measure each probe alone and all together instead, beside the tap without probes: on an authoritative and on a
    /// recursive server
    #[arg(long, conflicts_with_all = ["stages", "instructions"])]
    probes: bool,
    /// Where to write `results.json`, `results.md` and the plots
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Count instructions per message of the agent's stages instead, by valgrind
    #[arg(long, conflicts_with_all = ["quick", "rounds", "load", "contender", "out", "agent", "instructions"])]
    stages: bool,
    /// Take this agent instead of building one
    #[arg(long, value_name = "PATH")]
    agent: Option<PathBuf>,
    #[command(flatten)]
    counting: instructions::Options,
}

/// Measures everything and writes the report.
pub(crate) fn run(args: &Args) -> Result<()> {
    if args.stages {
        return stages::run();
    }
    if args.counting.instructions {
        return instructions::run(args);
    }
    ensure!(
        packages::is_root(),
        "the benchmark attaches to a server, which takes root: run it as root"
    );
    setup::run(setup::Purpose::Bench)?;
    let agent = match &args.agent {
        Some(agent) => agent.clone(),
        None => build::release()?,
    };
    let out = args.out.clone().unwrap_or_else(|| {
        if args.probes {
            paths::target().join("bench/probes")
        } else if args.quick {
            paths::target().join("bench")
        } else {
            paths::root().join("docs/benchmarks")
        }
    });
    fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
    let scratch = Scratch::create(memory().join(format!("dnstap-bench-{}", std::process::id())))?;
    let bench = run::Bench {
        agent,
        named: servers::bind9()?,
        scratch: scratch.path().to_owned(),
        cpus: machine::cpus(),
    };
    let hooks = hooks::Hooks::of(&bench.agent)?;
    ui::note(format_args!("hooks: {hooks}"));
    let started = Instant::now();
    let sections = plan::sections(args, &hooks.accepted)
        .iter()
        .map(|section| bench.section(section))
        .collect::<Result<Vec<_>>>()?;
    let tools = match (&args.load, &args.contender, args.probes) {
        (None, None, false) => {
            let rounds = args.rounds.unwrap_or(if args.quick { 1 } else { 7 });
            let sample = bench.sample();
            Some(tools::measure(
                &bench.agent,
                &bench.scratch,
                &sample,
                rounds,
            )?)
        }
        _ => None,
    };
    let report = figures::Report {
        machine: machine::describe(&bench.agent, &bench.named, bench.cpus, &hooks),
        seconds: started.elapsed().as_secs(),
        sections,
        tools,
    };
    for (name, text) in report.files()? {
        let path = out.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        ui::note(path.display());
    }
    println!("{}", table::markdown(&report));
    Ok(())
}

/// Runs the gate of `cargo xtask test`: compares the tap's cost in instructions with the recorded one.
pub(crate) fn gate() -> Result<Results> {
    instructions::gate::test()
}

/// Returns a folder in memory, so that no disk influences the figures.
fn memory() -> PathBuf {
    let shared = PathBuf::from("/dev/shm");
    if shared.is_dir() {
        shared
    } else {
        paths::target()
    }
}

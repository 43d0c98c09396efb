//! Counts instructions per query of server and helper in virtual machines ([`crate::vm::counting`]). This figure hardly
//! changes from run to run, even on a busy machine.
//!
//! ```text
//! plan (kernels, loads, contenders) ─► guest.sh in one machine per kernel and load ─► outcome (counts) ─► report ─► JSON, Markdown
//! ```

pub(super) mod gate;
mod outcome;
mod plan;
mod report;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use self::{outcome::Count, plan::Job};
use super::Args;
use crate::{build, paths, ui, vm::counting, workers};

/// Programs of this machine that run in the guests, and the packages that have them.
const TOOLS: [&str; 3] = ["busybox", "dnsperf", "fstrm_capture"];
const PACKAGES: [&str; 2] = ["dnsperf", "fstrm-bin"];
/// Time limit for one machine.
const LIMIT: Duration = Duration::from_mins(30);

/// Options of the command line for counting.
#[derive(Default, clap::Args)]
pub(super) struct Options {
    /// Count instructions per query of server and helper instead, in virtual machines; needs no root, and a busy machine is no matter
    #[arg(long, conflicts_with_all = ["quick", "rounds"])]
    pub(super) instructions: bool,
    /// Only this kernel, 5.10, 6.1, 6.12 or newest; repeatable
    #[arg(long = "kernel", value_name = "KERNEL", requires = "instructions")]
    kernels: Vec<String>,
    /// Record the values that the gate of `cargo xtask test` compares with
    #[arg(long, requires = "instructions", conflicts_with_all = ["kernels", "load", "contender", "out", "agent"])]
    record: bool,
}

/// Measures what the command line asks for and writes the report.
pub(super) fn run(args: &Args) -> Result<()> {
    if args.counting.record {
        return gate::record();
    }
    let jobs = plan::jobs(args)?;
    let agent = match &args.agent {
        Some(agent) => agent.clone(),
        None => build::release()?,
    };
    let started = Instant::now();
    let counted = measure(&agent, &jobs)?;
    let whole = args.counting.kernels.is_empty() && args.load.is_none() && args.contender.is_none();
    let out = args.out.clone().unwrap_or_else(|| {
        if whole {
            paths::root().join("docs/benchmarks")
        } else {
            paths::target().join("bench")
        }
    });
    fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
    let report = report::Report::new(&agent, counted, started.elapsed());
    for (name, text) in report.files()? {
        let path = out.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        ui::note(path.display());
    }
    println!("{}", report.markdown());
    Ok(())
}

/// Counts of a job.
struct Counted {
    job: Job,
    /// Version that the guest's kernel reports.
    kernel: String,
    counts: Vec<Count>,
}

/// Runs all jobs, as many at a time as there are processors, and returns their counts in the same order.
fn measure(agent: &Path, jobs: &[Job]) -> Result<Vec<Counted>> {
    ensure!(!jobs.is_empty(), "no kernel and load has this name");
    let mut kernels: Vec<_> = jobs.iter().map(|job| job.kernel).collect();
    kernels.dedup();
    let contents = counting::Contents {
        agent,
        tools: &TOOLS,
        packages: &PACKAGES,
        texts: &plan::texts(jobs),
    };
    let guests = counting::Guests::new(&kernels, &contents)?;
    ui::step(format_args!(
        "{} machines, {} at a time; {} runs, each half a minute or more",
        jobs.len(),
        workers::number(jobs.len()),
        jobs.iter().map(|job| job.contenders.len()).sum::<usize>()
    ));
    workers::each(jobs, |job| one(&guests, job))
}

/// Boots one machine and shows its counts when they arrive.
fn one(guests: &counting::Guests, job: &Job) -> Result<Counted> {
    let started = Instant::now();
    let mut outcome = outcome::Outcome::default();
    guests
        .run(job.kernel, &job.name(), LIMIT, |line| {
            if let Some(count) = outcome.line(line) {
                ui::note(format_args!(
                    "{:>4} s  {:<6} {:<13} {:<8} server {:.0}, helper {:.0} instructions per query",
                    started.elapsed().as_secs(),
                    job.kernel,
                    job.load.name,
                    count.contender,
                    count.server(),
                    count.helper()
                ));
            }
        })
        .and_then(|()| outcome.check(job))
        .with_context(|| {
            format!(
                "{} on {}: the guest's last words:\n{}",
                job.load.name,
                job.kernel,
                outcome.last_words()
            )
        })?;
    Ok(Counted {
        job: job.clone(),
        kernel: outcome.kernel,
        counts: outcome.counts,
    })
}

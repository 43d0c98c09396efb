//! `cargo xtask fuzz`: builds the fuzz targets with coverage and runs them for a while.
//!
//! libFuzzer comes as a crate, and the instrumentation is a pass of the compiler's own LLVM, so no other toolchain and
//! no sanitizer is needed. Debug assertions and overflow checks are on. Only the project's own crates are instrumented
//! ([`INSTRUMENT`]). `target/fuzz/corpus` stores the inputs that a run has found for the next run; `target/fuzz/found`
//! stores inputs that make a target fail.

use std::{
    collections::VecDeque,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{exec, paths, results::Results, setup, tally::Tally, ui};

/// The targets (`tests/fuzz/src/bin`), and the number of inputs that each gets in `cargo xtask test`, which take about
/// 20 seconds.
const TARGETS: [(&str, u32); 9] = [
    ("btf", 100_000),
    ("classify", 200_000),
    ("dnstap", 700_000),
    ("event", 60_000),
    ("files", 40_000),
    ("frame_streams", 500_000),
    ("options", 20_000),
    ("read", 45_000),
    ("stream", 40_000),
];

/// The compiler of the project's own crates, which adds the coverage.
const INSTRUMENT: &str = "tests/fuzz/instrument";

/// Number of targets that run at the same time.
const AT_ONCE: usize = 2;

/// Duration of a target's run.
#[derive(Clone, Copy)]
enum Effort {
    /// This many seconds, with another seed in each run, and with the corpus of earlier runs.
    Seconds(u32),
    /// This many inputs, the same ones in each run: a test's result must not depend on chance or the machine's speed.
    Inputs(u32),
}

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Targets to run; all if none is named
    #[arg(value_name = "TARGET", value_parser = TARGETS.map(|(target, _)| target))]
    targets: Vec<String>,
    /// Seconds for each
    #[arg(long, value_name = "N", default_value_t = 60, conflicts_with = "input")]
    seconds: u32,
    /// Run the target with this input alone
    #[arg(long, value_name = "FILE", requires = "targets")]
    input: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure_cxx()?;
    let programs = build()?;
    if let Some(input) = &args.input {
        for target in &args.targets {
            exec::run(Command::new(programs.join(program(target))).arg(input))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let effort = Effort::Seconds(args.seconds);
    let targets = TARGETS
        .iter()
        .map(|(target, _)| *target)
        .filter(|target| args.targets.is_empty() || args.targets.iter().any(|one| one == target))
        .map(|target| (target, effort));
    ui::step(format_args!("fuzzing, {} s each target", args.seconds));
    let Results { tally, .. } = all(&programs, targets.collect())?;
    println!("{tally}");
    Ok(if tally.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Makes a short run of every target. Each is one test.
pub(crate) fn short() -> Result<Results> {
    let programs = build()?;
    ui::step("fuzzing, the same inputs at each run");
    let targets = TARGETS.map(|(target, inputs)| (target, Effort::Inputs(inputs)));
    all(&programs, targets.into())
}

fn folder() -> PathBuf {
    paths::target().join("fuzz")
}

fn program(target: &str) -> String {
    format!("fuzz_{target}")
}

/// Builds all targets. Returns their folder.
///
/// The build is like that of `cargo test`: the dependencies are the same, optimised a little and with every check.
fn build() -> Result<PathBuf> {
    ui::step("building the fuzz targets");
    let programs = TARGETS.map(|(target, _)| format!("--bin={}", program(target)));
    exec::run(
        exec::cargo()
            .args(["build", "--workspace", "--features=dnstap-fuzz/libfuzzer"])
            .args(programs)
            .arg("--test=fuzz_as_test")
            .env("RUSTC_WORKSPACE_WRAPPER", paths::root().join(INSTRUMENT)),
    )?;
    Ok(paths::target().join("debug"))
}

/// Runs the targets and prints a line for each.
fn all(programs: &Path, targets: VecDeque<(&str, Effort)>) -> Result<Results> {
    let queue = Mutex::new(targets);
    let next = || {
        queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    };
    let worker = || -> Result<Results> {
        let mut results = Results::default();
        while let Some((target, effort)) = next() {
            results += one(programs, target, effort)?;
        }
        Ok(results)
    };
    let workers = thread::scope(|scope| {
        let workers = [(); AT_ONCE].map(|()| scope.spawn(worker));
        workers.map(thread::ScopedJoinHandle::join)
    });
    let mut sum = Results::default();
    for results in workers {
        match results {
            Ok(results) => sum += results?,
            Err(_) => bail!("a thread that runs the targets panicked"),
        }
    }
    Ok(sum)
}

fn one(programs: &Path, target: &str, effort: Effort) -> Result<Results> {
    let seeds = paths::root().join("tests/fuzz/seeds").join(target);
    let learnt = match effort {
        Effort::Seconds(_) => "corpus",
        Effort::Inputs(_) => "short",
    };
    let [corpus, found, logs] = [
        folder().join(learnt).join(target),
        folder().join("found").join(target),
        folder().join("log"),
    ];
    if matches!(effort, Effort::Inputs(_)) && corpus.exists() {
        fs::remove_dir_all(&corpus)
            .with_context(|| format!("cannot remove {}", corpus.display()))?;
    }
    for folder in [&corpus, &found, &logs] {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let log = logs.join(target);
    let file =
        fs::File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
    let start = Instant::now();
    let status = Command::new(programs.join(program(target)))
        .args([&corpus, &seeds])
        .args(["-rss_limit_mb=1024", "-timeout=10", "-use_value_profile=1"])
        .args(["-print_final_stats=1", "-max_len=16384"])
        .args(match effort {
            Effort::Seconds(seconds) => vec![format!("-max_total_time={seconds}")],
            Effort::Inputs(inputs) => vec!["-seed=1".to_owned(), format!("-runs={inputs}")],
        })
        .arg(format!("-artifact_prefix={}/", found.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(file)
        .status()
        .with_context(|| format!("cannot run the target {target}"))?;
    let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    if status.success() {
        let inputs = inputs(&text).unwrap_or(0);
        ensure!(
            inputs > 0,
            "the target {target} tried no input; see {}",
            log.display()
        );
        println!("{}", line(target, inputs, start.elapsed(), &text));
        return Ok(Tally::PASSED.into());
    }
    println!("{target}: FAILED, {status}");
    let complaint = complaint(&text);
    println!("{complaint}");
    match input_written(&text) {
        Some(input) => println!("try again: cargo xtask fuzz {target} --input {input}"),
        None => println!("see {}", log.display()),
    }
    Ok(Results::failed(&format!("{target}: {complaint}")))
}

fn line(target: &str, inputs: u64, time: Duration, log: &str) -> String {
    let coverage = word_after(log.lines().rev(), "cov: ").unwrap_or("?");
    format!(
        "{target}: {inputs} inputs in {:.0} s, {coverage} places in the code reached",
        time.as_secs_f64()
    )
}

/// Returns the number of inputs that were tried.
fn inputs(log: &str) -> Option<u64> {
    word_after(log.lines().rev(), "stat::number_of_executed_units: ")?
        .parse()
        .ok()
}

/// Returns the file of the input that failed.
fn input_written(log: &str) -> Option<&str> {
    word_after(log.lines(), "Test unit written to ")
}

/// Returns the target's error: the panic's message, or libFuzzer's summary.
fn complaint(log: &str) -> String {
    let panic: Vec<_> = log
        .lines()
        .skip_while(|line| !line.contains("panicked at"))
        .take_while(|line| !line.starts_with("stack backtrace") && !line.starts_with("note:"))
        .take(8)
        .collect();
    if panic.is_empty() {
        let summary = log.lines().find(|line| line.starts_with("SUMMARY"));
        summary.unwrap_or("it says nothing").to_owned()
    } else {
        panic.join("\n")
    }
}

fn word_after<'a>(mut lines: impl Iterator<Item = &'a str>, mark: &str) -> Option<&'a str> {
    lines.find_map(|line| line.split_once(mark)?.1.split_whitespace().next())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
#1000\tNEW    cov: 12 ft: 30 corp: 4/10b\n\
#122026\tREDUCE cov: 910 ft: 11721 corp: 1605/969Kb\n\
thread '<unnamed>' (1) panicked at tests/fuzz/src/stream.rs:60:9:\n\
assertion failed: x\n\
stack backtrace:\n\
  0: main\n\
SUMMARY: libFuzzer: deadly signal\n\
artifact_prefix='a/'; Test unit written to a/crash-04b4\n\
stat::number_of_executed_units: 122147\n";

    #[test]
    fn a_run_is_told_by_its_log() {
        assert_eq!(inputs(LOG), Some(122_147));
        assert_eq!(
            line("stream", 122_147, Duration::from_secs(20), LOG),
            "stream: 122147 inputs in 20 s, 910 places in the code reached"
        );
        assert_eq!(inputs("Segmentation fault"), None);
    }

    #[test]
    fn a_failure_names_its_cause_and_its_input() {
        assert_eq!(input_written(LOG), Some("a/crash-04b4"));
        assert!(complaint(LOG).ends_with("stream.rs:60:9:\nassertion failed: x"));
        let timeout = "#1\tNEW cov: 1\nSUMMARY: libFuzzer: timeout\n";
        assert_eq!(complaint(timeout), "SUMMARY: libFuzzer: timeout");
    }

    #[test]
    fn every_target_has_a_program_and_seeds() {
        for (target, _) in TARGETS {
            let fuzz = paths::root().join("tests/fuzz");
            assert!(
                fuzz.join(format!("src/bin/{target}.rs")).is_file(),
                "{target}"
            );
            assert!(fuzz.join("seeds").join(target).is_dir(), "{target}");
        }
        let programs = fs::read_dir(paths::root().join("tests/fuzz/src/bin")).expect("a folder");
        assert_eq!(programs.count(), TARGETS.len());
    }
}

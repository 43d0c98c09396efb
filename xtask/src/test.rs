//! `cargo xtask test`: checks format, lints and documentation, runs the unit tests and each fuzz target for a short
//! time, then the integration tests against real servers, here and on other kernels, and measures the tap's cost.
//!
//! A failed step does not stop the others, unless they need its result. Format, lints, dependencies, documentation and
//! the library's package count as one test each; set-up and build count only if they fail. The last line of standard
//! output is always `N passed, N failed, N skipped`.

use std::{
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::{
    arch::Arch,
    bench, build, deny, dist, exec, fuzz, modules, packages, paths,
    results::{Explanations, Results},
    servers, setup, soak,
    tally::Tally,
    ui, vm,
};

/// Part of the names of the tests that compare the tap's records with those of BIND itself.
const COMPARISONS: &str = "named records";

/// Part of the names of the tests that the packed program must pass on each release.
const PORTABLE: &str = "portable: ";

/// Duration of the soak in the tests, in minutes.
const SOAK_MINUTES: f64 = 2.0;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run one part alone
    #[arg(long, value_name = "PART", value_enum)]
    only: Option<Part>,
    /// Arguments for the test programs, for example a part of a test's name
    #[arg(last = true)]
    arguments: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Format, clippy, dependencies, documentation and the library's package
    Lint,
    /// Unit and documentation tests; neither root nor the eBPF toolchain is needed
    Unit,
    /// Each fuzz target, about 20 seconds, with the same inputs at each run
    Fuzz,
    /// The agent against real servers; needs root
    Integration,
    /// What `contrib/` has for other programs, with these programs
    Contrib,
    /// Kafka as output and source, with a real broker
    Kafka,
    /// The packed program with the libraries of older and newer releases; needs root
    Portable,
    /// The same on other kernels, in virtual machines
    Vm,
    /// Instructions per query that the tap costs, in a virtual machine, against what is recorded
    Cost,
}

/// Runs the parts asked for and reports.
pub(crate) fn run(args: &Args) -> ExitCode {
    let mut report = Report::default();
    let wants = |part| args.only.is_none_or(|only| only == part);
    if wants(Part::Lint) {
        lint(&mut report);
    }
    if wants(Part::Unit) {
        let mut tests = exec::cargo();
        // Property tests try the same cases in each run, so that a result does not depend on chance. `cargo test` tries
        // others each time.
        tests
            .env("PROPTEST_RNG_SEED", "1")
            .args(["test", "--workspace", "--no-fail-fast", "--"])
            .args(&args.arguments);
        report.step("unit tests", || counted(&mut tests));
    }
    if wants(Part::Fuzz) && args.arguments.is_empty() {
        let ready = report.preparation("set-up of fuzzing", setup::ensure_cxx);
        if ready {
            report.step("fuzzing", fuzz::short);
        }
    }
    if wants(Part::Integration) {
        integration(&mut report, &args.arguments);
    }
    if wants(Part::Contrib) && args.arguments.is_empty() {
        contrib(&mut report);
    }
    // A command of its own: its broker takes minutes, and one of its tests has found a defect that is not mended yet.
    if args.only == Some(Part::Kafka) {
        kafka(&mut report, &args.arguments);
    }
    // It builds the agent once more, with other tools, so it runs only when it is asked for.
    if args.only == Some(Part::Portable) && args.arguments.is_empty() {
        portable(&mut report);
    }
    // With arguments, the user wants only some tests.
    if wants(Part::Vm) && args.arguments.is_empty() {
        if let Some(why) = vm::impossible() {
            println!("SKIP kernel matrix: {why}");
            report.add("kernel matrix", Tally::SKIPPED.into(), Duration::ZERO);
        } else {
            report.step("kernel matrix", vm::matrix);
        }
    }
    if wants(Part::Cost) && args.arguments.is_empty() {
        if let Some(why) = vm::impossible() {
            println!("SKIP cost: {why}");
            report.add("cost", Tally::SKIPPED.into(), Duration::ZERO);
        } else {
            report.step("cost", bench::gate);
        }
    }
    report.finish()
}

/// Tests the configurations and queries of `contrib/`. The first run downloads about 180 MB.
fn contrib(report: &mut Report) {
    let mut agent = None;
    let built = report.preparation("set-up of contrib", || {
        packages::Apt::default().ensure(&["python3", "python3-venv"])?;
        agent = Some(build::release()?);
        Ok(())
    });
    if let (true, Some(agent)) = (built, agent) {
        let mut tests = Command::new("python3");
        tests
            .arg(paths::root().join("tests/contrib/run.py"))
            .env("DNSTAP_AGENT", agent);
        report.step("contrib", || counted(&mut tests));
    }
}

/// Tests Kafka with a real broker, which is a Java program. The first run downloads about 60 MB.
fn kafka(report: &mut Report, arguments: &[String]) {
    let mut agent = None;
    let built = report.preparation("set-up of Kafka", || {
        packages::Apt::default().ensure(setup::KAFKA_PACKAGES)?;
        agent = Some(build::release()?);
        Ok(())
    });
    if let (true, Some(agent)) = (built, agent) {
        let mut tests = Command::new("python3");
        tests
            .arg(paths::root().join("tests/kafka/run.py"))
            .args(arguments)
            .env("DNSTAP_AGENT", agent);
        report.step("kafka", || counted(&mut tests));
    }
}

fn lint(report: &mut Report) {
    if !report.preparation("set-up of lints", setup::ensure_cargo_tools) {
        return;
    }
    report.check("format", exec::cargo().args(["fmt", "--all", "--check"]));
    let clippy = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--keep-going",
        "--",
        "-Dwarnings",
    ];
    report.check("clippy", exec::cargo().args(clippy));
    // With the features of the release, whose C libraries are built in its profile anyway.
    let features = [
        "clippy",
        "--release",
        "--package=dnstap-agent",
        build::FEATURES,
        "--",
        "-Dwarnings",
    ];
    report.check("clippy of Kafka", exec::cargo().args(features));
    // Checking the eBPF programs needs no eBPF toolchain. The release profile is used, because they cannot unwind.
    let package = [
        "--package=dnstap-ebpf",
        "--bin=dnstap-ebpf",
        "--features=kernel",
    ];
    let mut clippy = exec::cargo();
    clippy
        .args(["clippy", "--release"])
        .args(package)
        .args(["--", "-Dwarnings"]);
    report.check("clippy of the eBPF programs", &mut clippy);
    report.step("modules", || {
        Ok(if modules::run(&modules::Args::default())? {
            Tally::PASSED.into()
        } else {
            Results::failed("modules beside each other form a cycle: cargo xtask modules")
        })
    });
    report.step("dependencies", || {
        deny::run().map(|()| Tally::PASSED.into())
    });
    // This documents the crates, and an example: with it the dependencies have all their features, as for clippy and
    // the tests.
    let documentation = [
        "doc",
        "--workspace",
        "--no-deps",
        "--lib",
        "--bin=xtask",
        "--bin=dnstap-tests",
        "--example=read_file",
    ];
    report.check(
        "documentation",
        exec::cargo()
            .args(documentation)
            .env("RUSTDOCFLAGS", "-Dwarnings"),
    );
    // This packs the library and builds the packed files, which takes a few seconds. It is offline: clippy has already
    // fetched all dependencies.
    let package = [
        "package",
        "--package=dnstap-proto",
        "--offline",
        "--allow-dirty",
    ];
    report.check("package of dnstap-proto", exec::cargo().args(package));
}

fn integration(report: &mut Report, arguments: &[String]) {
    if !packages::is_root() {
        println!("SKIP integration tests: only root may attach to a server; run this as root");
        report.add("integration tests", Tally::SKIPPED.into(), Duration::ZERO);
        return;
    }
    let mut built = None;
    let ready = report.preparation("set-up", || setup::run(setup::Purpose::Test))
        && report.preparation("build", || {
            let agent = build::release()?;
            let package = dist::of(&agent)?;
            built = Some((agent, package, build::tests()?));
            Ok(())
        });
    let (true, Some((agent, package, program))) = (ready, built) else {
        return;
    };
    let tests = || {
        let mut tests = Command::new(&program);
        tests.env("DNSTAP_AGENT", &agent);
        tests
    };
    report.step("integration tests", || {
        let mut tests = tests();
        tests
            .args(arguments)
            .env("DNSTAP_PACKAGE", &package)
            .env("NAMED", servers::bind9()?)
            .env("PROMTOOL", servers::promtool()?);
        counted(&mut tests)
    });
    // With arguments, the user wants only some tests.
    if arguments.is_empty() {
        report.step("comparison with a later BIND", || {
            let mut tests = tests();
            tests
                .arg(COMPARISONS)
                .env("NAMED", servers::ensure_next_bind()?);
            counted(&mut tests)
        });
        report.step("soak", || {
            let mut complaints = String::new();
            let held = exec::watched(
                &mut soak::command(&program, &agent, SOAK_MINUTES, None)?,
                |line| {
                    if line.starts_with("- ") {
                        complaints.push_str(line);
                        complaints.push('\n');
                    }
                },
            )?;
            Ok(if held {
                Tally::PASSED.into()
            } else {
                Results::failed(&complaints)
            })
        });
    }
}

/// Runs some tests with the packed program in root folders of other releases.
fn portable(report: &mut Report) {
    if !packages::is_root() {
        println!("SKIP the packed program on other releases: only root may mount and attach");
        report.add("other releases", Tally::SKIPPED.into(), Duration::ZERO);
        return;
    }
    let mut built = None;
    let ready = report.preparation("packing", || {
        packages::Apt::default().ensure(dist::PACKAGES)?;
        let agent = build::portable(Arch::HOST)?;
        let package = dist::of(&agent)?;
        built = Some((agent, package, build::tests()?));
        Ok(())
    });
    let (true, Some((agent, package, program))) = (ready, built) else {
        return;
    };
    for (release, bind) in servers::RELEASES {
        report.step(release, || {
            let mut tests = Command::new(&program);
            tests
                .arg(PORTABLE)
                .env("DNSTAP_PORTABLE", "1")
                .env("DNSTAP_PACKAGE", &package)
                .env("DNSTAP_AGENT", servers::on_release(bind, &agent)?);
            counted(&mut tests)
        });
    }
}

/// Runs test programs and adds up the result lines that they print. A failure without such a line (a test that does not
/// compile, a program that was killed) counts as one failed test.
fn counted(command: &mut Command) -> Result<Results> {
    let mut results = Results::default();
    let mut explanations = Explanations::default();
    let success = exec::watched(command, |line| {
        explanations.line(line);
        if let Some(tally) = Tally::of_result_line(line) {
            results.tally += tally;
        }
    })?;
    results.failures.extend(explanations.told());
    if !success && results.tally.failed == 0 {
        results += Results::failed(&format!("`{}` failed", exec::display(command)));
    }
    if success && results.tally == Tally::default() {
        bail!("no test ran");
    }
    Ok(results)
}

/// Results of all steps, in order.
#[derive(Default)]
struct Report {
    steps: Vec<(&'static str, Results, Duration)>,
}

impl Report {
    /// Runs a command that counts as one test.
    fn check(&mut self, name: &'static str, command: &mut Command) {
        self.step(name, || exec::run(command).map(|()| Tally::PASSED.into()));
    }

    /// Runs a step that counts only if it fails. Returns whether it succeeded.
    fn preparation(&mut self, name: &'static str, task: impl FnOnce() -> Result<()>) -> bool {
        self.step(name, || task().map(|()| Results::default()))
            .failed
            == 0
    }

    /// Runs a step that counts its own tests, or counts as one failed test if it cannot run.
    fn step(&mut self, name: &'static str, task: impl FnOnce() -> Result<Results>) -> Tally {
        ui::step(name);
        let start = Instant::now();
        let results = task().unwrap_or_else(|error| {
            ui::error(&error);
            Results::failed(&format!("{error:#}"))
        });
        let tally = results.tally;
        self.add(name, results, start.elapsed());
        tally
    }

    fn add(&mut self, name: &'static str, results: Results, time: Duration) {
        self.steps.push((name, results, time));
    }

    /// Prints all steps, the failures and, last, the sum.
    fn finish(&self) -> ExitCode {
        let mut sum = Tally::default();
        println!();
        for (name, Results { tally, .. }, time) in &self.steps {
            let verdict = match tally {
                Tally { failed: 1.., .. } => "FAILED",
                Tally {
                    passed: 0,
                    skipped: 1..,
                    ..
                } => "skip",
                _ => "ok",
            };
            println!(
                "{verdict:>6} {:>7.1} s  {name}: {tally}",
                time.as_secs_f64()
            );
            sum += *tally;
        }
        for (name, results, _) in &self.steps {
            for failure in &results.failures {
                println!("FAILED {name}: {failure}");
            }
        }
        println!("{sum}");
        if sum.failed > 0 || sum.passed == 0 {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn the_results_of_all_test_programs_are_added_up() {
        let script = "echo 'test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured'; echo noise; \
                      echo 'test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured'";
        let results = counted(&mut program(script)).expect("it runs");
        assert_eq!(
            results.tally,
            Tally {
                passed: 5,
                failed: 0,
                skipped: 1
            }
        );
    }

    #[test]
    fn a_test_that_does_not_compile_is_one_failure() {
        let results = counted(&mut program("exit 101")).expect("it runs");
        assert_eq!(results, Results::failed("`sh -c 'exit 101'` failed"));
    }

    #[test]
    fn a_program_killed_after_its_first_results_is_a_failure() {
        let script = "echo 'test result: ok. 3 passed; 0 failed; 0 ignored;'; kill -9 $$";
        let results = counted(&mut program(script)).expect("it runs");
        assert_eq!(
            results.tally,
            Tally {
                passed: 3,
                failed: 1,
                skipped: 0
            }
        );
    }

    #[test]
    fn a_program_that_runs_no_test_at_all_is_a_failure() {
        assert!(counted(&mut program("true")).is_err());
    }

    #[test]
    fn a_run_where_nothing_passed_fails() {
        let mut report = Report::default();
        report.add("skipped", Tally::SKIPPED.into(), Duration::ZERO);
        assert_eq!(report.finish(), ExitCode::FAILURE);
        report.add("passed", Tally::PASSED.into(), Duration::ZERO);
        assert_eq!(report.finish(), ExitCode::SUCCESS);
    }

    #[test]
    fn one_failed_step_fails_the_run_and_the_later_steps_still_run() {
        let mut report = Report::default();
        assert!(!report.preparation("broken", || bail!("cause")));
        report.check("works", &mut program("true"));
        assert_eq!(report.steps.len(), 2);
        assert_eq!(report.steps[0].1.failures, ["cause"]);
        assert_eq!(report.finish(), ExitCode::FAILURE);
    }
}

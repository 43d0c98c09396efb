//! Results of the matrix: each kernel's counts and problems, the table on the terminal, the sum.

use std::{collections::BTreeMap, fmt::Write as _};

use super::{
    outcome::{Outcome, Verdict},
    plan::{BIND, Phase},
    qemu::End,
    releases::{HOOKS, KernelSource, WHY_NOT},
};
use crate::tally::Tally;

pub(super) const RINGS: [&str; 2] = ["bpf", "perf"];

/// One kernel of the run.
pub(super) struct Row {
    pub(super) source: &'static KernelSource,
    pub(super) phases: Vec<Phase>,
    pub(super) outcome: Outcome,
    /// Reason why the outcome is missing or not complete.
    pub(super) trouble: Option<String>,
    pub(super) seconds: u64,
}

impl Row {
    /// Makes the row of a machine that ran.
    pub(super) fn new(
        source: &'static KernelSource,
        phases: Vec<Phase>,
        outcome: Outcome,
        end: End,
        seconds: u64,
    ) -> Self {
        let trouble = match end {
            End::TimeUp => Some(format!(
                "the machine was stopped after {seconds} s, before its plan was done"
            )),
            End::Off if !outcome.done => {
                Some("the machine ended before its plan was done".to_owned())
            }
            End::Off => None,
        };
        Self {
            source,
            phases,
            outcome,
            trouble,
            seconds,
        }
    }

    /// Makes the row of a kernel that could not be started.
    pub(super) fn unavailable(source: &'static KernelSource, why: String) -> Self {
        Self {
            source,
            phases: Vec::new(),
            outcome: Outcome::default(),
            trouble: Some(why),
            seconds: 0,
        }
    }

    /// Returns the counts of all tests. Each other problem counts as one failed test. A combination that cannot exist
    /// is skipped.
    pub(super) fn tally(&self) -> Tally {
        let mut sum = Tally::default();
        for test in self.outcome.phases.iter().flat_map(|phase| &phase.tests) {
            sum += test.verdict.tally();
        }
        for _ in self.problems() {
            sum += Tally::FAILED;
        }
        for _ in HOOKS
            .iter()
            .filter(|hook| !self.source.hooks.contains(hook))
            .flat_map(|_| RINGS)
        {
            sum += Tally::SKIPPED;
        }
        sum
    }

    /// Returns the problems other than failed tests.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems: Vec<_> = self.trouble.iter().cloned().collect();
        if self.outcome.kernel.is_none() {
            return problems;
        }
        for hook in HOOKS {
            let expected = self.source.hooks.contains(&hook);
            match self.outcome.hooks.get(hook) {
                Some((there, detail)) if *there != expected => {
                    problems.push(format!(
                        "`dnstap-agent check` says of hook {hook}: {detail}"
                    ));
                }
                Some(_) => {}
                None => problems.push(format!("`dnstap-agent check` says nothing of hook {hook}")),
            }
        }
        for (number, phase) in self.outcome.phases.iter().enumerate() {
            let failed = phase
                .tests
                .iter()
                .any(|test| test.verdict == Verdict::Failed);
            match phase.code {
                Some(0) if phase.tests.is_empty() => {
                    problems.push(format!("phase {number} ran no test"));
                }
                Some(code) if code != 0 && !failed => {
                    problems.push(format!("phase {number} ended with {code}"));
                }
                _ => {}
            }
        }
        problems
    }

    /// Returns the failures, one line each.
    pub(super) fn failures(&self) -> Vec<String> {
        let explanations = self.outcome.explanations();
        let failures = explanations.told().chain(self.problems());
        failures
            .map(|failure| format!("{}: {failure}", self.version()))
            .collect()
    }

    /// Counts the tests with this combination in their names, with the first BIND of the plan.
    pub(super) fn combination(&self, hook: &str, ring: &str) -> Tally {
        let bind = self.phases.first().map_or(BIND, |phase| phase.bind);
        self.count(
            |phase| phase.bind == bind,
            &format!("hook={hook} ring={ring}:"),
        )
    }

    pub(super) fn count(&self, wanted: impl Fn(&Phase) -> bool, prefix: &str) -> Tally {
        let mut sum = Tally::default();
        for (plan, phase) in self.phases.iter().zip(&self.outcome.phases) {
            for test in phase
                .tests
                .iter()
                .filter(|test| wanted(plan) && test.name.starts_with(prefix))
            {
                sum += test.verdict.tally();
            }
        }
        sum
    }

    /// Returns the counts of the tests with each version of BIND.
    pub(super) fn binds(&self) -> BTreeMap<&'static str, Tally> {
        let mut binds = BTreeMap::new();
        for plan in &self.phases {
            binds
                .entry(plan.bind)
                .or_insert_with(|| self.count(|phase| phase.bind == plan.bind, ""));
        }
        binds
    }

    /// Returns the nanoseconds per message of this combination, measured by the steady load.
    pub(super) fn nanoseconds(&self, hook: &str, ring: &str) -> Option<u64> {
        let prefix = format!("hook={hook} ring={ring}:");
        let notes = self.outcome.phases.iter().flat_map(|phase| &phase.notes);
        notes
            .filter_map(|note| note.strip_prefix(&prefix))
            .find_map(|note| {
                let (before, _) = note.split_once(" ns per message")?;
                before.rsplit(' ').next()?.parse().ok()
            })
    }

    /// Returns Debian's version of the kernel, or the name on the command line if it has not reported its version.
    pub(super) fn version(&self) -> &str {
        let version = self
            .outcome
            .kernel
            .as_ref()
            .map(|(_, version)| version.as_str());
        version
            .and_then(|version| version.split_once("Debian ")?.1.split_whitespace().next())
            .unwrap_or(self.source.name)
    }
}

/// Returns the table for the terminal.
pub(super) fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "\n{:<14} {:<8} {:<5} {:<32} {}\n",
        "kernel", "hook", "ring", "tests", "ns per message"
    );
    for row in rows {
        for hook in HOOKS {
            for ring in RINGS {
                let (cell, cost) = if row.source.hooks.contains(&hook) {
                    (
                        row.combination(hook, ring).to_string(),
                        row.nanoseconds(hook, ring),
                    )
                } else {
                    ("cannot exist".to_owned(), None)
                };
                let cost = cost.map_or_else(String::new, |cost| cost.to_string());
                let line = format!(
                    "{:<14} {hook:<8} {ring:<5} {cell:<32} {cost}",
                    row.version()
                );
                writeln!(text, "{}", line.trim_end()).unwrap_or_default();
            }
        }
        let binds: Vec<_> = row
            .binds()
            .iter()
            .map(|(name, tally)| format!("BIND {name}: {tally}"))
            .collect();
        writeln!(
            text,
            "{:<14} all: {}; {}; {} s",
            row.version(),
            row.tally(),
            binds.join("; "),
            row.seconds
        )
        .unwrap_or_default();
        for problem in row.problems() {
            writeln!(text, "{:<14} FAILED: {problem}", row.version()).unwrap_or_default();
        }
    }
    for (hook, why) in missing(rows) {
        writeln!(text, "{hook} cannot exist: {why}").unwrap_or_default();
    }
    text
}

/// Returns the hooks that some of these kernels do not have, with the reasons.
pub(super) fn missing(rows: &[Row]) -> Vec<(&'static str, &'static str)> {
    let lack = |hook| rows.iter().any(|row| !row.source.hooks.contains(&hook));
    WHY_NOT.into_iter().filter(|(hook, _)| lack(hook)).collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{page, plan, qemu::Acceleration, releases::kernels},
        *,
    };
    use crate::arch::Arch;

    fn row(said: &[&str], end: End) -> Row {
        let mut outcome = Outcome::default();
        for line in said {
            outcome.line(line);
        }
        let source = &kernels(Arch::Amd64)[0];
        Row::new(source, plan::matrix(source), outcome, end, 60)
    }

    const CHECKED: [&str; 4] = [
        "@kernel 5.10.0-46-cloud-amd64 #1 SMP Debian 5.10.262-1 (2026-07-31)",
        "ok      hook fentry: loads and attaches",
        "missing hook socket: no tracepoint",
        "ok      hook syscall: loads and attaches",
    ];

    fn said<'a>(more: &[&'a str]) -> Vec<&'a str> {
        CHECKED.iter().chain(more).copied().collect()
    }

    #[test]
    fn tests_are_counted_for_their_combination_and_what_cannot_exist_is_skipped() {
        let row = row(
            &said(&[
                "@phase 0",
                "test hook=fentry ring=bpf: a ... ok",
                "test hook=fentry ring=perf: a ... FAILED",
                "@end 0 101",
                "@done",
            ]),
            End::Off,
        );
        assert_eq!(row.combination("fentry", "bpf"), Tally::PASSED);
        assert_eq!(row.combination("fentry", "perf"), Tally::FAILED);
        assert_eq!(
            row.tally(),
            Tally {
                passed: 1,
                failed: 1,
                skipped: 2
            }
        );
        assert_eq!(row.version(), "5.10.262-1");
    }

    #[test]
    fn a_machine_that_stops_early_is_a_failure() {
        let machine = row(
            &said(&["@phase 0", "test hook=fentry ring=bpf: a ... ok"]),
            End::TimeUp,
        );
        assert_eq!(machine.tally().failed, 1);
        let machine = row(
            &said(&[
                "@phase 0",
                "test hook=fentry ring=bpf: a ... ok",
                "@end 0 0",
            ]),
            End::Off,
        );
        assert_eq!(machine.tally().failed, 1);
    }

    #[test]
    fn a_refused_hook_that_should_be_there_is_a_failure_even_without_tests() {
        let machine = row(
            &[
                CHECKED[0],
                "missing hook fentry: refused",
                CHECKED[2],
                CHECKED[3],
                "@done",
            ],
            End::Off,
        );
        assert_eq!(
            machine.problems(),
            ["`dnstap-agent check` says of hook fentry: refused"]
        );
    }

    #[test]
    fn a_phase_without_a_test_is_a_failure() {
        let machine = row(&said(&["@phase 0", "@end 0 0", "@done"]), End::Off);
        assert_eq!(machine.problems(), ["phase 0 ran no test"]);
    }

    #[test]
    fn nanoseconds_are_read_from_the_tests_notes() {
        let note =
            "hook=fentry ring=bpf: 20000 queries at 2000/s, 40000 frames, 812 ns per message";
        let machine = row(&said(&["@phase 0", note, "@end 0 0", "@done"]), End::Off);
        assert_eq!(machine.nanoseconds("fentry", "bpf"), Some(812));
        assert_eq!(machine.nanoseconds("fentry", "perf"), None);
        let run = page::Run {
            arch: Arch::Amd64,
            rows: &[machine],
            binds: &BTreeMap::new(),
            acceleration: Acceleration::Kvm,
            date: "2026-01-31",
        };
        let page = page::page("", &run);
        assert!(
            page.contains("| 5.10.262-1 | 812 / – | – / – | – / – |"),
            "{page}"
        );
    }
}

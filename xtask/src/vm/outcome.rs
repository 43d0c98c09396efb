//! Parses the output of a guest on its second serial port, line by line: its kernel, the hooks that it accepts, and the
//! tests of each phase. Pure: lines in, counts out.

use std::collections::BTreeMap;

use crate::{results::Explanations, tally::Tally};

/// One kernel's results so far.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// `uname -r` and `uname -v`.
    pub(super) kernel: Option<(String, String)>,
    /// Result of `dnstap-agent check` for each hook: whether it is available, and the detail.
    pub(super) hooks: BTreeMap<String, (bool, String)>,
    /// The phases that began, in order.
    pub(super) phases: Vec<Phase>,
    /// Whether the plan reached its end.
    pub(super) done: bool,
    /// All lines.
    pub(super) log: String,
}

/// One run of the tests.
#[derive(Debug, Default)]
pub(super) struct Phase {
    pub(super) tests: Vec<Test>,
    /// Lines with more than a verdict: skips with their reason, measurements.
    pub(super) notes: Vec<String>,
    /// Exit code, when it has ended.
    pub(super) code: Option<i32>,
}

/// A test that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Test {
    pub(super) name: String,
    pub(super) verdict: Verdict,
}

/// Result of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Passed,
    Failed,
    Skipped,
}

impl Verdict {
    /// Returns the result as a count.
    pub(super) fn tally(self) -> Tally {
        match self {
            Self::Passed => Tally::PASSED,
            Self::Failed => Tally::FAILED,
            Self::Skipped => Tally::SKIPPED,
        }
    }
}

impl Outcome {
    /// Takes the next line. Returns the test that ended with it, if any.
    pub(super) fn line(&mut self, line: &str) -> Option<&Test> {
        self.log.push_str(line);
        self.log.push('\n');
        if let Some(event) = line.strip_prefix('@') {
            self.event(event);
            return None;
        }
        let Some(phase) = self.phases.last_mut() else {
            self.hooks.extend(checked_hook(line));
            return None;
        };
        if let Some(test) = ended_test(line) {
            phase.tests.push(test);
            return phase.tests.last();
        }
        if line.starts_with("SKIP ") || line.starts_with("hook=") {
            phase.notes.push(line.to_owned());
        }
        None
    }

    fn event(&mut self, event: &str) {
        let (name, rest) = event.split_once(' ').unwrap_or((event, ""));
        match name {
            "kernel" => {
                let (release, version) = rest.split_once(' ').unwrap_or((rest, ""));
                self.kernel = Some((release.to_owned(), version.to_owned()));
            }
            "phase" => self.phases.push(Phase::default()),
            "end" => {
                if let Some(phase) = self.phases.last_mut() {
                    phase.code = rest
                        .split_whitespace()
                        .last()
                        .and_then(|code| code.parse().ok());
                }
            }
            "done" => self.done = true,
            _ => {}
        }
    }

    /// Returns the explanations of the failures, as libtest prints them.
    pub(super) fn explanations(&self) -> Explanations {
        let mut explanations = Explanations::default();
        self.log.lines().for_each(|line| explanations.line(line));
        explanations
    }
}

/// Reads `ok      hook fentry: loads and attaches`.
fn checked_hook(line: &str) -> Option<(String, (bool, String))> {
    let (verdict, rest) = line.split_once(' ')?;
    let (name, detail) = rest.trim_start().strip_prefix("hook ")?.split_once(": ")?;
    Some((name.to_owned(), (verdict == "ok", detail.to_owned())))
}

/// Reads `test NAME   ... ok`.
fn ended_test(line: &str) -> Option<Test> {
    let (name, verdict) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    let verdict = match verdict.trim() {
        "ok" => Verdict::Passed,
        "FAILED" => Verdict::Failed,
        word if word.starts_with("ignored") => Verdict::Skipped,
        _ => return None,
    };
    Some(Test {
        name: name.trim().to_owned(),
        verdict,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "\
@kernel 6.1.0-56-cloud-amd64 #1 SMP Debian 6.1.192-2
@check
kernel 6.1.0-56-cloud-amd64
ok      CAP_BPF: to load programs
ok      hook fentry: loads and attaches
missing hook socket: no such tracepoint
        remedy: Linux 6.3
@phase 0

running 3 tests
test hook=fentry ring=bpf: a   ... ok
test hook=fentry ring=perf: a  ... FAILED
test together                  ... ignored

failures:

---- hook=fentry ring=perf: a ----
3 missing

failures:
    hook=fentry ring=perf: a

test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 60 filtered out; finished in 6.11s

SKIP together: no program `dig` on the path
@end 0 101
@done
";

    #[test]
    fn a_guest_s_words_become_counts_and_reasons() {
        let mut outcome = Outcome::default();
        for line in SAID.lines() {
            outcome.line(line);
        }
        assert!(outcome.done);
        assert_eq!(
            outcome.kernel.as_ref().map(|kernel| kernel.1.as_str()),
            Some("#1 SMP Debian 6.1.192-2")
        );
        assert_eq!(
            outcome.hooks["fentry"],
            (true, "loads and attaches".to_owned())
        );
        assert_eq!(
            outcome.hooks["socket"],
            (false, "no such tracepoint".to_owned())
        );
        let phase = &outcome.phases[0];
        assert_eq!(phase.code, Some(101));
        let verdicts: Vec<_> = phase.tests.iter().map(|test| test.verdict).collect();
        assert_eq!(
            verdicts,
            [Verdict::Passed, Verdict::Failed, Verdict::Skipped]
        );
        assert_eq!(phase.tests[1].name, "hook=fentry ring=perf: a");
        assert_eq!(phase.notes, ["SKIP together: no program `dig` on the path"]);
        assert_eq!(
            outcome.explanations().whole().trim(),
            "---- hook=fentry ring=perf: a ----\n3 missing"
        );
    }
}

//! Results of a step of the tests: its counts, and each failure in one line, so that the end of a long run tells what
//! failed.

use std::ops::AddAssign;

use crate::tally::Tally;

/// Number of characters of a failure that are repeated at the end; the full text is printed where it happened.
const TOLD: usize = 300;

/// Counts and failures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Results {
    pub(crate) tally: Tally,
    /// Failures, one line each.
    pub(crate) failures: Vec<String>,
}

impl Results {
    /// Makes the result of one failed test, with its reason.
    pub(crate) fn failed(why: &str) -> Self {
        Self {
            tally: Tally::FAILED,
            failures: vec![in_one_line(why)],
        }
    }
}

impl From<Tally> for Results {
    fn from(tally: Tally) -> Self {
        Self {
            tally,
            failures: Vec::new(),
        }
    }
}

impl AddAssign for Results {
    fn add_assign(&mut self, other: Self) {
        self.tally += other.tally;
        self.failures.extend(other.failures);
    }
}

/// The failures of a test program, as libtest and programs like it explain them before the result line:
/// `---- NAME ----` and the message.
#[derive(Debug, Default)]
pub(crate) struct Explanations {
    failures: Vec<String>,
    inside: bool,
}

impl Explanations {
    /// Takes the next line of the program's output.
    pub(crate) fn line(&mut self, line: &str) {
        if line.starts_with("---- ") {
            self.inside = true;
            self.failures.push(String::new());
        } else if line == "failures:" || line.starts_with("test result") || line.starts_with('@') {
            self.inside = false;
        }
        if self.inside
            && let Some(failure) = self.failures.last_mut()
        {
            failure.push_str(line);
            failure.push('\n');
        }
    }

    /// Returns the full text of all failures.
    pub(crate) fn whole(&self) -> String {
        self.failures.concat()
    }

    /// Returns one line for each failure.
    pub(crate) fn told(&self) -> impl Iterator<Item = String> {
        self.failures.iter().map(|failure| in_one_line(failure))
    }
}

/// Returns the beginning of a text, with spaces in place of line ends.
pub(crate) fn in_one_line(text: &str) -> String {
    let words: Vec<_> = text.split_whitespace().collect();
    let line = words.join(" ");
    match line.char_indices().nth(TOLD) {
        Some((end, _)) => format!("{} ...", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "\
test a ... FAILED
test b ... FAILED

failures:

---- a stdout ----

thread 'a' panicked at src/a.rs:1:2:
left is not right

---- b ----
3 missing

failures:
    a
    b

test result: FAILED. 0 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 6.11s
";

    fn explanations() -> Explanations {
        let mut explanations = Explanations::default();
        SAID.lines().for_each(|line| explanations.line(line));
        explanations
    }

    #[test]
    fn each_failure_is_told_in_one_line() {
        assert_eq!(
            explanations().told().collect::<Vec<_>>(),
            [
                "---- a stdout ---- thread 'a' panicked at src/a.rs:1:2: left is not right",
                "---- b ---- 3 missing"
            ]
        );
    }

    #[test]
    fn the_whole_text_ends_where_the_names_begin() {
        assert!(
            explanations()
                .whole()
                .ends_with("---- b ----\n3 missing\n\n")
        );
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let line = in_one_line(&"ä".repeat(TOLD + 1));
        assert_eq!(line, format!("{} ...", "ä".repeat(TOLD)));
        assert_eq!(in_one_line(&"ä".repeat(TOLD)), "ä".repeat(TOLD));
    }
}

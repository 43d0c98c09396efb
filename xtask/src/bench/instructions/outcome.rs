//! Parses the output of a guest, line by line. Pure: lines in, counts out.

use anyhow::{Context as _, Result, ensure};

use super::plan::{Job, OWN};

/// Number of lines that are kept for the message of a failure.
const LAST_WORDS: usize = 60;

/// A guest's counts so far.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// `uname -r`, and Debian's version.
    pub(super) kernel: String,
    pub(super) counts: Vec<Count>,
    said: Vec<String>,
}

/// Cost of one contender.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Count {
    pub(super) contender: String,
    /// Number of counted queries, and of their responses.
    pub(super) queries: u64,
    pub(super) answers: u64,
    /// CPU time for all queries in microseconds. One microsecond is a thousand instructions.
    pub(super) server_us: u64,
    pub(super) helper_us: u64,
    /// Number of queries and responses that `dnsperf` has counted, including those of the warm-up, and number of
    /// messages in the helper's file.
    pub(super) expected: u64,
    pub(super) messages: u64,
}

impl Count {
    /// Returns the instructions of the server per query.
    pub(super) fn server(&self) -> f64 {
        1e3 * self.server_us as f64 / self.queries as f64
    }

    /// Returns the instructions of the helper per query.
    pub(super) fn helper(&self) -> f64 {
        1e3 * self.helper_us as f64 / self.queries as f64
    }

    /// Returns the instructions of both per query.
    pub(super) fn sum(&self) -> f64 {
        self.server() + self.helper()
    }

    /// Parses the text after `@counted`.
    fn parse(text: &str) -> Option<Self> {
        let (contender, numbers) = text.split_once(' ')?;
        let numbers: Vec<u64> = numbers
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()
            .ok()?;
        let [queries, answers, server_us, helper_us, expected, messages] = numbers[..] else {
            return None;
        };
        Some(Self {
            contender: contender.to_owned(),
            queries,
            answers,
            server_us,
            helper_us,
            expected,
            messages,
        })
    }
}

impl Outcome {
    /// Takes the next line. Returns its count, if it has one.
    pub(super) fn line(&mut self, line: &str) -> Option<&Count> {
        if let Some(kernel) = line.strip_prefix("@kernel ") {
            self.kernel = version(kernel);
        }
        if let Some(count) = line.strip_prefix("@counted ").and_then(Count::parse) {
            self.counts.push(count);
            return self.counts.last();
        }
        self.said.push(line.to_owned());
        None
    }

    /// Checks that all contenders were counted and that none had less to do than the others.
    pub(super) fn check(&self, job: &Job) -> Result<()> {
        for contender in &job.contenders {
            let count = self
                .counts
                .iter()
                .find(|count| count.contender == *contender)
                .with_context(|| format!("nothing was counted for {contender}"))?;
            ensure!(
                count.queries > 0 && count.answers == count.queries,
                "{contender}: {} of {} queries were answered",
                count.answers,
                count.queries
            );
            ensure!(
                *contender == OWN || count.messages >= count.expected,
                "{contender}: {} messages in the file, of {} at least",
                count.messages,
                count.expected
            );
        }
        Ok(())
    }

    /// Returns the last lines that are not counts.
    pub(super) fn last_words(&self) -> String {
        self.said[self.said.len().saturating_sub(LAST_WORDS)..].join("\n")
    }
}

/// Makes a version like `6.12.48+deb13-cloud-amd64 (6.12.48-1)` from `uname -r` and `uname -v`.
fn version(uname: &str) -> String {
    let (release, rest) = uname.split_once(' ').unwrap_or((uname, ""));
    let debian = rest
        .split_once("Debian ")
        .and_then(|(_, version)| version.split_whitespace().next());
    debian.unwrap_or(release).to_owned()
}

#[cfg(test)]
mod tests {
    use super::{
        super::plan::{LOADS, UNTAPPED},
        *,
    };

    const SAID: [&str; 3] = [
        "@kernel 6.12.118+deb13-cloud-amd64 #1 SMP PREEMPT_DYNAMIC Debian 6.12.118-1 (2026-11-20)",
        "@counted untapped 1000 1000 47394 0 2200 2200",
        "@counted fentry 1000 1000 51000 5500 2200 2201",
    ];

    fn outcome(said: [&str; 3]) -> Outcome {
        let mut outcome = Outcome::default();
        for line in said {
            outcome.line(line);
        }
        outcome
    }

    fn job() -> Job {
        Job {
            kernel: "6.12",
            load: &LOADS[0],
            contenders: vec![UNTAPPED, "fentry"],
        }
    }

    #[test]
    fn a_microsecond_is_a_thousand_instructions() {
        let outcome = outcome(SAID);
        assert_eq!(outcome.kernel, "6.12.118-1");
        let tap = &outcome.counts[1];
        assert_eq!(
            (tap.server(), tap.helper(), tap.sum()),
            (51_000.0, 5_500.0, 56_500.0)
        );
        assert!(outcome.check(&job()).is_ok());
    }

    #[test]
    fn a_contender_that_did_less_than_the_others_counts_for_nothing() {
        for (what, line) in [
            ("nothing was counted", "it is gone"),
            (
                "999 of 1000",
                "@counted fentry 1000 999 51000 5500 2199 2199",
            ),
            (
                "2199 messages",
                "@counted fentry 1000 1000 51000 5500 2200 2199",
            ),
        ] {
            let error = outcome([SAID[0], SAID[1], line]).check(&job());
            let error = error.expect_err(what).to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}

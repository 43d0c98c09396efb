//! The report: a table for people, and all counts for programs.

use std::{fmt::Write as _, path::Path, process::Command, time::Duration};

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    Counted,
    outcome::Count,
    plan::{LOADS, OWN, UNTAPPED},
};
use crate::{exec, paths};

/// Explanation of the figures.
const LEGEND: &str = "\
Instructions per query, user and kernel together, counted in virtual machines whose clock counts instructions (QEMU,
`-icount`). One processor, one worker thread of `named`, loads at a fixed rate. **helper**: the agent or `fstrm_capture`.
**above untapped**: server and helper, less the untapped server. **of own**: that, divided by the one of the server's own
dnstap with `fstrm_capture`. **server of own**: the same of the server alone.

An instruction is not a time. The count does not see what makes some instructions slow: cache misses, mispredicted
branches, and the stalls of return thunks and retpolines, which make every return in the kernel dear on some processors.
Reads of user memory and chains of small kernel functions cost more there than they show here. `cargo xtask bench`
measures times.
";

/// All counts.
pub(super) struct Report {
    agent: String,
    counted: Vec<Counted>,
    took: Duration,
}

/// Figures of one contender, compared with the untapped server and with own dnstap.
pub(super) struct Line {
    pub(super) server: f64,
    pub(super) helper: f64,
    pub(super) above: f64,
    /// `above`, and the server's part of it, divided by those of the server's own dnstap.
    pub(super) of_own: Option<f64>,
    pub(super) server_of_own: Option<f64>,
}

impl Line {
    /// Returns the line of this contender; `None` if it or the untapped server is missing.
    pub(super) fn of(counts: &[Count], contender: &str) -> Option<Self> {
        let find = |name: &str| counts.iter().find(|count| count.contender == name);
        let (count, untapped) = (find(contender)?, find(UNTAPPED)?);
        let own = find(OWN).filter(|_| contender != UNTAPPED);
        let server = |count: &Count| count.server() - untapped.server();
        let sum = |count: &Count| count.sum() - untapped.sum();
        Some(Self {
            server: count.server(),
            helper: count.helper(),
            above: sum(count),
            of_own: own.map(|own| sum(count) / sum(own)),
            server_of_own: own.map(|own| server(count) / server(own)),
        })
    }
}

impl Report {
    pub(super) fn new(agent: &Path, counted: Vec<Counted>, took: Duration) -> Self {
        let version = exec::output(Command::new(agent).arg("--version"));
        let commit = exec::output(
            Command::new("git")
                .args(["describe", "--always", "--dirty"])
                .current_dir(paths::root()),
        );
        let [version, commit] = [version, commit].map(Result::unwrap_or_default);
        Self {
            agent: format!("{} ({})", version.trim(), commit.trim()),
            counted,
            took,
        }
    }

    /// Returns names and contents of the files.
    pub(super) fn files(&self) -> Result<[(&'static str, String); 2]> {
        let json = serde_json::to_string_pretty(&self.json())? + "\n";
        Ok([
            ("instructions.json", json),
            ("instructions.md", self.markdown()),
        ])
    }

    fn json(&self) -> Value {
        let rows: Vec<_> = self
            .counted
            .iter()
            .flat_map(|counted| counted.counts.iter().map(move |count| (counted, count)))
            .map(|(counted, count)| {
                let line = Line::of(&counted.counts, &count.contender);
                json!({
                    "kernel": counted.kernel,
                    "load": counted.job.load.name,
                    "contender": count.contender,
                    "queries": count.queries,
                    "messages_expected": count.expected,
                    "messages": count.messages,
                    "server_per_query": count.server(),
                    "helper_per_query": count.helper(),
                    "above_untapped_per_query": line.as_ref().map(|line| line.above),
                    "relative_to_own_dnstap": line.as_ref().and_then(|line| line.of_own),
                    "server_relative_to_own_dnstap": line.as_ref().and_then(|line| line.server_of_own),
                })
            })
            .collect();
        json!({"agent": self.agent, "seconds": self.took.as_secs(), "counts": rows})
    }

    /// Returns the table.
    pub(super) fn markdown(&self) -> String {
        let mut text = "<!-- written by `cargo xtask bench --instructions` -->\n".to_owned();
        self.write(&mut text).unwrap_or_default(); // writing to a string does not fail
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        writeln!(
            text,
            "# Instructions per query\n\n{LEGEND}\nAgent: {}.",
            self.agent
        )?;
        for load in &LOADS {
            let of_load: Vec<_> = self
                .counted
                .iter()
                .filter(|counted| counted.job.load.name == load.name)
                .collect();
            if of_load.is_empty() {
                continue;
            }
            writeln!(
                text,
                "\n## {}\n\n{} queries, {} per second.\n\n| kernel | | server | helper | above untapped | of own | server of own |\n\
                 |---|---|--:|--:|--:|--:|--:|",
                load.name, load.queries, load.rate
            )?;
            for counted in of_load {
                for count in &counted.counts {
                    if let Some(line) = Line::of(&counted.counts, &count.contender) {
                        row(text, &counted.kernel, &count.contender, &line)?;
                    }
                }
            }
        }
        writeln!(text, "\nCounted in {} s.", self.took.as_secs())
    }
}

fn row(text: &mut String, kernel: &str, contender: &str, line: &Line) -> std::fmt::Result {
    let name = match contender {
        UNTAPPED => "untapped".to_owned(),
        OWN => "own dnstap".to_owned(),
        hook => format!("tap, `{hook}`"),
    };
    let ratio = |ratio: Option<f64>| ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2}"));
    writeln!(
        text,
        "| {kernel} | {name} | {:.0} | {:.0} | {:.0} | {} | {} |",
        line.server,
        line.helper,
        line.above,
        ratio(line.of_own),
        ratio(line.server_of_own)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(contender: &str, server_us: u64, helper_us: u64) -> Count {
        Count {
            contender: contender.to_owned(),
            queries: 1_000,
            answers: 1_000,
            server_us,
            helper_us,
            expected: 2_000,
            messages: 2_000,
        }
    }

    #[test]
    fn what_is_added_is_compared_with_what_own_dnstap_adds() {
        let counts = [
            count(UNTAPPED, 40_000, 0),
            count(OWN, 48_000, 2_000),
            count("fentry", 42_000, 3_000),
        ];
        let line = Line::of(&counts, "fentry").expect("it was counted");
        assert_eq!(
            (line.server, line.helper, line.above),
            (42_000.0, 3_000.0, 5_000.0)
        );
        assert_eq!((line.of_own, line.server_of_own), (Some(0.5), Some(0.25)));
        let line = Line::of(&counts, UNTAPPED).expect("it was counted");
        assert_eq!((line.above, line.of_own), (0.0, None));
        assert!(Line::of(&counts[1..], "fentry").is_none());
    }
}

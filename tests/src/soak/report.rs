//! What the soak came to: Markdown, and the verdict.

use std::{collections::BTreeMap, fmt, fs, time::Duration};

use super::{Event, agent::Account, collector::Collected};

/// Lines of the table of samples.
const LINES: usize = 12;
/// Growth of memory that is none: what an allocator keeps moves by this much. KiB.
const MEMORY: u64 = 4096;
/// Descriptors that are open for a moment: a file of `/proc`, a status query.
const DESCRIPTORS: u64 = 2;

/// The steady agent at a moment.
pub(super) struct Sample {
    /// Since the start.
    pub(super) at: Duration,
    /// Resident memory in KiB.
    pub(super) resident: u64,
    /// Open descriptors.
    pub(super) descriptors: u64,
    /// Questions answered by the server so far.
    pub(super) answered: u64,
}

/// The whole run.
pub(super) struct Report {
    seed: u64,
    /// How long it was to last.
    pub(super) time: Duration,
    /// What happened how often.
    pub(super) events: BTreeMap<Event, u64>,
    /// One each second.
    pub(super) samples: Vec<Sample>,
    /// Questions that were answered.
    pub(super) answered: u64,
    /// Those that the steady agent must have seen.
    pub(super) answered_while_tapped: u64,
    /// The steady agent's account.
    pub(super) steady: Account,
    /// The sum of the restless agent's lives.
    pub(super) restless: Account,
    /// The sum of the collectors.
    pub(super) collected: Collected,
    /// What went wrong.
    pub(super) failures: Vec<String>,
}

impl Report {
    /// Nothing yet.
    pub(super) fn new(seed: u64, time: Duration) -> Self {
        Self {
            seed,
            time,
            events: BTreeMap::new(),
            samples: Vec::new(),
            answered: 0,
            answered_while_tapped: 0,
            steady: Account::default(),
            restless: Account::default(),
            collected: Collected::default(),
            failures: Vec::new(),
        }
    }

    /// Whether all is well.
    pub(super) fn holds(&self) -> bool {
        self.complaints().is_empty()
    }

    fn complaints(&self) -> Vec<String> {
        let mut complaints = self.failures.clone();
        let unaccounted =
            self.steady.unaccounted + self.restless.unaccounted + self.collected.unaccounted;
        if unaccounted != 0 {
            complaints.push(format!("{unaccounted} unaccounted for"));
        }
        // Questions and answers, and what may be missing for a reason that was counted. A record lost of a TCP connection may hold
        // several messages, so with losses there is nothing to compare.
        let expected = 2 * self.answered_while_tapped;
        let lost = self.steady.kernel_drops + self.steady.missed;
        if lost == 0 && self.steady.delivered < expected {
            let missing = expected - self.steady.delivered;
            complaints.push(format!(
                "{missing} messages are missing, and nothing is counted as lost"
            ));
        }
        for (what, growth, allowed) in [
            (
                "KiB of memory",
                self.growth(|sample| sample.resident),
                MEMORY,
            ),
            (
                "descriptors",
                self.growth(|sample| sample.descriptors),
                DESCRIPTORS,
            ),
        ] {
            if growth > allowed {
                complaints.push(format!("grown by {growth} {what}"));
            }
        }
        complaints
    }

    /// From the second quarter of the run to the last: the first is for what has to be filled once. Their medians.
    fn growth(&self, value: fn(&Sample) -> u64) -> u64 {
        let quarter = self.samples.len() / 4;
        let median = |samples: &[Sample]| {
            let mut values: Vec<_> = samples.iter().map(value).collect();
            values.sort_unstable();
            values.get(values.len() / 2).copied().unwrap_or_default()
        };
        let early = median(&self.samples[quarter..2 * quarter]);
        median(&self.samples[self.samples.len() - quarter..]).saturating_sub(early)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        writeln!(
            f,
            "{} minutes, seed {}, Linux {}; {} questions to `named`, of which {} had no answer.\n",
            self.time.as_secs_f64() / 60.0,
            self.seed,
            kernel.trim(),
            self.answered,
            match self.failures.len() {
                0 => "none".to_owned(),
                count => format!("some in {count} rounds"),
            }
        )?;
        writeln!(f, "| event | times |\n|---|---|")?;
        for (event, times) in &self.events {
            writeln!(f, "| {event:?} | {times} |")?;
        }
        writeln!(
            f,
            "\n| steady agent, after minutes | resident KiB | descriptors | questions answered |\n|---|---|---|---|"
        )?;
        for sample in self
            .samples
            .iter()
            .step_by((self.samples.len() / LINES).max(1))
        {
            writeln!(
                f,
                "| {:.1} | {} | {} | {} |",
                sample.at.as_secs_f64() / 60.0,
                sample.resident,
                sample.descriptors,
                sample.answered
            )?;
        }
        writeln!(
            f,
            "\n| account | steady agent | restless agent |\n|---|---|---|"
        )?;
        let (steady, restless) = (&self.steady, &self.restless);
        for (what, one, other) in [
            ("lives ended in order", steady.summaries, restless.summaries),
            ("lives killed", steady.killed, restless.killed),
            (
                "frames read from the files of the killed",
                steady.frames_of_killed,
                restless.frames_of_killed,
            ),
            ("seen in the kernel", steady.seen, restless.seen),
            (
                "dropped in the kernel",
                steady.kernel_drops,
                restless.kernel_drops,
            ),
            (
                "missed by the hooks, at most",
                steady.missed,
                restless.missed,
            ),
            (
                "messages delivered to the outputs",
                steady.delivered,
                restless.delivered,
            ),
            ("unaccounted for", steady.unaccounted, restless.unaccounted),
        ] {
            writeln!(f, "| {what} | {one} | {other} |")?;
        }
        let mut names: Vec<_> = steady
            .outputs
            .keys()
            .chain(restless.outputs.keys())
            .collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let of = |account: &Account| account.outputs.get(name).copied().unwrap_or_default();
            if of(steady) + of(restless) > 0 {
                writeln!(f, "| {name} | {} | {} |", of(steady), of(restless))?;
            }
        }
        writeln!(
            f,
            "\nCollectors that ended in order received {} messages; unaccounted for: {}.",
            self.collected.messages, self.collected.unaccounted
        )?;
        writeln!(
            f,
            "Growth from the second quarter to the last (medians): {} KiB of memory, {} descriptors.",
            self.growth(|sample| sample.resident),
            self.growth(|sample| sample.descriptors)
        )?;
        let complaints = self.complaints();
        if complaints.is_empty() {
            return writeln!(f, "\nVerdict: holds.");
        }
        writeln!(f, "\nVerdict: does not hold.")?;
        complaints
            .iter()
            .try_for_each(|complaint| writeln!(f, "- {complaint}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(resident: fn(u64) -> u64, descriptors: fn(u64) -> u64) -> Report {
        let mut report = Report::new(1, Duration::from_mins(2));
        report.samples = (0..120)
            .map(|second| Sample {
                at: Duration::from_secs(second),
                resident: resident(second),
                descriptors: descriptors(second),
                answered: second,
            })
            .collect();
        report
    }

    #[test]
    fn what_is_level_after_the_start_holds() {
        let report = report(|second| 30_000 + second.min(20) * 1_000, |_| 40);
        assert!(report.holds(), "{report}");
    }

    #[test]
    fn growth_of_memory_or_descriptors_fails() {
        assert!(!report(|second| 30_000 + second * 200, |_| 40).holds());
        assert!(!report(|_| 30_000, |second| 40 + second / 10).holds());
    }

    #[test]
    fn a_missing_message_fails_unless_a_loss_is_counted() {
        let mut report = report(|_| 30_000, |_| 40);
        report.answered_while_tapped = 10;
        report.steady.delivered = 19;
        assert!(!report.holds());
        report.steady.kernel_drops = 1;
        assert!(report.holds());
        report.restless.unaccounted = 1;
        assert!(!report.holds());
    }
}

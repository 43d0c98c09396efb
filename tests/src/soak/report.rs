//! The result of the soak: a report in Markdown, and the verdict.

use std::{collections::BTreeMap, fmt, fs, time::Duration};

use super::{Event, agent::Account, collector::Collected};

/// Number of lines of the table of samples.
const LINES: usize = 12;
/// Growth of memory that is not a leak, in KiB: the memory that an allocator keeps varies by this much.
const MEMORY: u64 = 4096;
/// Shortest run whose memory must be constant after the first quarter: before, tables grow to their bounds.
const LEVEL: Duration = Duration::from_mins(10);
/// Memory that any run may use at any time, in KiB: 64 MiB, and the full queues of both outputs.
const BOUND: u64 = (64 + 2 * 64) << 10;
/// Number of descriptors that are open for a moment: a file of `/proc`, a status query.
const DESCRIPTORS: u64 = 2;

/// State of the steady agent at one moment.
pub(super) struct Sample {
    /// Time since the start.
    pub(super) at: Duration,
    /// Resident memory in KiB.
    pub(super) resident: u64,
    /// Number of open descriptors.
    pub(super) descriptors: u64,
    /// Number of queries that the server has answered so far.
    pub(super) answered: u64,
}

/// The whole run.
pub(super) struct Report {
    seed: u64,
    /// Planned duration.
    pub(super) time: Duration,
    /// Number of events of each kind.
    pub(super) events: BTreeMap<Event, u64>,
    /// Samples, one each second.
    pub(super) samples: Vec<Sample>,
    /// Number of answered queries.
    pub(super) answered: u64,
    /// Number of answered queries that the steady agent must have seen.
    pub(super) answered_while_tapped: u64,
    /// Counts of the steady agent.
    pub(super) steady: Account,
    /// Sum of the restless agent's lives.
    pub(super) restless: Account,
    /// Sum of the collectors.
    pub(super) collected: Collected,
    /// Failures of the queries.
    pub(super) failures: Vec<String>,
    /// Reason for an early end.
    pub(super) broken: Option<String>,
}

impl Report {
    /// Makes an empty report.
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
            broken: None,
        }
    }

    /// Returns whether there is nothing to complain about.
    pub(super) fn holds(&self) -> bool {
        self.complaints().is_empty()
    }

    fn complaints(&self) -> Vec<String> {
        if let Some(why) = &self.broken {
            // The counts are not complete.
            return vec![why.clone()];
        }
        let mut complaints = self.failures.clone();
        let unaccounted =
            self.steady.unaccounted + self.restless.unaccounted + self.collected.unaccounted;
        if unaccounted != 0 {
            complaints.push(format!("{unaccounted} unaccounted for"));
        }
        // Queries and responses, without those that were counted as lost. A lost record of a TCP connection may contain
        // several messages, so with losses there is nothing to compare.
        let expected = 2 * self.answered_while_tapped;
        let lost = self.steady.kernel_drops + self.steady.missed;
        if lost == 0 && self.steady.delivered < expected {
            let missing = expected - self.steady.delivered;
            complaints.push(format!(
                "{missing} messages are missing, and nothing is counted as lost"
            ));
        }
        let memory = self.growth(|sample| sample.resident);
        if self.time >= LEVEL && memory > MEMORY {
            complaints.push(format!("grown by {memory} KiB of memory"));
        }
        let largest = self.samples.iter().map(|sample| sample.resident).max();
        if let Some(largest) = largest.filter(|largest| *largest > BOUND) {
            complaints.push(format!("{largest} KiB of memory"));
        }
        let descriptors = self.growth(|sample| sample.descriptors);
        if descriptors > DESCRIPTORS {
            complaints.push(format!("grown by {descriptors} descriptors"));
        }
        complaints
    }

    /// Returns the quarters of the run.
    fn quarters(&self) -> impl Iterator<Item = &[Sample]> {
        let length = (self.samples.len() / 4).max(1);
        self.samples.chunks_exact(length).take(4)
    }

    /// Returns the growth from the second quarter of the run to the last one. The first quarter is for tables that have
    /// to be filled once. It compares the smallest values, because a queue that is full while the collector is away is
    /// not growth.
    fn growth(&self, value: fn(&Sample) -> u64) -> u64 {
        let smallest: Vec<_> = self
            .quarters()
            .filter_map(|samples| samples.iter().map(value).min())
            .collect();
        match smallest[..] {
            [_, early, .., late] => late.saturating_sub(early),
            _ => 0,
        }
    }
}

impl Report {
    fn accounts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
        Ok(())
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
            writeln!(f, "| {} | {times} |", event.words())?;
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
        let quarters: Vec<_> = self.quarters().map(resident).collect();
        writeln!(
            f,
            "\nResident KiB in each quarter of the run (smallest, median, largest): {}.",
            quarters.join("; ")
        )?;
        self.accounts(f)?;
        writeln!(
            f,
            "\nCollectors that ended in order received {} messages; unaccounted for: {}.",
            self.collected.messages, self.collected.unaccounted
        )?;
        writeln!(
            f,
            "Growth from the second quarter to the last (smallest values): {} KiB of memory, {} descriptors.",
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

/// Formats the smallest, median and largest resident memory in KiB.
fn resident(samples: &[Sample]) -> String {
    let mut resident: Vec<_> = samples.iter().map(|sample| sample.resident).collect();
    resident.sort_unstable();
    let middle = resident.get(resident.len() / 2);
    [resident.first(), middle, resident.last()]
        .map(|value| value.copied().unwrap_or_default().to_string())
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(resident: fn(u64) -> u64, descriptors: fn(u64) -> u64) -> Report {
        let mut report = Report::new(1, LEVEL);
        report.samples = (0..LEVEL.as_secs())
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
        assert!(!report(|second| 30_000 + second * 20, |_| 40).holds());
        assert!(!report(|_| 30_000, |second| 40 + second / 10).holds());
    }

    #[test]
    fn a_queue_that_is_full_for_a_while_is_no_growth() {
        let resident = |second| {
            if second > 450 && second % 60 < 50 {
                46_000
            } else {
                30_000
            }
        };
        let report = report(resident, |_| 40);
        assert!(report.holds(), "{report}");
    }

    #[test]
    fn in_a_short_run_memory_may_grow_to_its_bound_and_no_further() {
        let mut growing = report(|second| 30_000 + second * 20, |_| 40);
        growing.time = Duration::from_mins(2);
        assert!(growing.holds(), "{growing}");
        growing.samples.last_mut().expect("samples").resident = BOUND + 1;
        assert!(!growing.holds());
    }

    #[test]
    fn a_run_that_broke_off_fails_for_that_reason_alone() {
        let mut report = Report::new(1, Duration::from_mins(2));
        report.broken = Some("no answer to SIGHUP".into());
        assert!(!report.holds());
        assert!(report.to_string().ends_with("\n- no answer to SIGHUP\n"));
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

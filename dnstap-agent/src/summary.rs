//! The account at the end of a tap: what was seen, delivered and lost, for people and as JSON.

use std::{collections::BTreeMap, fmt, fs, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use dnstap_ebpf::Counter;
use serde_json::{Value, json};

use crate::{
    classify::TYPE_NAMES,
    exit::{Exit, ExitWith},
    pipeline::PipelineCounters,
    sink::{SinkReport, SinkState},
    tap::ProgramStats,
};

/// Every hop's counters after the end.
#[derive(Debug)]
pub struct Summary {
    /// How long the tap was attached.
    pub elapsed: Duration,
    /// Hook and ring, as on the command line.
    pub hook: &'static str,
    /// Hook and ring, as on the command line.
    pub ring: &'static str,
    /// The kernel side's counters.
    pub kernel: [u64; Counter::COUNT],
    /// What the kernel has counted about the programs, by name.
    pub programs: BTreeMap<String, ProgramStats>,
    /// The pure stages' counters.
    pub pipeline: PipelineCounters,
    /// The outputs' accounts.
    pub outputs: Vec<SinkReport>,
}

/// Ends a command that wrote to outputs: the account goes to standard error, and as `json` to `path` if there is one; each output
/// that failed is named. The exit code tells whether one has.
pub fn conclude(
    account: &impl fmt::Display,
    json: &Value,
    path: Option<&Path>,
    outputs: &[SinkReport],
) -> Result<Exit> {
    eprint!("{account}");
    if let Some(path) = path {
        fs::write(path, format!("{json}\n")).with_context(|| {
            ExitWith(
                Exit::CannotCreate,
                format!("cannot write the summary to {}", path.display()),
            )
        })?;
    }
    let mut exit = Exit::Ok;
    for output in outputs {
        if let SinkState::Failed(error) = &output.state {
            eprintln!("error: {error}");
            exit = Exit::Output;
        }
    }
    Ok(exit)
}

impl Summary {
    /// As one JSON object; see `docs/operations.md` for the members.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let kernel: serde_json::Map<_, _> = Counter::ALL
            .iter()
            .map(|&counter| {
                (
                    counter.name().to_owned(),
                    self.kernel[counter as usize].into(),
                )
            })
            .collect();
        let pipeline: serde_json::Map<_, _> = self
            .pipeline
            .table()
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect();
        let types: serde_json::Map<_, _> = TYPE_NAMES
            .iter()
            .zip(self.pipeline.by_type)
            .map(|(name, count)| ((*name).to_owned(), count.into()))
            .collect();
        let programs: serde_json::Map<_, _> = self
            .programs
            .iter()
            .map(|(name, stats)| {
                let value = json!({"runs": stats.runs, "run_time_ns": stats.run_time_ns, "missed": stats.missed});
                (name.clone(), value)
            })
            .collect();
        let outputs: Vec<_> = self.outputs.iter().map(SinkReport::to_json).collect();
        json!({
            "seconds": self.elapsed.as_secs_f64(),
            "hook": self.hook,
            "ring": self.ring,
            "kernel": kernel,
            "programs": programs,
            "pipeline": pipeline,
            "types": types,
            "outputs": outputs,
        })
    }

    /// The pure stages' counters whose names begin with `prefix`, named without it.
    fn pipeline_counts(&self, prefix: &str) -> Vec<(&'static str, u64)> {
        self.pipeline
            .table()
            .filter_map(|(name, count)| Some((name.strip_prefix(prefix)?, count)))
            .collect()
    }

    fn kernel_reasons(&self, matches: fn(Counter) -> bool) -> Vec<(&'static str, u64)> {
        Counter::ALL
            .iter()
            .filter(|&&counter| matches(counter))
            .map(|&counter| (counter.name(), self.kernel[counter as usize]))
            .collect()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let messages: u64 = self.pipeline.by_type.iter().sum();
        writeln!(
            formatter,
            "{messages} messages in {:.1} s (hook {}, ring {}): {}",
            self.elapsed.as_secs_f64(),
            self.hook,
            self.ring,
            list(
                TYPE_NAMES.iter().copied().zip(self.pipeline.by_type),
                "none"
            ),
        )?;
        writeln!(
            formatter,
            "kernel: {} seen, {} handed over ({} bytes); dropped: {}; skipped: {}",
            self.kernel[Counter::Seen as usize],
            self.kernel[Counter::Emitted as usize],
            self.kernel[Counter::Bytes as usize],
            list(self.kernel_reasons(Counter::is_drop), "none"),
            list(self.kernel_reasons(Counter::is_skip), "none"),
        )?;
        for (name, stats) in &self.programs {
            if stats.missed != 0 {
                writeln!(
                    formatter,
                    "kernel: {name} was kept from running: at most {} messages were missed",
                    stats.missed
                )?;
            }
            if let Some(average) = stats.run_time_ns.checked_div(stats.runs) {
                writeln!(
                    formatter,
                    "kernel: {name} ran {} times, {average} ns each",
                    stats.runs
                )?;
            }
        }
        for (what, prefix) in [
            ("queries without answer", "unanswered_"),
            ("left out on purpose", "excluded_"),
        ] {
            let counts = list(self.pipeline_counts(prefix), "");
            if !counts.is_empty() {
                writeln!(formatter, "{what}: {counts}")?;
            }
        }
        for output in &self.outputs {
            writeln!(formatter, "{output}")?;
        }
        Ok(())
    }
}

/// `name 3, other 4`, without what is zero.
fn list(counts: impl IntoIterator<Item = (&'static str, u64)>, nothing: &str) -> String {
    let parts: Vec<_> = counts
        .into_iter()
        .filter(|&(_, count)| count != 0)
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    if parts.is_empty() {
        nothing.to_owned()
    } else {
        parts.join(", ")
    }
}

//! A snapshot of all counters, while running and at the end: messages seen, delivered and lost, as
//! text and as JSON. The names of the counters in this module are used everywhere.

pub mod conservation;
mod losses;
mod received;

use std::{collections::BTreeMap, fmt, fs, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use dnstap_core::{
    account::PipelineCounters,
    model::{MESSAGE_TYPES, Pending, SocketCounts},
    pipeline::Latencies,
};
use dnstap_ebpf::Counter;
use serde_json::{Value, json};

pub use self::losses::Loss;
pub use crate::sources::dnstap::Received;
use crate::{
    host::{
        exit::{Exit, ExitWith},
        log,
    },
    sinks::{SinkReport, SinkState, Takes},
    sources::socket::ProgramStats,
};

/// Counters of every stage.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Run time of the command.
    pub elapsed: Duration,
    /// Whether all work has ended, so that no message is on its way.
    pub at_rest: bool,
    /// Source of the messages.
    pub source: Source,
    /// Accounts of the outputs.
    pub outputs: Vec<SinkReport>,
}

/// Sources of messages.
#[derive(Clone, Debug)]
pub enum Source {
    /// A tapped process.
    Tap(Box<Tapped>),
    /// Programs that send dnstap.
    Received(Received),
}

/// Counters of a tap.
#[derive(Clone, Debug, Default)]
pub struct Tapped {
    /// Hook, as on the command line.
    pub hook: &'static str,
    /// Ring, as on the command line.
    pub ring: &'static str,
    /// Hooks that the kernel refused before the one in use, each with a reason of one line.
    pub refused: Vec<(&'static str, String)>,
    /// Limits of the hook in use on this kernel.
    pub degraded: Vec<String>,
    /// Counters of the kernel side.
    pub kernel: [u64; Counter::COUNT],
    /// Some kernel counters from a while before.
    pub settled: Settled,
    /// Run statistics of the kernel for each program, by name.
    pub programs: BTreeMap<String, ProgramStats>,
    /// Counters of the pipeline.
    pub pipeline: PipelineCounters,
    /// Messages and bytes that the pipeline holds.
    pub pending: Pending,
    /// Sockets by verdict.
    pub sockets: SocketCounts,
    /// Response times.
    pub latencies: Latencies,
    /// State of the ring.
    pub ring_use: RingUse,
}

/// State of the ring since the previous snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingUse {
    /// Size in bytes; if there are several buffers, that of one.
    pub size_bytes: u64,
    /// Most bytes that waited when the ring was read; if there are several buffers, in the fullest
    /// one.
    pub used_bytes: u64,
    /// Longest time that a record had waited when it was read, in nanoseconds.
    pub lag_ns: u64,
}

/// Kernel counters from so long ago that everything they counted must have arrived by now, unless
/// it was lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Messages that the hooks had seen.
    pub seen: u64,
    /// Records that were in the ring or read.
    pub records: u64,
}

impl Settled {
    /// Takes the counters that will be settled a while later.
    #[must_use]
    pub fn of(kernel: &[u64; Counter::COUNT]) -> Self {
        Self {
            seen: kernel[Counter::Seen as usize],
            records: kernel[Counter::Records as usize],
        }
    }
}

/// Ends a command that wrote to outputs: prints the account to standard error and writes it as JSON
/// to `path`, if given. Names each output that failed; the exit code is an error if there is one.
pub fn conclude(snapshot: &Snapshot, path: Option<&Path>) -> Result<Exit> {
    log::say(snapshot);
    if let Some(path) = path {
        fs::write(path, format!("{}\n", snapshot.to_json())).with_context(|| {
            ExitWith(
                Exit::CannotCreate,
                format!("cannot write the summary to {}", path.display()),
            )
        })?;
    }
    let mut exit = Exit::Ok;
    for output in &snapshot.outputs {
        if let SinkState::Failed(error) = &output.state {
            log::say(format_args!("error: {error}\n"));
            exit = Exit::Output;
        }
    }
    Ok(exit)
}

impl Snapshot {
    /// Returns the accounts of the outputs that accept `takes`.
    pub(crate) fn outputs_of(&self, takes: Takes) -> impl Iterator<Item = &SinkReport> {
        let outputs = self.outputs.iter();
        outputs.filter(move |output| output.takes == takes)
    }

    /// Returns a few totals of messages that came, were delivered and were lost. A command always
    /// has the same ones.
    #[must_use]
    pub fn totals(&self) -> Vec<(&'static str, u64)> {
        let dropped = self.outputs.iter().map(|output| output.dropped.total());
        let mut totals = match &self.source {
            Source::Tap(tapped) => vec![
                ("seen", tapped.kernel[Counter::Seen as usize]),
                ("messages", tapped.pipeline.deliver.messages),
                ("message_bytes", tapped.pipeline.deliver.message_bytes),
                (
                    "lost_in_kernel",
                    tapped
                        .kernel_counts(Counter::is_drop)
                        .iter()
                        .map(|(_, count)| count)
                        .sum(),
                ),
            ],
            Source::Received(received) => vec![
                ("messages", received.messages),
                ("bytes", received.bytes),
                ("malformed", received.malformed),
            ],
        };
        totals.push(("dropped_by_outputs", dropped.sum()));
        totals
    }

    /// Returns the snapshot as a JSON object; see `docs/operations.md` for the members.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut all = match &self.source {
            Source::Tap(tapped) => {
                let events = self.outputs_of(Takes::Notices).next();
                let mut all = tapped.to_json();
                all["events"] = events.map(SinkReport::to_json).into();
                all
            }
            Source::Received(received) => json!({"received": object(received.table())}),
        };
        let hops = conservation::hops(self);
        all["seconds"] = self.elapsed.as_secs_f64().into();
        let outputs = self.outputs_of(Takes::Messages);
        all["outputs"] = outputs.map(SinkReport::to_json).collect();
        all["unaccounted"] = dnstap_core::account::unaccounted(&hops).into();
        all["conservation"] = conservation::to_json(&hops);
        all
    }
}

/// Builds a JSON object from names and counts.
fn object<'a>(counts: impl Iterator<Item = (&'a str, u64)>) -> Value {
    let members: serde_json::Map<_, _> = counts
        .map(|(name, count)| (name.to_owned(), count.into()))
        .collect();
    members.into()
}

impl Tapped {
    fn to_json(&self) -> Value {
        let programs: serde_json::Map<_, _> = self
            .programs
            .iter()
            .map(|(name, stats)| {
                let value = json!({"runs": stats.runs, "run_time_ns": stats.run_time_ns, "missed": stats.missed});
                (name.clone(), value)
            })
            .collect();
        let latencies: Vec<_> = self
            .latencies
            .table()
            .map(|(role, family, took)| {
                let quantile = |share| took.quantile(share).map(|bound| bound.as_secs_f64());
                json!({
                    "role": role,
                    "type": family,
                    "count": took.count(),
                    "sum_seconds": took.sum().as_secs_f64(),
                    "median_seconds": quantile(0.5),
                    "p99_seconds": quantile(0.99),
                })
            })
            .collect();
        let refused = self.refused.iter();
        let refused: BTreeMap<_, _> = refused.map(|(hook, reason)| (hook, reason)).collect();
        json!({
            "hook": self.hook,
            "ring": self.ring,
            "refused_hooks": refused,
            "degraded": self.degraded,
            "kernel": object(self.kernel_counts(|_| true).into_iter()),
            "programs": programs,
            "pipeline": object(self.pipeline.table()),
            "types": object(self.types()),
            "pending": object(self.pending.table()),
            "sockets": object(self.sockets.table()),
            "ring_use": {
                "size_bytes": self.ring_use.size_bytes,
                "used_bytes": self.ring_use.used_bytes,
                "lag_ns": self.ring_use.lag_ns,
            },
            "latencies": latencies,
        })
    }

    /// Returns the number of messages by dnstap type.
    pub(crate) fn types(&self) -> impl Iterator<Item = (&'static str, u64)> {
        MESSAGE_TYPES
            .iter()
            .map(|known| known.name)
            .zip(self.pipeline.by_type)
    }

    /// Returns the pipeline counters whose names begin with `prefix`, without that prefix.
    fn pipeline_counts(&self, prefix: &str) -> Vec<(&'static str, u64)> {
        self.pipeline
            .table()
            .filter_map(|(name, count)| Some((name.strip_prefix(prefix)?, count)))
            .collect()
    }

    /// Returns the kernel counters for which `matches` returns true.
    fn kernel_counts(&self, matches: fn(Counter) -> bool) -> Vec<(&'static str, u64)> {
        Counter::ALL
            .iter()
            .filter(|&&counter| matches(counter))
            .map(|&counter| (counter.name(), self.kernel[counter as usize]))
            .collect()
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.elapsed.as_secs_f64();
        match &self.source {
            Source::Tap(tapped) => tapped.describe(seconds, formatter)?,
            Source::Received(received) => received.describe(seconds, formatter)?,
        }
        for events in self.outputs_of(Takes::Notices) {
            writeln!(formatter, "events: {events}")?;
        }
        for output in self.outputs_of(Takes::Messages) {
            writeln!(formatter, "{output}")?;
        }
        for hop in conservation::hops(self) {
            if hop.unaccounted != 0 {
                writeln!(formatter, "warning: {hop}: a defect of the agent")?;
            }
        }
        Ok(())
    }
}

impl Tapped {
    fn describe(&self, seconds: f64, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let messages: u64 = self.pipeline.by_type.iter().sum();
        writeln!(
            formatter,
            "{messages} messages in {seconds:.1} s (hook {}, ring {}): {}",
            self.hook,
            self.ring,
            list(self.types(), "none"),
        )?;
        writeln!(
            formatter,
            "kernel: {} seen, {} handed over ({} bytes); dropped: {}; skipped: {}",
            self.kernel[Counter::Seen as usize],
            self.kernel[Counter::Emitted as usize],
            self.kernel[Counter::Bytes as usize],
            list(self.kernel_counts(Counter::is_drop), "none"),
            list(self.kernel_counts(Counter::is_skip), "none"),
        )?;
        for (hook, reason) in &self.refused {
            writeln!(formatter, "hook {hook} was refused: {reason}")?;
        }
        for missing in &self.degraded {
            writeln!(formatter, "degraded: {missing}")?;
        }
        let unfollowed = self.kernel[Counter::Unfollowed as usize];
        if unfollowed != 0 {
            writeln!(
                formatter,
                "kernel: {unfollowed} forked processes found no room: their messages were not seen until there was some"
            )?;
        }
        let calls = self.kernel[Counter::IoUringCalls as usize];
        if calls != 0 {
            writeln!(
                formatter,
                "kernel: {calls} calls of io_uring_enter: hook syscall does not see the messages that they move; hook fentry does"
            )?;
        }
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
            ("TCP connections", "tcp_sockets_"),
            ("UDP sockets", "udp_sockets_"),
            ("queries without answer", "unanswered_"),
            ("left out on purpose", "excluded_"),
        ] {
            let counts = list(self.pipeline_counts(prefix), "");
            if !counts.is_empty() {
                writeln!(formatter, "{what}: {counts}")?;
            }
        }
        let connections = self.pipeline.stream.stream_connections_with_loss;
        if connections != 0 {
            writeln!(
                formatter,
                "lost: of {connections} TCP connection{} at least {} messages are missing",
                if connections == 1 { "" } else { "s" },
                self.pipeline.stream.stream_messages_lost_at_least
            )?;
        }
        let unsolicited = self.pipeline.deliver.unsolicited;
        if unsolicited != 0 {
            writeln!(
                formatter,
                "left out: {unsolicited} responses without a query (--unsolicited)"
            )?;
        }
        Ok(())
    }
}

/// Prints `name 3, other 4`, without zero counts.
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

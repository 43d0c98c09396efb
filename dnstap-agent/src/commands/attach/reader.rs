//! The thread between the ring and the outputs. It waits only for the ring.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::Receiver,
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use dnstap_core::{
    model::{Origin, Pending},
    pipeline::{self, Pipeline, Server},
};
use dnstap_ebpf::Counter;
use tracing::{debug, error, warn};

use super::{
    config::{kernel_filter, pipeline_filter},
    members::News,
    outputs::Outputs,
};
use crate::{
    cli::Filters,
    host::{clock, memory::MemoryTrimmer, poll::poll_readable},
    observe::{
        Publisher,
        summary::{RingUse, Settled, Snapshot, Tapped},
    },
    sinks::SinkReport,
    sources::{Item, Source, probes::ProbeStates, socket::Tap},
};

/// Interval at which clocks are compared, waiting messages expire and outputs are checked.
const HOUSEKEEPING: Duration = Duration::from_millis(100);

/// Interval at which snapshots are published.
const PUBLISH: Duration = Duration::from_secs(1);

/// Number of looks at the ring, one after the other, that find nothing before the reader sleeps.
const QUIET_LOOKS: u32 = 8;

/// Longest sleep while nothing comes. The next record ends it. A stop, a reload and the timers wait
/// for it at most this long.
const SLEEP: Duration = Duration::from_millis(250);

/// Longest time to wait, after detaching, until the probes are removed. The kernel takes 0.1 s for
/// each.
const LAST_PROBES: Duration = Duration::from_secs(5);

/// Bytes at which a batch goes to the outputs. It also goes when the ring is empty.
const BATCH: usize = 256 * 1024;

/// Time to wait, after detaching, for a running hook to finish its record.
const LAST_RECORDS: Duration = Duration::from_millis(500);

/// Result of a reader that has ended.
pub(super) struct Drained {
    /// The outputs, which may still have messages in their queues.
    pub(super) outputs: Outputs,
    /// Final counters.
    pub(super) tapped: Tapped,
}

/// Everything between the kernel and the queues.
pub(super) struct Reader {
    tap: Tap,
    pipeline: Pipeline,
    outputs: Outputs,
    stop: Arc<AtomicBool>,
    /// Interval at which the ring is read if the kernel does not wake the reader. This is the
    /// largest part of the delay from message to output.
    interval: Duration,
    batch: pipeline::Batch,
    publisher: Publisher,
    started: Instant,
    /// Kernel counters of the previous snapshot.
    settled: Settled,
    ring_use: RingUse,
    trimmer: MemoryTrimmer,
    find_server: FindServer,
    joined: Joined,
    /// Whether the kernel side must not leave out a role.
    all_roles: bool,
    probe_states: ProbeStates,
}

/// Receiver of messages from [`Members`](super::members::Members). If the channel is full, they
/// wait.
pub(super) type Joined = Receiver<News>;

/// Returns facts about the server that a process runs; `None` if the process has ended and nothing
/// is known about it.
pub(super) type FindServer = Box<dyn FnMut(Origin) -> Option<Server> + Send>;

impl Reader {
    pub(super) fn new(
        (tap, probe_states): (Tap, ProbeStates),
        pipeline: Pipeline,
        outputs: Outputs,
        stop: Arc<AtomicBool>,
        publisher: Publisher,
        interval: Duration,
        (find_server, joined, all_roles): (FindServer, Joined, bool),
    ) -> Self {
        Self {
            find_server,
            joined,
            all_roles,
            probe_states,
            publisher,
            started: Instant::now(),
            ring_use: RingUse::default(),
            trimmer: MemoryTrimmer::default(),
            tap,
            pipeline,
            outputs,
            stop,
            interval,
            batch: pipeline::Batch::default(),
            settled: Settled::default(),
        }
    }

    /// Reads until `stop` is set or no output is left. Then detaches, reads the rest and ends the
    /// pipeline.
    pub(super) fn run(mut self) -> Result<Drained> {
        let mut housekeeping = Instant::now();
        let mut published = Instant::now();
        self.publish()?;
        self.pipeline.set_clock_offset(clock::realtime_offset_ns());
        let mut quiet = 0_u32;
        while !self.stop.load(Ordering::Acquire) {
            if quiet > QUIET_LOOKS {
                self.wait(self.interval.max(SLEEP))?;
                self.pipeline.set_clock_offset(clock::realtime_offset_ns());
            } else {
                self.wait(self.interval)?;
            }
            // Records up to now come in this drain or in the next. So those from before the last
            // drain have all been seen.
            let caught_up = clock::monotonic_ns();
            quiet = if self.drain(false, caught_up) {
                0
            } else {
                quiet.saturating_add(1)
            };
            // One more look follows before the first sleep: see `Tap::wake_by_next`.
            if quiet == QUIET_LOOKS && !self.can_sleep() {
                quiet = 0;
            }
            if let Some(filters) = self.outputs.update() {
                self.filter(&filters);
            }
            if housekeeping.elapsed() >= HOUSEKEEPING {
                housekeeping = Instant::now();
                self.pipeline.set_clock_offset(clock::realtime_offset_ns());
                self.pipeline.tick(caught_up, &mut self.batch);
                self.flush();
                self.send_verdicts();
                self.tap.flush_log();
                if self.outputs.health().all_over() {
                    break;
                }
                if published.elapsed() >= PUBLISH {
                    published = Instant::now();
                    self.publish()?;
                }
            }
        }
        self.end()
    }

    /// Changes the filters.
    fn filter(&mut self, filters: &Filters) {
        let kernel = kernel_filter(filters, self.all_roles, &self.pipeline.servers());
        if let Err(error) = self.tap.set_filter(&kernel) {
            error!("the filters stay as they were, as far as the kernel's part goes: {error:#}");
        }
        self.pipeline.set_filter(pipeline_filter(filters));
    }

    /// Waits until much has come, at most `timeout`.
    fn wait(&mut self, timeout: Duration) -> Result<()> {
        let sources = sources(&mut self.tap);
        let descriptors = sources.iter().flat_map(|source| source.descriptors());
        poll_readable(descriptors, timeout).context("cannot wait for the ring")?;
        Ok(())
    }

    /// Returns whether no message is held up, and the kernel wakes the reader by the next record.
    /// A query without answer may wait: it expires a little later.
    fn can_sleep(&mut self) -> bool {
        let pending = Pending {
            queries: 0,
            ..self.pipeline.pending()
        };
        pending == Pending::default() && self.tap.wake_by_next()
    }

    /// Passes items from the sources through the pipeline to the outputs. Returns whether there
    /// were any. `caught_up`: after this drain, all records from before this kernel time have come.
    fn drain(&mut self, last: bool, caught_up: u64) -> bool {
        let Self {
            tap,
            pipeline,
            outputs,
            batch,
            ring_use,
            find_server,
            joined,
            ..
        } = self;
        // Done even if the ring is empty, so that the channel has room again.
        take_joined(joined, pipeline, batch);
        ring_use.used_bytes = ring_use.used_bytes.max(tap.ring_used());
        let mut any = false;
        for source in sources(tap) {
            let mut first = true;
            source.drain(last, &mut |item| {
                if mem::take(&mut first) {
                    any = true;
                    // The first item is the oldest, so one reading of the clock is enough.
                    let now = clock::monotonic_ns();
                    let waited = now.saturating_sub(item.ktime_ns().unwrap_or(now));
                    ring_use.lag_ns = ring_use.lag_ns.max(waited);
                }
                // Sockets of a process are sent before its first record.
                take_joined(joined, pipeline, batch);
                if let Some(origin) = item.origin()
                    && pipeline.is_unknown_server(origin)
                    && let Some(server) = find_server(origin)
                {
                    pipeline.register_server(origin.program_id, server);
                }
                match item {
                    Item::Record(record) => pipeline.push(record, batch),
                    Item::Message(envelope, bytes) => pipeline.message(envelope, bytes, batch),
                    Item::Notice(notice) => pipeline.notice(notice, batch),
                    Item::Frames(_) | Item::Row(..) | Item::EventRow(..) | Item::Fault(..) => {
                        unreachable!("a source of a tap has no frames")
                    }
                }
                if batch.messages.bytes.len().max(batch.events.bytes.len()) >= BATCH {
                    outputs.send(batch);
                }
            });
        }
        pipeline.settle(caught_up, batch);
        self.flush();
        any
    }

    fn flush(&mut self) {
        self.outputs.send(&mut self.batch);
    }

    /// Tells the kernel which sockets it can skip.
    fn send_verdicts(&mut self) {
        for (socket, verdict) in self.pipeline.verdicts() {
            match self.tap.set_verdict(socket, verdict.to_abi()) {
                Ok(()) => debug!(socket, ?verdict, "verdict on a socket"),
                Err(error) => {
                    warn!(socket, %error, "the kernel does not take a verdict; the socket's messages go on coming");
                }
            }
        }
    }

    /// Publishes a snapshot of the counters.
    fn publish(&mut self) -> Result<()> {
        // Encoded messages must be in the outputs before the two are compared.
        self.flush();
        let outputs = self.outputs.health().sinks;
        self.trimmer.look(SinkReport::queued_in(&outputs));
        let tapped = self.tapped()?;
        self.publisher.publish(Snapshot {
            elapsed: self.started.elapsed(),
            at_rest: false,
            source: Arc::new(tapped),
            outputs,
        });
        Ok(())
    }

    /// Returns the current counters.
    fn tapped(&mut self) -> Result<Tapped> {
        let mut kernel = self.tap.counters()?;
        let settled = mem::replace(&mut self.settled, Settled::of(&kernel));
        let pipeline = self.pipeline.counters();
        // The hooks count a call once. Only its bytes show how many datagrams it had. Datagrams
        // that are missing there are lost like all others.
        let intake = &pipeline.intake;
        for counter in [Counter::Seen, Counter::Emitted] {
            kernel[counter as usize] += intake.udp_segments;
        }
        kernel[Counter::Truncated as usize] += intake.udp_truncated;
        kernel[Counter::UnsupportedCall as usize] += intake.udp_unclear;
        let emitted = &mut kernel[Counter::Emitted as usize];
        *emitted = emitted.saturating_sub(intake.udp_truncated + intake.udp_unclear);
        let [calls, faults] =
            [Counter::ProbeCalls, Counter::ProbeFault].map(|counter| kernel[counter as usize]);
        self.probe_states.count(calls, faults);
        let probes = self.probe_states.list();
        let ring_use = mem::take(&mut self.ring_use);
        Ok(Tapped {
            hook: self.tap.hook().name(),
            ring: self.tap.ring_name(),
            refused: self
                .tap
                .refused()
                .iter()
                .map(|(hook, reason)| (hook.name(), reason.clone()))
                .collect(),
            degraded: self.tap.degraded().to_vec(),
            probes,
            kernel,
            settled,
            sockets: self.pipeline.socket_counts(),
            latencies: *self.pipeline.latencies(),
            ring_use: RingUse {
                size_bytes: self.tap.ring_bytes(),
                ..ring_use
            },
            programs: self.tap.program_stats(),
            probes_missed: self.tap.probes_missed(),
            pipeline,
            pending: self.pipeline.pending(),
        })
    }

    /// Detaches, waits until each record that the hooks have counted has arrived, and ends the
    /// pipeline.
    fn end(mut self) -> Result<Drained> {
        for source in sources(&mut self.tap) {
            source.stop();
        }
        self.tap.flush_log();
        // The main thread removes the probes at the same time, if it has asked for the end. If the
        // reader ends by itself, the main thread waits for the reader, so the reader must not wait.
        let probes_deadline = Instant::now() + LAST_PROBES;
        while self.stop.load(Ordering::Acquire)
            && !self.probe_states.have_ended()
            && Instant::now() < probes_deadline
        {
            self.drain(true, 0);
            self.wait(Duration::from_millis(1))?;
        }
        let deadline = Instant::now() + LAST_RECORDS;
        loop {
            self.drain(true, 0);
            let kernel = self.tap.counters()?;
            let missing = kernel[Counter::Records as usize]
                .saturating_sub(self.pipeline.counters().intake.records);
            if missing == 0 {
                break;
            }
            if Instant::now() > deadline {
                warn!(
                    missing,
                    "records that the kernel has counted did not arrive"
                );
                break;
            }
            self.wait(Duration::from_millis(1))?;
        }
        self.pipeline.finish(&mut self.batch);
        self.flush();
        let tapped = self.tapped()?;
        self.outputs.settle();
        Ok(Drained {
            tapped,
            outputs: self.outputs,
        })
    }
}

/// Returns the sources in the order in which they are drained.
fn sources(tap: &mut Tap) -> [&mut dyn Source; 1] {
    [tap]
}

fn take_joined(joined: &Joined, pipeline: &mut Pipeline, batch: &mut pipeline::Batch) {
    for news in joined.try_iter() {
        match news {
            News::Connections(sockets) => pipeline.join_midway(sockets),
            News::Probed {
                program_id,
                is_probed,
            } => pipeline.probe(program_id, is_probed, batch),
            News::Ended { pid } => pipeline.process_ended(pid),
        }
    }
}

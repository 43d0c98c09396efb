//! Counters of one sink, shared by the sender and the sink's thread.

use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use super::{SinkReport, SinkState, Takes, delay::Delays};

/// Defines counters, and a struct for their values at one moment.
macro_rules! counts {
    ($(#[$doc:meta])* $now:ident, $live:ident { $($(#[$what:meta])* $name:ident,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct $now {
            $($(#[$what])* pub $name: u64,)+
        }

        impl $now {
            pub(super) const COUNT: usize = [$(stringify!($name)),+].len();

            /// Returns the counts with their names, in a fixed order.
            #[must_use]
            pub fn table(&self) -> [(&'static str, u64); Self::COUNT] {
                [$((stringify!($name), self.$name)),+]
            }

            pub(super) fn and(self, other: &Self) -> Self {
                Self { $($name: self.$name + other.$name,)+ }
            }
        }

        #[derive(Debug, Default)]
        pub(in crate::sinks) struct $live {
            $(pub(in crate::sinks) $name: AtomicU64,)+
        }

        impl $live {
            fn now(&self) -> $now {
                $now { $($name: self.$name.load(Relaxed),)+ }
            }
        }
    };
}

counts! {
    /// Messages dropped by one sink, by reason.
    Dropped, DropCounters {
        /// The sink was slower than the tap for too long.
        queue_full,
        /// The queue was full because there was no connection to the collector.
        disconnected,
        /// The disk was full.
        disk_full,
        /// The output failed: device gone, disk broken.
        io_error,
        /// The broker takes no record of this size.
        too_large,
        /// The broker refused them for another reason, such as missing rights or no such topic.
        rejected,
        /// The output's form cannot show them: no DNS message in the frame.
        unfit,
        /// The reader of a pipe went away.
        closed,
        /// Still queued when the time to finish was over, or when the collector was not there at the end.
        shutdown,
    }
}

counts! {
    /// What became of the files of an output.
    Files, FileCounters {
        /// Files that were left for the next.
        rotations,
        /// Files that were begun on request, because others had renamed or removed the one before.
        reopened,
        /// Failed attempts to begin a file or to delete old ones.
        rotation_errors,
        /// Complete files whose program failed or was not run.
        command_errors,
        /// Messages of a table that became rows alone because too many waited for their query or response.
        evicted,
    }
}

counts! {
    /// What became of the records of an output to Kafka.
    Records, RecordCounters {
        /// Records that were sent once more, because a broker did not answer or could not take them.
        retries,
        /// Requests that failed, and connections that ended.
        errors,
        /// Records of an earlier run that were delivered from the spool.
        replayed,
        /// Records of an earlier run that a broker refused for good.
        replay_dropped,
        /// Bytes of the spool that could not be read: the end of a segment that a crash cut, or damage.
        damaged_bytes,
    }
}

/// State of an output to Kafka at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Broker {
    /// What became of its records.
    pub records: Records,
    /// Brokers with a connection.
    pub brokers: u64,
    /// Messages that brokers have not acknowledged yet; they are a part of the queued ones.
    pub in_flight: u64,
    /// Messages in the spool, those of earlier runs included.
    pub spooled: u64,
    /// Bytes of the spool on the disk.
    pub spooled_bytes: u64,
}

impl Broker {
    /// Returns the state by name, in a fixed order.
    #[must_use]
    pub fn gauges(&self) -> [(&'static str, u64); 4] {
        [
            ("brokers", self.brokers),
            ("in_flight", self.in_flight),
            ("spooled", self.spooled),
            ("spooled_bytes", self.spooled_bytes),
        ]
    }
}

/// The counters behind a [`Broker`].
#[derive(Debug, Default)]
pub(in crate::sinks) struct BrokerCounters {
    pub(in crate::sinks) records: RecordCounters,
    pub(in crate::sinks) brokers: AtomicU64,
    pub(in crate::sinks) in_flight: AtomicU64,
    pub(in crate::sinks) spooled: AtomicU64,
    pub(in crate::sinks) spooled_bytes: AtomicU64,
}

impl BrokerCounters {
    fn now(&self) -> Broker {
        Broker {
            records: self.records.now(),
            brokers: self.brokers.load(Relaxed),
            in_flight: self.in_flight.load(Relaxed),
            spooled: self.spooled.load(Relaxed),
            spooled_bytes: self.spooled_bytes.load(Relaxed),
        }
    }
}

/// Increases a counter.
pub(in crate::sinks) fn add(counter: &AtomicU64, messages: u64) {
    counter.fetch_add(messages, Relaxed);
}

/// The counters behind a [`SinkReport`], shared by the sender and the sink's thread.
#[derive(Debug, Default)]
pub(in crate::sinks) struct Account {
    pub(in crate::sinks) sent: AtomicU64,
    pub(in crate::sinks) written: AtomicU64,
    pub(in crate::sinks) written_bytes: AtomicU64,
    /// Messages that the output holds in its own memory; they count as queued.
    pub(in crate::sinks) held: AtomicU64,
    pub(in crate::sinks) unconfirmed: AtomicU64,
    pub(in crate::sinks) connections: AtomicU64,
    pub(in crate::sinks) dropped: DropCounters,
    pub(in crate::sinks) delays: Delays,
    pub(in crate::sinks) files: Arc<FileCounters>,
    /// Counters of an output to Kafka; it sets them.
    pub(in crate::sinks) broker: OnceLock<BrokerCounters>,
    /// Whether the queue empties without a connection, because a spool takes what is in it.
    pub(in crate::sinks) has_spool: AtomicBool,
    /// Whether messages are dropped because the output has no room on the disk.
    pub(in crate::sinks) lacks_room: AtomicBool,
    state: Mutex<SinkState>,
}

impl Account {
    pub(in crate::sinks) fn state(&self) -> SinkState {
        self.lock().clone()
    }

    /// Changes the state. The first end is final.
    pub(in crate::sinks) fn become_state(&self, state: SinkState) {
        let mut now = self.lock();
        if !now.is_over() {
            *now = state;
        }
    }

    /// Counts messages that an ended sink could not accept, under the reason of its end.
    pub(in crate::sinks) fn lost(&self, messages: u64) {
        let counter = match self.state() {
            SinkState::Closed => &self.dropped.closed,
            SinkState::Failed(_) => &self.dropped.io_error,
            SinkState::Running | SinkState::Waiting(_) | SinkState::Finished => {
                &self.dropped.shutdown
            }
        };
        add(counter, messages);
    }

    /// Returns whether nothing more can be written.
    pub(in crate::sinks) fn is_over(&self) -> bool {
        self.lock().is_over()
    }

    fn lock(&self) -> MutexGuard<'_, SinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the account without the messages of the queue; those that the output holds are queued.
    pub(in crate::sinks) fn report(&self, output: &str) -> SinkReport {
        // Read it first: a message that is written meanwhile is then counted twice rather than not at all.
        let held = self.held.load(Relaxed);
        SinkReport {
            takes: Takes::default(),
            output: output.to_owned(),
            state: self.state(),
            sent: self.sent.load(Relaxed),
            absent: 0,
            written: self.written.load(Relaxed),
            written_bytes: self.written_bytes.load(Relaxed),
            unconfirmed: self.unconfirmed.load(Relaxed),
            connections: self.connections.load(Relaxed),
            dropped: self.dropped.now(),
            files: self.files.now(),
            broker: self.broker.get().map(BrokerCounters::now),
            queued: held,
            queued_bytes: 0,
            delay: self.delays.summary(),
        }
    }
}

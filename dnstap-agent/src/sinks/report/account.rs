//! Owns the counters of one sink, shared by the sender and the sink's thread.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::{Dropped, Files, SinkReport, SinkState, delay::Delays};

/// The counters behind [`Files`].
#[derive(Debug, Default)]
pub(in crate::sinks) struct FileCounters {
    pub(in crate::sinks) rotations: AtomicU64,
    pub(in crate::sinks) reopened: AtomicU64,
    pub(in crate::sinks) rotation_errors: AtomicU64,
    pub(in crate::sinks) command_errors: AtomicU64,
}

impl FileCounters {
    fn now(&self) -> Files {
        Files {
            rotations: self.rotations.load(Relaxed),
            reopened: self.reopened.load(Relaxed),
            rotation_errors: self.rotation_errors.load(Relaxed),
            command_errors: self.command_errors.load(Relaxed),
        }
    }
}

/// A counter goes up.
pub(in crate::sinks) fn add(counter: &AtomicU64, messages: u64) {
    counter.fetch_add(messages, Relaxed);
}

/// The counters behind a [`SinkReport`], shared by the sender and the sink's thread.
#[derive(Debug, Default)]
pub(in crate::sinks) struct Account {
    pub(in crate::sinks) sent: AtomicU64,
    pub(in crate::sinks) written: AtomicU64,
    pub(in crate::sinks) written_bytes: AtomicU64,
    pub(in crate::sinks) unconfirmed: AtomicU64,
    pub(in crate::sinks) connections: AtomicU64,
    pub(in crate::sinks) queue_full: AtomicU64,
    pub(in crate::sinks) disconnected: AtomicU64,
    pub(in crate::sinks) disk_full: AtomicU64,
    pub(in crate::sinks) io_error: AtomicU64,
    pub(in crate::sinks) unfit: AtomicU64,
    pub(in crate::sinks) closed: AtomicU64,
    pub(in crate::sinks) shutdown: AtomicU64,
    pub(in crate::sinks) delays: Delays,
    pub(in crate::sinks) files: Arc<FileCounters>,
    state: Mutex<SinkState>,
}

impl Account {
    pub(in crate::sinks) fn state(&self) -> SinkState {
        self.lock().clone()
    }

    /// The next state. The first end is the one that counts.
    pub(in crate::sinks) fn become_state(&self, state: SinkState) {
        let mut now = self.lock();
        if !now.is_over() {
            *now = state;
        }
    }

    /// Messages that an ended sink could not take, under the reason of its end.
    pub(in crate::sinks) fn lost(&self, messages: u64) {
        let counter = match self.state() {
            SinkState::Closed => &self.closed,
            SinkState::Failed(_) => &self.io_error,
            SinkState::Running | SinkState::Waiting(_) | SinkState::Finished => &self.shutdown,
        };
        add(counter, messages);
    }

    /// Whether nothing more can be written.
    pub(in crate::sinks) fn is_over(&self) -> bool {
        self.lock().is_over()
    }

    fn lock(&self) -> MutexGuard<'_, SinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All but what is queued.
    pub(in crate::sinks) fn report(&self, output: &str) -> SinkReport {
        SinkReport {
            output: output.to_owned(),
            state: self.state(),
            sent: self.sent.load(Relaxed),
            absent: 0,
            written: self.written.load(Relaxed),
            written_bytes: self.written_bytes.load(Relaxed),
            unconfirmed: self.unconfirmed.load(Relaxed),
            connections: self.connections.load(Relaxed),
            dropped: Dropped {
                queue_full: self.queue_full.load(Relaxed),
                disconnected: self.disconnected.load(Relaxed),
                disk_full: self.disk_full.load(Relaxed),
                io_error: self.io_error.load(Relaxed),
                unfit: self.unfit.load(Relaxed),
                closed: self.closed.load(Relaxed),
                shutdown: self.shutdown.load(Relaxed),
            },
            files: self.files.now(),
            queued: 0,
            queued_bytes: 0,
            delay: self.delays.summary(),
        }
    }
}

//! One sink as the sender sees it: its queue, its account, and the thread that writes the queue's
//! batches to the output.

use std::{
    io, panic,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{Notify, watch};

use super::{Policy, Receiver, Refused, Sender, bounded};
use crate::sinks::{
    batch::Batch,
    report::{Account, SinkReport, SinkState, add},
};

/// Work of a sink's thread: takes queued batches, writes them and counts them, until the sender has
/// ended.
pub(in crate::sinks) type Work = Box<dyn FnOnce(Inlet) + Send>;

/// Error text for a runtime that the system could not create.
pub(in crate::sinks) fn no_runtime(error: &io::Error) -> String {
    format!("the system gives it nothing to wait on: {error}")
}

/// Time beyond the deadline in which a sink may count what it has not delivered.
const SETTLE: Duration = Duration::from_millis(500);

/// The sender's side of one sink.
#[derive(Debug)]
pub(in crate::sinks) struct SinkThread {
    name: String,
    queue: Sender,
    account: Arc<Account>,
    deadline: watch::Sender<Option<Instant>>,
    reopen: Arc<Notify>,
    /// Closes when the work ends in any way; nothing is ever sent.
    ended: mpsc::Receiver<()>,
    thread: Option<thread::JoinHandle<()>>,
}

/// The sink's side.
#[derive(Debug)]
pub(in crate::sinks) struct Inlet {
    /// Name of the output as the operator gave it.
    pub(in crate::sinks) name: String,
    pub(in crate::sinks) queue: Receiver,
    pub(in crate::sinks) account: Arc<Account>,
    /// Notified when the output's files may have been renamed.
    pub(in crate::sinks) reopen: Arc<Notify>,
    /// Time by which the sink must have ended; set when the sender ends.
    pub(in crate::sinks) deadline: watch::Receiver<Option<Instant>>,
    _alive: mpsc::Sender<()>,
}

impl SinkThread {
    /// Starts the thread. Fails if the system creates no thread.
    pub(in crate::sinks) fn start(
        name: String,
        work: Work,
        (capacity, policy, room): (usize, Policy, Arc<Notify>),
        account: Arc<Account>,
    ) -> io::Result<Self> {
        let (queue, receiver) = bounded(capacity, policy, room);
        let (deadline, its_deadline) = watch::channel(None);
        let (alive, ended) = mpsc::channel();
        let reopen = Arc::<Notify>::default();
        let inlet = Inlet {
            name: name.clone(),
            queue: receiver,
            account: Arc::clone(&account),
            reopen: Arc::clone(&reopen),
            deadline: its_deadline,
            _alive: alive,
        };
        let thread = thread::Builder::new()
            .name("sink".to_owned())
            .spawn(move || work(inlet))?;
        Ok(Self {
            name,
            queue,
            account,
            deadline,
            reopen,
            ended,
            thread: Some(thread),
        })
    }

    /// Queues the batch and counts what is dropped for it. Never blocks. Passes on a panic of the
    /// sink's thread.
    pub(in crate::sinks) fn send(&mut self, batch: &Batch) {
        add(&self.account.sent, batch.messages);
        match self.queue.send(batch.clone()) {
            Ok(0) => {}
            Ok(older) => add(self.reason(), older),
            Err(Refused::Full) => add(self.reason(), batch.messages),
            Err(Refused::Closed) => {
                if !self.account.is_over() && self.has_ended() {
                    self.join();
                }
                self.account.lost(batch.messages);
            }
        }
    }

    /// Returns the counter for the reason why the queue is full.
    fn reason(&self) -> &AtomicU64 {
        if self.account.lacks_room.load(Relaxed) {
            return &self.account.dropped.disk_full;
        }
        match (self.queue.policy(), self.account.state()) {
            (Policy::DropOldest, SinkState::Waiting(_))
                if !self.account.has_spool.load(Relaxed) =>
            {
                &self.account.dropped.disconnected
            }
            _ => &self.account.dropped.queue_full,
        }
    }

    /// Returns the notifier that makes the sink begin a new file if the old one was renamed or
    /// removed.
    pub(in crate::sinks) fn reopen(&self) -> Arc<Notify> {
        Arc::clone(&self.reopen)
    }

    pub(in crate::sinks) fn report(&self) -> SinkReport {
        // Read the queue first: a batch that leaves it meanwhile is then counted twice rather than
        // not at all.
        let depth = self.queue.depth();
        let report = self.account.report(&self.name);
        SinkReport {
            queued: depth.messages + report.queued,
            queued_bytes: depth.bytes as u64,
            ..report
        }
    }

    /// Returns whether the sink accepts this many bytes without dropping anything, or has ended and
    /// so never needs room.
    pub(in crate::sinks) fn has_room(&self, size: usize) -> bool {
        self.queue.has_room(size) || self.account.is_over()
    }

    /// Tells the thread that no more batches come. It may end when it has written the queue, and
    /// must end at `deadline`.
    pub(in crate::sinks) fn close(&self, deadline: Instant) {
        self.deadline.send_replace(Some(deadline));
        self.queue.end();
    }

    /// Returns whether [`Self::finish`] would not wait.
    pub(in crate::sinks) fn is_over(&self, deadline: Instant) -> bool {
        self.has_ended() || Instant::now() >= deadline + SETTLE
    }

    fn has_ended(&self) -> bool {
        self.ended.try_recv() == Err(mpsc::TryRecvError::Disconnected)
    }

    /// Waits until the work has ended, or has taken too long beyond `deadline`, and returns the
    /// final account.
    pub(in crate::sinks) fn finish(mut self, deadline: Instant) -> SinkReport {
        self.close(deadline);
        let left = (deadline + SETTLE).saturating_duration_since(Instant::now());
        if self.ended.recv_timeout(left) == Err(mpsc::RecvTimeoutError::Disconnected) {
            self.join();
            return self.report();
        }
        // From now on the thread writes nothing more.
        self.account.become_state(SinkState::Failed(format!(
            "{}: did not take its last messages in the time given",
            self.name
        )));
        let mut report = self.report();
        // A write in progress may still succeed. This is not known, so its messages count as
        // dropped.
        report.dropped.shutdown += report
            .sent
            .saturating_sub(report.written + report.dropped.total());
        (report.queued, report.queued_bytes) = (0, 0);
        report
    }

    /// Joins the thread. A panic of the sink's thread becomes the caller's.
    fn join(&mut self) {
        if let Some(Err(panic)) = self.thread.take().map(thread::JoinHandle::join) {
            panic::resume_unwind(panic);
        }
    }
}

//! Owns one sink as the sender sees it: its queue, its account, and the thread that empties the one into the output.

use std::{
    io, panic,
    sync::{Arc, atomic::AtomicU64, mpsc},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{Notify, watch};

use super::{Policy, Receiver, Refused, Sender, bounded};
use crate::sinks::{
    batch::Batch,
    report::{Account, SinkReport, SinkState, add},
};

/// What runs on a sink's thread: takes what is queued, writes it, and accounts for it, until nothing more is to come.
pub(in crate::sinks) type Work = Box<dyn FnOnce(Inlet) + Send>;

/// A runtime that the system does not give.
pub(in crate::sinks) fn no_runtime(error: &io::Error) -> String {
    format!("the system gives it nothing to wait on: {error}")
}

/// What a sink may take beyond the deadline, to account for what it has not delivered.
const SETTLE: Duration = Duration::from_millis(500);

/// The sender's side of one sink.
#[derive(Debug)]
pub(in crate::sinks) struct SinkThread {
    name: String,
    queue: Sender,
    account: Arc<Account>,
    deadline: watch::Sender<Option<Instant>>,
    reopen: Arc<Notify>,
    /// Nothing is ever sent: it closes when the work ends, in any way.
    ended: mpsc::Receiver<()>,
    thread: Option<thread::JoinHandle<()>>,
}

/// The sink's side.
#[derive(Debug)]
pub(in crate::sinks) struct Inlet {
    /// The output as the operator named it.
    pub(in crate::sinks) name: String,
    pub(in crate::sinks) queue: Receiver,
    pub(in crate::sinks) account: Arc<Account>,
    /// Told when the output's files may have been renamed.
    pub(in crate::sinks) reopen: Arc<Notify>,
    /// When to be over, once nothing more is to come.
    pub(in crate::sinks) deadline: watch::Receiver<Option<Instant>>,
    _alive: mpsc::Sender<()>,
}

impl SinkThread {
    /// Starts the thread. Fails when the system gives no thread.
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

    /// Queues the batch, and counts what is dropped for it. Never blocks. A panic of the sink's thread is passed on.
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

    /// Why the queue is full.
    fn reason(&self) -> &AtomicU64 {
        match (self.queue.policy(), self.account.state()) {
            (Policy::DropOldest, SinkState::Waiting(_)) => &self.account.dropped.disconnected,
            _ => &self.account.dropped.queue_full,
        }
    }

    /// What tells it to begin a new file if the old one was renamed or removed.
    pub(in crate::sinks) fn reopen(&self) -> Arc<Notify> {
        Arc::clone(&self.reopen)
    }

    pub(in crate::sinks) fn report(&self) -> SinkReport {
        // First: what leaves the queue meanwhile is then seen twice rather than not at all.
        let depth = self.queue.depth();
        SinkReport {
            queued: depth.messages,
            queued_bytes: depth.bytes as u64,
            ..self.account.report(&self.name)
        }
    }

    /// Whether it takes so many bytes without dropping anything, or never waits for room.
    pub(in crate::sinks) fn has_room(&self, size: usize) -> bool {
        self.queue.has_room(size) || self.account.is_over()
    }

    /// Nothing more is to come: the thread may end when it has written what is queued, and has to at `deadline`.
    pub(in crate::sinks) fn close(&self, deadline: Instant) {
        self.deadline.send_replace(Some(deadline));
        self.queue.end();
    }

    /// Whether [`Self::finish`] would not wait.
    pub(in crate::sinks) fn is_over(&self, deadline: Instant) -> bool {
        self.has_ended() || Instant::now() >= deadline + SETTLE
    }

    fn has_ended(&self) -> bool {
        self.ended.try_recv() == Err(mpsc::TryRecvError::Disconnected)
    }

    /// Waits until the work is over, or has taken too long beyond `deadline`, and gives the final account.
    pub(in crate::sinks) fn finish(mut self, deadline: Instant) -> SinkReport {
        self.close(deadline);
        let left = (deadline + SETTLE).saturating_duration_since(Instant::now());
        if self.ended.recv_timeout(left) == Err(mpsc::RecvTimeoutError::Disconnected) {
            self.join();
            return self.report();
        }
        // From now on the thread writes no more.
        self.account.become_state(SinkState::Failed(format!(
            "{}: did not take its last messages in the time given",
            self.name
        )));
        let mut report = self.report();
        // What is in flight may still arrive. That is not known, so it counts as dropped.
        report.dropped.shutdown += report
            .sent
            .saturating_sub(report.written + report.dropped.total());
        (report.queued, report.queued_bytes) = (0, 0);
        report
    }

    /// A panic of the sink's thread becomes the caller's.
    fn join(&mut self) {
        if let Some(Err(panic)) = self.thread.take().map(thread::JoinHandle::join) {
            panic::resume_unwind(panic);
        }
    }
}

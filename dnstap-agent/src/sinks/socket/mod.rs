//! Owns the collectors behind sockets as the sender sees them: a queue and an account each, and the one thread that all
//! their couriers share.
//!
//! A courier never waits for another: each is a task that waits for its own socket. The work of a task between two waits is
//! one write of one batch.

mod backoff;
mod connection;
mod courier;
#[cfg(test)]
mod tests;

use std::{
    io, panic,
    sync::{Arc, mpsc},
    thread,
    time::Instant,
};

use tokio::{sync::watch, task::JoinSet};

use self::courier::Courier;
use super::{
    Batch,
    backlog::{self, Sender},
    report::{Account, SinkReport, SinkState, add},
};
use crate::host::net::Address;

/// The sender's side of one socket.
#[derive(Debug)]
pub(super) struct SocketLane {
    name: String,
    /// `None` when nothing more is to come.
    queue: Option<Sender>,
    capacity: usize,
    account: Arc<Account>,
    deadline: watch::Sender<Option<tokio::time::Instant>>,
    /// Nothing is ever sent: it closes when the courier ends, in whatever way.
    ended: mpsc::Receiver<()>,
}

impl SocketLane {
    /// The lane, and the courier that is to run.
    pub(super) fn new(
        name: String,
        address: Address,
        capacity: usize,
        account: Arc<Account>,
    ) -> (Self, Courier) {
        let (queue, receiver) = backlog::bounded(capacity, account.depth());
        account.become_state(SinkState::Waiting("not connected yet".to_owned()));
        let (deadline, watched) = watch::channel(None);
        let (alive, ended) = mpsc::channel();
        let courier = Courier::new(
            name.clone(),
            address,
            receiver,
            Arc::clone(&account),
            watched,
            alive,
        );
        let lane = Self {
            name,
            queue: Some(queue),
            capacity,
            account,
            deadline,
            ended,
        };
        (lane, courier)
    }

    /// Queues the batch; what had to go for it is counted. Never blocks.
    pub(super) fn send(&mut self, batch: &Batch) {
        add(&self.account.sent, batch.messages);
        let Some(queue) = &self.queue else {
            return self.account.lost(batch.messages);
        };
        let dropped = queue.send(batch.clone());
        if dropped > 0 {
            let reason = match self.account.state() {
                SinkState::Waiting(_) => &self.account.disconnected,
                _ => &self.account.queue_full,
            };
            add(reason, dropped);
        }
    }

    /// Whether it takes so many bytes without dropping anything.
    pub(super) fn has_room(&self, size: usize) -> bool {
        self.account.has_room(size, self.capacity)
    }

    pub(super) fn report(&self) -> SinkReport {
        self.account.report(&self.name)
    }

    /// Nothing more is to come: the courier may end when it has delivered what is queued, and has to at `deadline`.
    pub(super) fn close(&mut self, deadline: Instant) {
        self.deadline.send_replace(Some(deadline.into()));
        self.queue = None;
    }

    /// Whether the courier is over.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.try_recv() == Err(mpsc::TryRecvError::Disconnected)
    }

    /// Waits until the courier is over, which it is soon after the deadline that it was given, and gives the final account.
    pub(super) fn finish(self) -> SinkReport {
        // It ends with an error, as nothing is sent.
        let _ended = self.ended.recv();
        self.report()
    }
}

/// The thread of all couriers.
#[derive(Debug)]
pub(super) struct Runtime {
    thread: thread::JoinHandle<()>,
}

impl Runtime {
    /// Starts it. Fails when the system gives no thread, or no descriptor to wait on.
    pub(super) fn start(couriers: Vec<Courier>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let work = move || {
            runtime.block_on(async {
                let mut tasks: JoinSet<()> = couriers.into_iter().map(Courier::run).collect();
                while let Some(ended) = tasks.join_next().await {
                    if let Err(panic) = ended {
                        panic::resume_unwind(panic.into_panic());
                    }
                }
            });
            // Not waiting for what cannot be interrupted: the look-up of a name.
            runtime.shutdown_background();
        };
        let thread = thread::Builder::new()
            .name("sockets".to_owned())
            .spawn(work)?;
        Ok(Self { thread })
    }

    /// Whether all couriers are over.
    pub(super) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits until all couriers are over, which they are soon after the deadline that they were given.
    pub(super) fn join(self) {
        if let Err(panic) = self.thread.join() {
            panic::resume_unwind(panic);
        }
    }
}

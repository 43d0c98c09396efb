//! Owns the queue between the ring's reader and one sink: bounded in bytes, never blocking the sender.
//!
//! | | |
//! |---|---|
//! | sender | the ring's reader thread, through [`SinkSet::send`](super::SinkSet::send); one only |
//! | receiver | the sink's thread; one only |
//! | capacity | bytes of frames, the batch that is being written included |
//! | when full | the new batch is refused; the sender counts it |
//!
//! A batch larger than the whole capacity is taken when nothing is queued, or it could never pass.

use std::sync::{
    Arc,
    atomic::{
        AtomicU64, AtomicUsize,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use tokio::sync::{Notify, mpsc};

use super::Batch;

/// The two ends of a queue that holds at most `capacity` bytes of frames.
pub(super) fn bounded(capacity: usize, depth: Arc<Depth>) -> (Sender, Receiver) {
    let (tx, rx) = mpsc::unbounded_channel();
    (
        Sender {
            tx,
            capacity,
            depth: Arc::clone(&depth),
        },
        Receiver { rx, depth },
    )
}

/// Why a batch was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// No room until the sink catches up.
    Full,
    /// The sink has ended.
    Closed,
}

/// How much waits: everything taken and not yet [`Receiver::done`].
#[derive(Debug, Default)]
pub(super) struct Depth {
    bytes: AtomicUsize,
    messages: AtomicU64,
    /// Told when there is less; shared by all sinks of a set.
    room: Arc<Notify>,
}

impl Depth {
    pub(super) fn new(room: Arc<Notify>) -> Self {
        Self {
            room,
            ..Self::default()
        }
    }

    pub(super) fn add(&self, batch: &Batch) {
        self.bytes.fetch_add(batch.frames.len(), Relaxed);
        self.messages.fetch_add(batch.messages, Relaxed);
    }

    /// Taken out. Who sees that in [`Self::messages`] sees also what was counted before.
    pub(super) fn sub(&self, batch: &Batch) {
        self.bytes.fetch_sub(batch.frames.len(), Relaxed);
        self.messages.fetch_sub(batch.messages, Release);
        self.room.notify_waiters();
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    pub(super) fn messages(&self) -> u64 {
        self.messages.load(Acquire)
    }
}

/// The reader's end. There is one, so the look at the depth and the addition need not be one step.
#[derive(Debug)]
pub(super) struct Sender {
    tx: mpsc::UnboundedSender<Batch>,
    capacity: usize,
    depth: Arc<Depth>,
}

impl Sender {
    /// Queues the batch, or says why not. Never blocks.
    pub(super) fn try_send(&mut self, batch: Batch) -> Result<(), Refused> {
        let size = batch.frames.len();
        let queued = self.depth.bytes();
        if queued > 0 && queued.saturating_add(size) > self.capacity {
            // A closed queue is not drained any more: the caller must learn that, not wait for room.
            return Err(if self.tx.is_closed() {
                Refused::Closed
            } else {
                Refused::Full
            });
        }
        // Counted first: the receiver must never subtract what was not added.
        self.depth.add(&batch);
        self.tx
            .send(batch)
            .map_err(|mpsc::error::SendError(batch)| {
                self.depth.sub(&batch);
                Refused::Closed
            })
    }
}

/// The sink's end.
#[derive(Debug)]
pub(super) struct Receiver {
    rx: mpsc::UnboundedReceiver<Batch>,
    depth: Arc<Depth>,
}

impl Receiver {
    /// The next batch; `None` when the sender is gone and all was taken out. Nothing is lost if the future is dropped.
    pub(super) async fn recv(&mut self) -> Option<Batch> {
        self.rx.recv().await
    }

    /// The batch is accounted for: its room is free again.
    pub(super) fn done(&self, batch: &Batch) {
        self.depth.sub(batch);
    }

    /// Refuses everything from now on; what was taken can still be received.
    pub(super) fn close(&mut self) {
        self.rx.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_refuses_and_takes_again_once_a_batch_is_done() {
        let (mut tx, mut rx) = bounded(100, Arc::default());
        assert_eq!(tx.try_send(batch(60)), Ok(()));
        assert_eq!(tx.try_send(batch(40)), Ok(()));
        assert_eq!(tx.try_send(batch(1)), Err(Refused::Full));
        let first = rx.rx.blocking_recv().expect("queued");
        assert_eq!(
            tx.try_send(batch(60)),
            Err(Refused::Full),
            "a batch being written still takes its room"
        );
        rx.done(&first);
        assert_eq!(tx.try_send(batch(60)), Ok(()));
        assert_eq!((tx.depth.bytes(), tx.depth.messages()), (100, 2));
    }

    #[test]
    fn a_batch_larger_than_the_queue_passes_when_it_is_alone() {
        let (mut tx, _rx) = bounded(100, Arc::default());
        assert_eq!(tx.try_send(batch(1000)), Ok(()));
        assert_eq!(tx.try_send(batch(1)), Err(Refused::Full));
    }

    #[test]
    fn a_closed_queue_gives_out_what_it_had_and_takes_no_more() {
        let (mut tx, mut rx) = bounded(100, Arc::default());
        assert_eq!(tx.try_send(batch(100)), Ok(()));
        rx.close();
        assert_eq!(tx.try_send(batch(100)), Err(Refused::Closed));
        let last = rx.rx.blocking_recv().expect("taken before");
        rx.done(&last);
        assert!(rx.rx.blocking_recv().is_none());
        assert_eq!(tx.try_send(batch(10)), Err(Refused::Closed));
        assert_eq!((tx.depth.bytes(), tx.depth.messages()), (0, 0));
    }

    fn batch(size: usize) -> Batch {
        Batch {
            frames: vec![0; size].into(),
            messages: 1,
        }
    }
}

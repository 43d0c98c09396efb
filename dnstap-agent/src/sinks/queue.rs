//! Owns the queue between the ring's reader and one sink: bounded in bytes, never blocking the sender.
//!
//! | | |
//! |---|---|
//! | sender | the ring's reader thread, through [`SinkSet::send`](super::SinkSet::send); one only |
//! | receiver | the sink's thread; one only |
//! | capacity | bytes of frames, the batch that is being written included, and [`OVERHEAD`] for each that waits |
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

/// What a batch in the queue takes beside its frames: its place, and the three words through which `Bytes` shares an allocation.
/// Without it, a queue of messages that come one by one would take many times its capacity.
pub(super) const OVERHEAD: usize = size_of::<Batch>() + 3 * size_of::<usize>();

/// The two ends of a queue that takes at most `capacity` bytes.
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
    /// Batches that have a place in the queue; not the one that is being written.
    places: AtomicUsize,
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

    /// Comes into the queue.
    pub(super) fn add(&self, batch: &Batch) {
        self.enter();
        self.bytes.fetch_add(batch.frames.len(), Relaxed);
        self.messages.fetch_add(batch.messages, Relaxed);
    }

    /// A batch takes a place in the queue; what it holds is counted by [`Self::add`] alone.
    pub(super) fn enter(&self) {
        self.places.fetch_add(1, Relaxed);
    }

    /// A batch gives its place up. What it holds counts until [`Self::sub`].
    pub(super) fn leave(&self) {
        self.places.fetch_sub(1, Relaxed);
        self.room.notify_waiters();
    }

    /// Accounted for, in one or in several parts. Who sees that in [`Self::messages`] sees also what was counted before.
    pub(super) fn sub(&self, batch: &Batch) {
        self.bytes.fetch_sub(batch.frames.len(), Relaxed);
        self.messages.fetch_sub(batch.messages, Release);
        self.room.notify_waiters();
    }

    /// Bytes of frames.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    pub(super) fn messages(&self) -> u64 {
        self.messages.load(Acquire)
    }

    /// Whether so many bytes of frames fit beside what is there, or there is nothing.
    pub(super) fn has_room(&self, size: usize, capacity: usize) -> bool {
        let taken = self.taken();
        taken == 0 || taken.saturating_add(size).saturating_add(OVERHEAD) <= capacity
    }

    /// Bytes of memory.
    pub(super) fn taken(&self) -> usize {
        self.bytes() + self.places.load(Relaxed) * OVERHEAD
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
        if !self.depth.has_room(batch.frames.len(), self.capacity) {
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
                self.depth.leave();
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
        let batch = self.rx.recv().await?;
        self.depth.leave();
        Some(batch)
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

    #[tokio::test]
    async fn a_full_queue_refuses_and_takes_again_once_a_batch_is_done() {
        let (mut tx, mut rx) = bounded(100 + 2 * OVERHEAD, Arc::default());
        assert_eq!(tx.try_send(batch(60)), Ok(()));
        assert_eq!(tx.try_send(batch(40)), Ok(()));
        assert_eq!(tx.try_send(batch(1)), Err(Refused::Full));
        let first = rx.recv().await.expect("queued");
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
    fn small_batches_take_no_more_memory_than_large_ones() {
        let (mut tx, _rx) = bounded(64 << 10, Arc::default());
        let taken = (0..64 << 10)
            .take_while(|_| tx.try_send(batch(6)).is_ok())
            .count();
        let memory = taken * (size_of::<Batch>() + 6);
        assert!(taken > 500 && memory <= 64 << 10, "{taken} batches");
        assert_eq!(tx.depth.bytes(), taken * 6, "bytes of frames");
    }

    #[tokio::test]
    async fn a_closed_queue_gives_out_what_it_had_and_takes_no_more() {
        let (mut tx, mut rx) = bounded(100, Arc::default());
        assert_eq!(tx.try_send(batch(100)), Ok(()));
        rx.close();
        assert_eq!(tx.try_send(batch(100)), Err(Refused::Closed));
        let last = rx.recv().await.expect("taken before");
        rx.done(&last);
        assert!(rx.recv().await.is_none());
        assert_eq!(tx.try_send(batch(10)), Err(Refused::Closed));
        assert_eq!((tx.depth.taken(), tx.depth.messages()), (0, 0));
    }

    fn batch(size: usize) -> Batch {
        Batch {
            frames: vec![0; size].into(),
            messages: 1,
        }
    }
}

//! Owns the queue between the sender and one socket: bounded in bytes, never blocking the sender, the oldest dropped.
//!
//! | | |
//! |---|---|
//! | sender | the ring's reader, or `receive`, through [`SinkSet::send`](super::SinkSet::send); one only |
//! | receiver | the sink's task; one only |
//! | capacity | bytes of frames, and [`OVERHEAD`] for each batch; beside it, the batch that is being written |
//! | when full | the oldest batches make room; the sender counts them |
//!
//! The newest is kept, for a collector that comes back after an hour wants to know what is happening, not what happened when it
//! went. (A file that is too slow drops the newest instead, see `queue`: its messages are in order without that.) A batch
//! that came back from a broken connection is the oldest. A lock is held for the moment of moving a batch only.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::{
    Batch,
    queue::{Depth, OVERHEAD},
};

/// The two ends of a queue that takes at most `capacity` bytes, or holds one batch that is larger.
pub(super) fn bounded(capacity: usize, depth: Arc<Depth>) -> (Sender, Receiver) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State::default()),
        arrived: Notify::new(),
        capacity,
        depth,
    });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Told when a batch arrives or the sender is gone.
    arrived: Notify,
    capacity: usize,
    depth: Arc<Depth>,
}

#[derive(Debug, Default)]
struct State {
    batches: VecDeque<Batch>,
    bytes: usize,
    closed: bool,
}

impl State {
    fn pop(&mut self) -> Option<Batch> {
        let oldest = self.batches.pop_front()?;
        self.bytes -= oldest.frames.len();
        Some(oldest)
    }

    /// Whether so many bytes of frames fit beside what is there.
    fn has_room(&self, size: usize, capacity: usize) -> bool {
        let taken = self.bytes + (self.batches.len() + 1) * OVERHEAD;
        taken.saturating_add(size) <= capacity
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sender's end.
#[derive(Debug)]
pub(super) struct Sender(Arc<Shared>);

impl Sender {
    /// Queues the batch and says how many older messages had to go for it. Never waits for room.
    pub(super) fn send(&self, batch: Batch) -> u64 {
        let Shared {
            capacity, depth, ..
        } = &*self.0;
        let mut gone = Vec::new();
        depth.add(&batch);
        let mut state = self.0.lock();
        while !state.has_room(batch.frames.len(), *capacity) {
            let Some(oldest) = state.pop() else {
                break;
            };
            gone.push(oldest);
        }
        state.bytes += batch.frames.len();
        state.batches.push_back(batch);
        drop(state);
        self.0.arrived.notify_one();
        // Their memory is given back without the lock.
        let mut dropped = 0;
        for oldest in gone {
            depth.leave();
            depth.sub(&oldest);
            dropped += oldest.messages;
        }
        dropped
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.arrived.notify_one();
    }
}

/// The sink's end.
#[derive(Debug)]
pub(super) struct Receiver(Arc<Shared>);

impl Receiver {
    /// The oldest batch; `None` when the sender is gone and all was taken out. Nothing is lost if the future is dropped.
    pub(super) async fn next(&mut self) -> Option<Batch> {
        loop {
            {
                let mut state = self.0.lock();
                if let Some(batch) = state.pop() {
                    self.0.depth.leave();
                    return Some(batch);
                }
                if state.closed {
                    return None;
                }
            }
            self.0.arrived.notified().await;
        }
    }

    /// The batch, or a part of it, is accounted for.
    pub(super) fn done(&self, batch: &Batch) {
        self.0.depth.sub(batch);
    }

    /// Takes back what could not be delivered, as the oldest.
    pub(super) fn put_back(&mut self, rest: Batch) {
        self.0.depth.enter();
        let mut state = self.0.lock();
        state.bytes += rest.frames.len();
        state.batches.push_front(rest);
    }

    /// Whether nothing waits, and nothing will.
    pub(super) fn is_over(&self) -> bool {
        let state = self.0.lock();
        state.closed && state.batches.is_empty()
    }

    /// Throws away what waits and says how many messages these were.
    pub(super) fn abandon(&mut self) -> u64 {
        let rest = {
            let mut state = self.0.lock();
            state.bytes = 0;
            std::mem::take(&mut state.batches)
        };
        let mut dropped = 0;
        for batch in rest {
            self.0.depth.leave();
            self.done(&batch);
            dropped += batch.messages;
        }
        dropped
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_full_queue_drops_its_oldest() {
        let (tx, mut rx) = queue(100 + 2 * OVERHEAD);
        assert_eq!(tx.send(batch(60, 1)), 0);
        assert_eq!(tx.send(batch(40, 2)), 0);
        assert_eq!(tx.send(batch(30, 3)), 1, "60 make room for 30");
        assert_eq!(tx.send(batch(100 + OVERHEAD, 4)), 5);
        assert_eq!(now(&mut rx).map(|batch| batch.messages), Some(4));
        assert_eq!(now(&mut rx), None);
    }

    #[test]
    fn a_batch_larger_than_the_queue_passes_alone() {
        let (tx, mut rx) = queue(100);
        assert_eq!(tx.send(batch(10, 1)), 0);
        assert_eq!(tx.send(batch(1000, 2)), 1);
        assert_eq!(tx.send(batch(10, 4)), 2);
        assert_eq!(now(&mut rx).map(|batch| batch.messages), Some(4));
    }

    #[test]
    fn what_came_back_is_the_oldest() {
        let (tx, mut rx) = queue(100 + 2 * OVERHEAD);
        tx.send(batch(50, 1));
        tx.send(batch(50, 2));
        let mut first = now(&mut rx).expect("queued");
        first.messages = 1;
        rx.put_back(first);
        assert_eq!(tx.send(batch(50, 4)), 1);
        assert_eq!(now(&mut rx).map(|batch| batch.messages), Some(2));
    }

    #[test]
    fn small_batches_take_no_more_memory_than_large_ones() {
        let (tx, _rx) = queue(64 << 10);
        let sent = 64 << 10;
        let dropped: u64 = (0..sent).map(|_| tx.send(batch(6, 1))).sum();
        let queued = usize::try_from(sent - dropped).expect("small");
        let memory = queued * (size_of::<Batch>() + 6);
        assert!(queued > 500 && memory <= 64 << 10, "{queued} batches");
        assert_eq!(tx.0.depth.bytes(), queued * 6, "bytes of frames");
    }

    #[tokio::test]
    async fn the_end_comes_after_everything_was_taken_out() {
        let (tx, mut rx) = queue(100);
        let depth = Arc::clone(&tx.0.depth);
        tx.send(batch(10, 1));
        assert!(!rx.is_over());
        drop(tx);
        assert!(!rx.is_over());
        assert!(rx.next().await.is_some());
        assert_eq!(depth.taken(), 10, "its frames, and no place");
        assert!(rx.next().await.is_none());
        assert!(rx.is_over());
    }

    #[tokio::test]
    async fn the_receiver_is_woken() {
        let (tx, mut rx) = queue(100);
        let waiting = tokio::spawn(async move { rx.next().await });
        tokio::task::yield_now().await;
        tx.send(batch(10, 1));
        assert_eq!(waiting.await.expect("no panic"), Some(batch(10, 1)));
    }

    proptest! {
        /// sent = taken + dropped + queued, after every step, and the bound holds.
        #[test]
        fn every_message_is_somewhere(steps in prop::collection::vec((0..4_u8, 0..80_usize, 1..5_u64), 0..60)) {
            let capacity = 100 + 3 * OVERHEAD;
            let (tx, mut rx) = queue(capacity);
            let depth = Arc::clone(&tx.0.depth);
            let (mut sent, mut dropped, mut taken) = (0, 0, 0);
            for (step, size, messages) in steps {
                match step {
                    0 | 1 => {
                        sent += messages;
                        dropped += tx.send(batch(size, messages));
                    }
                    2 => if let Some(batch) = now(&mut rx) {
                        rx.done(&batch);
                        taken += batch.messages;
                    },
                    _ => if let Some(batch) = now(&mut rx) {
                        rx.put_back(batch);
                    },
                }
                prop_assert_eq!(sent, taken + dropped + depth.messages());
                prop_assert!(depth.taken() <= capacity);
            }
            dropped += rx.abandon();
            prop_assert_eq!((sent, depth.messages(), depth.taken()), (taken + dropped, 0, 0));
        }
    }

    fn queue(capacity: usize) -> (Sender, Receiver) {
        bounded(capacity, Arc::default())
    }

    /// What is there without waiting.
    fn now(rx: &mut Receiver) -> Option<Batch> {
        let batch = rx.0.lock().pop()?;
        rx.0.depth.leave();
        Some(batch)
    }

    fn batch(size: usize, messages: u64) -> Batch {
        Batch {
            frames: vec![0; size].into(),
            messages,
        }
    }
}

//! Owns the queue between the sender and one socket: bounded in bytes, never blocking the sender, the oldest dropped.
//!
//! | | |
//! |---|---|
//! | sender | the ring's reader, or `receive`, through [`SinkSet::send`](super::SinkSet::send); one only |
//! | receiver | the sink's task; one only |
//! | capacity | bytes of frames; beside it, the batch that is being written |
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

use super::{Batch, queue::Depth};

/// The two ends of a queue that holds at most `capacity` bytes of frames, or one batch that is larger.
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
        while state.bytes > 0 && state.bytes.saturating_add(batch.frames.len()) > *capacity {
            let Some(oldest) = state.batches.pop_front() else {
                break;
            };
            state.bytes -= oldest.frames.len();
            gone.push(oldest);
        }
        state.bytes += batch.frames.len();
        state.batches.push_back(batch);
        drop(state);
        self.0.arrived.notify_one();
        // Their memory is given back without the lock.
        let mut dropped = 0;
        for oldest in gone {
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
                if let Some(batch) = state.batches.pop_front() {
                    state.bytes -= batch.frames.len();
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
        let (tx, mut rx) = queue(100);
        assert_eq!(tx.send(batch(60, 1)), 0);
        assert_eq!(tx.send(batch(40, 2)), 0);
        assert_eq!(tx.send(batch(30, 3)), 1, "60 make room for 30");
        assert_eq!(tx.send(batch(100, 4)), 5);
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
        let (tx, mut rx) = queue(100);
        tx.send(batch(50, 1));
        tx.send(batch(50, 2));
        let mut first = now(&mut rx).expect("queued");
        first.messages = 1;
        rx.put_back(first);
        assert_eq!(tx.send(batch(50, 4)), 1);
        assert_eq!(now(&mut rx).map(|batch| batch.messages), Some(2));
    }

    #[tokio::test]
    async fn the_end_comes_after_everything_was_taken_out() {
        let (tx, mut rx) = queue(100);
        tx.send(batch(10, 1));
        assert!(!rx.is_over());
        drop(tx);
        assert!(!rx.is_over());
        assert!(rx.next().await.is_some());
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
            let (tx, mut rx) = queue(100);
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
                prop_assert!(depth.bytes() <= 100);
            }
            dropped += rx.abandon();
            prop_assert_eq!((sent, depth.messages(), depth.bytes()), (taken + dropped, 0, 0));
        }
    }

    fn queue(capacity: usize) -> (Sender, Receiver) {
        bounded(capacity, Arc::default())
    }

    /// What is there without waiting.
    fn now(rx: &mut Receiver) -> Option<Batch> {
        let mut state = rx.0.lock();
        let batch = state.batches.pop_front()?;
        state.bytes -= batch.frames.len();
        Some(batch)
    }

    fn batch(size: usize, messages: u64) -> Batch {
        Batch {
            frames: vec![0; size].into(),
            messages,
        }
    }
}

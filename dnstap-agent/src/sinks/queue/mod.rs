//! Owns the queue between the sender and one sink, and how a sink's thread takes from it (`sink_thread`, `blocking`).
//!
//! | | |
//! |---|---|
//! | sender | the ring's reader, or `receive`, through [`SinkSet::send`](super::SinkSet::send); one only |
//! | receiver | the sink's thread; one only |
//! | capacity | bytes of batches, the one that is being written included, and [`OVERHEAD`] for each that waits |
//! | when full | what the sink's [`Policy`] says; the sender counts what is dropped, and never waits |
//!
//! A batch larger than the whole capacity is taken when nothing else waits, or it could never pass. A lock is held for the
//! moment of moving a batch only.

pub(super) mod blocking;
pub(super) mod sink_thread;

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::batch::Batch;

/// What a batch in the queue takes beside its bytes: its place, and the three words through which `Bytes` shares an allocation.
/// Without it, a queue of messages that come one by one would take many times its capacity.
pub(in crate::sinks) const OVERHEAD: usize = size_of::<Batch>() + 3 * size_of::<usize>();

/// What is dropped when the queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sinks) enum Policy {
    /// The new batch. A file is in order without it.
    DropNewest,
    /// The batches that have waited longest: a collector that comes back after an hour wants to know what is happening,
    /// not what happened when it went.
    DropOldest,
}

/// Why a batch was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sinks) enum Refused {
    /// No room until the sink catches up.
    Full,
    /// One end is gone.
    Closed,
}

/// The two ends of a queue that takes at most `capacity` bytes; `room` is told each time when there may be more room.
pub(in crate::sinks) fn bounded(
    capacity: usize,
    policy: Policy,
    room: Arc<Notify>,
) -> (Sender, Receiver) {
    let shared = Arc::new(Shared {
        state: Mutex::default(),
        arrived: Notify::new(),
        room,
        capacity,
        policy,
    });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Told when a batch arrives or the sender is gone.
    arrived: Notify,
    room: Arc<Notify>,
    capacity: usize,
    policy: Policy,
}

#[derive(Debug, Default)]
struct State {
    batches: VecDeque<Batch>,
    depth: Depth,
    /// Nothing more is to come.
    ended: bool,
    /// Nothing more is taken out.
    refuses: bool,
}

/// How much waits: everything taken and not yet [`done`](Receiver::done).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::sinks) struct Depth {
    /// Bytes of the batches.
    pub(in crate::sinks) bytes: usize,
    /// Messages in them.
    pub(in crate::sinks) messages: u64,
}

impl State {
    fn has_room(&self, size: usize, capacity: usize) -> bool {
        let taken = self.depth.bytes + self.batches.len() * OVERHEAD;
        taken == 0 || taken.saturating_add(size).saturating_add(OVERHEAD) <= capacity
    }

    fn done(&mut self, batch: &Batch) {
        self.depth.bytes -= batch.size();
        self.depth.messages -= batch.messages;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sender's end.
#[derive(Debug)]
pub(in crate::sinks) struct Sender(Arc<Shared>);

impl Sender {
    /// Queues the batch and says how many older messages had to go for it, or why it is not taken. Never waits for room.
    pub(in crate::sinks) fn send(&self, batch: Batch) -> Result<u64, Refused> {
        let Shared {
            capacity, policy, ..
        } = &*self.0;
        let mut gone = Vec::new();
        let mut state = self.0.lock();
        // Not the same as full: a source that waits for room would wait for ever.
        if state.ended || state.refuses {
            return Err(Refused::Closed);
        }
        while !state.has_room(batch.size(), *capacity) {
            match policy {
                Policy::DropNewest => return Err(Refused::Full),
                Policy::DropOldest => match state.batches.pop_front() {
                    Some(oldest) => {
                        state.done(&oldest);
                        gone.push(oldest);
                    }
                    // What is being written cannot be dropped.
                    None => break,
                },
            }
        }
        state.depth.bytes += batch.size();
        state.depth.messages += batch.messages;
        state.batches.push_back(batch);
        drop(state);
        self.0.arrived.notify_one();
        // Their memory is given back without the lock.
        Ok(gone.iter().map(|oldest| oldest.messages).sum())
    }

    /// Nothing more is to come.
    pub(in crate::sinks) fn end(&self) {
        self.0.lock().ended = true;
        self.0.arrived.notify_one();
    }

    pub(in crate::sinks) fn depth(&self) -> Depth {
        self.0.lock().depth
    }

    /// Whether a batch of so many bytes would be taken with nothing dropped for it.
    pub(in crate::sinks) fn has_room(&self, size: usize) -> bool {
        self.0.lock().has_room(size, self.0.capacity)
    }

    pub(in crate::sinks) fn policy(&self) -> Policy {
        self.0.policy
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.end();
    }
}

/// The sink's end.
#[derive(Debug)]
pub(in crate::sinks) struct Receiver(Arc<Shared>);

impl Receiver {
    /// The oldest batch; `None` when nothing more is to come and all was taken out. Nothing is lost if the future is dropped.
    pub(in crate::sinks) async fn recv(&mut self) -> Option<Batch> {
        loop {
            {
                let mut state = self.0.lock();
                if let Some(batch) = state.batches.pop_front() {
                    drop(state);
                    self.0.room.notify_waiters();
                    return Some(batch);
                }
                if state.ended {
                    return None;
                }
            }
            self.0.arrived.notified().await;
        }
    }

    /// Bytes that the queue takes.
    pub(in crate::sinks) fn capacity(&self) -> usize {
        self.0.capacity
    }

    /// The batch, or a part of it, is accounted for: its room is free again.
    pub(in crate::sinks) fn done(&self, batch: &Batch) {
        self.0.lock().done(batch);
        self.0.room.notify_waiters();
    }

    /// Takes back what could not be delivered, as the oldest.
    pub(in crate::sinks) fn put_back(&mut self, rest: Batch) {
        self.0.lock().batches.push_front(rest);
    }

    /// Whether nothing waits, and nothing will.
    pub(in crate::sinks) fn is_over(&self) -> bool {
        let state = self.0.lock();
        state.ended && state.batches.is_empty()
    }

    /// Refuses everything from now on, throws away what waits, and says how many messages these were.
    pub(in crate::sinks) fn abandon(&mut self) -> u64 {
        let rest = {
            let mut state = self.0.lock();
            state.refuses = true;
            mem::take(&mut state.batches)
        };
        // Without the lock: they may be many, and the sender does not wait.
        let bytes: usize = rest.iter().map(Batch::size).sum();
        let messages = rest.iter().map(|batch| batch.messages).sum();
        {
            let mut state = self.0.lock();
            state.depth.bytes -= bytes;
            state.depth.messages -= messages;
        }
        self.0.room.notify_waiters();
        messages
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.0.lock().refuses = true;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[tokio::test]
    async fn a_full_queue_refuses_the_newest_and_takes_again_once_a_batch_is_done() {
        let (tx, mut rx) = queue(100 + 2 * OVERHEAD, Policy::DropNewest);
        assert_eq!(tx.send(batch(60, 1)), Ok(0));
        assert_eq!(tx.send(batch(40, 1)), Ok(0));
        assert_eq!(tx.send(batch(1, 1)), Err(Refused::Full));
        let first = rx.recv().await.expect("queued");
        assert_eq!(
            tx.send(batch(60, 1)),
            Err(Refused::Full),
            "a batch being written still takes its room"
        );
        rx.done(&first);
        assert_eq!(tx.send(batch(60, 1)), Ok(0));
        assert_eq!((tx.depth().bytes, tx.depth().messages), (100, 2));
    }

    #[test]
    fn a_full_queue_drops_its_oldest() {
        let (tx, mut rx) = queue(100 + 2 * OVERHEAD, Policy::DropOldest);
        assert_eq!(tx.send(batch(60, 1)), Ok(0));
        assert_eq!(tx.send(batch(40, 2)), Ok(0));
        assert_eq!(tx.send(batch(30, 3)), Ok(1), "60 make room for 30");
        assert_eq!(tx.send(batch(100 + OVERHEAD, 4)), Ok(5));
        assert_eq!(now(&mut rx).map(|batch| batch.messages), Some(4));
        assert_eq!(now(&mut rx), None);
    }

    #[test]
    fn a_batch_larger_than_the_queue_passes_when_it_is_alone() {
        let (tx, _rx) = queue(100, Policy::DropNewest);
        assert_eq!(tx.send(batch(1000, 1)), Ok(0));
        assert_eq!(tx.send(batch(1, 1)), Err(Refused::Full));
        let (tx, mut rx) = queue(100, Policy::DropOldest);
        assert_eq!(tx.send(batch(10, 1)), Ok(0));
        assert_eq!(tx.send(batch(1000, 2)), Ok(1));
        assert_eq!(tx.send(batch(10, 4)), Ok(2));
        assert_eq!(now(&mut rx).map(|batch| batch.messages), Some(4));
    }

    #[test]
    fn what_came_back_is_the_oldest() {
        let (tx, mut rx) = queue(100 + 2 * OVERHEAD, Policy::DropOldest);
        tx.send(batch(50, 1)).expect("open");
        tx.send(batch(50, 2)).expect("open");
        let first = now(&mut rx).expect("queued");
        rx.put_back(first);
        assert_eq!(tx.send(batch(50, 4)), Ok(1));
        assert_eq!(now(&mut rx).map(|batch| batch.messages), Some(2));
    }

    #[rstest]
    fn small_batches_take_no_more_memory_than_large_ones(
        #[values(Policy::DropNewest, Policy::DropOldest)] policy: Policy,
    ) {
        let (tx, _rx) = queue(64 << 10, policy);
        for _ in 0..64 << 10 {
            let _full_at_last = tx.send(batch(6, 1));
        }
        let queued = usize::try_from(tx.depth().messages).expect("small");
        let memory = queued * (size_of::<Batch>() + 6);
        assert!(queued > 500 && memory <= 64 << 10, "{queued} batches");
        assert_eq!(tx.depth().bytes, queued * 6, "bytes of frames");
    }

    #[test]
    fn an_abandoned_queue_takes_no_more() {
        let (tx, mut rx) = queue(100, Policy::DropNewest);
        assert_eq!(tx.send(batch(100, 3)), Ok(0));
        assert_eq!(rx.abandon(), 3);
        assert_eq!(tx.send(batch(10, 1)), Err(Refused::Closed));
        assert_eq!(tx.depth(), Depth::default());
        let (tx, rx) = queue(100, Policy::DropOldest);
        drop(rx);
        assert_eq!(tx.send(batch(10, 1)), Err(Refused::Closed));
    }

    #[tokio::test]
    async fn the_end_comes_after_everything_was_taken_out() {
        let (tx, mut rx) = queue(100, Policy::DropOldest);
        tx.send(batch(10, 1)).expect("open");
        assert!(!rx.is_over());
        tx.end();
        assert_eq!(tx.send(batch(10, 1)), Err(Refused::Closed));
        assert!(!rx.is_over());
        let last = rx.recv().await.expect("taken before");
        assert_eq!(tx.depth().bytes, 10, "it is not written yet");
        rx.done(&last);
        assert!(rx.recv().await.is_none() && rx.is_over());
    }

    #[tokio::test]
    async fn the_receiver_is_woken() {
        let (tx, mut rx) = queue(100, Policy::DropNewest);
        let waiting = tokio::spawn(async move { rx.recv().await });
        tokio::task::yield_now().await;
        tx.send(batch(10, 1)).expect("open");
        assert_eq!(waiting.await.expect("no panic"), Some(batch(10, 1)));
    }

    proptest! {
        /// sent = taken + dropped + queued, after every step, and the bound holds.
        #[test]
        fn every_message_is_somewhere(
            oldest: bool,
            steps in prop::collection::vec((0..4_u8, 0..80_usize, 1..5_u64), 0..60),
        ) {
            let capacity = 100 + 3 * OVERHEAD;
            let policy = if oldest { Policy::DropOldest } else { Policy::DropNewest };
            let (tx, mut rx) = queue(capacity, policy);
            let (mut sent, mut dropped, mut taken) = (0, 0, 0);
            for (step, size, messages) in steps {
                match step {
                    0 | 1 => {
                        sent += messages;
                        dropped += tx.send(batch(size, messages)).unwrap_or(messages);
                    }
                    2 => if let Some(batch) = now(&mut rx) {
                        rx.done(&batch);
                        taken += batch.messages;
                    },
                    _ => if let Some(batch) = now(&mut rx) {
                        rx.put_back(batch);
                    },
                }
                prop_assert_eq!(sent, taken + dropped + tx.depth().messages);
                prop_assert!(tx.depth().bytes <= capacity);
            }
            dropped += rx.abandon();
            prop_assert_eq!((sent, tx.depth()), (taken + dropped, Depth::default()));
        }
    }

    fn queue(capacity: usize, policy: Policy) -> (Sender, Receiver) {
        bounded(capacity, policy, Arc::default())
    }

    /// What is there without waiting.
    fn now(rx: &mut Receiver) -> Option<Batch> {
        rx.0.lock().batches.pop_front()
    }

    fn batch(size: usize, messages: u64) -> Batch {
        Batch::new(vec![0; size], messages)
    }
}

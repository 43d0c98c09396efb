//! The queue between the sender and one sink. `sink_thread` and `blocking` take batches from it.
//!
//! | | |
//! |---|---|
//! | sender | the ring's reader, or `receive`, through [`SinkSet::send`](super::SinkSet::send); one only |
//! | receiver | the sink's thread; one only |
//! | capacity | bytes of batches, the one that is being written included, and [`OVERHEAD`] for each that waits |
//! | when full | what the sink's [`Policy`] says; the sender counts what is dropped, and never waits |
//!
//! A batch larger than the whole capacity is accepted if nothing else waits; otherwise it could
//! never pass. The lock is held only while a batch is moved.

pub(super) mod blocking;
pub(super) mod sink_thread;

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::batch::Batch;

/// Bytes that a batch in the queue takes in addition to its frames: its slot, and three words with
/// which `Bytes` shares an allocation. Without this, a queue of single messages would take many
/// times its capacity.
pub(in crate::sinks) const OVERHEAD: usize = size_of::<Batch>() + 3 * size_of::<usize>();

/// What is dropped when the queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sinks) enum Policy {
    /// The new batch. A file stays in order without it.
    DropNewest,
    /// The batches that have waited longest. A collector that returns after an hour needs the
    /// latest messages, not those from the time when it went away.
    DropOldest,
}

/// Reason why a batch was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sinks) enum Refused {
    /// No room until the sink catches up.
    Full,
    /// The sender or the receiver has ended.
    Closed,
}

/// Creates the two ends of a queue of `capacity` bytes. `room` is notified whenever room may have
/// become free.
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
    /// Notified when a batch arrives or the sender ends.
    arrived: Notify,
    room: Arc<Notify>,
    capacity: usize,
    policy: Policy,
}

#[derive(Debug, Default)]
struct State {
    batches: VecDeque<Batch>,
    depth: Depth,
    /// Messages that were sent to the queue, refused ones included.
    sent: u64,
    /// Whether the sender has ended.
    ended: bool,
    /// Whether the receiver takes no more batches.
    refuses: bool,
}

/// Amount that waits: everything accepted and not yet [`done`](Receiver::done).
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
    /// Queues the batch. Returns the number of older messages dropped for it, or the reason why it
    /// was refused. Never waits for room.
    pub(in crate::sinks) fn send(&self, mut batch: Batch) -> Result<u64, Refused> {
        let Shared {
            capacity, policy, ..
        } = &*self.0;
        let mut gone = Vec::new();
        let mut state = self.0.lock();
        batch.position = state.sent;
        state.sent += batch.messages;
        // Closed is not the same as full: a source that waits for room would wait for ever.
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
                    // The batch that is being written cannot be dropped.
                    None => break,
                },
            }
        }
        state.depth.bytes += batch.size();
        state.depth.messages += batch.messages;
        state.batches.push_back(batch);
        drop(state);
        self.0.arrived.notify_one();
        // The memory of the dropped batches is freed without the lock.
        Ok(gone.iter().map(|oldest| oldest.messages).sum())
    }

    /// Tells the receiver that no more batches come.
    pub(in crate::sinks) fn end(&self) {
        self.0.lock().ended = true;
        self.0.arrived.notify_one();
    }

    pub(in crate::sinks) fn depth(&self) -> Depth {
        self.0.lock().depth
    }

    /// Returns whether a batch of this size would be accepted without dropping another one.
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
    /// Waits for the oldest batch. Returns `None` when the sender has ended and the queue is empty.
    /// Dropping the future loses nothing.
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

    /// Returns the capacity in bytes.
    pub(in crate::sinks) fn capacity(&self) -> usize {
        self.0.capacity
    }

    /// Frees the room of a batch, or of a part of it, that is accounted for.
    pub(in crate::sinks) fn done(&self, batch: &Batch) {
        self.0.lock().done(batch);
        self.0.room.notify_waiters();
    }

    #[cfg(feature = "kafka")]
    /// Frees the room of messages that are accounted for, when their batches are gone.
    pub(in crate::sinks) fn done_with(&self, bytes: usize, messages: u64) {
        let mut state = self.0.lock();
        state.depth.bytes -= bytes;
        state.depth.messages -= messages;
        drop(state);
        self.0.room.notify_waiters();
    }

    /// Puts the rest of a batch that could not be delivered back as the oldest.
    pub(in crate::sinks) fn put_back(&mut self, rest: Batch) {
        self.0.lock().batches.push_front(rest);
    }

    /// Returns whether the queue is empty and the sender has ended.
    pub(in crate::sinks) fn is_over(&self) -> bool {
        let state = self.0.lock();
        state.ended && state.batches.is_empty()
    }

    /// Refuses all batches from now on and drops those that wait. Returns the number of messages
    /// dropped.
    pub(in crate::sinks) fn abandon(&mut self) -> u64 {
        let rest = {
            let mut state = self.0.lock();
            state.refuses = true;
            mem::take(&mut state.batches)
        };
        // Sum without the lock: there may be many batches, and the sender must not wait.
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
    fn a_batch_knows_how_many_messages_came_before_it_although_they_were_dropped() {
        for (policy, expected) in [(Policy::DropNewest, [0, 7]), (Policy::DropOldest, [3, 7])] {
            let (tx, mut rx) = queue(100, policy);
            for (size, messages) in [(50, 3), (50, 4)] {
                let _full_at_last = tx.send(batch(size, messages));
            }
            let first = now(&mut rx).expect("queued");
            rx.done(&first);
            tx.send(batch(50, 1)).expect("room");
            let second = now(&mut rx).expect("queued");
            assert_eq!([first.position, second.position], expected, "{policy:?}");
        }
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
        /// After every step sent = taken + dropped + queued, and the bound holds.
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

    /// Takes the oldest batch without waiting.
    fn now(rx: &mut Receiver) -> Option<Batch> {
        rx.0.lock().batches.pop_front()
    }

    fn batch(size: usize, messages: u64) -> Batch {
        Batch::new(vec![0; size], messages)
    }
}

//! The thread of the output: from the queue to librdkafka, until everything has been acknowledged or
//! the time to finish is over.
//!
//! ```text
//! queue ─► current ─────────────────────► librdkafka ─► settled: room of the queue is free
//! queue ─► current ─► spool ─► waiting ─► librdkafka ─► settled: acknowledged in the spool
//! ```
//!
//! If librdkafka, or the spool, has no room, `current` stays. Then the queue fills and drops its oldest.
//! With a spool, all messages go through it, so that there is one order, and a crash of the agent loses none of them.
//!
//! It never waits for a broker. It waits for librdkafka's events or for a batch, a few milliseconds
//! at most, so that none of them has to wait long.

use std::{
    collections::VecDeque,
    io,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::time::timeout;
use tracing::{info, warn};

use super::{
    Kafka,
    client::{Client, Sent},
    flight::Fate,
    record::{NoRecord, Recorder},
    spool::{Read, Spool, Waiting},
};
use crate::sinks::{
    batch::{Batch, frame_ends},
    queue::sink_thread::{Inlet, no_runtime},
    report::{Account, SinkState, Takes, add},
    sink::{Opened, Sink as _},
};

/// Time to wait for events of librdkafka while it is full, or while the output ends.
const POLL: Duration = Duration::from_millis(2);

/// Time to wait for a batch, while messages are in flight and while none is.
const WAIT: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));

/// Time to learn what became of messages when the time to finish is over. Less than what the sender waits.
const PURGE: Duration = Duration::from_millis(200);

/// Time after which a spool that has no room, and messages that have failed, are tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// Most messages of the spool to hand over before the queue is looked at again.
const ROUND: usize = 1000;

/// Opens the output.
pub(super) fn open(kafka: &Kafka, takes: Takes) -> Result<Opened, String> {
    let options = &kafka.options;
    let client = Client::create(
        &kafka.cluster,
        kafka.name(),
        options.spool.is_some(),
        kafka.topic.has_placeholders(),
    )?;
    let recorder = Recorder::new(kafka, takes);
    let run = run_id()?;
    let spool = options.spool.as_ref();
    let spool = spool.map(|folder| Spool::open(folder, options.spool_size, run));
    let spool = spool.transpose()?;
    Ok(Box::new(move |account| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(|error| no_runtime(&error))?;
        client.count_in(account);
        if let Some(spool) = &spool {
            // What an earlier run has left.
            client.spooled(spool);
            client.damaged(spool.damaged());
        }
        Ok(Box::new(move |inlet| {
            let worker = Worker {
                client,
                recorder,
                run,
                inlet,
                spool,
                current: Current::default(),
                waiting: None,
                known: VecDeque::new(),
                own: 0,
                paused: None,
                full_until: None,
            };
            worker.run(&runtime);
        }))
    }))
}

/// Returns a number for this opening of the output that no other has.
fn run_id() -> Result<u64, String> {
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| format!("the system gives no random number: {error}"))?;
    Ok(u64::from_be_bytes(random))
}

struct Worker {
    client: Client,
    recorder: Recorder,
    /// Run of all messages that come from the queue.
    run: u64,
    inlet: Inlet,
    spool: Option<Spool>,
    /// What has left the queue, and is not with librdkafka or in the spool.
    current: Current,
    /// What has left the spool, and is not with librdkafka.
    waiting: Option<Waiting>,
    /// What is known of the messages that the spool hands out again.
    known: VecDeque<Option<Fate>>,
    /// Messages of this run in the spool; they count as queued.
    own: u64,
    /// Time until which nothing is handed over, after a message of the spool has failed or could not be read.
    paused: Option<Instant>,
    /// Time until which a disk that had no room for the spool is not tried again.
    full_until: Option<Instant>,
}

/// A batch that is being handed over.
#[derive(Default)]
struct Current {
    frames: Bytes,
    messages: u64,
    /// Number of the next message.
    seq: u64,
}

impl Current {
    fn new(batch: Batch) -> Self {
        Self {
            frames: batch.frames,
            messages: batch.messages,
            seq: batch.position,
        }
    }

    /// Returns the payload of the next frame, and the end of the frame.
    fn next(&self) -> Option<(Bytes, usize)> {
        let end = frame_ends(&self.frames).next()?;
        Some((self.frames.slice(4..end), end))
    }

    fn advance(&mut self, end: usize) {
        self.frames = self.frames.slice(end..);
        self.messages -= 1;
        self.seq += 1;
    }
}

/// What has come.
enum Next {
    Batch(Batch),
    Nothing,
    /// The sender has ended, and the queue is empty.
    End,
}

impl Worker {
    fn run(mut self, runtime: &tokio::runtime::Runtime) {
        let mut has_ended = false;
        loop {
            self.client.poll(Duration::ZERO);
            self.settle();
            let deadline = *self.inlet.deadline.borrow();
            let is_late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if is_late || self.account().is_over() {
                break;
            }
            if self.client.has_failed() {
                self.begin_anew();
            }
            let wait = self.hand_over();
            let is_empty = self.current.messages == 0;
            if has_ended {
                if is_empty && self.has_delivered_all() {
                    break;
                }
                self.client.poll(POLL);
            } else if is_empty {
                match runtime.block_on(self.next(wait)) {
                    Next::Batch(batch) => self.current = Current::new(batch),
                    Next::Nothing => {}
                    Next::End => has_ended = true,
                }
            } else {
                self.client.poll(POLL);
            }
        }
        self.end();
    }

    async fn next(&mut self, wait: Duration) -> Next {
        match timeout(wait, self.inlet.queue.recv()).await {
            Ok(Some(batch)) => Next::Batch(batch),
            Ok(None) => Next::End,
            Err(_elapsed) => Next::Nothing,
        }
    }

    fn has_delivered_all(&self) -> bool {
        let spooled = self.spool.as_ref().map_or(0, Spool::messages);
        spooled == 0 && self.client.in_flight() == 0
    }

    /// Hands over what it has. Returns how long to wait for more.
    fn hand_over(&mut self) -> Duration {
        if self.spool.is_some() {
            // Even while the disk is full, what is in the spool is sent: that makes room.
            if let Err(error) = self.keep_current() {
                self.full_until = Some(Instant::now() + PAUSE);
                self.lack(Some(format!("spool: {error}")));
            }
        }
        if is_before(self.paused) {
            return WAIT.0;
        }
        let is_done = if self.spool.is_none() {
            self.hand_over_current();
            true
        } else {
            self.hand_over_spooled().unwrap_or_else(|error| {
                self.lack_room(&error.to_string());
                true
            })
        };
        match is_done {
            false => Duration::ZERO,
            true if self.waiting.is_some() => POLL,
            true if self.client.in_flight() > 0 => WAIT.0,
            true => WAIT.1,
        }
    }

    /// Hands messages of the batch over until librdkafka is full.
    fn hand_over_current(&mut self) {
        while let Some((payload, end)) = self.current.next() {
            let sent = hand_over(
                &self.client,
                &mut self.recorder,
                &payload,
                (self.run, self.current.seq),
                true,
            );
            if sent == Sent::Full {
                return;
            }
            self.current.advance(end);
        }
    }

    /// Hands messages of the spool over until librdkafka is full, or for a while. Returns whether the spool is read or
    /// librdkafka is full.
    fn hand_over_spooled(&mut self) -> io::Result<bool> {
        let Some(spool) = &mut self.spool else {
            return Ok(true);
        };
        for _ in 0..ROUND {
            let waiting = match self.waiting.take() {
                Some(waiting) => waiting,
                None => match spool.read()? {
                    Read::Message(waiting) => {
                        // It was delivered or refused before the spool was rewound.
                        if let Some(Some(fate)) = self.known.pop_front() {
                            let bytes = waiting.payload.len() + 4;
                            self.client.skip(bytes, waiting.run == self.run, fate);
                            continue;
                        }
                        waiting
                    }
                    Read::Nothing => return Ok(true),
                    Read::Damage {
                        run,
                        bytes,
                        messages,
                    } => {
                        warn!(
                            output = self.inlet.name,
                            bytes, messages, "the spool is damaged"
                        );
                        let mut is_counted = false;
                        for _ in 0..messages {
                            is_counted |= self.known.pop_front().flatten().is_some();
                        }
                        if !is_counted {
                            self.client.damaged(bytes);
                        }
                        for _ in 0..messages {
                            self.client.skip(0, run == self.run, Fate::Damaged);
                        }
                        continue;
                    }
                },
            };
            let sent = hand_over(
                &self.client,
                &mut self.recorder,
                &waiting.payload,
                (waiting.run, waiting.seq),
                waiting.run == self.run,
            );
            if sent == Sent::Full {
                self.waiting = Some(waiting);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Puts the batch into the spool, if there is room.
    fn keep_current(&mut self) -> io::Result<()> {
        let (frames, messages) = (&self.current.frames, self.current.messages);
        let is_due = messages > 0 && !is_before(self.full_until);
        let Some(spool) = self.spool.as_mut().filter(|_| is_due) else {
            return Ok(());
        };
        if !spool.has_room(frames.len(), messages) {
            // What is acknowledged makes room, so this is not a failure, and there is no pause.
            self.lack(Some("the spool has no room".to_owned()));
            return Ok(());
        }
        spool.append(frames, self.current.seq)?;
        self.own += messages;
        let bytes = frames.len();
        // First held, then out of the queue: it must not be in neither.
        self.inlet.account.held.store(self.own, Relaxed);
        self.inlet.queue.done_with(bytes, messages);
        self.current = Current::default();
        self.client.spooled(spool);
        self.lack(None);
        Ok(())
    }

    /// Notes that the spool cannot be read at the moment, and tries again after a while.
    fn lack_room(&mut self, error: &str) {
        self.paused = Some(Instant::now() + PAUSE);
        self.lack(Some(format!("spool: {error}")));
    }

    /// Notes why there is no room, or that there is again. The queue then fills and drops its oldest.
    fn lack(&self, why: Option<String>) {
        let before = self.account().lacks_room.swap(why.is_some(), Relaxed);
        match why {
            Some(why) => {
                if !before {
                    warn!(
                        output = self.inlet.name,
                        "{why}; what has no room in the queue is dropped"
                    );
                }
                let why = format!("{}: {why}", self.inlet.name);
                self.account().become_state(SinkState::Waiting(why));
            }
            None if before => info!(output = self.inlet.name, "the spool has room again"),
            None => {}
        }
    }

    /// Frees the room of messages whose fate is known and counted.
    fn settle(&mut self) {
        let settled = self.client.settled();
        if settled.messages == 0 {
            return;
        }
        let Some(spool) = &mut self.spool else {
            return self.inlet.queue.done_with(settled.bytes, settled.messages);
        };
        self.own -= settled.own;
        self.inlet.account.held.store(self.own, Relaxed);
        let noted = spool.acknowledge(settled.messages);
        self.client.spooled(spool);
        if let Err(error) = noted {
            self.lack_room(&error.to_string());
        }
    }

    /// Replaces a producer that has failed for good, and sends again what is in the spool. Without a spool, what
    /// librdkafka had is dropped and counted.
    fn begin_anew(&mut self) {
        self.client.purge(PURGE);
        if self.spool.is_none() {
            self.client.give_up(Fate::Rejected);
        }
        self.settle();
        self.paused = Some(Instant::now() + PAUSE);
        let mut given_up = match self.client.begin_anew() {
            Ok(given_up) => given_up,
            Err(error) => {
                let why = format!("{}: {error}", self.inlet.name);
                return self.account().become_state(SinkState::Failed(why));
            }
        };
        if let Some(spool) = &mut self.spool {
            spool.rewind();
            // It has left the spool, and was not handed over.
            given_up.extend(self.waiting.take().map(|_waiting| None));
            given_up.append(&mut self.known);
            self.known = given_up;
        }
    }

    /// Counts what was not delivered, and ends. What is in the spool stays there.
    fn end(mut self) {
        // The sender has given up and has counted everything, or the producer has failed for good.
        let is_over = self.account().is_over();
        if self.client.in_flight() > 0 {
            self.client.purge(PURGE);
            if self.spool.is_none() {
                self.client.give_up(Fate::Ended);
            }
        }
        self.settle();
        let rest = self.current.messages;
        let lost = self.inlet.queue.abandon();
        self.inlet.queue.done_with(self.current.frames.len(), rest);
        if is_over {
            self.account().lost(lost + rest);
            return self.client.dispose();
        }
        add(&self.account().dropped.shutdown, lost + rest);
        let end = if self.account().dropped.shutdown.load(Relaxed) > 0 {
            let error = self.client.error();
            SinkState::Failed(format!(
                "{}: {}",
                self.inlet.name,
                error
                    .as_deref()
                    .unwrap_or("did not take its last messages in the time given")
            ))
        } else {
            SinkState::Finished
        };
        self.account().become_state(end);
        self.client.dispose();
    }

    fn account(&self) -> &Account {
        &self.inlet.account
    }
}

fn is_before(time: Option<Instant>) -> bool {
    time.is_some_and(|time| Instant::now() < time)
}

/// Hands a message over, or notes why there is no record for it.
fn hand_over(
    client: &Client,
    recorder: &mut Recorder,
    payload: &Bytes,
    (run, seq): (u64, u64),
    is_own: bool,
) -> Sent {
    let bytes = payload.len() + 4;
    match recorder.record(payload) {
        Ok(record) => client.send(&record, (run, seq), bytes, is_own),
        Err(reason) => {
            let fate = match reason {
                NoRecord::Unfit => Fate::Unfit,
                NoRecord::Topic => Fate::Rejected,
            };
            client.skip(bytes, is_own, fate);
            Sent::Taken
        }
    }
}

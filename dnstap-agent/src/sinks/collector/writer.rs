//! Sends a queue's messages to the collector, over as many connections as it takes.
//!
//! ```text
//!              handshake                     sender gone and queue empty: STOP, FINISH
//!  connecting ───────────► delivering ──────────────────────────────────────────────────► over
//!    ▲  │ refused              │ broken: what was not handed over goes back to the queue     ▲
//!    │  ▼                      ▼                                                             │
//!    └─ waiting (backoff, jitter) ──── sender gone: one last attempt, then ──────────────────┘
//! ```
//!
//! **At most once.** The only acknowledgement in Frame Streams is FINISH. A message that the system
//! has accepted completely counts as written and is never sent again. A message that was accepted
//! in part is sent again as a whole over the next connection; the collector discarded the part. So
//! a collector sees no message twice, and never a part of one after a reconnect. Messages that a
//! failing collector leaves unread are lost. Their greatest possible number is counted as
//! `unconfirmed`. It is kept small by asking the system whenever possible whether everything has
//! been accepted ([`Connection::is_drained`]).

use std::{io, sync::atomic::Ordering::Relaxed, time::Duration};

use tokio::time::{sleep, sleep_until};
use tracing::{debug, info, warn};

use super::{backoff::Backoff, connection::Connection};
use crate::{
    host::net::Address,
    sinks::{
        batch::{Batch, frame_ends},
        queue::sink_thread::Inlet,
        report::{SinkState, add},
    },
};

/// Time limit for connecting and for each part of the handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Time after the last write at which the system is asked whether everything has been accepted.
const CONFIRM: Duration = Duration::from_millis(50);

/// Sends the queue of one socket.
#[derive(Debug)]
pub(super) struct CollectorWriter {
    address: Address,
    /// Content type of the frames.
    content_type: &'static [u8],
    inlet: Inlet,
    /// The batch being written.
    flight: Option<Flight>,
    /// Messages written to this connection that may not have been accepted.
    unconfirmed: u64,
}

/// A batch that is being written.
#[derive(Debug)]
struct Flight {
    batch: Batch,
    /// Bytes that the system has accepted.
    reached: usize,
}

impl CollectorWriter {
    /// Sends until the sender has ended and the queue is empty, or until the deadline. Accounts for
    /// the rest.
    pub(super) async fn run(address: Address, content_type: &'static [u8], inlet: Inlet) {
        let mut writer = Self {
            address,
            content_type,
            inlet,
            flight: None,
            unconfirmed: 0,
        };
        let mut deadline = writer.inlet.deadline.clone();
        let over = async move {
            let at = match deadline.wait_for(Option::is_some).await {
                Ok(at) => *at,
                Err(_sender_gone) => None,
            };
            if let Some(at) = at {
                sleep_until(at.into()).await;
            }
        };
        let ended = tokio::select! {
            biased;
            ended = writer.work() => ended,
            () = over => Err("did not take its last messages in the time given".to_owned()),
        };
        writer.settle();
        let lost = writer.inlet.queue.abandon();
        add(&writer.inlet.account.dropped.shutdown, lost);
        writer.inlet.account.become_state(match ended {
            Err(reason) if lost > 0 => {
                SinkState::Failed(format!("{}: {reason}", writer.inlet.name))
            }
            _ => SinkState::Finished,
        });
    }

    async fn work(&mut self) -> Result<(), String> {
        let mut backoff = Backoff::new();
        // Each absence is logged once.
        let mut told = false;
        loop {
            let closing = self.inlet.deadline.borrow().is_some();
            if self.inlet.queue.is_over() {
                return Ok(());
            }
            let error = match Connection::open(&self.address, self.content_type, HANDSHAKE).await {
                Ok(mut connection) => {
                    info!(output = self.inlet.name, "connected");
                    add(&self.inlet.account.connections, 1);
                    told = false;
                    self.inlet.account.become_state(SinkState::Running);
                    let before = self.inlet.account.written.load(Relaxed);
                    let Err(error) = self.deliver(&mut connection).await else {
                        return Ok(());
                    };
                    self.settle();
                    if closing {
                        return Err(error.to_string());
                    }
                    // If a collector accepts connections but no messages, the waiting time keeps
                    // growing.
                    if self.inlet.account.written.load(Relaxed) > before {
                        backoff.reset();
                    }
                    error
                }
                Err(error) if closing => return Err(error.to_string()),
                Err(error) => error,
            };
            self.inlet
                .account
                .become_state(SinkState::Waiting(error.to_string()));
            let wait = backoff.wait();
            if told {
                debug!(output = self.inlet.name, %error, ?wait, "still no connection");
            } else {
                warn!(output = self.inlet.name, %error, "no connection; trying again, keeping what fits the queue");
                told = true;
            }
            tokio::select! {
                () = sleep(wait) => {}
                // The agent is ending, so stop waiting. An error means the same.
                _ = self.inlet.deadline.wait_for(Option::is_some) => {}
            }
        }
    }

    /// Sends queued batches until the sender has ended. Then ends the stream in order.
    async fn deliver(&mut self, connection: &mut Connection) -> io::Result<()> {
        loop {
            tokio::select! {
                biased;
                error = connection.ended() => return Err(error),
                batch = self.inlet.queue.recv() => {
                    let Some(batch) = batch else {
                        self.finish(connection).await;
                        return Ok(());
                    };
                    self.confirm(connection);
                    self.flight = Some(Flight { batch, reached: 0 });
                    while let Some(Flight { batch, reached }) = &mut self.flight {
                        match &batch.frames[*reached..] {
                            [] => {
                                connection.flush().await?;
                                self.settle_written();
                            }
                            rest => *reached += connection.write(rest).await?,
                        }
                    }
                }
                () = sleep(CONFIRM), if self.unconfirmed > 0 => self.confirm(connection),
            }
        }
    }

    /// Asks the system whether everything has been accepted.
    fn confirm(&mut self, connection: &Connection) {
        if self.unconfirmed > 0 && connection.is_drained() {
            self.unconfirmed = 0;
        }
    }

    async fn finish(&mut self, connection: &mut Connection) {
        match connection.finish(HANDSHAKE).await {
            Ok(()) => self.unconfirmed = 0,
            Err(error) => {
                warn!(output = self.inlet.name, %error, unconfirmed = self.unconfirmed, "the collector did not confirm the end");
            }
        }
    }

    /// Settles the account of a connection that has ended: messages that the system has accepted
    /// are written, the others go back to the queue.
    fn settle(&mut self) {
        if let Some(rest) = self.settle_written() {
            self.inlet.queue.put_back(rest);
        }
        add(&self.inlet.account.unconfirmed, self.unconfirmed);
        self.unconfirmed = 0;
    }

    /// Counts the messages in flight that the system has accepted completely. Returns the others.
    fn settle_written(&mut self) -> Option<Batch> {
        let Flight { mut batch, reached } = self.flight.take()?;
        let (mut messages, mut end) = (batch.messages, batch.frames.len());
        if reached < end {
            (messages, end) = frame_ends(&batch.frames)
                .take_while(|end| *end <= reached)
                .fold((0, 0), |(count, _), end| (count + 1, end));
        }
        let written = Batch::new(batch.frames.split_to(end), messages);
        add(&self.inlet.account.written, messages);
        add(&self.inlet.account.written_bytes, end as u64);
        self.unconfirmed += messages;
        self.inlet.queue.done(&written);
        batch.messages -= messages;
        (!batch.frames.is_empty()).then_some(batch)
    }
}

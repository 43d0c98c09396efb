//! Owns the way of a socket's messages from its queue to the collector, through as many connections as it takes.
//!
//! ```text
//!              handshake                     sender gone and queue empty: STOP, FINISH
//!  connecting ───────────► delivering ──────────────────────────────────────────────────► over
//!    ▲  │ refused              │ broken: what was not handed over goes back to the queue     ▲
//!    │  ▼                      ▼                                                             │
//!    └─ waiting (backoff, jitter) ──── sender gone: one last attempt, then ──────────────────┘
//! ```
//!
//! **At most once.** Frame Streams has no acknowledgement but FINISH. A message that the system has taken whole counts as
//! written and is never sent again; one that it has taken a part of is sent again, whole, over the next connection, where the
//! collector discarded that part. So a collector sees no message twice, and never a part of one after a reconnect. What a
//! collector that dies leaves unread is lost; how much that is at most is counted as `unconfirmed`, and is kept small by
//! asking the system whenever possible whether everything has been taken ([`Connection::is_drained`]).

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

/// How long connecting and each part of the handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// How long after the last write the system is asked whether everything has been taken.
const CONFIRM: Duration = Duration::from_millis(50);

/// Delivers what is queued for one socket.
#[derive(Debug)]
pub(super) struct CollectorWriter {
    address: Address,
    inlet: Inlet,
    /// The batch being written.
    flight: Option<Flight>,
    /// Messages handed to this connection that may not have been taken.
    unconfirmed: u64,
}

/// A batch on its way.
#[derive(Debug)]
struct Flight {
    batch: Batch,
    /// Bytes that the system has taken.
    reached: usize,
}

impl CollectorWriter {
    /// Delivers until nothing more is to come and nothing is queued, or the deadline has come; accounts for the rest.
    pub(super) async fn run(address: Address, inlet: Inlet) {
        let mut writer = Self {
            address,
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
        // Each absence is told once.
        let mut told = false;
        loop {
            let closing = self.inlet.deadline.borrow().is_some();
            if self.inlet.queue.is_over() {
                return Ok(());
            }
            let error = match Connection::open(&self.address, HANDSHAKE).await {
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
                    // One that takes connections and no messages is not worth coming back to soon.
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
                // The end is near: no more waiting. An error means the same.
                _ = self.inlet.deadline.wait_for(Option::is_some) => {}
            }
        }
    }

    /// Hands over what is queued until the sender is gone; then ends the stream in order.
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

    /// Asks the system whether everything has been taken.
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

    /// After a connection: what the system has taken is written, the rest goes back.
    fn settle(&mut self) {
        if let Some(rest) = self.settle_written() {
            self.inlet.queue.put_back(rest);
        }
        add(&self.inlet.account.unconfirmed, self.unconfirmed);
        self.unconfirmed = 0;
    }

    /// Accounts for the messages in flight that the system has taken whole, and returns the others.
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

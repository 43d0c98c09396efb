//! One sender's connection: reads bytes, sends answers, and passes on whole dnstap frames.
//!
//! Its memory is bounded by the longest frame and one piece of input. Frames that are no dnstap are
//! counted and left out, so that an output never contains a frame that readers cannot read.

use std::{io, rc::Rc, time::Duration};

use bytes::{Bytes, BytesMut};
use dnstap_proto::{
    View,
    frame_streams::{
        ControlError, DNSTAP_CONTENT_TYPE, Frames, HandshakeError, Server, ServerState,
    },
};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{info, warn};

use super::Shared;
use crate::host::net::{Arrival, Stream};

/// Time limit for a sender to send START, to accept an answer, and to close the connection after
/// STOP.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Free bytes in the buffer before a read.
const PIECE: usize = 64 * 1024;

/// Reasons why a connection ended, other than STOP.
#[derive(Debug, Error)]
enum Ended {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Malformed(#[from] HandshakeError),
    #[error("it closed the connection without STOP, {0} bytes into a frame")]
    Closed(usize),
    #[error("no START within {HANDSHAKE:?}")]
    NoStart,
    #[error("it was silent for {0:?}")]
    Idle(Duration),
    #[error("this process is ending")]
    Ending,
}

/// Handles a new connection until its end.
pub(super) async fn take(
    number: u64,
    arrival: Arrival,
    peer: String,
    shared: Rc<Shared>,
    stop: watch::Receiver<Option<Instant>>,
) {
    shared.count(|received| received.connections += 1);
    let mut stopped = stop.clone();
    let settled = tokio::select! {
        biased;
        settled = timeout(HANDSHAKE, arrival.settle()) => {
            settled.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
        }
        _ = stopped.wait_for(Option::is_some) => Err(io::ErrorKind::Interrupted.into()),
    };
    let connection = settled.and_then(|stream| {
        Connection::new(number, stream, peer.clone(), Rc::clone(&shared), stop)
            .map_err(io::Error::other)
    });
    match connection {
        Ok(connection) => connection.run().await,
        Err(error) => {
            shared.count(|received| received.unfinished += 1);
            warn!(connection = number, peer, %error, "it does not agree upon TLS");
        }
    }
}

/// A running connection.
struct Connection {
    number: u64,
    peer: String,
    stream: Stream,
    server: Server,
    input: BytesMut,
    shared: Rc<Shared>,
    /// Time by which the connection must end, once the end has come.
    stop: watch::Receiver<Option<Instant>>,
    messages: u64,
}

impl Connection {
    fn new(
        number: u64,
        stream: Stream,
        peer: String,
        shared: Rc<Shared>,
        stop: watch::Receiver<Option<Instant>>,
    ) -> Result<Self, ControlError> {
        let server = Server::new(DNSTAP_CONTENT_TYPE)?.max_data_frame(shared.limits.frame);
        Ok(Self {
            number,
            peer,
            stream,
            server,
            input: BytesMut::new(),
            shared,
            stop,
            messages: 0,
        })
    }

    /// Handles the connection until its end, and logs how it ended.
    async fn run(mut self) {
        info!(connection = self.number, peer = self.peer, "connected");
        let ended = self.receive().await;
        let (connection, messages) = (self.number, self.messages);
        match ended {
            // After STOP nothing is missing, unless the following bytes are no stream. Many senders
            // close without waiting for FINISH.
            reason
                if self.server.state() == ServerState::Stopped
                    && !matches!(reason, Ended::Malformed(_)) =>
            {
                info!(connection, messages, "finished");
            }
            reason => {
                self.shared.count(|received| received.unfinished += 1);
                if matches!(reason, Ended::Ending) {
                    info!(connection, messages, "closed: {reason}");
                } else {
                    warn!(connection, messages, "ended: {reason}");
                }
            }
        }
    }

    /// Handles the connection until its end. Returns the reason; after STOP the end is an orderly
    /// one.
    async fn receive(&mut self) -> Ended {
        match self.take_all().await {
            Ok(ended) | Err(ended) => ended,
        }
    }

    async fn take_all(&mut self) -> Result<Ended, Ended> {
        let started = Instant::now();
        let mut stop = self.stop.clone();
        let mut ending = None;
        // Time limit for another stream to begin.
        let mut stopped = None;
        let mut has_shut_down = false;
        loop {
            let limit = match (ending, self.server.state(), self.shared.limits.idle) {
                (Some(at), _, _) => Some(at),
                (None, ServerState::AwaitReady | ServerState::AwaitStart, _) => {
                    Some(started + HANDSHAKE)
                }
                // Another stream may follow, or the end of the connection.
                (None, ServerState::Stopped, _) => stopped,
                (None, ServerState::Data, idle) => {
                    idle.and_then(|idle| Instant::now().checked_add(idle))
                }
            };
            let silence = async {
                match limit {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            if self.input.capacity() - self.input.len() < PIECE / 4 {
                self.input.reserve(PIECE);
            }
            let read = tokio::select! {
                read = self.stream.read_buf(&mut self.input) => read?,
                at = stop.wait_for(Option::is_some), if ending.is_none() => {
                    ending = Some(at.ok().and_then(|at| *at).unwrap_or_else(Instant::now));
                    // Bytes that have arrived are read. Over a unix socket the sender notices that
                    // no more are accepted.
                    self.stream.refuse_more()?;
                    continue;
                }
                () = silence => return Ok(match (ending, self.server.state()) {
                    (Some(_), _) => Ended::Ending,
                    (None, ServerState::Data) => Ended::Idle(self.shared.limits.idle.unwrap_or_default()),
                    _ => Ended::NoStart,
                }),
            };
            if read == 0 {
                return Ok(match ending {
                    Some(_) => Ended::Ending,
                    None => Ended::Closed(self.input.len()),
                });
            }
            let messages = self.messages;
            self.take_frames().await?;
            if self.server.state() != ServerState::Stopped {
                stopped = None;
            } else if stopped.is_none() || self.messages > messages {
                // This is set after each stream, also after one that came in one piece.
                stopped = Some(Instant::now() + HANDSHAKE);
            }
            if self.server.state() == ServerState::Stopped && !has_shut_down {
                has_shut_down = true;
                // Some senders wait for this end, which TLS announces. A sender that has already
                // gone does not need it.
                let _unheard = in_time(self.stop.clone(), self.stream.shutdown()).await;
            }
        }
    }

    /// Handles the whole frames in the input, and answers control frames.
    async fn take_frames(&mut self) -> Result<(), Ended> {
        let mut answers = Vec::new();
        loop {
            let before = self.input.len();
            let decoded = self.server.decode(&mut self.input, &mut answers);
            if !answers.is_empty() {
                self.answer(&answers).await?;
                answers.clear();
            }
            match decoded? {
                Some(frames) => self.hand_over(frames).await,
                // After STOP there may be more.
                None if self.input.len() < before => {}
                None => return Ok(()),
            }
        }
    }

    /// Answers the sender. If the sender has already gone, this is no error: its frames have
    /// arrived, and after STOP no FINISH is needed.
    async fn answer(&mut self, answers: &[u8]) -> Result<(), Ended> {
        let answering = async {
            self.stream.write_all(answers).await?;
            self.stream.flush().await
        };
        let answered = in_time(self.stop.clone(), answering).await;
        match answered {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(error.into()),
            _heard_or_gone => Ok(()),
        }
    }

    /// Passes on the frames that are dnstap.
    async fn hand_over(&mut self, frames: Frames) {
        self.messages += frames.count;
        let (count, bytes) = (frames.count, frames.bytes.len() as u64);
        let sound = sound(frames);
        self.shared.count(|received| {
            received.messages += count;
            received.bytes += bytes;
            received.malformed += count - sound.count;
        });
        self.shared.hand_over(sound).await;
    }
}

/// Limits the time for sending something to a sender, once the end has come, to the deadline of all
/// connections.
async fn in_time(
    mut stop: watch::Receiver<Option<Instant>>,
    telling: impl Future<Output = io::Result<()>>,
) -> io::Result<()> {
    let over = async {
        let at = stop.wait_for(Option::is_some).await.ok().and_then(|at| *at);
        sleep_until(at.unwrap_or_else(Instant::now)).await;
    };
    tokio::select! {
        told = telling => told,
        () = over => Err(io::ErrorKind::TimedOut.into()),
        () = sleep(HANDSHAKE) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Returns the frames that are dnstap. Normally these are all of them, and nothing is copied.
fn sound(frames: Frames) -> Frames {
    let mut broken = 0;
    let mut rest = frames.bytes.clone();
    while let Some(frame) = split(&mut rest) {
        broken += u64::from(View::parse(&frame[4..]).is_none());
    }
    if broken == 0 {
        return frames;
    }
    let mut kept = Vec::with_capacity(frames.bytes.len());
    let mut rest = frames.bytes;
    while let Some(frame) = split(&mut rest) {
        if View::parse(&frame[4..]).is_some() {
            kept.extend_from_slice(&frame);
        }
    }
    Frames {
        bytes: kept.into(),
        count: frames.count - broken,
    }
}

/// Splits off the first frame with its length.
fn split(frames: &mut Bytes) -> Option<Bytes> {
    let len = u32::from_be_bytes(*frames.first_chunk()?) as usize;
    (frames.len() - 4 >= len).then(|| frames.split_to(4 + len))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &[u8] = b"\0\0\0\x02\x78\x01"; // type: MESSAGE
    const BROKEN: &[u8] = b"\0\0\0\x02\x0a\xff"; // a field beyond the end

    #[test]
    fn sound_frames_are_handed_on_without_a_copy() {
        let bytes = Bytes::from(EMPTY.repeat(3));
        let frames = sound(Frames {
            bytes: bytes.clone(),
            count: 3,
        });
        assert_eq!((frames.bytes.as_ptr(), frames.count), (bytes.as_ptr(), 3));
    }

    #[test]
    fn what_is_no_dnstap_is_left_out() {
        let bytes = [BROKEN, EMPTY, BROKEN, EMPTY].concat().into();
        let frames = sound(Frames { bytes, count: 4 });
        assert_eq!((&frames.bytes[..], frames.count), (&EMPTY.repeat(2)[..], 2));
    }
}

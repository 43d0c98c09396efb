//! Receives a stream over a connection: the IO around [`Server`]. It sends FINISH only after all frames of the stream
//! were returned to the caller.

use std::io::{self, Read, Write};

use bytes::{Buf as _, Bytes};

use super::{
    DEFAULT_MAX_DATA_FRAME, DataFrame, Server, ServerState, SocketError, WriteError, be32,
    input::Input,
};

/// Receives the data frames of a socket, and answers the sender: ACCEPT to READY, FINISH to each STOP.
///
/// It accepts both forms. A sender that begins with START (the unidirectional form) gets no answer.
///
/// STOP ends a stream, not the connection: the sender may close, or begin the next stream with START, as in a file. The
/// iterator ends at the first STOP. The next call of [`next_frame`](Self::next_frame) continues with the next stream.
///
/// The socket blocks until its read timeout. The reader uses as little memory as [`Reader`](super::Reader).
/// [`SocketWriter`](super::SocketWriter) has an example of both sides.
#[derive(Debug)]
pub struct SocketReader<S> {
    stream: S,
    server: Server,
    input: Input,
    /// Number of bytes received from the sender.
    received: u64,
    /// Data frames that were received and not returned yet, each with its length.
    frames: Bytes,
    answer: Vec<u8>,
    /// Whether the end of the current stream has been returned.
    told: bool,
    /// Whether the sender has closed the connection after STOP.
    closed: bool,
    /// Whether the iterator has ended or returned an error.
    done: bool,
}

impl<S: Read + Write> SocketReader<S> {
    /// Waits for the sender's READY, answers it, and waits for START. The content type has at most 256 bytes. Accepts
    /// data frames of up to [`DEFAULT_MAX_DATA_FRAME`] bytes.
    ///
    /// Fails with [`SocketError::Handshake`] if the sender has another content type or does not speak Frame Streams,
    /// and with [`SocketError::Closed`] if it closes the connection.
    pub fn new(stream: S, content_type: &[u8]) -> Result<Self, SocketError> {
        Self::with_max_data_frame(stream, content_type, DEFAULT_MAX_DATA_FRAME)
    }

    /// Does the same as [`new`](Self::new), for data frames of up to `bytes`.
    pub fn with_max_data_frame(
        stream: S,
        content_type: &[u8],
        bytes: u32,
    ) -> Result<Self, SocketError> {
        let server = Server::new(content_type).map_err(WriteError::from)?;
        let mut reader = Self {
            stream,
            server: server.max_data_frame(bytes),
            input: Input::new(),
            received: 0,
            frames: Bytes::new(),
            answer: Vec::new(),
            told: false,
            closed: false,
            done: false,
        };
        loop {
            reader.decode()?;
            match reader.server.state() {
                ServerState::AwaitReady | ServerState::AwaitStart => reader.fill()?,
                ServerState::Data | ServerState::Stopped => return Ok(reader),
            }
        }
    }

    /// Returns the next data frame of a stream. At the end of the stream it sends FINISH, if the sender still reads,
    /// and returns `None`. The offset of a frame counts from the first byte of the connection, including READY.
    ///
    /// The next call waits for another stream. It returns `None` again if the sender closes the connection;
    /// [`is_closed`](Self::is_closed) is true then. A read that fails at this point, for example by a read timeout, has
    /// the same result.
    ///
    /// Fails with [`SocketError::Closed`] if the sender closes the connection without STOP. All whole frames were
    /// returned before.
    pub fn next_frame(&mut self) -> Result<Option<DataFrame>, SocketError> {
        loop {
            if let Some(frame) = self.take() {
                return Ok(Some(frame));
            }
            let before = self.input.bytes.len();
            self.decode()?;
            let is_between_streams =
                self.frames.is_empty() && self.server.state() == ServerState::Stopped;
            if is_between_streams && !self.told {
                self.told = true;
                return Ok(None);
            }
            self.told &= is_between_streams;
            if !self.frames.is_empty() || self.input.bytes.len() < before {
                continue;
            }
            match self.fill() {
                Err(_end) if is_between_streams && self.input.bytes.is_empty() => {
                    self.closed = true;
                    return Ok(None);
                }
                filled => filled?,
            }
        }
    }

    /// Decodes the received bytes and answers them.
    fn decode(&mut self) -> Result<(), SocketError> {
        let decoded = self
            .server
            .decode(&mut self.input.bytes, &mut self.answer)?;
        if let Some(frames) = decoded {
            self.frames = frames.bytes;
        }
        if self.answer.is_empty() {
            return Ok(());
        }
        let answered = self.stream.write_all(&self.answer);
        let answered = answered.and_then(|()| self.stream.flush());
        self.answer.clear();
        match answered {
            Ok(()) => Ok(()),
            // Everything has arrived; it does not matter if the sender does not read the answer.
            Err(_unheard) if self.server.state() == ServerState::Stopped => Ok(()),
            // A sender that has closed does not read the answer, but the frames that it sent before are still to be
            // read.
            Err(error) if is_gone(&error) => Ok(()),
            Err(error) => Err(WriteError::from(error).into()),
        }
    }

    /// Reads more bytes, and waits for them.
    fn fill(&mut self) -> Result<(), SocketError> {
        let read = self.input.fill(&mut self.stream);
        let read = read.map_err(SocketError::Read)?;
        if read == 0 {
            let awaited = match self.server.state() {
                ServerState::AwaitReady => "READY",
                ServerState::AwaitStart | ServerState::Stopped => "START",
                ServerState::Data => "STOP",
            };
            return Err(SocketError::Closed { awaited });
        }
        self.received += read as u64;
        Ok(())
    }

    /// Takes the first of the available frames.
    fn take(&mut self) -> Option<DataFrame> {
        let len = be32(&self.frames, 0)?;
        let offset = self.received - (self.frames.len() + self.input.bytes.len()) as u64;
        self.frames.advance(4);
        let payload = self.frames.split_to(len as usize);
        Some(DataFrame { offset, payload })
    }
}

impl<S> SocketReader<S> {
    /// Returns whether the sender has closed the connection between two streams, so that nothing more will arrive.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Returns the socket.
    #[must_use]
    pub const fn get_ref(&self) -> &S {
        &self.stream
    }
}

/// Returns whether the error means that the peer has closed the connection.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

/// Ends at the first STOP, or after the first error.
impl<S: Read + Write> Iterator for SocketReader<S> {
    type Item = Result<DataFrame, SocketError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let next = self.next_frame().transpose();
        self.done = !matches!(next, Some(Ok(_)));
        next
    }
}

impl<S: Read + Write> std::iter::FusedIterator for SocketReader<S> {}

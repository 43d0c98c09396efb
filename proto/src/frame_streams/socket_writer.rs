//! Sends a stream over a connection: the IO around [`Client`]. It sends no data before the receiver has accepted, and a
//! stream counts as sent only after the receiver has confirmed it.

use std::io::{BufWriter, Read, Write};

use bytes::BytesMut;

use super::{Client, ClientState, SocketError, WriteError, Writer};

/// Sends one bidirectional stream over a socket: READY and START when it is created, then data frames, and STOP when it
/// is finished. The receiver answers with ACCEPT and FINISH.
///
/// The socket blocks. The writer waits for the receiver's answer until the socket's read timeout, which is forever
/// unless it is set, for example by [`TcpStream::set_read_timeout`](std::net::TcpStream::set_read_timeout).
///
/// Frames are collected in a buffer of 8 KiB: [`flush`](Self::flush) sends them. A writer that is dropped without
/// [`finish`](Self::finish) sends the buffer, but no STOP; the receiver then reports that the connection was closed too
/// early.
///
/// For a receiver that never answers (the unidirectional form), use [`Writer`] with the socket as its sink.
///
/// ```
/// use std::{os::unix::net::UnixStream, thread, time::Duration};
///
/// use dnstap_proto::frame_streams::{DNSTAP_CONTENT_TYPE, SocketReader, SocketWriter};
///
/// let (here, there) = UnixStream::pair()?;
/// here.set_read_timeout(Some(Duration::from_secs(10)))?;
/// # there.set_read_timeout(Some(Duration::from_secs(10)))?;
/// let receiver = thread::spawn(move || -> Result<_, _> {
///     SocketReader::new(there, DNSTAP_CONTENT_TYPE)?.collect::<Result<Vec<_>, _>>()
/// });
/// let mut writer = SocketWriter::new(here, DNSTAP_CONTENT_TYPE)?;
/// writer.write_frame(b"one")?;
/// writer.write_frame(b"two")?;
/// writer.finish()?; // returns once the receiver has it all
///
/// let frames = receiver.join().expect("no panic")?;
/// assert_eq!((&frames[0].payload[..], &frames[1].payload[..]), (&b"one"[..], &b"two"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct SocketWriter<S: Write> {
    writer: Writer<BufWriter<S>>,
    client: Client,
    /// Bytes of the receiver that are not decoded yet.
    answers: BytesMut,
}

impl<S: Read + Write> SocketWriter<S> {
    /// Sends READY with this content type (at most 256 bytes), waits for ACCEPT and sends START.
    ///
    /// Fails with [`SocketError::Handshake`] if the receiver does not take the content type or does not speak Frame
    /// Streams, and with [`SocketError::Closed`] if it closes the connection.
    pub fn new(mut stream: S, content_type: &[u8]) -> Result<Self, SocketError> {
        let mut out = Vec::new();
        let mut client = Client::connect(content_type, &mut out).map_err(WriteError::from)?;
        stream
            .write_all(&out)
            .and_then(|()| stream.flush())
            .map_err(WriteError::from)?;
        out.clear();

        let mut answers = BytesMut::new();
        hear(&mut client, &mut stream, &mut answers, &mut out)?;
        let mut writer = Writer::begin(BufWriter::new(stream), &out)?;
        writer.flush()?;
        Ok(Self {
            writer,
            client,
            answers,
        })
    }

    /// Sends STOP, waits for FINISH and returns the socket. The receiver then has every frame.
    ///
    /// Fails with [`SocketError::Closed`] if the receiver closes the connection without FINISH. It is then unknown
    /// which frames the receiver has.
    pub fn finish(mut self) -> Result<S, SocketError> {
        let mut stop = Vec::new();
        self.client.stop(&mut stop);
        let (mut stream, _) = self.writer.end(&stop)?.into_parts();
        let out = &mut Vec::new(); // FINISH is not answered
        hear(&mut self.client, &mut stream, &mut self.answers, out)?;
        Ok(stream)
    }
}

impl<S: Write> SocketWriter<S> {
    /// Sends one data frame around `payload`, as [`Writer::write_frame`] does.
    pub fn write_frame(&mut self, payload: &[u8]) -> Result<(), WriteError> {
        self.writer.write_frame(payload)
    }

    /// Sends data that is already in data frames, as [`Writer::write_frames`] does. Returns the number of frames.
    pub fn write_frames(&mut self, frames: &[u8]) -> Result<u64, WriteError> {
        self.writer.write_frames(frames)
    }

    /// Sends the buffered frames.
    pub fn flush(&mut self) -> Result<(), WriteError> {
        self.writer.flush()
    }

    /// Returns the socket.
    #[must_use]
    pub fn get_ref(&self) -> &S {
        self.writer.get_ref().get_ref()
    }
}

/// Reads until the receiver has sent the control frame that the client waits for. The next frames to send are appended
/// to `out`.
fn hear(
    client: &mut Client,
    stream: &mut impl Read,
    answers: &mut BytesMut,
    out: &mut Vec<u8>,
) -> Result<(), SocketError> {
    loop {
        let awaited = match client.receive(answers, out)? {
            ClientState::AwaitAccept => "ACCEPT",
            ClientState::AwaitFinish => "FINISH",
            ClientState::Open | ClientState::Finished => return Ok(()),
        };
        let mut piece = [0; 520]; // the longest control frame
        match stream.read(&mut piece) {
            Ok(0) => return Err(SocketError::Closed { awaited }),
            Ok(read) => answers.extend_from_slice(&piece[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(SocketError::Read(error)),
        }
    }
}

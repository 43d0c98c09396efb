//! What can be wrong with a stream. Callers branch on these, so each rule of the format has its own variant.

use std::io;

use bytes::Bytes;
use thiserror::Error;

/// A control frame that breaks the format's rules, or cannot be written within them.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ControlError {
    /// Longer than [`MAX_CONTROL_FRAME`](super::MAX_CONTROL_FRAME) (when writing: with the two lengths before it).
    #[error("control frame of {len} bytes is longer than 512")]
    TooLong {
        /// Bytes of the control frame.
        len: u64,
    },
    /// Ends inside its type or one of its fields.
    #[error("control frame of {len} bytes ends within a field")]
    Truncated {
        /// Bytes of the control frame.
        len: u64,
    },
    /// A type that the format does not define.
    #[error("unknown control frame type {0}")]
    UnknownType(u32),
    /// Longer than [`MAX_CONTENT_TYPE`](super::MAX_CONTENT_TYPE).
    #[error("content type of {len} bytes is longer than 256")]
    ContentTypeTooLong {
        /// Bytes of the content type.
        len: u64,
    },
    /// More content types than the frame may have: one for START, none for STOP and FINISH.
    #[error("{frame} with {count} content types")]
    TooManyContentTypes {
        /// Name of the frame.
        frame: &'static str,
        /// Content types in it.
        count: usize,
    },
}

/// Which rule a frame breaks.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Malformed {
    /// The stream does not begin with a control frame: it is something else, or its beginning is missing.
    #[error("not a Frame Streams file: it does not begin with a control frame")]
    NoStart,
    /// A data frame longer than the limit.
    #[error("data frame of {len} bytes is longer than the limit of {limit}")]
    DataTooLong {
        /// Bytes of the data frame.
        len: u32,
        /// The limit.
        limit: u32,
    },
    /// A malformed control frame.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A control frame where it has no place, from a receiver.
    #[error("unexpected control frame {frame}")]
    UnexpectedControl {
        /// Name of the control frame.
        frame: &'static str,
    },
    /// START announces another content type than the expected one.
    #[error("content type is {}, expected {}", quoted(found), quoted(expected))]
    ContentType {
        /// What START announces.
        found: Bytes,
        /// What was to be read.
        expected: Bytes,
    },
    /// Something other than a control frame follows STOP.
    #[error("bytes after STOP that are no further stream")]
    AfterStop,
}

/// A malformed stream: everything before `offset` was sound.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("frame at byte {offset}: {kind}")]
pub struct DecodeError {
    /// Where the offending frame begins, in bytes from the beginning of the stream.
    pub offset: u64,
    /// What is wrong with it.
    pub kind: Malformed,
}

/// Why [`Client`](super::Client) or [`Server`](super::Server) cannot go on with a connection.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum HandshakeError {
    /// A frame breaks a rule, or has no place where it stands.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Something other than a control frame where only a control frame may be: most likely the peer speaks another protocol.
    #[error("the peer does not speak Frame Streams: a control frame was to come")]
    Data,
    /// The peer takes, or sends, other content types.
    #[error(
        "the peer's content types are [{}], ours is {}",
        theirs.iter().map(quoted).collect::<Vec<_>>().join(", "),
        quoted(ours)
    )]
    NoCommonContentType {
        /// What the peer named.
        theirs: Vec<Bytes>,
        /// What was to be sent or received.
        ours: Bytes,
    },
}

impl From<ControlError> for HandshakeError {
    fn from(error: ControlError) -> Self {
        Self::Malformed(error.into())
    }
}

/// Why [`Reader`](super::Reader) has no further frame, other than a regular end.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The source cannot be read.
    #[error("cannot read from byte {offset} on")]
    Io {
        /// Where the next frame begins, in bytes from the beginning of the stream.
        offset: u64,
        /// The cause.
        source: io::Error,
    },
    /// The stream is malformed.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// The source ends without STOP: its writer died or is still at work. All whole frames were handed out.
    #[error("ends without STOP: whole up to byte {offset}, then {partial} bytes of a cut frame")]
    Unfinished {
        /// Where the last whole frame ends, in bytes from the beginning of the stream.
        offset: u64,
        /// Bytes of a cut frame after it; 0 if the source ends between two frames.
        partial: u64,
    },
}

/// Why [`Writer`](super::Writer) did not write.
#[derive(Debug, Error)]
pub enum WriteError {
    /// The sink failed. What it has taken of this call's frames is unknown; the writer takes no further frames.
    #[error("cannot write")]
    Io(#[from] io::Error),
    /// The content type does not fit a control frame.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A data frame cannot be empty: the length zero introduces a control frame.
    #[error("a data frame cannot be empty")]
    Empty,
    /// Longer than [`DEFAULT_MAX_DATA_FRAME`](super::DEFAULT_MAX_DATA_FRAME), which readers refuse.
    #[error("data frame of {len} bytes is longer than the limit of 1 MiB")]
    TooLong {
        /// Bytes of the data frame.
        len: usize,
    },
    /// The bytes given are not a row of whole data frames.
    #[error("no whole data frame at byte {at} of the given bytes")]
    NotFrames {
        /// Where the row breaks, in bytes from the beginning of what was given.
        at: usize,
    },
    /// An earlier write failed, so the stream may end within a frame: more frames would be misread.
    #[error("an earlier write failed")]
    Broken,
}

/// Why [`SocketWriter`](super::SocketWriter) or [`SocketReader`](super::SocketReader) gave a connection up.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SocketError {
    /// The socket cannot be read. A read timeout that was set on the socket ends here, too.
    #[error("cannot read from the socket")]
    Read(#[source] io::Error),
    /// The socket cannot be written to, or the content type does not fit a control frame.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// What the peer said breaks a rule of the format, or it takes or sends other content types.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The peer closed the connection too early. All whole data frames before were handed out.
    #[error("the peer closed the connection before {awaited}")]
    Closed {
        /// Name of the control frame that was to come: ACCEPT or FINISH from a receiver, READY, START or STOP from a
        /// sender.
        awaited: &'static str,
    },
}

/// Printable ASCII, for any bytes of a peer or a file.
fn quoted(content_type: &Bytes) -> String {
    format!("\"{}\"", content_type.escape_ascii())
}

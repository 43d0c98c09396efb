//! Errors of streams. Callers branch on these, so each rule of the format has its own variant.

use std::io;

use bytes::Bytes;
use thiserror::Error;

/// A control frame breaks the rules of the format, or cannot be written within them.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ControlError {
    /// The frame is longer than [`MAX_CONTROL_FRAME`](super::MAX_CONTROL_FRAME) (when writing: including the two
    /// lengths before it).
    #[error("control frame of {len} bytes is longer than 512")]
    TooLong {
        /// Bytes of the control frame.
        len: u64,
    },
    /// The frame ends inside its type or one of its fields.
    #[error("control frame of {len} bytes ends within a field")]
    Truncated {
        /// Bytes of the control frame.
        len: u64,
    },
    /// The format does not define this type.
    #[error("unknown control frame type {0}")]
    UnknownType(u32),
    /// A content type is longer than [`MAX_CONTENT_TYPE`](super::MAX_CONTENT_TYPE).
    #[error("content type of {len} bytes is longer than 256")]
    ContentTypeTooLong {
        /// Bytes of the content type.
        len: u64,
    },
    /// The frame has more content types than allowed: one for START, none for STOP and FINISH.
    #[error("{frame} with {count} content types")]
    TooManyContentTypes {
        /// Name of the frame.
        frame: &'static str,
        /// Number of content types in it.
        count: usize,
    },
}

/// Rule that a frame breaks.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Malformed {
    /// The stream does not begin with a control frame: it is not Frame Streams, or its beginning is missing.
    #[error("not a Frame Streams file: it does not begin with a control frame")]
    NoStart,
    /// A data frame is longer than the limit.
    #[error("data frame of {len} bytes is longer than the limit of {limit}")]
    DataTooLong {
        /// Bytes of the data frame.
        len: u32,
        /// The limit.
        limit: u32,
    },
    /// A control frame is malformed.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A receiver sent a control frame that is not allowed at this point.
    #[error("unexpected control frame {frame}")]
    UnexpectedControl {
        /// Name of the control frame.
        frame: &'static str,
    },
    /// START announces a content type other than the expected one.
    #[error("content type is {}, expected {}", quoted(found), quoted(expected))]
    ContentType {
        /// Content type that START announces.
        found: Bytes,
        /// Expected content type.
        expected: Bytes,
    },
    /// Something other than a control frame follows STOP.
    #[error("bytes after STOP that are no further stream")]
    AfterStop,
}

/// A stream is malformed. Everything before `offset` is valid.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("frame at byte {offset}: {kind}")]
pub struct DecodeError {
    /// Offset of the wrong frame, in bytes from the beginning of the stream.
    pub offset: u64,
    /// Rule that the frame breaks.
    pub kind: Malformed,
}

/// Reason why [`Client`](super::Client) or [`Server`](super::Server) cannot continue a connection.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum HandshakeError {
    /// A frame breaks a rule, or is not allowed at this point.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Other bytes arrived where only a control frame is allowed: most likely the peer speaks another protocol.
    #[error("the peer does not speak Frame Streams: a control frame was to come")]
    Data,
    /// The peer takes or sends other content types.
    #[error(
        "the peer's content types are [{}], ours is {}",
        theirs.iter().map(quoted).collect::<Vec<_>>().join(", "),
        quoted(ours)
    )]
    NoCommonContentType {
        /// Content types that the peer listed.
        theirs: Vec<Bytes>,
        /// Content type that was to be sent or received.
        ours: Bytes,
    },
}

impl From<ControlError> for HandshakeError {
    fn from(error: ControlError) -> Self {
        Self::Malformed(error.into())
    }
}

/// Reason why [`Reader`](super::Reader) has no further frame, other than a regular end.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The source cannot be read.
    #[error("cannot read from byte {offset} on")]
    Io {
        /// Offset of the next frame, in bytes from the beginning of the stream.
        offset: u64,
        /// The cause.
        source: io::Error,
    },
    /// The stream is malformed.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// The source ends without STOP: its writer ended early or is still writing. All whole frames were returned before.
    #[error("ends without STOP: whole up to byte {offset}, then {partial} bytes of a cut frame")]
    Unfinished {
        /// End of the last whole frame, in bytes from the beginning of the stream.
        offset: u64,
        /// Number of bytes of a cut frame after it; 0 if the source ends between two frames.
        partial: u64,
    },
}

/// Reason why [`Writer`](super::Writer) did not write.
#[derive(Debug, Error)]
pub enum WriteError {
    /// The sink failed. It is unknown how much of this call's frames it has taken. The writer takes no further frames.
    #[error("cannot write")]
    Io(#[from] io::Error),
    /// The content type does not fit a control frame.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A data frame cannot be empty: the length zero introduces a control frame.
    #[error("a data frame cannot be empty")]
    Empty,
    /// A data frame is longer than [`DEFAULT_MAX_DATA_FRAME`](super::DEFAULT_MAX_DATA_FRAME), so readers would refuse
    /// it.
    #[error("data frame of {len} bytes is longer than the limit of 1 MiB")]
    TooLong {
        /// Bytes of the data frame.
        len: usize,
    },
    /// The given bytes are not a sequence of whole data frames.
    #[error("no whole data frame at byte {at} of the given bytes")]
    NotFrames {
        /// Offset of the first byte that is not part of a whole frame, from the beginning of the given bytes.
        at: usize,
    },
    /// An earlier write failed, so the stream may end within a frame, and further frames would be misread.
    #[error("an earlier write failed")]
    Broken,
}

/// Reason why [`SocketWriter`](super::SocketWriter) or [`SocketReader`](super::SocketReader) gave a connection up.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SocketError {
    /// The socket cannot be read. A read timeout that was set on the socket gives this error, too.
    #[error("cannot read from the socket")]
    Read(#[source] io::Error),
    /// The socket cannot be written to, or the content type does not fit a control frame.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The peer's frames break a rule of the format, or the peer takes or sends other content types.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The peer closed the connection too early. All whole data frames were returned before.
    #[error("the peer closed the connection before {awaited}")]
    Closed {
        /// Name of the missing control frame: ACCEPT or FINISH from a receiver, READY, START or STOP from a sender.
        awaited: &'static str,
    },
}

/// Formats any bytes of a peer or a file as printable ASCII.
fn quoted(content_type: &Bytes) -> String {
    format!("\"{}\"", content_type.escape_ascii())
}

//! Frame Streams, the framing below dnstap, for files and for sockets.
//!
//! A stream is a sequence of frames. A data frame is its length (four bytes, big-endian, not zero), then that many
//! bytes. The length zero introduces a [`ControlFrame`]: its own length, its type and its fields follow, with all
//! numbers in the same format.
//!
//! ```text
//! data     | length > 0 | payload ...                                        |
//! control  | 0          | length <= 512 | type | field, length, content type ... |
//!
//! file     START data* STOP
//! socket   READY -> <- ACCEPT  START -> data* -> STOP -> <- FINISH
//! ```
//!
//! From the bottom up: [`ControlFrame`] (encodes and decodes control frames), [`split_frame`] (takes one frame off a
//! buffer), [`Decoder`] (order of frames from START to STOP, limits, offsets), [`Client`] and [`Server`] (the two sides
//! of a connection). These do no IO. Around them, with blocking IO: [`Reader`] and [`Writer`] for files,
//! [`SocketReader`] and [`SocketWriter`] for connections.
//!
//! Malformed input gives a typed error with the offset of the frame that broke the rules. Nothing panics, and no memory
//! is allocated only because a length field asks for it.
//!
//! The rules are those of the reference implementation, fstrm. Like fstrm, readers ignore control frames of unknown
//! types and control frames that have no meaning at their place, and they go on with a stream that follows another.
//! Other bytes after STOP are reported.

mod client;
mod control;
mod decode;
mod error;
mod input;
mod read;
mod server;
mod socket_reader;
mod socket_writer;
mod write;

pub use client::{Client, ClientState};
pub use control::ControlFrame;
pub use decode::{Decoder, Frame, Frames, State, split_frame};
pub use error::{
    ControlError, DecodeError, HandshakeError, Malformed, ReadError, SocketError, WriteError,
};
pub use read::{DataFrame, Reader, Row};
pub use server::{Server, ServerState};
pub use socket_reader::SocketReader;
pub use socket_writer::SocketWriter;
pub use write::Writer;

/// Content type of streams whose data frames each hold one [`Dnstap`](crate::Dnstap).
pub const DNSTAP_CONTENT_TYPE: &[u8] = b"protobuf:dnstap.Dnstap";

/// Content type of streams of [`Event`](crate::Event) messages.
pub const EVENT_CONTENT_TYPE: &[u8] = b"protobuf:dnstap.Event";

/// Longest control frame in bytes, without the two lengths before it.
pub const MAX_CONTROL_FRAME: u32 = 512;

/// Longest content type in bytes.
pub const MAX_CONTENT_TYPE: u32 = 256;

/// Longest data frame in bytes by default: 1 MiB, which is fstrm's limit. A dnstap message holds at most two DNS
/// messages of 65,535 bytes and a few hundred bytes around them, so valid messages never reach the limit. It keeps a
/// reader from collecting gigabytes because of a damaged length. Other receivers accept less (`fstrm_capture` 256 KiB,
/// Vector 100 KiB, golang-dnstap 96 KiB).
pub const DEFAULT_MAX_DATA_FRAME: u32 = 1 << 20;

/// Reads the four bytes at `at`, big-endian; `None` if there are fewer.
#[inline]
fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_be_bytes(*four))
}

#![doc = include_str!("../README.md")]
//!
//! # Where things are
//!
//! A dnstap stream has two layers, and so has this crate:
//!
//! - the messages: the protobuf types [`Dnstap`], [`Message`] and [`Policy`], generated from `dnstap.proto` with
//!   [`prost`], byte strings as [`bytes::Bytes`]; [`lenient`], which decodes them although a field is wrong; [`encode`],
//!   which writes the same bytes from borrowed parts; and [`view`], which reads them where they lie;
//! - [`frame_streams`], the framing around them: a codec without IO, and files and sockets on top of it.
//!
//! A writer of many messages gathers frames in a buffer that it reuses:
//!
//! ```
//! use dnstap_proto::{DnstapRef, MessageRef, SocketFamily, SocketProtocol, Timestamp, message};
//! use dnstap_proto::frame_streams::{DNSTAP_CONTENT_TYPE, Writer};
//!
//! let message = MessageRef {
//!     socket_family: Some(SocketFamily::Inet),
//!     socket_protocol: Some(SocketProtocol::Udp),
//!     query_address: Some(&[192, 0, 2, 1]),
//!     query_port: Some(53_000),
//!     query_time: Some(Timestamp { seconds: 1_700_000_000, nanoseconds: 5 }),
//!     query_message: Some(b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\0\0\x01\0\x01"), // ". IN A"
//!     ..MessageRef::new(message::Type::ClientQuery)
//! };
//! let mut frames = Vec::new(); // reused from batch to batch
//! DnstapRef { identity: Some(b"ns1"), ..DnstapRef::new(message) }.append_frame(&mut frames);
//!
//! let mut writer = Writer::new(Vec::new(), DNSTAP_CONTENT_TYPE)?;
//! writer.write_frames(&frames)?;
//! let file: Vec<u8> = writer.finish()?;
//! # assert_eq!(file.len(), 42 + frames.len() + 12);
//! # Ok::<(), dnstap_proto::frame_streams::WriteError>(())
//! ```
//!
//! A reader gets the parts of the messages without copying them:
//!
//! ```
//! use dnstap_proto::{Dnstap, frame_streams::{DNSTAP_CONTENT_TYPE, Reader}, prost::Message as _};
//!
//! # let file = include_bytes!("../tests/fixtures/fstrm_capture.fstrm");
//! for frame in Reader::new(&file[..], DNSTAP_CONTENT_TYPE)? {
//!     let dnstap = Dnstap::decode(frame?.payload)?;
//!     println!("{:?}", dnstap.message.unwrap_or_default().r#type());
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

pub mod encode;
pub mod frame_streams;
mod generated;
pub mod lenient;
pub mod view;

pub use bytes;
pub use encode::{DnstapRef, MessageRef, Timestamp};
pub use generated::{
    Cache, Dnstap, Event, Expiry, HttpProtocol, Message, NsChange, Policy, Purge, RateLimit,
    SocketFamily, SocketProtocol, Transfer, Trust, Unanswered, cache, dnstap, event, message,
    ns_change, policy, purge, rate_limit, transfer,
};
pub use prost;
pub use view::View;

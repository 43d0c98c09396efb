//! Encoders for outputs and for `read`: the beginning of a file, each message, and the end, in
//! every format.

use bytes::Bytes;
use dnstap_proto::{
    Event,
    frame_streams::{ControlFrame, DNSTAP_CONTENT_TYPE, EVENT_CONTENT_TYPE},
    lenient,
};

use prost::Message as _;

use super::{
    content::Content,
    pcap,
    render::Renderer,
    table::{HEAD, Rows},
};

/// Encodes messages in a format, one after the other.
#[derive(Debug)]
pub enum Encoder {
    /// Text, JSON, YAML.
    Lines(Renderer),
    /// Text, JSON, YAML of events.
    Events(Renderer),
    /// Pcap.
    Packets(Box<pcap::Writer>),
    /// A table in Parquet.
    Table(Box<Rows>),
    /// Frame Streams data frames of this content type.
    Frames(&'static [u8]),
}

impl Encoder {
    /// Creates an encoder for this format; text has `colours` if it is for a terminal.
    #[must_use]
    pub fn new(content: Content, colours: bool) -> Self {
        match content {
            Content::Pcap => Self::Packets(Box::default()),
            Content::Parquet => Self::Table(Box::default()),
            Content::Dnstap => Self::Frames(DNSTAP_CONTENT_TYPE),
            lines => Self::Lines(Renderer::new(lines, colours)),
        }
    }

    /// Creates an encoder of events, as [`Self::new`]. The format must be able to show them.
    #[must_use]
    pub fn of_events(content: Content, colours: bool) -> Self {
        match content {
            Content::Dnstap => Self::Frames(EVENT_CONTENT_TYPE),
            lines => Self::Events(Renderer::new(lines, colours)),
        }
    }

    /// Includes the identity of each message in text.
    #[must_use]
    pub fn with_identity(self) -> Self {
        match self {
            Self::Lines(renderer) => Self::Lines(renderer.with_identity()),
            other => other,
        }
    }

    /// Writes YAML in the format of BIND's `dnstap-read -y`.
    #[must_use]
    pub fn with_bind_yaml(self) -> Self {
        match self {
            Self::Lines(renderer) => Self::Lines(renderer.with_bind_yaml()),
            other => other,
        }
    }

    /// Returns the beginning of a file.
    #[must_use]
    pub fn head(&self) -> Vec<u8> {
        match self {
            Self::Lines(_) | Self::Events(_) => Vec::new(),
            Self::Packets(_) => pcap::FILE_HEADER.to_vec(),
            Self::Table(_) => HEAD.to_vec(),
            Self::Frames(content_type) => control(&ControlFrame::Start {
                content_type: Some(Bytes::from_static(content_type)),
            }),
        }
    }

    /// Returns the end of a file, which may hold the last messages.
    #[must_use]
    pub fn foot(&mut self) -> Vec<u8> {
        match self {
            Self::Table(rows) => rows.end(),
            Self::Lines(_) | Self::Events(_) | Self::Packets(_) => Vec::new(),
            Self::Frames(_) => control(&ControlFrame::Stop),
        }
    }

    /// Appends the payload of a frame in this format. Returns false if the format cannot show it.
    pub fn frame(&mut self, payload: &Bytes, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Frames(_) => {
                // The payload came in a frame, so its length fits.
                let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
                out.extend_from_slice(&length.to_be_bytes());
                out.extend_from_slice(payload);
                true
            }
            Self::Lines(renderer) => {
                renderer.line(payload.clone(), out);
                true
            }
            Self::Events(renderer) => Event::decode(payload.clone())
                .map(|event| renderer.event(&event, out))
                .is_ok(),
            Self::Packets(packets) => {
                lenient::decode(payload.clone()).is_ok_and(|dnstap| packets.message(&dnstap, out))
            }
            Self::Table(rows) => {
                lenient::decode(payload.clone()).is_ok_and(|dnstap| rows.message(&dnstap, out))
            }
        }
    }

    /// Appends an event in this format. Returns false if the format cannot show it.
    pub fn event(&mut self, event: &Event, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Lines(renderer) | Self::Events(renderer) => {
                renderer.event(event, out);
                true
            }
            Self::Frames(_) | Self::Packets(_) | Self::Table(_) => false,
        }
    }
}

fn control(frame: &ControlFrame) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame
        .encode(&mut bytes)
        .unwrap_or_else(|error| unreachable!("a short content type: {error}"));
    bytes
}

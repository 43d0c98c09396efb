//! Owns the kinds of content that dnstap can be turned into, for outputs and for `read`: what a file begins with, what each message
//! becomes, what it ends with.

use bytes::Bytes;
use dnstap_proto::{
    frame_streams::{ControlFrame, DNSTAP_CONTENT_TYPE},
    lenient,
};

use super::{content::Content, pcap, render::Renderer};

/// Turns messages into content, one after the other.
#[derive(Debug)]
pub enum Encoder {
    /// Text, JSON, YAML.
    Lines(Renderer),
    /// Pcap.
    Packets(Box<pcap::Writer>),
    /// Frame Streams data frames.
    Frames,
}

impl Encoder {
    /// An encoder of this content; text has `colours` if it is for a terminal.
    #[must_use]
    pub fn new(content: Content, colours: bool) -> Self {
        match content {
            Content::Pcap => Self::Packets(Box::default()),
            Content::Dnstap => Self::Frames,
            lines => Self::Lines(Renderer::new(lines, colours)),
        }
    }

    /// Text tells the identity of each message.
    #[must_use]
    pub fn with_identity(self) -> Self {
        match self {
            Self::Lines(renderer) => Self::Lines(renderer.with_identity()),
            other => other,
        }
    }

    /// YAML is what BIND's `dnstap-read -y` writes.
    #[must_use]
    pub fn with_bind_yaml(self) -> Self {
        match self {
            Self::Lines(renderer) => Self::Lines(renderer.with_bind_yaml()),
            other => other,
        }
    }

    /// What a file begins with.
    #[must_use]
    pub fn head(&self) -> Vec<u8> {
        match self {
            Self::Lines(_) => Vec::new(),
            Self::Packets(_) => pcap::FILE_HEADER.to_vec(),
            Self::Frames => control(&ControlFrame::Start {
                content_type: Some(Bytes::from_static(DNSTAP_CONTENT_TYPE)),
            }),
        }
    }

    /// What a file ends with.
    #[must_use]
    pub fn foot(&self) -> Vec<u8> {
        match self {
            Self::Lines(_) | Self::Packets(_) => Vec::new(),
            Self::Frames => control(&ControlFrame::Stop),
        }
    }

    /// Appends the payload of a frame, in this format; false if the format cannot show it.
    pub fn frame(&mut self, payload: &Bytes, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Frames => {
                // A payload came in a frame, so its length fits.
                let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
                out.extend_from_slice(&length.to_be_bytes());
                out.extend_from_slice(payload);
                true
            }
            Self::Lines(renderer) => {
                renderer.line(payload.clone(), out);
                true
            }
            Self::Packets(packets) => {
                lenient::decode(payload.clone()).is_ok_and(|dnstap| packets.message(&dnstap, out))
            }
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

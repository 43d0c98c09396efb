//! Owns how a dnstap message looks to people and programs: one line of text, or one JSON object on a line.
//!
//! It takes the payload of a frame, however broken, and always gives one line of printable ASCII: names and texts out of
//! the network are escaped, so that no message can move a terminal's cursor or break a line in two.
//! What cannot be understood is shown as such, with its size and the error.

mod extra;
mod json;
mod kinds;
mod mnemonics;
mod rdata;
mod socket;
mod text;
mod time;
mod wire;

use bytes::Bytes;
use dnstap_proto::Dnstap;
use prost::Message as _;

pub use self::kinds::{KINDS, KindCounts, long_name, short_name};

/// What a line looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// One readable line per message.
    Text,
    /// One JSON object per line.
    Json,
}

/// Renders messages one after the other; keeps what neighbours share (the second they happened in).
#[derive(Debug)]
pub struct Renderer {
    format: Format,
    clock: time::Clock,
}

impl Renderer {
    /// A renderer of lines in that format.
    #[must_use]
    pub fn new(format: Format) -> Self {
        Self {
            format,
            clock: time::Clock::default(),
        }
    }

    /// Appends the line (with its line end) of one frame's payload to `out`. A payload that is not a dnstap message becomes
    /// a line that says so.
    pub fn line(&mut self, payload: Bytes, out: &mut Vec<u8>) {
        let size = payload.len();
        match Dnstap::decode(payload) {
            Ok(dnstap) => self.message(&dnstap, out),
            Err(error) => match self.format {
                Format::Text => text::broken(size, &error, out),
                Format::Json => json::broken(size, &error, out),
            },
        }
    }

    /// Appends the line of a message that is decoded already.
    pub fn message(&mut self, dnstap: &Dnstap, out: &mut Vec<u8>) {
        match self.format {
            Format::Text => text::message(dnstap, &mut self.clock, out),
            Format::Json => json::message(dnstap, &mut self.clock, out),
        }
    }
}

#[cfg(test)]
mod tests;

//! Owns how a dnstap message looks to people and programs: a line of text, with all records below it if asked for, a JSON object on
//! a line, a YAML document.
//!
//! It takes the payload of a frame, however broken, and always gives lines of printable ASCII: names and texts out of
//! the network are escaped, so that no message can move a terminal's cursor or break a line in two.
//! What cannot be understood is shown as such, with its size and the error.

mod bind_yaml;
mod colour;
mod edns;
pub(crate) mod extra;
mod full;
mod json;
pub(crate) mod socket;
mod text;
mod time;
mod yaml;

use bytes::Bytes;
use dnstap_proto::{Dnstap, lenient};

use self::colour::Colours;
use crate::formats::content::Content;

/// Renders messages one after the other; keeps what neighbours share (the second they happened in).
#[derive(Debug)]
pub struct Renderer {
    content: Content,
    colours: Colours,
    /// Whether text tells the identity.
    identity: bool,
    clock: time::Clock,
    /// For YAML as BIND writes it: whether a document was written. None for ours.
    bind_yaml: Option<bool>,
}

impl Renderer {
    /// A renderer of that content, which is text in some form; `colours` is for terminals.
    #[must_use]
    pub fn new(content: Content, colours: bool) -> Self {
        Self {
            content,
            colours: Colours(colours),
            identity: false,
            clock: time::Clock::default(),
            bind_yaml: None,
        }
    }

    /// Text tells the identity of each message.
    #[must_use]
    pub fn with_identity(mut self) -> Self {
        self.identity = true;
        self
    }

    /// YAML is what BIND's `dnstap-read -y` writes.
    #[must_use]
    pub fn with_bind_yaml(mut self) -> Self {
        self.bind_yaml = Some(false);
        self
    }

    /// Appends what one frame's payload becomes to `out`. A payload that is not a dnstap message becomes
    /// a line that says so.
    pub fn line(&mut self, payload: Bytes, out: &mut Vec<u8>) {
        let size = payload.len();
        match lenient::decode(payload) {
            Ok(dnstap) => self.message(&dnstap, out),
            Err(error) => match self.content {
                Content::Json => json::write(&json::broken(size, &error), out),
                Content::Yaml => yaml::document(&json::broken(size, &error), out),
                _ => text::broken(size, &error, out),
            },
        }
    }

    /// Appends what a message becomes that is decoded already.
    pub fn message(&mut self, dnstap: &Dnstap, out: &mut Vec<u8>) {
        match self.content {
            Content::Json => json::write(&json::message(dnstap, &mut self.clock), out),
            Content::Yaml if let Some(has_written) = &mut self.bind_yaml => {
                bind_yaml::document(dnstap, &mut self.clock, !*has_written, out);
                *has_written = true;
            }
            Content::Yaml => yaml::document(&json::message(dnstap, &mut self.clock), out),
            content => {
                text::message(dnstap, self.identity, &mut self.clock, self.colours, out);
                if content == Content::Full {
                    full::records(dnstap, self.colours, out);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;

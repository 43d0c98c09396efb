//! Rendering of a dnstap message for people and programs: a line of text (optionally followed by
//! all records), a JSON object on a line, or a YAML document.
//!
//! The input is the payload of a frame, valid or not. The output is always lines of printable
//! ASCII: names and texts from the network are escaped, so no message can move a terminal's cursor
//! or break a line in two. A payload that cannot be decoded is shown with its size and the error.

mod bind_yaml;
mod colour;
mod edns;
mod event;
pub(crate) mod extra;
mod full;
mod json;
pub(crate) mod socket;
mod text;
mod time;
mod yaml;

use bytes::Bytes;
use dnstap_proto::{Dnstap, Event, Trust, lenient};

use self::colour::Colours;
use crate::formats::content::Content;

/// Renders messages one after the other. Caches the formatted second, which neighbouring messages
/// share.
#[derive(Debug)]
pub struct Renderer {
    content: Content,
    colours: Colours,
    /// Whether text includes the identity.
    identity: bool,
    clock: time::Clock,
    /// For YAML in BIND's format: whether a document was written. `None` for our YAML.
    bind_yaml: Option<bool>,
}

impl Renderer {
    /// Creates a renderer for text, JSON or YAML; `colours` is for terminals.
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

    /// Includes the identity of each message in text.
    #[must_use]
    pub fn with_identity(mut self) -> Self {
        self.identity = true;
        self
    }

    /// Writes YAML in the format of BIND's `dnstap-read -y`.
    #[must_use]
    pub fn with_bind_yaml(mut self) -> Self {
        self.bind_yaml = Some(false);
        self
    }

    /// Appends the rendering of one frame's payload to `out`. A payload that is no dnstap message
    /// is rendered as a line that says so.
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

    /// Appends the rendering of an event.
    pub fn event(&mut self, event: &Event, out: &mut Vec<u8>) {
        let line = event::Line::of(event, &mut self.clock);
        match self.content {
            Content::Json => json::write(&line, out),
            Content::Yaml => yaml::document(&line, out),
            _ => event::text(
                event,
                &line,
                self.identity,
                &mut self.clock,
                self.colours,
                out,
            ),
        }
    }

    /// Appends the rendering of a decoded message.
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

/// Returns the word for a trust, as events have it.
pub(crate) fn trust(trust: Trust) -> String {
    event::trust(trust)
}

#[cfg(test)]
mod tests;

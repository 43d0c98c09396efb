//! What messages look like: text, JSON, YAML, packets.

mod content;
mod encoder;
pub mod pcap;
pub mod render;

pub use self::{content::Content, encoder::Encoder};

//! Formats of messages: text, JSON, YAML, packets, tables.

mod content;
mod encoder;
pub mod pcap;
pub mod render;
pub mod table;

pub use self::{content::Content, encoder::Encoder};

/// Prints a number of things: `1 file`, `2 files`.
pub(crate) fn counted(count: u64, thing: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{plural}")
}

//! Events that are reported in addition to messages.

use super::{Envelope, Finding};

/// An event that a source or a stage reports in addition to messages. Notices go to outputs of
/// their own, because readers of dnstap take each frame for a message.
#[derive(Clone, Debug)]
pub enum Notice {
    /// A query got no response.
    Unanswered {
        /// The query.
        query: Asked,
        /// Nanoseconds for which it waited.
        waited_ns: u64,
    },
    /// An event whose meaning no stage knows.
    Unknown,
}

/// A query in a notice.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Context of the query.
    pub envelope: Envelope,
    /// Classification of the query.
    pub finding: Finding,
    /// Whether the query is delivered (false if it is left out on purpose).
    pub wanted: bool,
    /// First bytes of the query.
    pub message: Vec<u8>,
}

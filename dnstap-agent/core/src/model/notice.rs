//! What is no message and is reported all the same.

use super::{Envelope, Finding};

/// What a source or a stage has to report beside messages. It goes to outputs of its own, for readers of dnstap take each frame for a
/// message.
#[derive(Clone, Debug)]
pub enum Notice {
    /// A query stayed without response.
    Unanswered {
        /// The query.
        query: Asked,
        /// Nanoseconds for which it waited.
        waited_ns: u64,
    },
    /// Something of which no stage knows the meaning.
    Unknown,
}

/// A query as it is reported.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Its context.
    pub envelope: Envelope,
    /// What was found out about it.
    pub finding: Finding,
    /// Its first bytes.
    pub message: Vec<u8>,
}

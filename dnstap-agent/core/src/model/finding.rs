//! What the stages find out about a message.

use super::{Kind, Role};

/// What the stages before found out about a message. Times are wall-clock nanoseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub struct Finding {
    /// The process's role.
    pub role: Role,
    /// Family of types.
    pub kind: Kind,
    /// Query or response.
    pub response: bool,
    /// When the query passed.
    pub query_time_ns: Option<u64>,
    /// When the response passed.
    pub response_time_ns: Option<u64>,
}

impl Finding {
    /// Number of the dnstap type: [`Kind::message_type`] as the format has it.
    #[must_use]
    #[inline]
    pub fn number(&self) -> u8 {
        2 * self.kind as u8 + u8::from(self.response) + 1
    }
}

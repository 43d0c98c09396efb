//! Classification of a message.

use super::{Kind, Role};

/// Result of the earlier stages for a message. Times are wall-clock nanoseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub struct Finding {
    /// Role of the process.
    pub role: Role,
    /// Family of types.
    pub kind: Kind,
    /// Whether it is a response.
    pub response: bool,
    /// Time of the query.
    pub query_time_ns: Option<u64>,
    /// Time of the response.
    pub response_time_ns: Option<u64>,
}

impl Finding {
    /// Returns the number of the dnstap type, which is that of [`Kind::message_type`].
    #[must_use]
    #[inline]
    pub fn number(&self) -> u8 {
        2 * self.kind as u8 + u8::from(self.response) + 1
    }
}

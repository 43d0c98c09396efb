//! Common parts of message parsing: reading a number, and the error.

use thiserror::Error;

/// Error in a message, with its byte offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WireError {
    /// The message has fewer than 12 bytes.
    #[error("shorter than a DNS header (12 bytes)")]
    NoHeader,
    /// The message ends within a name, a record or a field.
    #[error("cut short at byte {0}")]
    Short(usize),
    /// The first byte of a label is 64 to 191 (RFC 6891 section 5).
    #[error("unknown kind of label at byte {0}")]
    Label(usize),
    /// A compression pointer does not point backwards (RFC 1035 section 4.1.4).
    #[error("compression pointer at byte {0} does not point backwards")]
    Pointer(usize),
    /// The name is longer than 255 bytes (RFC 1035 section 2.3.4).
    #[error("name at byte {0} is longer than 255 bytes")]
    LongName(usize),
}

/// Reads the 16-bit number at `at`.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> Result<u16, WireError> {
    match bytes.get(at..at + 2) {
        Some(&[high, low]) => Ok(u16::from_be_bytes([high, low])),
        _ => Err(WireError::Short(bytes.len())),
    }
}

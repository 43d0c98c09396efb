//! Encoded frames.

/// Frame Streams data frames back to back: a length of four bytes, big-endian, then a `Dnstap` or an
/// `Event` message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frames {
    /// The frames.
    pub bytes: Vec<u8>,
    /// Number of frames.
    pub count: u64,
}

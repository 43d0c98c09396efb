//! Owns what every kind of sink has in common: it writes batches, and says exactly how far it came when it cannot.

use std::io;

use super::Batch;

/// Takes batches on the sink's own thread; may block there.
pub(super) trait Output: Send {
    /// Writes the whole batch, or fails for good.
    fn write(&mut self, batch: &Batch) -> Result<Written, Failure>;
    /// The last call after success: whatever ends the output.
    fn finish(&mut self) -> io::Result<()>;
}

/// What arrived whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

/// The end of an output.
#[derive(Debug)]
pub(super) struct Failure {
    /// What of the batch arrived whole all the same.
    pub(super) written: Written,
    pub(super) error: io::Error,
}

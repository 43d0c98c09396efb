//! Owns what every kind of sink has in common: it writes batches of frames, and says exactly how far it came when it cannot.

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

/// Where each frame ends; up to the first that is not whole.
pub(super) fn frame_ends(frames: &[u8]) -> impl Iterator<Item = usize> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let (length, _) = frames.get(at..)?.split_first_chunk::<4>()?;
        at = usize::try_from(u32::from_be_bytes(*length))
            .ok()?
            .checked_add(at + 4)?;
        (at <= frames.len()).then_some(at)
    })
}

//! Owns what every kind of sink has in common: it writes batches of frames, and says exactly how far it came when it cannot.

use std::{io, time::Duration};

use super::Batch;

/// Takes batches on the sink's own thread; may block there.
pub(super) trait Output: Send {
    /// Writes the whole batch, or fails.
    fn write(&mut self, batch: &Batch) -> Result<Written, Failure>;
    /// The last call after success: whatever ends the output.
    fn finish(&mut self) -> io::Result<()>;
    /// How much is to be gathered before it is written, for outputs that are better off with much at once.
    fn gather(&self) -> Option<Gather> {
        None
    }
    /// When it wants [`turn`](Self::turn) to be called if nothing is written until then.
    fn next_turn(&self) -> Option<Duration> {
        None
    }
    /// Does what has become due with time.
    fn turn(&mut self) {}
    /// Begins a new file if the old one was renamed or removed.
    fn reopen(&mut self) {}
}

/// What is written at once when it has one of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gather {
    pub(super) bytes: usize,
    pub(super) age: Duration,
}

/// What arrived whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    /// Messages that the content cannot show, and so are not among those written.
    pub(super) unfit: u64,
}

/// A batch that did not arrive whole.
#[derive(Debug)]
pub(super) struct Failure {
    /// What of it arrived whole all the same.
    pub(super) written: Written,
    pub(super) error: io::Error,
    /// The output is whole up to there, and could take more if the cause went away.
    pub(super) resumable: bool,
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

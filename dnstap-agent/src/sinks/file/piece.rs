//! A piece of a file: bytes that are written at once, and the ends of the messages in them.

use crate::{
    formats::table::Group,
    sinks::{batch::frame_ends, queue::blocking::Written},
};

/// Bytes for a file, and the messages in them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece<'a> {
    pub(super) bytes: &'a [u8],
    /// Messages that are in `bytes`.
    pub(super) messages: u64,
    /// Messages of the batch that the format cannot show.
    pub(super) unfit: u64,
    pub(super) ends: Ends<'a>,
}

/// Positions at which a piece can be cut.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ends<'a> {
    /// Behind each Frame Streams data frame.
    Frames,
    /// At these positions, one for each message.
    At(&'a [usize]),
    /// Nowhere, because it is compressed.
    Whole,
    /// Nowhere, because it is a row group, which the foot of the file lists.
    Group(&'a Group),
}

impl Piece<'_> {
    /// Returns the whole piece as written.
    pub(super) fn all(&self) -> Written {
        Written {
            messages: self.messages,
            bytes: self.bytes.len() as u64,
            unfit: self.unfit,
        }
    }

    /// Returns the whole messages before `reached` as parts of growing size.
    pub(super) fn whole(&self, reached: usize) -> Vec<Written> {
        let parts = |ends: &mut dyn Iterator<Item = usize>| {
            ends.take_while(|end| *end <= reached)
                .zip(1..)
                .map(|(end, messages)| Written {
                    messages,
                    bytes: end as u64,
                    unfit: 0,
                })
                .collect()
        };
        match self.ends {
            Ends::Frames => parts(&mut frame_ends(self.bytes)),
            Ends::At(ends) => parts(&mut ends.iter().copied()),
            Ends::Whole if reached == self.bytes.len() => vec![self.all()],
            Ends::Whole | Ends::Group(_) => Vec::new(),
        }
    }
}

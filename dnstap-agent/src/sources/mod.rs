//! Sources of messages, and the selection of tapped processes.

pub mod dnstap;
pub mod file;
pub mod probes;
pub mod processes;
pub mod socket;

use std::{os::fd::BorrowedFd, path::Path};

use dnstap_core::{
    model::{Envelope, Notice, Origin},
    record,
};
use dnstap_proto::frame_streams::{Frames, Row};

use self::file::Fault;

/// A source of messages.
pub trait Source {
    /// Returns descriptors that become readable when much has come; none if the source is waited
    /// for in another way.
    fn descriptors(&self) -> Vec<BorrowedFd<'_>>;

    /// Passes on what has come, oldest first. It passes on at most one full buffer, so that a fast
    /// source does not occupy the caller for ever. The newest items may stay until the next call,
    /// so that order is kept; `last` asks for all.
    fn drain(&mut self, last: bool, take: &mut dyn FnMut(Item<'_>));

    /// Accepts nothing more. What has come can still be drained.
    fn stop(&mut self);
}

/// An item of a source. All but frames, rows and faults are for the
/// [`Pipeline`](dnstap_core::pipeline::Pipeline).
#[derive(Debug)]
pub enum Item<'a> {
    /// A record of a ring, with its kind in its header.
    Record(&'a [u8]),
    /// A whole message.
    Message(&'a Envelope, &'a [u8]),
    /// An event that is no message.
    Notice(Notice),
    /// Messages that are already dnstap, for the outputs.
    Frames(Frames),
    /// Messages of a file that are already dnstap, with their position in it.
    Row(&'a Path, &'a Row),
    /// Events of a file, with their position in it.
    EventRow(&'a Path, &'a Row),
    /// A fault in a file.
    Fault(&'a Path, Fault),
}

impl Item<'_> {
    /// Returns the origin of the item, if it has one.
    #[must_use]
    pub fn origin(&self) -> Option<Origin> {
        match self {
            Self::Record(record) => Origin::of_record(record),
            Self::Message(envelope, _) => Some(envelope.origin),
            Self::Notice(_)
            | Self::Frames(_)
            | Self::Row(..)
            | Self::EventRow(..)
            | Self::Fault(..) => None,
        }
    }

    /// Returns the kernel time of the item, if it has one.
    #[must_use]
    pub fn ktime_ns(&self) -> Option<u64> {
        match self {
            Self::Record(record) => record::ktime_ns(record),
            Self::Message(envelope, _) => Some(envelope.ktime_ns),
            Self::Notice(_)
            | Self::Frames(_)
            | Self::Row(..)
            | Self::EventRow(..)
            | Self::Fault(..) => None,
        }
    }
}

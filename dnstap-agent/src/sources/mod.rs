//! Where messages come from, and which processes are tapped.

pub mod dnstap;
pub mod file;
pub mod probes;
pub mod processes;
pub mod socket;

use std::{os::fd::BorrowedFd, path::Path};

use dnstap_core::{
    event,
    model::{Envelope, Notice, Origin},
};
use dnstap_proto::frame_streams::{Frames, Row};

use self::file::Fault;

/// Something that messages come from.
pub trait Source {
    /// What becomes readable when much has come; nothing, if it is waited for in another way.
    fn descriptors(&self) -> Vec<BorrowedFd<'_>>;

    /// Hands over what has come, oldest first, but no more than there was room for: what comes as fast as it is taken does not keep the
    /// caller. The newest may stay for the next time, so that order is kept; `last` asks for all.
    fn drain(&mut self, last: bool, take: &mut dyn FnMut(Item<'_>));

    /// Takes in nothing more. What has come can still be drained.
    fn stop(&mut self);
}

/// What a source hands over: for a door of the [`Pipeline`](dnstap_core::pipeline::Pipeline), but for frames.
#[derive(Debug)]
pub enum Item<'a> {
    /// A record of a ring, which says itself what it is.
    Record(&'a [u8]),
    /// A whole message.
    Message(&'a Envelope, &'a [u8]),
    /// What is no message.
    Notice(Notice),
    /// Messages that are dnstap already, for the outputs.
    Frames(Frames),
    /// Messages of a file that are dnstap already, with their place in it.
    Row(&'a Path, &'a Row),
    /// What a file has instead of messages.
    Fault(&'a Path, Fault),
}

impl Item<'_> {
    /// Whose it is, as far as it says.
    #[must_use]
    pub fn origin(&self) -> Option<Origin> {
        match self {
            Self::Record(record) => Origin::of_record(record),
            Self::Message(envelope, _) => Some(envelope.origin),
            Self::Notice(_) | Self::Frames(_) | Self::Row(..) | Self::Fault(..) => None,
        }
    }

    /// Its kernel time, as far as it says.
    #[must_use]
    pub fn ktime_ns(&self) -> Option<u64> {
        match self {
            Self::Record(record) => event::ktime_ns(record),
            Self::Message(envelope, _) => Some(envelope.ktime_ns),
            Self::Notice(_) | Self::Frames(_) | Self::Row(..) | Self::Fault(..) => None,
        }
    }
}

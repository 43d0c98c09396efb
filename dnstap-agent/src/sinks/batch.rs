//! Content of the queues: encoded messages, and their parsed views if the source has them.

use std::sync::Arc;

use bytes::Bytes;
use dnstap_proto::{Dnstap, lenient};

/// Encoded messages on their way out: whole Frame Streams data frames, back to back. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// Frames: for each message a big-endian `u32` length and the dnstap protobuf.
    pub frames: Bytes,
    /// Number of messages.
    pub messages: u64,
    /// The same messages in their order, as the source has parsed them. Only sinks that need views
    /// get them ([`SinkSet::wants_views`](super::SinkSet::wants_views)).
    pub views: Option<Arc<[Dnstap]>>,
    /// Number of messages that the queue was sent before this batch, dropped ones included. The queue sets it.
    pub(super) position: u64,
}

impl Batch {
    /// Creates a batch from frames with this number of messages, without views.
    #[must_use]
    pub fn new(frames: impl Into<Bytes>, messages: u64) -> Self {
        Self {
            frames: frames.into(),
            messages,
            views: None,
            position: 0,
        }
    }

    /// Adds views, if each frame is a message.
    pub(crate) fn with_views(self) -> Self {
        let views: Result<Arc<[Dnstap]>, _> = payloads(&self.frames).map(lenient::decode).collect();
        Self {
            views: views.ok(),
            ..self
        }
    }

    /// Returns the bytes that the batch takes in a queue, without its slot.
    pub(crate) fn size(&self) -> usize {
        let with_views = self.views.is_some();
        Self::size_of(self.frames.len(), self.messages, with_views)
    }

    /// Returns the size of a batch with this number of bytes and messages.
    pub(crate) fn size_of(bytes: usize, messages: u64, with_views: bool) -> usize {
        let views = if with_views { messages } else { 0 };
        let views = usize::try_from(views).unwrap_or(usize::MAX);
        bytes.saturating_add(views.saturating_mul(size_of::<Dnstap>()))
    }

    /// Passes each message to `take`: its view, or else the frame decoded here. `None` stands for a
    /// frame without a message.
    pub(super) fn for_each(&self, mut take: impl FnMut(Option<&Dnstap>)) {
        if let Some(views) = &self.views {
            return views.iter().for_each(|view| take(Some(view)));
        }
        for frame in payloads(&self.frames) {
            take(lenient::decode(frame).ok().as_ref());
        }
    }
}

/// Returns the end of each frame, up to the first that is not whole.
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

/// Returns the payload of each frame, without a copy.
pub(super) fn payloads(frames: &Bytes) -> impl Iterator<Item = Bytes> {
    let mut start = 0;
    frame_ends(frames).map(move |end| {
        let payload = frames.slice(start + 4..end);
        start = end;
        payload
    })
}

#[cfg(test)]
mod tests {
    use dnstap_proto::{message::Type, prost::Message as _};

    use super::*;
    use crate::tally::tests::message;

    #[test]
    fn a_consumer_of_messages_sees_the_same_with_and_without_the_views_of_the_source() {
        let views: Vec<_> = (0..3)
            .map(|id| message(Type::ClientQuery, "name", id, 0))
            .collect();
        let mut frames = Vec::new();
        for view in &views {
            let frame = view.encode_to_vec();
            frames.extend(u32::try_from(frame.len()).expect("short").to_be_bytes());
            frames.extend(frame);
        }
        let decoded = Batch::new(frames, 3);
        let carried = decoded.clone().with_views();
        assert_eq!(carried.views.as_deref(), Some(&views[..]));
        assert!(carried.size() >= decoded.size() + 3 * size_of::<Dnstap>());
        for batch in [decoded, carried] {
            let mut seen = Vec::new();
            batch.for_each(|view| seen.extend(view.cloned()));
            assert_eq!(seen, views);
        }
    }
}

//! Finds the datagrams in the bytes of one call. A call may carry several datagrams, or only a part
//! of one.
//!
//! - The kernel splits a send into datagrams of one size, of which the last may be shorter
//!   (`UDP_SEGMENT`). The size is in the record.
//! - The kernel may return several datagrams of one size from one receive (`UDP_GRO`). A flag in
//!   the record says so. The size is in the record, too, unless the process left no room for it
//!   (hook `syscall`). In that case bytes that are one whole message were one datagram, also to the
//!   process. Other bytes cannot be split.
//! - A datagram that is longer than the buffers of the process is cut. If the kernel tells how many
//!   bytes arrived, the record has their number. If not, and the buffers were filled to the last
//!   byte, the DNS message tells whether something is missing.

use dnstap_ebpf::{EVENT_COALESCED, EVENT_FILLED};

use crate::{dns, record::Chunk};

/// Layout of the datagrams in the bytes of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Bytes of each datagram but the last. If there is one datagram: the bytes that arrived.
    pub(super) size: usize,
    /// Number of datagrams that arrived, at least one. Those that found no room are included.
    pub(super) datagrams: usize,
    /// Number of datagrams of which no byte is there.
    pub(super) absent: usize,
    /// Whether the last datagram that is there is cut.
    last_is_cut: bool,
    /// Whether it is unknown if a datagram is cut.
    may_be_cut: bool,
}

impl Layout {
    /// Returns whether the `bytes` of one call are certainly one whole datagram.
    #[inline]
    pub(super) fn is_one(chunk: &Chunk<'_>, bytes: &[u8]) -> bool {
        let arrived = chunk.arrived_len as usize;
        chunk.segment == 0
            && (arrived == 0 || arrived == bytes.len())
            && chunk.flags & (EVENT_COALESCED | EVENT_FILLED) == 0
    }

    /// Returns the layout of the `bytes` of one call; `None` if it cannot be determined.
    pub(super) fn of(chunk: &Chunk<'_>, bytes: &[u8]) -> Option<Self> {
        if chunk.flags & EVENT_COALESCED != 0 && dns::extent(bytes) != Some(bytes.len()) {
            return None;
        }
        let is_told = chunk.arrived_len != 0;
        let arrived = bytes.len().max(chunk.arrived_len as usize);
        let size = match chunk.segment {
            0 => arrived.max(1),
            segment => usize::from(segment).min(arrived.max(1)),
        };
        let (datagrams, here) = (
            arrived.div_ceil(size).max(1),
            bytes.len().div_ceil(size).max(1),
        );
        Some(Self {
            size,
            datagrams,
            absent: datagrams - here,
            last_is_cut: bytes.len() < arrived.min(here * size),
            may_be_cut: !is_told && chunk.flags & EVENT_FILLED != 0,
        })
    }

    /// Returns whether the datagram with this `index` is cut; `message` is its content.
    pub(super) fn is_cut(&self, index: usize, message: &[u8]) -> bool {
        let is_last = index + 1 + self.absent == self.datagrams;
        (self.last_is_cut && is_last) || (self.may_be_cut && dns::extent(message).is_none())
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::{
        dns::fixture::message,
        record::fixture::{header, parsed, whole},
    };

    fn layout(flags: u8, segment: u16, arrived_len: u32, bytes: &[u8]) -> Option<Layout> {
        let mut header = header();
        (header.flags, header.segment, header.arrived_len) = (flags, segment, arrived_len);
        Layout::of(&parsed(&whole(header, bytes)), bytes)
    }

    /// Builds a query of 29 bytes.
    fn query() -> Vec<u8> {
        message(7, 0x0100, "elevenbytes", 0)
    }

    /// Sizes of the whole datagrams, and the number of those that are cut or absent.
    #[rstest]
    #[case::one(0, 0, 58, &[58], 0)]
    #[case::one_that_came_whole(0, 58, 58, &[58], 0)]
    #[case::one_that_was_cut(0, 59, 58, &[], 1)]
    #[case::two(29, 0, 58, &[29, 29], 0)]
    #[case::two_that_came_whole(29, 58, 58, &[29, 29], 0)]
    #[case::a_shorter_one_behind(29, 40, 40, &[29, 11], 0)]
    #[case::the_second_was_cut(29, 58, 40, &[29], 1)]
    #[case::the_second_is_absent(29, 58, 29, &[29], 1)]
    #[case::one_is_cut_and_two_are_absent(29, 100, 40, &[29], 3)]
    #[case::the_only_one_here_is_cut(29, 58, 20, &[], 2)]
    #[case::a_segment_that_is_larger(100, 0, 58, &[58], 0)]
    fn a_call_is_cut_as_the_kernel_does(
        #[case] segment: u16,
        #[case] arrived: u32,
        #[case] length: usize,
        #[case] expected: &[usize],
        #[case] missing: usize,
    ) {
        let bytes = [query(), query()].concat();
        let bytes = &bytes[..length];
        // If the kernel has told the sizes, two messages do not make two datagrams, and a full
        // buffer does not make a cut one.
        let flags = if arrived == 0 { 0 } else { EVENT_FILLED };
        let layout = layout(flags, segment, arrived, bytes).unwrap();
        let whole: Vec<_> = bytes
            .chunks(layout.size)
            .enumerate()
            .filter(|(index, datagram)| !layout.is_cut(*index, datagram))
            .map(|(_, datagram)| datagram.len())
            .collect();
        assert_eq!(whole, expected);
        assert_eq!(layout.datagrams - whole.len(), missing);
    }

    #[test]
    fn an_empty_datagram_is_one() {
        let layout = layout(0, 0, 0, &[]).unwrap();
        assert_eq!((layout.datagrams, layout.absent), (1, 0));
        assert!(!layout.is_cut(0, &[]));
    }

    #[test]
    fn where_nobody_tells_only_what_is_one_message_was_one_datagram() {
        let one = query();
        let is_told = |bytes: &[u8]| layout(EVENT_COALESCED, 0, 0, bytes).is_some();
        assert!(is_told(&one));
        assert!(!is_told(&[&one[..], &one].concat()));
        assert!(!is_told(&[&one[..], b"xyz"].concat()));
        assert!(!is_told(&one[..28]));
    }

    #[test]
    fn a_message_that_fills_the_buffer_is_cut_if_something_is_missing() {
        let response = message(7, 0x8180, "name", 2);
        for length in 0..=response.len() {
            for flags in [0, EVENT_FILLED] {
                let bytes = &response[..length];
                let layout = layout(flags, 0, 0, bytes).unwrap();
                let cut = flags != 0 && length < response.len();
                assert_eq!(layout.is_cut(0, bytes), cut, "{length}");
            }
        }
    }
}

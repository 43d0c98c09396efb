//! Datagrams as they were on the wire. One call may carry several of them, or less than one.
//!
//! - The kernel cuts a send into datagrams of one size, the last of which may be shorter (`UDP_SEGMENT`). The size comes with the record.
//! - The kernel may hand over several datagrams of one size in one receive (`UDP_GRO`). The kernel says so, and the size comes with the
//!   record, unless the process gave no room for it (hook `syscall`). Then bytes that are one whole message were one datagram, for the
//!   process too. Of other bytes it is not known which datagrams they were.
//! - A datagram that is longer than the buffers of the process is cut. How much arrived comes with the record where the kernel tells it.
//!   Where it does not, and the buffers were filled to the last byte, the DNS message tells whether something is missing.

use dnstap_ebpf::{EVENT_COALESCED, EVENT_FILLED};

use crate::{dns, event::Chunk};

/// The datagrams in the bytes that one call transferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Bytes of each but the last; their number if they are one.
    pub(super) size: usize,
    /// Datagrams that arrived, with those that found no room; one at least.
    pub(super) datagrams: usize,
    /// Those of which there is not a byte.
    pub(super) absent: usize,
    /// Whether the last one that is there lacks its end.
    last_is_cut: bool,
    /// Whether the kernel has not told that.
    may_be_cut: bool,
}

impl Layout {
    /// Whether the `bytes` of one call are plainly one datagram, which is whole.
    #[inline]
    pub(super) fn is_one(chunk: &Chunk<'_>, bytes: &[u8]) -> bool {
        let arrived = chunk.arrived_len as usize;
        chunk.segment == 0
            && (arrived == 0 || arrived == bytes.len())
            && chunk.flags & (EVENT_COALESCED | EVENT_FILLED) == 0
    }

    /// That of the `bytes` of one call; `None` if it cannot be told.
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

    /// Whether the datagram number `index` lacks its end; `message` is what it carries.
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
        event::fixture::{header, parsed, whole},
    };

    fn layout(flags: u8, segment: u16, arrived_len: u32, bytes: &[u8]) -> Option<Layout> {
        let mut header = header();
        (header.flags, header.segment, header.arrived_len) = (flags, segment, arrived_len);
        Layout::of(&parsed(&whole(header, bytes)), bytes)
    }

    /// A query of 29 bytes.
    fn query() -> Vec<u8> {
        message(7, 0x0100, "elevenbytes", 0)
    }

    /// Sizes of the datagrams that are there and whole, and how many are not.
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
        // Two messages do not make two datagrams, nor does a full buffer make a cut one, where the kernel has told.
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

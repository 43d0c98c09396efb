//! Datagrams as they were on the wire. One call may carry several of them, or less than one.
//!
//! - The kernel cuts a send into datagrams of one size, the last of which may be shorter (`UDP_SEGMENT`). The size comes with the record.
//! - The kernel may hand over several datagrams of one size in one receive (`UDP_GRO`). The size is not known then, but DNS messages say
//!   where they end.
//! - A datagram that is longer than the buffers of the process is cut, and most calls do not tell. Where the buffers were filled to the last
//!   byte, the DNS message tells whether something is missing.

use dnstap_ebpf::{EVENT_COALESCED, EVENT_FILLED};

use crate::{event::Event, stream::wire};

/// Bytes of each datagram but the last in the `bytes` that one call transferred; their number if they are one.
pub(super) fn size(event: &Event<'_>, bytes: &[u8]) -> usize {
    let whole = bytes.len().max(1);
    if event.segment != 0 {
        return usize::from(event.segment).min(whole);
    }
    if event.flags & EVENT_COALESCED == 0 {
        return whole;
    }
    match wire::extent(bytes) {
        Some(size) if are_messages(bytes, size) => size,
        _ => whole,
    }
}

/// Whether the datagram of an event lacks its end.
pub(super) fn is_cut(event: &Event<'_>, datagram: &[u8]) -> bool {
    event.flags & EVENT_FILLED != 0 && wire::extent(datagram).is_none()
}

/// Whether `bytes` are messages of `size` bytes, of which the last may be shorter.
fn are_messages(bytes: &[u8], size: usize) -> bool {
    bytes
        .chunks(size)
        .all(|part| wire::extent(part) == Some(part.len()))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::{
        event::fixture::{header, whole},
        stream::wire::fixture::message,
    };

    fn size_of(flags: u16, segment: u16, bytes: &[u8]) -> usize {
        let mut header = header();
        (header.flags, header.segment) = (flags, segment);
        size(&Event::parse(&whole(header, bytes)).unwrap(), bytes)
    }

    #[rstest]
    #[case::one_datagram(0, 0, 58)]
    #[case::segments(0, 29, 29)]
    #[case::a_segment_that_is_larger(0, 100, 58)]
    #[case::coalesced(EVENT_COALESCED, 0, 29)]
    fn a_call_is_cut_as_the_kernel_does(
        #[case] flags: u16,
        #[case] segment: u16,
        #[case] expected: usize,
    ) {
        let query = message(7, 0x0100, "twelve-bytes", 0);
        let bytes = [&query[..29], &query[..29]].concat();
        let bytes = if expected == 29 {
            let query = message(7, 0x0100, "elevenbytes", 0);
            assert_eq!(query.len(), 29);
            [&query[..], &query[..]].concat()
        } else {
            bytes
        };
        assert_eq!(size_of(flags, segment, &bytes), expected);
    }

    #[test]
    fn what_is_behind_one_message_is_a_datagram_only_if_it_is_a_message() {
        let query = message(7, 0x0100, "elevenbytes", 0);
        let shorter = message(8, 0x0100, "short", 0);
        let longer = message(8, 0x0100, "much-longer-than-the-first", 0);
        for (last, expected) in [
            (&shorter[..], 29),
            (&longer, 29 + longer.len()),
            (b"xyz", 32),
        ] {
            let bytes = [&query[..], last].concat();
            assert_eq!(size_of(EVENT_COALESCED, 0, &bytes), expected);
        }
    }

    #[test]
    fn a_message_that_fills_the_buffer_is_cut_if_something_is_missing() {
        let response = message(7, 0x8180, "name", 2);
        for length in 0..=response.len() {
            for flags in [0, EVENT_FILLED] {
                let mut header = header();
                header.flags = flags;
                let record = whole(header, &response[..length]);
                let event = Event::parse(&record).unwrap();
                let cut = flags != 0 && length < response.len();
                assert_eq!(is_cut(&event, event.payload), cut, "{length}");
            }
        }
    }
}

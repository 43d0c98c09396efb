//! Decodes the remarks of probed servers ([`dnstap_ebpf::Remark`]).
//!
//! The bytes come from the memory of the server, so they are not trusted. A remark is refused if
//! its fields contradict each other, or if its zone is not a domain name.

use std::mem::offset_of;

use dnstap_ebpf::{
    MAX_DNS_MESSAGE, MAX_NAME, REMARK_HEAD, REMARK_PREFIX, Remark as Abi, SERVER_AUTH_QUERY,
    SERVER_CLIENT_QUERY, SERVER_CLIENT_RESPONSE, SERVER_WITH_ZONE,
};

/// Remark: what a server says about a message that it receives or sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remark<'a> {
    /// Server's own type of the message: a `SERVER_*` bit of the ABI.
    pub message_type: u32,
    /// Length of the message in bytes.
    pub message_len: usize,
    /// First bytes of the message, at most [`REMARK_PREFIX`].
    pub prefix: &'a [u8],
    /// Zone of the message (`query_zone`), a name in wire format; empty if the server names none.
    pub zone: &'a [u8],
}

impl<'a> Remark<'a> {
    /// Decodes the payload of a record; `None` if it is not a valid remark.
    #[must_use]
    pub fn parse(payload: &'a [u8]) -> Option<Self> {
        let (head, zone) = payload.split_first_chunk::<REMARK_HEAD>()?;
        let number = |at: usize| {
            let bytes: [u8; 4] = head[at..].first_chunk().copied().unwrap_or_default();
            u32::from_ne_bytes(bytes)
        };
        let short = |at: usize| u16::from_ne_bytes([head[at], head[at + 1]]);
        let message_type = number(offset_of!(Abi, message_type));
        let message_len = number(offset_of!(Abi, message_len)) as usize;
        let prefix_len = usize::from(short(offset_of!(Abi, prefix_len)));
        let zone_len = usize::from(short(offset_of!(Abi, zone_len)));
        let is_sound = message_type.is_power_of_two()
            && message_type & KNOWN_TYPES != 0
            && message_len <= MAX_DNS_MESSAGE
            && prefix_len == prefix_of(message_len)
            && zone_len == zone.len()
            && (zone.is_empty() || is_name(zone));
        let prefix = offset_of!(Abi, prefix);
        is_sound.then(|| Self {
            message_type,
            message_len,
            prefix: &head[prefix..prefix + prefix_len],
            zone,
        })
    }
}

/// Types of messages that a remark may be about.
const KNOWN_TYPES: u32 =
    SERVER_WITH_ZONE | SERVER_CLIENT_QUERY | SERVER_CLIENT_RESPONSE | SERVER_AUTH_QUERY;

/// Returns the length of the prefix that a remark has of a message with `message_len` bytes.
#[must_use]
pub fn prefix_of(message_len: usize) -> usize {
    message_len.min(REMARK_PREFIX)
}

/// Returns whether `bytes` is one complete domain name in wire format, without compression pointers
/// (RFC 1035 section 3.1).
fn is_name(bytes: &[u8]) -> bool {
    let mut at = 0;
    while let Some(&length) = bytes.get(at) {
        at += 1 + usize::from(length);
        if length == 0 {
            return at == bytes.len() && at <= MAX_NAME;
        }
        if length > 63 {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::{super::fixture::remark, *};

    #[test]
    fn every_field_survives() {
        let message = [7; 100];
        let payload = remark(0x40, &message, b"\x04test\x00");
        let expected = Remark {
            message_type: 0x40,
            message_len: 100,
            prefix: &message[..64],
            zone: b"\x04test\x00",
        };
        assert_eq!(Remark::parse(&payload), Some(expected));
        let payload = remark(0x20, &message[..12], b"");
        let parsed = Remark::parse(&payload).unwrap();
        assert_eq!((parsed.prefix, parsed.zone), (&message[..12], &b""[..]));
    }

    #[rstest]
    #[case::no_end(b"\x04test")]
    #[case::more_behind_the_end(b"\x00\x00")]
    #[case::a_pointer(b"\xc0\x0c")]
    #[case::too_long_a_label(&[64; 66])]
    #[case::too_long_a_name(&[1; 257])]
    fn what_is_no_name_is_no_zone(#[case] zone: &[u8]) {
        let mut zone = zone.to_vec();
        if zone.len() > 255 {
            zone[256] = 0;
        }
        assert_eq!(Remark::parse(&remark(0x40, &[0; 20], &zone)), None);
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let payload = remark(0x40, &[0; 20], b"\x00");
        assert!(Remark::parse(&payload).is_some());
        for at in [1, 5, 7, 13, 15] {
            let mut payload = payload.clone();
            payload[at] = 1;
            assert_eq!(Remark::parse(&payload), None, "byte {at}");
        }
        for message_type in [0, 1, 0x400, 0x1000, 0x2000] {
            let payload = remark(message_type, &[0; 20], b"\x00");
            assert_eq!(Remark::parse(&payload), None, "type {message_type:#x}");
        }
        for length in 0..payload.len() {
            assert_eq!(Remark::parse(&payload[..length]), None, "{length}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_remark_or_none(payload in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Some(remark) = Remark::parse(&payload) {
                prop_assert!(remark.prefix.len() <= REMARK_PREFIX && remark.zone.len() <= MAX_NAME);
            }
        }
    }
}

//! Hides the client subnets in a message: option 8 of its OPT records (RFC 6891 section 6.1.2, RFC
//! 7871 section 6).
//!
//! As far as the message can be parsed, every subnet in an OPT record is hidden, in any section,
//! even if the option breaks the RFC's rules. Behind that (behind a record that cannot be read, or
//! in bytes that the header does not count) all bytes with the form of a subnet option are hidden.
//! This may change other bytes of a broken message, but a subnet that stays would be worse.

use std::ops::Range;

use super::{Method, clear_from};
use crate::dns::{Dns, Type, option_places};

const OPTION_SUBNET: u16 = 8;
/// Experimental code of the option, which some programs still send.
const OPTION_SUBNET_BEFORE: u16 = 0x50fa;

/// Bytes of an option's code and length.
const OPTION_HEADER: usize = 4;

const FAMILY_IPV4: u16 = 1;
const FAMILY_IPV6: u16 = 2;

/// Returns the message with its subnets hidden, or the message itself if it has none.
pub(super) fn hide<'a>(method: &Method, message: &'a [u8], scratch: &'a mut Vec<u8>) -> &'a [u8] {
    let mut found = false;
    for_each(message, |subnet| {
        if !std::mem::replace(&mut found, true) {
            scratch.clear();
            scratch.extend_from_slice(message);
        }
        replace(method, &mut scratch[subnet]);
    });
    if found { scratch } else { message }
}

/// Replaces the address in an option's data: family, source prefix, scope prefix, address.
fn replace(method: &Method, data: &mut [u8]) {
    let Some(([high, low, source, _scope], address)) = data.split_first_chunk_mut::<4>() else {
        return;
    };
    let length = match u16::from_be_bytes([*high, *low]) {
        FAMILY_IPV4 => 4,
        FAMILY_IPV6 => 16,
        // The family is unknown, so the whole address is hidden.
        _ => return address.fill(0),
    };
    // Cut the address off behind the prefix, and clear bytes beyond the length of an address.
    let mut whole = [0; 16];
    let given = address.len().min(length);
    whole[..given].copy_from_slice(&address[..given]);
    method.hide(&mut whole[..length]);
    clear_from(&mut whole[..length], usize::from(*source));
    address.fill(0);
    address[..given].copy_from_slice(&whole[..given]);
}

/// Calls `take` with the range of each subnet option's data.
fn for_each(message: &[u8], mut take: impl FnMut(Range<usize>)) {
    let mut at = 0;
    if let Ok(dns) = Dns::parse(message) {
        let mut records = dns.places();
        for (_, record) in records.by_ref().filter(|(kind, _)| *kind == Type::OPT) {
            let begin = record.start;
            let options = option_places(message.get(record).unwrap_or_default());
            options
                .filter(|option| option.code.is_some_and(is_subnet))
                .for_each(|option| take(begin + option.data.start..begin + option.data.end));
        }
        at = records.end();
    }
    while at < message.len() {
        let subnet = subnet_at(message, at);
        at = subnet.as_ref().map_or(at + 1, |subnet| subnet.end);
        subnet.map(&mut take);
    }
}

/// Returns the range of a subnet option's data, if the bytes at `at` have the form of such an
/// option with an address.
fn subnet_at(message: &[u8], at: usize) -> Option<Range<usize>> {
    word(message, at).filter(|code| is_subnet(*code))?;
    let data = at + OPTION_HEADER;
    let data = data..data + usize::from(word(message, at + 2)?);
    let address = match word(message, data.start)? {
        FAMILY_IPV4 => 4,
        FAMILY_IPV6 => 16,
        _ => return None,
    };
    let source = usize::from(*message.get(data.start + 2)?);
    let fits = source <= 8 * address && (5..=4 + address).contains(&data.len());
    fits.then_some(data.start..data.end.min(message.len()))
}

fn is_subnet(option: u16) -> bool {
    matches!(option, OPTION_SUBNET | OPTION_SUBNET_BEFORE)
}

fn word(message: &[u8], at: usize) -> Option<u16> {
    let bytes = message.get(at..)?.first_chunk()?;
    Some(u16::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;
    use crate::{
        dns::fixture::message,
        privacy::{CryptoPan, Prefixes},
    };

    const KEEP: Method = Method::Truncate(Prefixes { v4: 16, v6: 32 });

    /// Builds a message with answers and an OPT record. The record has a cookie, these options, and
    /// a cookie again.
    fn with_subnets(answers: u16, subnets: &[&[u8]]) -> Vec<u8> {
        const COOKIE: &[u8] = &[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8];
        let mut options = COOKIE.to_vec();
        for subnet in subnets {
            options.extend_from_slice(&OPTION_SUBNET.to_be_bytes());
            options.extend_from_slice(&u16::try_from(subnet.len()).unwrap().to_be_bytes());
            options.extend_from_slice(subnet);
        }
        options.extend_from_slice(COOKIE);
        let mut bytes = message(7, 0x8180, "example", answers);
        bytes[11] = 1;
        bytes.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0]);
        bytes.extend_from_slice(&u16::try_from(options.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(&options);
        bytes
    }

    #[rstest]
    #[case::v4(&[0, 1, 24, 0, 192, 0, 2], &[0, 1, 24, 0, 192, 0, 0])]
    #[case::v4_whole(&[0, 1, 32, 24, 192, 0, 2, 9], &[0, 1, 32, 24, 192, 0, 0, 0])]
    #[case::v6(&[0, 2, 48, 0, 0x20, 1, 0xd, 0xb8, 0, 1], &[0, 2, 48, 0, 0x20, 1, 0xd, 0xb8, 0, 0])]
    #[case::short_enough(&[0, 1, 8, 0, 192], &[0, 1, 8, 0, 192])]
    #[case::bits_beyond_the_prefix(&[0, 1, 4, 0, 0xff], &[0, 1, 4, 0, 0xf0])]
    #[case::longer_than_an_address(&[0, 1, 24, 0, 192, 0, 2, 1, 7, 7], &[0, 1, 24, 0, 192, 0, 0, 0, 0, 0])]
    #[case::unknown_family(&[0, 9, 24, 0, 192, 0, 2], &[0, 9, 24, 0, 0, 0, 0])]
    #[case::nothing(&[0, 1, 0, 0], &[0, 1, 0, 0])]
    #[case::cut_off(&[0, 1, 0], &[0, 1, 0])]
    fn a_subnet_loses_bits_and_no_length(#[case] subnet: &[u8], #[case] hidden: &[u8]) {
        let mut scratch = Vec::new();
        for answers in [0, 2] {
            assert_eq!(
                hide(
                    &KEEP,
                    &with_subnets(answers, &[subnet, subnet]),
                    &mut scratch
                ),
                with_subnets(answers, &[hidden, hidden])
            );
        }
    }

    #[test]
    fn a_keyed_subnet_is_the_beginning_of_the_keyed_address() {
        let keyed = Method::CryptoPan(Box::new(CryptoPan::new(&[7; 32])));
        let mut address = [192, 0, 2, 9];
        keyed.hide(&mut address);
        let mut scratch = Vec::new();
        let subnet = [0, 1, 24, 0, 192, 0, 2];
        let [a, b, c, _] = address;
        assert_eq!(
            hide(&keyed, &with_subnets(0, &[&subnet]), &mut scratch),
            with_subnets(0, &[&[0, 1, 24, 0, a, b, c]])
        );
    }

    #[rstest]
    #[case::in_the_answers(|bytes: &mut Vec<u8>| (bytes[7], bytes[11]) = (1, 0))]
    #[case::in_the_authorities(|bytes: &mut Vec<u8>| (bytes[9], bytes[11]) = (1, 0))]
    #[case::not_counted(|bytes: &mut Vec<u8>| bytes[11] = 0)]
    #[case::behind_a_name_that_cannot_be_read(|bytes: &mut Vec<u8>| bytes[12] = 0x41)]
    #[case::in_a_record_that_is_longer_than_the_message(|bytes: &mut Vec<u8>| bytes[30] = 0xff)]
    #[case::under_its_first_number(|bytes: &mut Vec<u8>| bytes.splice(44..46, [0x50, 0xfa]).for_each(drop))]
    fn a_subnet_is_hidden_wherever_it_stands(#[case] spoil: fn(&mut Vec<u8>)) {
        let mut bytes = with_subnets(0, &[&[0, 1, 24, 0, 192, 0, 2]]);
        spoil(&mut bytes);
        let at = bytes.len() - 12 - 3;
        assert_eq!(bytes[at..at + 3], [192, 0, 2]);
        let mut hidden = bytes.clone();
        hidden[at + 2] = 0;
        assert_eq!(hide(&KEEP, &bytes, &mut Vec::new()), hidden);
    }

    #[test]
    fn what_looks_like_a_subnet_in_a_record_stays() {
        // An MX record whose TTL, length and preference look like an option's code, its length and
        // a family.
        let mut bytes = message(7, 0x8180, "example", 0);
        bytes[7] = 1;
        bytes.extend([
            0xc0, 12, 0, 15, 0, 1, 0, 0, 0, 8, 0, 8, 0, 1, 3, b'm', b'x', b'1', 0xc0, 12,
        ]);
        assert_eq!(hide(&KEEP, &bytes, &mut Vec::new()), bytes);
    }

    #[test]
    fn a_message_without_a_subnet_is_not_copied() {
        let mut scratch = Vec::new();
        for bytes in [message(1, 0x0100, "example", 0), with_subnets(1, &[])] {
            let same = hide(&KEEP, &bytes, &mut scratch);
            assert_eq!((same.as_ptr(), same.len()), (bytes.as_ptr(), bytes.len()));
        }
        assert_eq!(scratch.capacity(), 0);
    }

    proptest! {
        #[test]
        fn any_bytes_keep_their_length(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut scratch = Vec::new();
            prop_assert_eq!(hide(&KEEP, &bytes, &mut scratch).len(), bytes.len());
        }

        #[test]
        fn nothing_but_the_address_changes(source in 0..=32_u8, address: [u8; 4], at in 0..200_usize, byte: u8) {
            let given = usize::from(source).div_ceil(8);
            let mut bytes = with_subnets(1, &[&[&[0, 1, source, 0][..], &address[..given]].concat()]);
            // Even if the message is damaged, only options may be changed.
            let place = at % bytes.len();
            bytes[place] = byte;
            let mut scratch = Vec::new();
            let hidden = hide(&KEEP, &bytes, &mut scratch).to_vec();
            let mut places = Vec::new();
            for_each(&bytes, |place| places.push(place));
            for (at, (before, after)) in bytes.iter().zip(&hidden).enumerate() {
                let inside = places.iter().any(|place| place.contains(&at) && at >= place.start + 4);
                prop_assert!(inside || before == after);
            }
        }
    }
}

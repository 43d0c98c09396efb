//! Reads record data in presentation form into wire form: the types that are common in zones, and all types in the
//! generic form of RFC 3597.
//!
//! Names are absolute, with or without a dot at the end, as in Common Output Format. The data of an unknown type must
//! be in generic form; nothing is guessed.

use std::{net::IpAddr, str::FromStr};

use data_encoding::{BASE32HEX_NOPAD, BASE64, HEXLOWER_PERMISSIVE};
use dnstap_core::dns::Type;
use jiff::{civil::DateTime, tz::TimeZone};

use crate::{Name, rdata};

/// A field of record data in presentation form.
#[derive(Clone, Copy)]
enum Field {
    V4,
    V6,
    Name,
    U8,
    U16,
    U32,
    /// The name of a type, or `TYPE123`.
    Type,
    /// `YYYYMMDDHHMMSS`, or a number of seconds.
    Time,
    /// A character-string.
    Text,
    /// Character-strings to the end.
    Texts,
    /// A quoted string that has no length byte in wire form.
    Rest,
    /// Hexadecimal digits to the end, in any number of words.
    Hex,
    /// Base64 to the end, in any number of words.
    Base64,
    /// One word of hexadecimal digits, with a length byte in wire form; `-` means empty.
    Salt,
    /// One word in base32, with a length byte in wire form.
    Hash,
    /// Types to the end, which are a bitmap in wire form.
    Types,
}

fn fields(kind: u16) -> Option<&'static [Field]> {
    use Field as F;
    Some(match kind {
        1 => &[F::V4],
        28 => &[F::V6],
        2 | 3 | 4 | 5 | 7 | 8 | 9 | 12 | 39 => &[F::Name],
        6 => &[F::Name, F::Name, F::U32, F::U32, F::U32, F::U32, F::U32],
        13 => &[F::Text, F::Text],
        14 | 17 => &[F::Name, F::Name],
        15 | 18 | 21 | 36 => &[F::U16, F::Name],
        16 | 99 => &[F::Texts],
        33 => &[F::U16, F::U16, F::U16, F::Name],
        35 => &[F::U16, F::U16, F::Text, F::Text, F::Text, F::Name],
        43 | 59 | 32768 | 32769 => &[F::U16, F::U8, F::U8, F::Hex],
        44 => &[F::U8, F::U8, F::Hex],
        46 => &[
            F::Type,
            F::U8,
            F::U8,
            F::U32,
            F::Time,
            F::Time,
            F::U16,
            F::Name,
            F::Base64,
        ],
        47 => &[F::Name, F::Types],
        25 | 48 | 60 => &[F::U16, F::U8, F::U8, F::Base64],
        50 => &[F::U8, F::U8, F::U16, F::Salt, F::Hash, F::Types],
        51 => &[F::U8, F::U8, F::U16, F::Salt],
        52 | 53 => &[F::U8, F::U8, F::U8, F::Hex],
        256 => &[F::U16, F::U16, F::Rest],
        257 => &[F::U8, F::Text, F::Rest],
        _ => return None,
    })
}

/// Reads data in presentation form, and returns it in canonical wire form. Returns `None` if the text does not fit the
/// type, or if the type is unknown and the text is not in generic form.
#[must_use]
pub fn parse(kind: u16, text: &str) -> Option<Box<[u8]>> {
    let words = words(text)?;
    let mut rest = words.as_slice();
    let mut wire = Vec::new();
    if let [generic, length, digits @ ..] = rest
        && generic.is_generic
    {
        let length: usize = length.text()?.parse().ok()?;
        wire = hex(digits)?;
        (wire.len() == length).then_some(())?;
    } else {
        for field in fields(kind)? {
            read(*field, &mut rest, &mut wire)?;
        }
        rest.is_empty().then_some(())?;
    }
    u16::try_from(wire.len()).ok()?;
    let mut canonical = Vec::with_capacity(wire.len());
    rdata::canonical(kind, &wire, 0, wire.len(), &mut canonical)?;
    Some(canonical.into())
}

/// A word without quotes and escapes, and its original text.
struct Word<'a> {
    bytes: Vec<u8>,
    written: &'a str,
    /// Whether the word is `\#`, which begins the generic form.
    is_generic: bool,
}

impl Word<'_> {
    fn text(&self) -> Option<&str> {
        str::from_utf8(&self.bytes).ok()
    }

    fn number<T: FromStr>(&self) -> Option<T> {
        self.text()?.parse().ok()
    }
}

/// Splits a text into words and quoted strings.
fn words(text: &str) -> Option<Vec<Word<'_>>> {
    let mut words = Vec::new();
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b' ' {
            at += 1;
            continue;
        }
        let start = at;
        let is_quoted = bytes[at] == b'"';
        at += usize::from(is_quoted);
        let mut word = Vec::new();
        loop {
            match bytes.get(at) {
                None if is_quoted => return None,
                None => break,
                Some(b'"') if is_quoted => {
                    at += 1;
                    break;
                }
                Some(b' ') if !is_quoted => break,
                Some(b'\\') => {
                    let digits = bytes
                        .get(at + 1..at + 4)
                        .filter(|digits| digits.iter().all(u8::is_ascii_digit));
                    if let Some(digits) = digits {
                        let number = str::from_utf8(digits).ok()?.parse::<u8>().ok()?;
                        word.push(number);
                        at += 4;
                    } else {
                        word.push(*bytes.get(at + 1)?);
                        at += 2;
                    }
                }
                Some(byte) => {
                    word.push(*byte);
                    at += 1;
                }
            }
        }
        let written = text.get(start..at)?;
        words.push(Word {
            bytes: word,
            written,
            is_generic: written == "\\#",
        });
    }
    Some(words)
}

fn read(field: Field, rest: &mut &[Word<'_>], out: &mut Vec<u8>) -> Option<()> {
    match field {
        Field::Texts => {
            (!rest.is_empty()).then_some(())?;
            for word in std::mem::take(rest) {
                sized(&word.bytes, out)?;
            }
            return Some(());
        }
        Field::Hex => {
            out.extend(hex(std::mem::take(rest))?);
            return Some(());
        }
        Field::Base64 => {
            let digits: Vec<u8> = std::mem::take(rest)
                .iter()
                .flat_map(|word| word.bytes.clone())
                .collect();
            out.extend(BASE64.decode(&digits).ok()?);
            return Some(());
        }
        Field::Types => return bitmap(std::mem::take(rest), out),
        _ => {}
    }
    let (word, behind) = rest.split_first()?;
    *rest = behind;
    match field {
        Field::V4 | Field::V6 => match word.number()? {
            IpAddr::V4(address) if matches!(field, Field::V4) => out.extend(address.octets()),
            IpAddr::V6(address) if matches!(field, Field::V6) => out.extend(address.octets()),
            _ => return None,
        },
        // `Name` reads the original text, because it must know which dots are escaped.
        Field::Name => out.extend_from_slice(word.written.parse::<Name>().ok()?.wire()),
        Field::U8 => out.push(word.number()?),
        Field::U16 => out.extend(word.number::<u16>()?.to_be_bytes()),
        Field::U32 => out.extend(word.number::<u32>()?.to_be_bytes()),
        Field::Type => out.extend(word.number::<Type>()?.0.to_be_bytes()),
        Field::Time => out.extend(time(word.text()?)?.to_be_bytes()),
        Field::Text => sized(&word.bytes, out)?,
        Field::Rest => out.extend_from_slice(&word.bytes),
        Field::Salt if word.bytes == b"-" => out.push(0),
        Field::Salt => sized(&HEXLOWER_PERMISSIVE.decode(&word.bytes).ok()?, out)?,
        Field::Hash => {
            let digits = word.bytes.to_ascii_uppercase();
            sized(&BASE32HEX_NOPAD.decode(&digits).ok()?, out)?;
        }
        Field::Texts | Field::Hex | Field::Base64 | Field::Types => return None,
    }
    Some(())
}

fn sized(bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
    out.push(u8::try_from(bytes.len()).ok()?);
    out.extend_from_slice(bytes);
    Some(())
}

fn hex(words: &[Word<'_>]) -> Option<Vec<u8>> {
    let digits: Vec<u8> = words.iter().flat_map(|word| word.bytes.clone()).collect();
    HEXLOWER_PERMISSIVE.decode(&digits).ok()
}

/// Reads the time of a signature (RFC 4034 section 3.2).
fn time(text: &str) -> Option<u32> {
    if text.len() != 14 {
        return text.parse().ok();
    }
    let time = DateTime::strptime("%Y%m%d%H%M%S", text).ok()?;
    let time = TimeZone::UTC.to_timestamp(time).ok()?;
    u32::try_from(time.as_second()).ok()
}

/// Appends the bitmap of types (RFC 4034 section 4.1.2).
fn bitmap(words: &[Word<'_>], out: &mut Vec<u8>) -> Option<()> {
    let kinds: Option<Vec<u16>> = words
        .iter()
        .map(|word| word.number::<Type>().map(|kind| kind.0))
        .collect();
    let mut kinds = kinds?;
    kinds.sort_unstable();
    for window in kinds.chunk_by(|one, other| one >> 8 == other >> 8) {
        let mut bits = [0_u8; 32];
        for kind in window {
            let [_, low] = kind.to_be_bytes();
            bits[usize::from(low / 8)] |= 0x80 >> (low % 8);
        }
        let length = 1 + bits.iter().rposition(|byte| *byte != 0)?;
        out.push(window.first()?.to_be_bytes()[0]);
        sized(&bits[..length], out)?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(1, "192.0.2.1")]
    #[case(28, "2001:db8::1")]
    #[case(2, "ns.a\\.b.example.com.")]
    #[case(6, "ns.example. root.example. 1 3600 900 86400 60")]
    #[case(15, "10 mx.example.")]
    #[case(16, "\"a b\" \"\\\"\\\\\\007\"")]
    #[case(33, "1 2 3 sip.example.")]
    #[case(35, "100 10 \"u\" \"E2U+sip\" \"!^.*$!sip:a@b!\" .")]
    #[case(43, "4711 13 2 00FF")]
    #[case(46, "A 13 2 300 20261214000000 20261130000000 4711 example. q83v")]
    #[case(47, "next.example. A NS SOA RRSIG NSEC DNSKEY CAA TYPE65280")]
    #[case(48, "257 3 13 q83v")]
    #[case(50, "1 0 10 AABB 0P9MHAVEQVM6T7VBL5LOP2U3T2RP3TOM A RRSIG")]
    #[case(51, "1 0 10 -")]
    #[case(52, "3 1 1 ABCD")]
    #[case(257, "0 issue \"ca.example; x=y\"")]
    #[case(65280, "\\# 2 ABCD")]
    #[case(16, "\\# 0")]
    fn what_is_printed_is_read_back(#[case] kind: u16, #[case] text: &str) {
        let data = parse(kind, text).expect(text);
        assert_eq!(rdata::text(kind, &data), text);
    }

    #[test]
    fn names_are_absolute_with_or_without_a_dot_and_in_lower_case() {
        assert_eq!(parse(2, "NS.example"), parse(2, "ns.example."));
    }

    #[rstest]
    #[case(1, "2001:db8::1")]
    #[case(1, "192.0.2.1 192.0.2.2")]
    #[case(1, "")]
    #[case(16, "\"open")]
    #[case(16, "")]
    #[case(15, "70000 mx.")]
    #[case(48, "257 3 13 q8!")]
    #[case(65280, "text")]
    #[case(65280, "\\# 3 ABCD")]
    fn what_is_not_of_the_type_is_refused(#[case] kind: u16, #[case] text: &str) {
        assert_eq!(parse(kind, text), None);
    }

    proptest! {
        #[test]
        fn whatever_is_read_prints_to_what_reads_the_same(
            kind in prop::sample::select(vec![1, 2, 6, 15, 16, 33, 35, 43, 44, 46, 47, 48, 50, 51, 52, 256, 257]),
            bytes in vec(any::<u8>(), 0..60),
        ) {
            let mut data = Vec::new();
            if rdata::canonical(kind, &bytes, 0, bytes.len(), &mut data).is_some() {
                let text = rdata::text(kind, &data);
                if let Some(read) = parse(kind, &text) {
                    prop_assert_eq!(&*read, &data[..], "{}", text);
                }
            }
        }

        #[test]
        fn any_text_is_read_without_panic(kind in 0..300_u16, text in ".{0,80}") {
            let _any = parse(kind, &text);
        }
    }
}

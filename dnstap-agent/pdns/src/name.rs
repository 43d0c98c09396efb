//! Names as the store has them: in lower case (RFC 4343) and without compression pointers. Keys have names with
//! reversed labels.
//!
//! A reversed name is like the wire form, but with its labels in the opposite order. The zero byte of the root stays at
//! the end. So a name and all names below it are adjacent in the store, and have the same prefix.

use std::{fmt, str::FromStr};

use dnstap_core::dns::{self, LONGEST_NAME};
use thiserror::Error;

/// A name in wire form and lower case, at most 255 bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<[u8]>);

impl Name {
    /// Returns the root.
    #[must_use]
    pub fn root() -> Self {
        Self(Box::new([0]))
    }

    /// Reads a name in wire form without pointers. Returns `None` if the bytes are not exactly one such name.
    #[must_use]
    pub fn from_wire(wire: &[u8]) -> Option<Self> {
        let (name, end) = dns::Name::parse(wire, 0).ok()?;
        let plain = Self::of(name);
        // A pointer in the first byte is an error, because it cannot point backwards. A pointer in a later byte is not,
        // but changes the length.
        (end == wire.len() && plain.0.len() == end).then_some(plain)
    }

    /// Copies a name of a message.
    #[must_use]
    pub fn of(name: dns::Name<'_>) -> Self {
        let mut wire = [0; LONGEST_NAME];
        let end = name.write_wire(&mut wire);
        wire[..end].make_ascii_lowercase();
        Self(wire[..end].into())
    }

    /// Returns the name for a reversed name; `None` if the bytes are not a reversed name.
    #[must_use]
    pub fn from_reversed(reversed: &[u8]) -> Option<Self> {
        let mut wire = Vec::with_capacity(reversed.len());
        reverse(reversed, &mut wire);
        Self::from_wire(&wire).filter(|name| name.0.len() == reversed.len())
    }

    /// Returns the wire form.
    #[must_use]
    pub fn wire(&self) -> &[u8] {
        &self.0
    }

    /// Returns the number of labels, without the label of the root.
    #[must_use]
    pub fn labels(&self) -> usize {
        labels(&self.0).count()
    }

    /// Returns whether the name is `zone` or below it.
    #[must_use]
    pub fn is_within(&self, zone: &Self) -> bool {
        is_within(&self.0, &zone.0)
    }

    /// Returns the name that has the last `count` labels of this name, or this name if it has fewer.
    #[must_use]
    pub fn suffix(&self, count: usize) -> Self {
        Self(suffix(&self.0, count).into())
    }

    /// Returns the text without the dot at the end. The root is a dot.
    #[must_use]
    pub fn undotted(&self) -> String {
        let text = self.to_string();
        match text.strip_suffix('.') {
            Some("") | None => text,
            Some(without) => without.to_owned(),
        }
    }
}

/// Writes the absolute name, with the escapes of RFC 1035 section 5.1.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match dns::Name::parse(&self.0, 0) {
            Ok((name, _)) => name.fmt(f),
            Err(_) => Err(fmt::Error),
        }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reason why a text is not a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NameError {
    /// A label is empty: there are two dots in a row, or the text begins with a dot.
    #[error("a label is empty")]
    Empty,
    /// A label is longer than 63 bytes (RFC 1035 section 2.3.4).
    #[error("a label is longer than 63 bytes")]
    LongLabel,
    /// The name is longer than 255 bytes (RFC 1035 section 2.3.4).
    #[error("it is longer than 255 bytes")]
    Long,
    /// A backslash is not followed by three digits up to 255, or by a character that is not a digit.
    #[error(
        "a backslash has to be followed by three digits up to 255, or by one character that is no digit"
    )]
    Escape,
}

/// Reads the presentation form (RFC 1035 section 5.1), with or without a dot at the end. Every name is absolute. Bytes
/// that are not ASCII stay as they are.
impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let mut wire = Vec::with_capacity(text.len() + 2);
        if !matches!(text, "." | "") {
            let mut start = 0;
            wire.push(0);
            let mut bytes = text.bytes();
            while let Some(byte) = bytes.next() {
                let byte = match byte {
                    b'.' => {
                        end_label(&mut wire, start)?;
                        start = wire.len();
                        wire.push(0);
                        continue;
                    }
                    b'\\' => escaped(&mut bytes)?,
                    byte => byte,
                };
                wire.push(byte.to_ascii_lowercase());
            }
            if wire.len() == start + 1 {
                // The text ends with a dot.
                wire.pop();
            } else {
                end_label(&mut wire, start)?;
            }
        }
        wire.push(0);
        if wire.len() > LONGEST_NAME {
            return Err(NameError::Long);
        }
        Ok(Self(wire.into()))
    }
}

fn end_label(wire: &mut [u8], start: usize) -> Result<(), NameError> {
    match u8::try_from(wire.len() - start - 1) {
        Ok(0) => Err(NameError::Empty),
        Ok(length @ 1..64) => {
            wire[start] = length;
            Ok(())
        }
        _ => Err(NameError::LongLabel),
    }
}

fn escaped(bytes: &mut impl Iterator<Item = u8>) -> Result<u8, NameError> {
    let first = bytes.next().ok_or(NameError::Escape)?;
    if !first.is_ascii_digit() {
        return Ok(first);
    }
    let mut number = u32::from(first - b'0');
    for _ in 0..2 {
        let digit = bytes.next().filter(u8::is_ascii_digit);
        number = number * 10 + u32::from(digit.ok_or(NameError::Escape)? - b'0');
    }
    u8::try_from(number).map_err(|_large| NameError::Escape)
}

/// Returns the labels of a name in wire form, or of a reversed name. Each label starts with its length byte.
pub(crate) fn labels(wire: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = wire;
    std::iter::from_fn(move || {
        let length = usize::from(*rest.first()?);
        let (label, behind) = rest.split_at_checked(length + 1)?;
        rest = behind;
        (length > 0).then_some(label)
    })
}

/// Appends the name with its labels in the opposite order.
pub(crate) fn reverse(wire: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    let length = labels(wire).map(<[u8]>::len).sum::<usize>();
    out.resize(start + length + 1, 0);
    let mut end = start + length;
    for label in labels(wire) {
        let begin = end - label.len();
        out[begin..end].copy_from_slice(label);
        end = begin;
    }
}

/// Returns whether the name is the zone or below it. Both must be in wire form and lower case.
pub(crate) fn is_within(name: &[u8], zone: &[u8]) -> bool {
    let Some(above) = name.len().checked_sub(zone.len()) else {
        return false;
    };
    let mut at = 0;
    while at < above {
        at += 1 + usize::from(name[at]);
    }
    at == above && name[at..] == *zone
}

/// Returns the last `count` labels of a name in wire form.
pub(crate) fn suffix(wire: &[u8], count: usize) -> &[u8] {
    let above = labels(wire).count().saturating_sub(count);
    let skipped: usize = labels(wire).take(above).map(<[u8]>::len).sum();
    &wire[skipped..]
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::{collection::vec, prelude::*};
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("", b"\0")]
    #[case(".", b"\0")]
    #[case("WWW.Example.", b"\x03www\x07example\0")]
    #[case("www.example", b"\x03www\x07example\0")]
    #[case(r"a\.b\032c.d", b"\x05a.b c\x01d\0")]
    fn text_is_read(#[case] text: &str, #[case] wire: &[u8]) {
        assert_eq!(text.parse::<Name>().expect("a name").wire(), wire);
    }

    #[rstest]
    #[case("a..b", NameError::Empty)]
    #[case("..", NameError::Empty)]
    #[case(".a", NameError::Empty)]
    #[case(r"a\", NameError::Escape)]
    #[case(r"a\25", NameError::Escape)]
    #[case(r"a\256", NameError::Escape)]
    #[case(&"x".repeat(64), NameError::LongLabel)]
    #[case(&"abcdefg.".repeat(32), NameError::Long)]
    fn what_is_no_name_is_refused(#[case] text: &str, #[case] error: NameError) {
        assert_eq!(text.parse::<Name>().err(), Some(error));
    }

    #[test]
    fn only_names_at_or_below_a_zone_are_within() {
        let name = |text: &str| text.parse::<Name>().expect("a name");
        for (inner, outer, is) in [
            ("example.com", "example.com", true),
            ("www.example.com", "example.com", true),
            ("example.com", ".", true),
            (".", ".", true),
            ("badexample.com", "example.com", false),
            (r"a\007example.com", "example.com", false),
            ("com", "example.com", false),
            ("example.org", "example.com", false),
        ] {
            assert_eq!(name(inner).is_within(&name(outer)), is, "{inner} {outer}");
        }
    }

    pub(crate) fn any_name() -> impl Strategy<Value = Name> {
        vec(vec(any::<u8>(), 1..12), 0..7).prop_map(|labels| {
            let mut wire = Vec::new();
            for label in labels {
                wire.push(u8::try_from(label.len()).expect("short"));
                wire.extend(label.to_ascii_lowercase());
            }
            wire.push(0);
            Name(wire.into())
        })
    }

    proptest! {
        #[test]
        fn names_survive_text_and_reversal(name in any_name()) {
            prop_assert_eq!(name.to_string().parse::<Name>(), Ok(name.clone()));
            prop_assert_eq!(name.undotted().parse::<Name>(), Ok(name.clone()));
            let mut reversed = Vec::new();
            reverse(name.wire(), &mut reversed);
            prop_assert_eq!(Name::from_reversed(&reversed), Some(name.clone()));
            prop_assert_eq!(name.suffix(name.labels()), name.clone());
            for count in 0..name.labels() {
                let zone = name.suffix(count);
                prop_assert!(name.is_within(&zone) && !zone.is_within(&name));
                let mut prefix = Vec::new();
                reverse(zone.wire(), &mut prefix);
                prefix.pop();
                prop_assert!(reversed.starts_with(&prefix));
            }
        }
    }
}

//! Patterns for names: a name alone, or with all names below it. They are compared in wire format,
//! without regard to case.

use std::str::{Chars, FromStr};

use dnstap_core::dns::{LONGEST_NAME, Name};
use hickory_proto::rr::domain::Label;

/// A pattern for names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    /// Uncompressed wire format, in lower case.
    wire: Vec<u8>,
    /// Whether names below it match, too.
    below: bool,
}

impl Pattern {
    pub(super) fn new(name: DomainName, below: bool) -> Self {
        let wire = name.0;
        Self { wire, below }
    }

    /// Returns whether the name matches.
    pub(super) fn matches(&self, name: &Lowered) -> bool {
        let name = name.wire();
        if name.len() == self.wire.len() || !self.below {
            return name == self.wire;
        }
        let Some(cut) = name.len().checked_sub(self.wire.len()) else {
            return false;
        };
        name[cut..] == self.wire && is_label_end(name, cut)
    }
}

/// Returns whether a label begins at `cut`.
fn is_label_end(name: &[u8], cut: usize) -> bool {
    let mut at = 0;
    while at < cut {
        at += 1 + usize::from(name[at]);
    }
    at == cut
}

/// A name from a message, prepared for comparison.
pub(super) struct Lowered {
    bytes: [u8; LONGEST_NAME],
    length: usize,
}

impl Lowered {
    pub(super) fn of(name: Name<'_>) -> Self {
        let mut bytes = [0; LONGEST_NAME];
        let length = name.write_wire(&mut bytes);
        bytes[..length].make_ascii_lowercase();
        Self { bytes, length }
    }

    fn wire(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Names in one argument, separated by commas. A comma within a name is written `\,`.
///
/// `read` prints such a comma without a backslash. Therefore an argument is taken as one name if it
/// ends with a dot and no part before a comma does, as in `a,b.example.`. Only the comma at the
/// beginning of a label must always be escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainNames(pub Vec<DomainName>);

impl FromStr for DomainNames {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut is_escaped = false;
        let parts: Vec<_> = text
            .split(|character| {
                let separates = character == ',' && !is_escaped;
                is_escaped = character == '\\' && !is_escaped;
                separates
            })
            .collect();
        let may_be_one = matches!(&parts[..], [before @ .., last]
            if !before.is_empty() && is_absolute(last) && !before.iter().any(|part| is_absolute(part)));
        let names: Result<Vec<_>, _> = parts.into_iter().map(str::parse).collect();
        let whole = may_be_one.then(|| text.parse()).and_then(Result::ok);
        match (names, whole) {
            (Ok(mut names), whole) => {
                names.extend(whole);
                Ok(Self(names))
            }
            (Err(_), Some(whole)) => Ok(Self(vec![whole])),
            (Err(error), None) => Err(error),
        }
    }
}

/// Returns whether a text ends with the dot behind a label, not with an escaped dot of the label
/// (`\.`).
fn is_absolute(text: &str) -> bool {
    let label = text.strip_suffix('.');
    label.is_some_and(|label| (label.len() - label.trim_end_matches('\\').len()).is_multiple_of(2))
}

/// A name as an operator writes it or as `read` prints it, absolute or not.
///
/// The escapes are those of zone files (RFC 1035 section 5.1): `\DDD` is a byte by its decimal
/// number, and `\X` is X. Every other character stands for itself. A label with non-ASCII
/// characters is converted to its ASCII form, `xn--...` (RFC 5891).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainName(Vec<u8>);

impl FromStr for DomainName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        wire(text)
            .map(Self)
            .map_err(|reason| format!("{text:?} is no domain name: {reason}"))
    }
}

/// Returns the name in wire format and lower case.
fn wire(text: &str) -> Result<Vec<u8>, String> {
    let mut wire = Vec::with_capacity(text.len() + 2);
    let mut rest = if text == "." { "" } else { text };
    if text.is_empty() {
        return Err("it is empty; the root is `.`".to_owned());
    }
    while !rest.is_empty() {
        let (label, behind) = label(rest)?;
        match u8::try_from(label.len()) {
            Ok(0) => return Err("a label is empty".to_owned()),
            Ok(length @ ..64) => wire.push(length),
            _ => return Err("a label is longer than 63 bytes".to_owned()),
        }
        wire.extend(label);
        rest = behind;
    }
    wire.push(0);
    if wire.len() > LONGEST_NAME {
        return Err("it is longer than 255 bytes".to_owned());
    }
    wire.make_ascii_lowercase();
    Ok(wire)
}

/// Splits off the first label. Returns it and the text behind its dot.
fn label(text: &str) -> Result<(Vec<u8>, &str), String> {
    let (mut label, mut is_ascii) = (Vec::new(), true);
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '.' => break,
            '\\' => label.push(escaped(&mut characters)?),
            other => {
                is_ascii &= other.is_ascii();
                label.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
    }
    if !is_ascii {
        let typed = str::from_utf8(&label)
            .map_err(|_mixed| r"a label has both \DDD and other characters than ASCII")?;
        let ascii = Label::from_utf8(typed).map_err(|error| error.to_string())?;
        label = ascii.as_bytes().to_vec();
    }
    Ok((label, characters.as_str()))
}

/// Reads the byte behind a backslash.
fn escaped(characters: &mut Chars<'_>) -> Result<u8, String> {
    let text = characters.as_str();
    let (byte, length) = if text.starts_with(|first: char| first.is_ascii_digit()) {
        let number = text
            .get(..3)
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()));
        (number.and_then(|number| number.parse().ok()), 3)
    } else {
        (text.bytes().next().filter(u8::is_ascii), 1)
    };
    let byte = byte.ok_or(
        r"behind a backslash there are three digits, 000 to 255, or one other character of ASCII",
    )?;
    *characters = text[length..].chars();
    Ok(byte)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("example.com", false, "example.com", true)]
    #[case("EXAMPLE.com.", false, "example.COM", true)]
    #[case("example.com", false, "www.example.com", false)]
    #[case("example.com", true, "www.example.com", true)]
    #[case("example.com", true, "a.b.Example.Com", true)]
    #[case("example.com", true, "example.com", true)]
    #[case("example.com", true, "wwwexample.com", false)]
    #[case("example.com", true, "com", false)]
    #[case(".", true, "anything", true)]
    #[case(".", false, "anything", false)]
    #[case("c", true, "a\u{1}c", false)]
    #[case("a\\.b", false, "a.b", false)]
    fn names_match_by_labels_without_regard_to_case(
        #[case] pattern: DomainName,
        #[case] below: bool,
        #[case] name: &str,
        #[case] matches: bool,
    ) {
        let mut wire = Vec::new();
        for label in name.split('.') {
            wire.push(u8::try_from(label.len()).expect("short"));
            wire.extend(label.as_bytes());
        }
        wire.push(0);
        let (name, _) = Name::parse(&wire, 0).expect("a name");
        assert_eq!(
            Pattern::new(pattern, below).matches(&Lowered::of(name)),
            matches
        );
    }

    #[rstest]
    #[case::root(".", b"\0")]
    #[case::subnet(
        "0/25.2.0.192.in-addr.arpa",
        b"\x040/25\x012\x010\x03192\x07in-addr\x04arpa\0"
    )]
    #[case::decimal(r"\101\007\255.com.", b"\x03e\x07\xff\x03com\0")]
    #[case::quoted(r"a\@b\.c\\.", b"\x06a@b.c\\\0")]
    #[case::not_quoted("_a b@*\"$;()", b"\x0b_a b@*\"$;()\0")]
    #[case::quoted_sign(r"\+12", b"\x03+12\0")]
    #[case::idn("B\u{fc}CHER.example", b"\x0dxn--bcher-kva\x07example\0")]
    #[case::idn_behind_ascii("a.\u{4f8b}\u{3048}", b"\x01a\x0bxn--r8jz45g\0")]
    fn names_are_read_with_their_escapes(#[case] text: &str, #[case] wire: &[u8]) {
        let name = text.parse::<DomainName>();
        assert_eq!(name.map(|name| name.0), Ok(wire.to_vec()));
    }

    #[rstest]
    #[case("")]
    #[case("a..b")]
    #[case(".a")]
    #[case("..")]
    #[case("0123456789012345678901234567890123456789012345678901234567890123.com")]
    #[case("a\\")]
    #[case(r"\1")]
    #[case(r"\256")]
    #[case(r"\1é2")]
    #[case("\\\u{e9}")]
    #[case("\u{e9}\\255")]
    fn what_is_no_name_is_refused(#[case] text: &str) {
        assert!(text.parse::<DomainName>().is_err());
    }

    #[test]
    fn a_name_of_more_than_255_bytes_is_refused() {
        let text = |last: usize| format!("{}{}", "a.".repeat(126), "b".repeat(last));
        assert!(text(1).parse::<DomainName>().is_ok());
        assert!(text(2).parse::<DomainName>().is_err());
    }

    #[rstest]
    #[case("a,b.c,D", &["a", "b.c", "d"])]
    #[case(r"a\,b,c", &[r"a\,b", "c"])]
    #[case(r"a\\,b", &[r"a\\", "b"])]
    #[case("a,b.example.", &["a", "b.example", r"a\,b.example"])]
    #[case("a.,b.example.", &["a", "b.example"])]
    #[case(r"a\.,b.", &[r"a\.", "b", r"a\.\,b"])]
    #[case(r"a\\.,b.", &[r"a\\", "b"])]
    fn commas_separate_names(#[case] text: &str, #[case] names: &[&str]) {
        let parsed = |name: &&str| name.parse::<DomainName>().expect("a name");
        let names = names.iter().map(parsed).collect();
        assert_eq!(text.parse(), Ok(DomainNames(names)));
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back_as_the_same_name(labels in vec(vec(any::<u8>(), 1..12), 0..8)) {
            prop_assume!(labels.iter().all(|label| label[0] != b','));
            let mut wire = Vec::new();
            for label in &labels {
                wire.push(u8::try_from(label.len()).expect("short"));
                wire.extend(label);
            }
            wire.push(0);
            let (name, _) = Name::parse(&wire, 0).expect("a name");
            let DomainNames(read) = name.to_string().parse().expect("as printed");
            wire.make_ascii_lowercase();
            prop_assert_eq!(read.last(), Some(&DomainName(wire)));
            prop_assert!(read.len() == 1 || labels.iter().any(|label| label.contains(&b',')));
        }

        #[test]
        fn any_text_is_read_or_refused(text in any::<String>()) {
            if let Ok(DomainNames(names)) = text.parse() {
                prop_assert!(names.iter().all(|name| Name::parse(&name.0, 0).is_ok()));
            }
        }
    }
}

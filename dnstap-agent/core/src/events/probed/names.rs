//! Domain names in wire format: reading from text, checking, and sorting by labels.

use crate::dns::LONGEST_NAME;

/// Returns whether `bytes` is one complete domain name in wire format, without compression pointers (RFC 1035 section
/// 3.1).
pub(super) fn is_name(bytes: &[u8]) -> bool {
    labels(bytes).is_some()
}

/// Returns the labels of a name in wire format, without the root's.
fn labels(bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let (mut labels, mut rest) = (Vec::new(), bytes);
    while let Some((&length, behind)) = rest.split_first() {
        if length == 0 {
            let is_whole = behind.is_empty() && bytes.len() <= LONGEST_NAME;
            return is_whole.then_some(labels);
        }
        if length > 63 {
            return None;
        }
        let (label, behind) = behind.split_at_checked(length.into())?;
        labels.push(label);
        rest = behind;
    }
    None
}

/// Returns the name in a form in which equal names are equal, and in which the names below a name begin with it: small
/// letters, and the labels from the root on.
pub(super) fn sortable(name: &[u8]) -> Option<Box<[u8]>> {
    let mut bytes = Vec::with_capacity(name.len());
    for label in labels(name)?.into_iter().rev() {
        bytes.push(u8::try_from(label.len()).ok()?);
        bytes.extend(label.iter().map(u8::to_ascii_lowercase));
    }
    Some(bytes.into())
}

/// Reads a name in presentation form (RFC 1035 section 5.1), with or without the dot at its end. Returns it in wire
/// format.
pub(super) fn parse(text: &str) -> Option<Vec<u8>> {
    let mut wire = Vec::with_capacity(text.len() + 2);
    let mut label = Vec::new();
    let mut bytes = text.bytes();
    let mut end = |label: &mut Vec<u8>| {
        let length = u8::try_from(label.len()).ok()?;
        (1..=63).contains(&length).then(|| {
            wire.push(length);
            wire.append(label);
        })
    };
    if text == "." {
        return Some(vec![0]);
    }
    while let Some(byte) = bytes.next() {
        match byte {
            b'.' => end(&mut label)?,
            b'\\' => match bytes.next()? {
                first @ b'0'..=b'9' => {
                    let [second, third] = [bytes.next()?, bytes.next()?];
                    let digits = [first, second, third];
                    let number = std::str::from_utf8(&digits).ok()?;
                    label.push(number.parse().ok()?);
                }
                escaped => label.push(escaped),
            },
            byte => label.push(byte),
        }
    }
    if !label.is_empty() {
        end(&mut label)?;
    }
    wire.push(0);
    is_name(&wire).then_some(wire)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;
    use crate::dns::Name;

    #[rstest]
    #[case("www.example", Some(&b"\x03www\x07example\0"[..]))]
    #[case("www.example.", Some(&b"\x03www\x07example\0"[..]))]
    #[case(".", Some(&b"\0"[..]))]
    #[case("", Some(&b"\0"[..]))]
    #[case(r"a\.b\032c", Some(&b"\x05a.b c\0"[..]))]
    #[case("a..b", None)]
    #[case(r"a\25", None)]
    #[case(r"a\300", None)]
    fn names_are_read(#[case] text: &str, #[case] wire: Option<&[u8]>) {
        assert_eq!(parse(text).as_deref(), wire);
    }

    #[test]
    fn names_below_a_name_begin_with_it() {
        let [name, below, other] = [
            &b"\x02Ab\x01c\0"[..],
            b"\x01x\x02aB\x01C\0",
            b"\x03xab\x01c\0",
        ]
        .map(|name| sortable(name).unwrap());
        assert!(below.starts_with(&name) && !other.starts_with(&name));
        assert_eq!(sortable(b"\0").unwrap().len(), 0);
        for broken in [&b""[..], b"\x01a", b"\xc0\x0c", b"\x00\x00"] {
            assert_eq!(sortable(broken), None);
        }
    }

    proptest! {
        #[test]
        fn what_prints_is_read_back(labels in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..20), 0..5)) {
            let mut wire = Vec::new();
            for label in labels {
                wire.push(u8::try_from(label.len()).unwrap());
                wire.extend(label);
            }
            wire.push(0);
            let text = Name::parse(&wire, 0).unwrap().0.to_string();
            prop_assert_eq!(parse(&text), Some(wire));
        }

        #[test]
        fn any_text_gives_a_name_or_none(text in ".{0,80}") {
            if let Some(wire) = parse(&text) {
                prop_assert!(is_name(&wire));
            }
        }
    }
}

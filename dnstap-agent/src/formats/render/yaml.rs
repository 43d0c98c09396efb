//! YAML with the same fields as JSON (see `json`), in block style, one document per message.
//!
//! It is generated from the JSON line, so that both have the same content, and written while the
//! JSON is parsed. Our JSON has no empty object, no `null` and no fraction. Strings that are not
//! plain words are written in double quotes, with the escapes of YAML 1.2. No string without quotes
//! can be taken for a number, a boolean or a time.

use std::{
    fmt::{self, Display},
    io::{self, Write as _},
    iter,
};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Appends the document for one line of our JSON.
pub(super) fn document(json: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"---");
    let node = Node {
        indent: 0,
        place: Place::Value,
        out,
    };
    node.deserialize(&mut serde_json::Deserializer::from_slice(json))
        .unwrap_or_else(|error| unreachable!("it is our JSON, and a Vec takes all: {error}"));
}

/// A value being converted: it is written while it is read, and nothing is stored.
struct Node<'o> {
    indent: usize,
    place: Place,
    out: &'o mut Vec<u8>,
}

/// Text in front of a node in its line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A key and a colon: a block begins on the next line.
    Value,
    /// A dash: a block begins behind it.
    Item,
}

impl Node<'_> {
    fn below(&mut self, place: Place) -> Node<'_> {
        Node {
            indent: self.indent + 2,
            place,
            out: self.out,
        }
    }

    fn plain<E: Error>(self, value: impl Display) -> Result<(), E> {
        writeln!(self.out, " {value}").map_err(E::custom)
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of our JSON")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let mut indent = self.indent;
        if self.place == Place::Item {
            indent = 1;
        } else {
            self.out.push(b'\n');
        }
        while let Some(key) = map.next_key::<&str>()? {
            self.out.extend(iter::repeat_n(b' ', indent));
            write_text(key, self.out).map_err(A::Error::custom)?;
            self.out.push(b':');
            map.next_value_seed(self.below(Place::Value))?;
            indent = self.indent;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        let begin = self.out.len();
        loop {
            let end = self.out.len();
            if end == begin {
                self.out.push(b'\n');
            }
            self.out.extend(iter::repeat_n(b' ', self.indent));
            self.out.push(b'-');
            if list.next_element_seed(self.below(Place::Item))?.is_none() {
                self.out.truncate(end);
                break;
            }
        }
        if self.out.len() == begin {
            return self.plain("[]");
        }
        Ok(())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.out.push(b' ');
        write_text(text, self.out).map_err(E::custom)?;
        self.out.push(b'\n');
        Ok(())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        self.plain(number)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        self.plain(number)
    }

    fn visit_bool<E: Error>(self, truth: bool) -> Result<(), E> {
        self.plain(truth)
    }
}

/// Writes a string, in quotes if it would be another type without.
pub(super) fn write_text(text: &str, out: &mut Vec<u8>) -> io::Result<()> {
    if is_plain(text) {
        return out.write_all(text.as_bytes());
    }
    write_quoted(text, out)
}

/// Writes a string in quotes.
pub(super) fn write_quoted(text: &str, out: &mut Vec<u8>) -> io::Result<()> {
    out.push(b'"');
    let is_escaped = |char: char| !matches!(char, ' '..='~') || matches!(char, '"' | '\\');
    let mut rest = text;
    while let Some((at, char)) = rest.char_indices().find(|(_, char)| is_escaped(*char)) {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        match (char, u32::from(char)) {
            ('"', _) => out.extend_from_slice(b"\\\""),
            ('\\', _) => out.extend_from_slice(b"\\\\"),
            (_, code @ ..0x100) => write!(out, "\\x{code:02x}")?,
            (_, code @ ..0x1_0000) => write!(out, "\\u{code:04x}")?,
            (_, code) => write!(out, "\\U{code:08x}")?,
        }
        rest = &rest[at + char.len_utf8()..];
    }
    out.extend_from_slice(rest.as_bytes());
    out.push(b'"');
    Ok(())
}

/// Returns whether every reader takes the text for a string: a word without meaning in any version
/// of YAML.
fn is_plain(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
        && !is_known(text)
}

/// Returns whether some version of YAML gives the word another meaning than a string.
pub(super) fn is_known(text: &str) -> bool {
    /// Includes the words of YAML 1.1, such as `n`.
    const KNOWN: [&str; 11] = [
        "true", "false", "yes", "no", "on", "off", "y", "n", "null", "nan", "inf",
    ];
    KNOWN.iter().any(|known| text.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("example.com.", "example.com.")]
    #[case("NOERROR", "NOERROR")]
    #[case("NO", "\"NO\"")]
    #[case("y", "\"y\"")]
    #[case("", "\"\"")]
    #[case(".", "\".\"")]
    #[case("1e3", "\"1e3\"")]
    #[case("2026-11-24", "\"2026-11-24\"")]
    #[case("a: b", "\"a: b\"")]
    #[case("\"\\\n", "\"\\\"\\\\\\x0a\"")]
    #[case("é€😀", "\"\\xe9\\u20ac\\U0001f600\"")]
    fn strings_stay_strings_for_every_reader(#[case] text: &str, #[case] written: &str) {
        let mut out = Vec::new();
        write_text(text, &mut out).expect("a Vec takes all");
        assert_eq!(String::from_utf8(out).expect("ASCII"), written);
    }

    #[test]
    fn maps_and_lists_nest() {
        let mut out = Vec::new();
        document(
            br#"{"a":[{"b":1,"c":{"d":true}},{"b":-2}],"y":"\u00e9","f":[],"g":[3,4]}"#,
            &mut out,
        );
        let expected = "---\na:\n  - b: 1\n    c:\n      d: true\n  - b: -2\n\"y\": \"\\xe9\"\nf: []\ng:\n  - 3\n  - 4\n";
        assert_eq!(String::from_utf8(out).expect("ASCII"), expected);
    }
}

//! Owns YAML: the same fields as JSON (see `json`), in block style, a document for each message.
//!
//! It is made from the line of JSON, so that both say the same. Strings that are not plain words stand in double quotes, with the
//! escapes of YAML 1.2; nothing that a reader could take for a number, a boolean or a time stands without.

use std::{
    fmt,
    io::{self, Write as _},
};

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Number;

/// Appends the document of one line of our JSON.
pub(super) fn document(json: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"---");
    let Ok(node) = serde_json::from_slice::<Node>(json) else {
        // Nested deeper than the parser goes, in what the sender has added. JSON is YAML, too.
        out.push(b' ');
        out.extend_from_slice(json);
        return;
    };
    node.write(0, Place::Value, out)
        .unwrap_or_else(|_| unreachable!("a Vec takes all"));
}

/// A value, its members in the order of the JSON.
enum Node {
    Map(Vec<(String, Node)>),
    List(Vec<Node>),
    Text(String),
    Number(Number),
    Truth(bool),
    Null,
}

/// What stands before a node in its line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A key and a colon: blocks begin on the next line.
    Value,
    /// A dash: blocks begin behind it.
    Item,
}

impl Node {
    fn write(&self, indent: usize, place: Place, out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Map(members) if members.is_empty() => writeln!(out, " {{}}"),
            Self::List(items) if items.is_empty() => writeln!(out, " []"),
            Self::Map(members) => {
                let mut first = place == Place::Item;
                if !first {
                    writeln!(out)?;
                }
                for (key, node) in members {
                    let before = if std::mem::take(&mut first) {
                        1
                    } else {
                        indent
                    };
                    write!(out, "{:before$}", "")?;
                    write_text(key, out)?;
                    out.push(b':');
                    node.write(indent + 2, Place::Value, out)?;
                }
                Ok(())
            }
            Self::List(items) => {
                writeln!(out)?;
                for item in items {
                    write!(out, "{:indent$}-", "")?;
                    item.write(indent + 2, Place::Item, out)?;
                }
                Ok(())
            }
            Self::Text(text) => {
                out.push(b' ');
                write_text(text, out)?;
                writeln!(out)
            }
            Self::Number(number) => writeln!(out, " {number}"),
            Self::Truth(truth) => writeln!(out, " {truth}"),
            Self::Null => writeln!(out, " null"),
        }
    }
}

/// Writes a string, in quotes where it would be something else without.
pub(super) fn write_text(text: &str, out: &mut Vec<u8>) -> io::Result<()> {
    if is_plain(text) {
        return out.write_all(text.as_bytes());
    }
    write_quoted(text, out)
}

/// Writes a string in quotes.
pub(super) fn write_quoted(text: &str, out: &mut Vec<u8>) -> io::Result<()> {
    out.push(b'"');
    for char in text.chars() {
        match (char, u32::from(char)) {
            ('"' | '\\', _) => write!(out, "\\{char}")?,
            (' '..='~', _) => write!(out, "{char}")?,
            (_, code @ ..0x100) => write!(out, "\\x{code:02x}")?,
            (_, code @ ..0x1_0000) => write!(out, "\\u{code:04x}")?,
            (_, code) => write!(out, "\\U{code:08x}")?,
        }
    }
    out.push(b'"');
    Ok(())
}

/// Whether every reader takes it for a string: a word that no version of YAML knows.
fn is_plain(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
        && !is_known(text)
}

/// Whether some version of YAML takes the word for something else than a string.
pub(super) fn is_known(text: &str) -> bool {
    /// Those of YAML 1.1 among them, such as `n`.
    const KNOWN: [&str; 11] = [
        "true", "false", "yes", "no", "on", "off", "y", "n", "null", "nan", "inf",
    ];
    KNOWN.iter().any(|known| text.eq_ignore_ascii_case(known))
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Nodes)
    }
}

struct Nodes;

impl<'de> Visitor<'de> for Nodes {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of our JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Node::Map(members))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.to_owned()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Node, E> {
        Ok(Node::Number(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Node, E> {
        Ok(Node::Number(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Node, E> {
        Ok(Number::from_f64(number).map_or(Node::Null, Node::Number))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Node, E> {
        Ok(Node::Truth(truth))
    }
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
            br#"{"a":[{"b":1,"c":{"d":true}},{"b":-2}],"e":{},"f":[]}"#,
            &mut out,
        );
        let expected = "---\na:\n  - b: 1\n    c:\n      d: true\n  - b: -2\ne: {}\nf: []\n";
        assert_eq!(String::from_utf8(out).expect("ASCII"), expected);
    }

    #[test]
    fn whatever_a_sender_has_added_becomes_yaml() {
        let mut out = Vec::new();
        let large = u64::MAX;
        let json = format!(r#"{{"n":null,"a: b":{large},"":[-1.5,[2]]}}"#);
        document(json.as_bytes(), &mut out);
        let expected =
            format!("---\n\"n\": null\n\"a: b\": {large}\n\"\":\n  - -1.5\n  -\n    - 2\n");
        assert_eq!(String::from_utf8(out).expect("ASCII"), expected);

        let deep = format!("{{\"a\":{}{}}}\n", "[".repeat(1_000), "]".repeat(1_000));
        let mut out = Vec::new();
        document(deep.as_bytes(), &mut out);
        assert_eq!(
            String::from_utf8(out).expect("ASCII"),
            format!("--- {deep}")
        );
    }
}

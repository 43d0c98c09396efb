//! YAML with the same fields as JSON (see `json`), in block style, one document per message.
//!
//! It is a serializer of the same line that JSON is made from, so both say the same. The line has no empty object, no `null`
//! and no fraction. Strings that are not plain words stand in double quotes, with the escapes of YAML 1.2. Nothing that a
//! reader could take for a number, a boolean or a time stands without quotes.

use std::{
    fmt::Display,
    io::{self, Write as _},
    iter,
};

use serde::{
    Serialize, Serializer,
    ser::{self, Impossible, SerializeMap, SerializeSeq, SerializeStruct},
};

/// Appends the document of a line.
pub(super) fn document(line: &impl Serialize, out: &mut Vec<u8>) {
    out.extend_from_slice(b"---");
    let node = Node {
        indent: 0,
        place: Place::Value,
        out,
    };
    line.serialize(node)
        .unwrap_or_else(|error| unreachable!("a line of our JSON, and a Vec takes all: {error}"));
}

/// The place where the next value is written.
struct Node<'o> {
    /// Spaces before the lines of a block.
    indent: usize,
    place: Place,
    out: &'o mut Vec<u8>,
}

/// Text in front of a node in its line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Indentation; the node is a key.
    Key,
    /// A key and a colon: blocks begin on the next line.
    Value,
    /// A dash: a block begins behind it.
    Item,
}

impl<'o> Node<'o> {
    /// Writes a number or a boolean.
    fn plain(self, value: impl Display) -> Result<(), Error> {
        writeln!(self.out, " {value}")?;
        Ok(())
    }

    /// Writes a string by `write`, which appends it as it is. Quotes are added where they are needed.
    fn text(self, write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> Result<(), Error> {
        if self.place != Place::Key {
            self.out.push(b' ');
        }
        let begin = self.out.len();
        write(self.out)?;
        if !is_plain(&self.out[begin..]) {
            let text = String::from_utf8(self.out.split_off(begin))
                .map_err(|error| Error(error.to_string()))?;
            write_quoted(&text, self.out)?;
        }
        if self.place != Place::Key {
            self.out.push(b'\n');
        }
        Ok(())
    }

    /// A block of keys and values, or of items.
    fn block(self) -> Block<'o> {
        Block {
            first: if self.place == Place::Item {
                1
            } else {
                self.indent
            },
            begun: self.place == Place::Item,
            indent: self.indent,
            out: self.out,
        }
    }
}

/// A block that is being written.
struct Block<'o> {
    indent: usize,
    /// Spaces before the next entry: behind a dash, one before the first.
    first: usize,
    /// Whether the line of the block's key has ended.
    begun: bool,
    out: &'o mut Vec<u8>,
}

impl Block<'_> {
    /// Begins an entry: ends the line before it, and indents.
    fn begin(&mut self) {
        if !self.begun {
            self.out.push(b'\n');
            self.begun = true;
        }
        self.out.extend(iter::repeat_n(b' ', self.first));
        self.first = self.indent;
    }

    /// Ends the line of a block without entries.
    fn end_of_entries(self) {
        if !self.begun {
            self.out.push(b'\n');
        }
    }

    fn below(&mut self, place: Place) -> Node<'_> {
        Node {
            indent: self.indent + 2,
            place,
            out: self.out,
        }
    }
}

impl SerializeMap for Block<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        self.begin();
        key.serialize(self.below(Place::Key))
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.out.push(b':');
        value.serialize(self.below(Place::Value))
    }

    fn end(self) -> Result<(), Error> {
        self.end_of_entries();
        Ok(())
    }
}

impl SerializeStruct for Block<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        // The names of our fields are plain words.
        debug_assert!(is_plain(key.as_bytes()), "{key}");
        self.begin();
        self.out.extend_from_slice(key.as_bytes());
        self.serialize_value(value)
    }

    fn end(self) -> Result<(), Error> {
        self.end_of_entries();
        Ok(())
    }
}

impl SerializeSeq for Block<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.begin();
        self.out.push(b'-');
        value.serialize(self.below(Place::Item))
    }

    fn end(self) -> Result<(), Error> {
        if !self.begun {
            self.out.extend_from_slice(b" []\n");
        }
        Ok(())
    }
}

/// Methods that write a number or a boolean as it is.
macro_rules! numbers {
    ($($method:ident: $kind:ty,)*) => {
        $(fn $method(self, value: $kind) -> Result<(), Error> {
            self.plain(value)
        })*
    };
}

/// Values of our line; the others are refused, because no message makes them.
impl<'o> Serializer for Node<'o> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Block<'o>;
    type SerializeTuple = Impossible<(), Error>;
    type SerializeTupleStruct = Impossible<(), Error>;
    type SerializeTupleVariant = Impossible<(), Error>;
    type SerializeMap = Block<'o>;
    type SerializeStruct = Block<'o>;
    type SerializeStructVariant = Impossible<(), Error>;

    numbers! {
        serialize_bool: bool, serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64,
    }

    fn serialize_str(self, text: &str) -> Result<(), Error> {
        self.text(|out| out.write_all(text.as_bytes()))
    }

    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<(), Error> {
        self.text(|out| write!(out, "{value}"))
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_seq(self, _length: Option<usize>) -> Result<Block<'o>, Error> {
        Ok(Block {
            begun: false,
            first: self.indent,
            ..self.block()
        })
    }

    fn serialize_map(self, _length: Option<usize>) -> Result<Block<'o>, Error> {
        Ok(self.block())
    }

    fn serialize_struct(self, _name: &'static str, _length: usize) -> Result<Block<'o>, Error> {
        Ok(self.block())
    }

    fn serialize_f32(self, _value: f32) -> Result<(), Error> {
        refused("a fraction")
    }

    fn serialize_f64(self, _value: f64) -> Result<(), Error> {
        refused("a fraction")
    }

    fn serialize_char(self, _value: char) -> Result<(), Error> {
        refused("a character")
    }

    fn serialize_bytes(self, _value: &[u8]) -> Result<(), Error> {
        refused("bytes")
    }

    fn serialize_none(self) -> Result<(), Error> {
        refused("null")
    }

    fn serialize_unit(self) -> Result<(), Error> {
        refused("null")
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<(), Error> {
        refused("null")
    }

    fn serialize_unit_variant(
        self,
        _name: &'static str,
        _index: u32,
        _variant: &'static str,
    ) -> Result<(), Error> {
        refused("a variant")
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        _index: u32,
        _variant: &'static str,
        _value: &T,
    ) -> Result<(), Error> {
        refused("a variant")
    }

    fn serialize_tuple(self, _length: usize) -> Result<Self::SerializeTuple, Error> {
        refused("a tuple")
    }

    fn serialize_tuple_struct(
        self,
        _name: &'static str,
        _length: usize,
    ) -> Result<Self::SerializeTupleStruct, Error> {
        refused("a tuple")
    }

    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        _index: u32,
        _variant: &'static str,
        _length: usize,
    ) -> Result<Self::SerializeTupleVariant, Error> {
        refused("a variant")
    }

    fn serialize_struct_variant(
        self,
        _name: &'static str,
        _index: u32,
        _variant: &'static str,
        _length: usize,
    ) -> Result<Self::SerializeStructVariant, Error> {
        refused("a variant")
    }
}

/// A value that cannot be written.
fn refused<T>(what: &str) -> Result<T, Error> {
    Err(ser::Error::custom(format_args!(
        "{what} in a line of our JSON"
    )))
}

/// Why a line could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Error(String);

impl ser::Error for Error {
    fn custom<T: Display>(what: T) -> Self {
        Self(what.to_string())
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

/// Writes a string, in quotes if it would be another type without.
pub(super) fn write_text(text: &str, out: &mut Vec<u8>) -> io::Result<()> {
    if is_plain(text.as_bytes()) {
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

/// Whether every reader takes the text for a string: it is a word that no version of YAML knows.
fn is_plain(text: &[u8]) -> bool {
    /// Bytes that a plain word may have. A table, because each byte of each string is looked at.
    const IN_WORD: [bool; 256] = {
        let mut table = [false; 256];
        let mut byte = 0;
        while byte < 128_u8 {
            table[byte as usize] =
                byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
            byte += 1;
        }
        table
    };
    text.first().is_some_and(u8::is_ascii_alphabetic)
        && text.iter().all(|&byte| IN_WORD[usize::from(byte)])
        && !is_known(text)
}

/// Whether some version of YAML takes the word for something other than a string.
pub(super) fn is_known(text: &[u8]) -> bool {
    /// Length of the longest of them.
    const LONGEST: usize = 5;
    /// Words of YAML 1.1 are among them, such as `n`.
    const KNOWN: [&str; 11] = [
        "true", "false", "yes", "no", "on", "off", "y", "n", "null", "nan", "inf",
    ];
    text.len() <= LONGEST
        && KNOWN
            .iter()
            .any(|known| text.eq_ignore_ascii_case(known.as_bytes()))
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
        let line = serde_json::json!({
            "a": [{"b": 1, "c": {"d": true}}, {"b": -2}],
            "f": [],
            "g": [3, 4],
            "y": "\u{e9}",
        });
        let mut out = Vec::new();
        document(&line, &mut out);
        let expected = "---\na:\n  - b: 1\n    c:\n      d: true\n  - b: -2\nf: []\ng:\n  - 3\n  - 4\n\"y\": \"\\xe9\"\n";
        assert_eq!(String::from_utf8(out).expect("ASCII"), expected);
    }
}

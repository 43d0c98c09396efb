//! Parameters of SVCB and HTTPS records (RFC 9460 section 2.1 and appendix A).
//!
//! Values that a reader might split are written in quotes: lists of strings, and values without a
//! format of their own.

use std::fmt::{self, Write as _};

use data_encoding::BASE64;

use super::address::{v4, v6};
use crate::dns::name::{write_escaped, write_quoted};

/// Format of a parameter's value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Keys of parameters, in order.
    Keys,
    /// Non-empty character-strings, at least one.
    Texts,
    /// Character-strings, possibly none.
    Segments,
    Empty,
    Port,
    V4,
    V6,
    Base64,
    Numbers,
    Quoted,
}

/// IANA "Service Parameter Keys (`SvcParamKeys`)", indexed by number. BIND prints those from 7 on
/// as `keyNNN`.
const KEYS: [(&str, Form); 11] = [
    ("mandatory", Form::Keys),
    ("alpn", Form::Texts),
    ("no-default-alpn", Form::Empty),
    ("port", Form::Port),
    ("ipv4hint", Form::V4),
    ("ech", Form::Base64),
    ("ipv6hint", Form::V6),
    ("dohpath", Form::Quoted),               // RFC 9461
    ("ohttp", Form::Empty),                  // RFC 9540
    ("tls-supported-groups", Form::Numbers), // draft-ietf-tls-key-share-prediction
    ("docpath", Form::Segments),             // draft-ietf-core-dns-over-coap
];

/// A list of parameters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Params<'a>(&'a [u8]);

/// One parameter.
struct Param<'a> {
    key: u16,
    value: &'a [u8],
}

impl<'a> Params<'a> {
    /// Reads the list. Returns `None` if a parameter is cut, out of order, or has a value that its
    /// key does not allow.
    pub(super) fn of(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes;
        let mut last = None;
        while !rest.is_empty() {
            let (param, behind) = split(rest)?;
            if last.is_some_and(|last| param.key <= last) || !param.is_valid() {
                return None;
            }
            last = Some(param.key);
            rest = behind;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Params<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        let mut separator = "";
        while let Some((param, behind)) = split(rest) {
            f.write_str(separator)?;
            param.fmt(f)?;
            (separator, rest) = (" ", behind);
        }
        Ok(())
    }
}

impl Param<'_> {
    fn form(&self) -> Form {
        KEYS.get(usize::from(self.key))
            .map_or(Form::Quoted, |(_, form)| *form)
    }

    fn is_valid(&self) -> bool {
        let value = self.value;
        let is_list_of = |bytes| !value.is_empty() && value.len().is_multiple_of(bytes);
        match self.form() {
            Form::Keys => {
                let (keys, rest) = value.as_chunks::<2>();
                // The list must not contain `mandatory` itself (RFC 9460 section 8), nor a key
                // twice.
                rest.is_empty()
                    && keys.first().is_some_and(|first| *first != [0, 0])
                    && keys.is_sorted_by(|one, next| one < next)
            }
            Form::Texts => {
                !value.is_empty()
                    && strings(value).all(|text| text.is_some_and(|text| !text.is_empty()))
            }
            Form::Segments => strings(value).all(|text| text.is_some()),
            Form::Empty => value.is_empty(),
            Form::Port => value.len() == 2,
            Form::Numbers => is_list_of(2),
            Form::V4 => is_list_of(4),
            Form::V6 => is_list_of(16),
            Form::Base64 => !value.is_empty(),
            Form::Quoted => true,
        }
    }
}

impl fmt::Display for Param<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_key(self.key, f)?;
        if self.value.is_empty() {
            return Ok(());
        }
        f.write_char('=')?;
        let value = self.value;
        match self.form() {
            Form::Keys => list(value.as_chunks().0, f, |key, f| {
                write_key(u16::from_be_bytes(*key), f)
            }),
            Form::Port | Form::Numbers => list(value.as_chunks().0, f, |number, f| {
                u16::from_be_bytes(*number).fmt(f)
            }),
            Form::V4 => list(value.as_chunks().0, f, |address, f| v4(*address, f)),
            Form::V6 => list(value.as_chunks().0, f, |address, f| v6(*address, f)),
            Form::Base64 => BASE64.encode_display(value).fmt(f),
            Form::Texts | Form::Segments => {
                f.write_char('"')?;
                for (nth, text) in strings(value).flatten().enumerate() {
                    if nth > 0 {
                        f.write_char(',')?;
                    }
                    write_item(text, f)?;
                }
                f.write_char('"')
            }
            Form::Empty | Form::Quoted => write_quoted(f, value),
        }
    }
}

fn write_key(key: u16, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match KEYS.get(usize::from(key)) {
        Some((word, _)) => f.write_str(word),
        None => write!(f, "key{key}"),
    }
}

fn list<T>(
    items: &[T],
    f: &mut fmt::Formatter<'_>,
    write: impl Fn(&T, &mut fmt::Formatter<'_>) -> fmt::Result,
) -> fmt::Result {
    for (nth, item) in items.iter().enumerate() {
        if nth > 0 {
            f.write_char(',')?;
        }
        write(item, f)?;
    }
    Ok(())
}

/// Writes a string of a list, escaped for the list and then for the quotes (RFC 9460 appendix A.1).
fn write_item(text: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for byte in text {
        match byte {
            b',' => f.write_str(r"\\,")?,
            b'\\' => f.write_str(r"\\\\")?,
            _ => write_escaped(f, &[*byte], |byte| {
                matches!(byte, b'!'..=b'~') && byte != b'"'
            })?,
        }
    }
    Ok(())
}

/// Iterates over strings with a length of 8 bits each. Ends with `None` if the last one is cut.
fn strings(mut bytes: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    std::iter::from_fn(move || {
        let (length, rest) = bytes.split_first()?;
        let text = rest.split_at_checked((*length).into());
        bytes = text.map_or(&[], |(_, behind)| behind);
        Some(text.map(|(text, _)| text))
    })
}

/// Splits off the first parameter. Returns it and the rest.
fn split(bytes: &[u8]) -> Option<(Param<'_>, &[u8])> {
    let ([a, b, c, d], rest) = bytes.split_first_chunk()?;
    let (value, behind) = rest.split_at_checked(u16::from_be_bytes([*c, *d]).into())?;
    let param = Param {
        key: u16::from_be_bytes([*a, *b]),
        value,
    };
    Some((param, behind))
}

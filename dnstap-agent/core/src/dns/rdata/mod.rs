//! Record data in presentation form (RFC 1035 section 5.1): one line of printable ASCII, as `dig`
//! prints it.
//!
//! A table ([`table`]) lists the fields of each type. Three kinds of data are printed in the
//! generic form of RFC 3597 section 5, `\# LENGTH HEX`: data that does not fit its type to the last
//! byte, data of an unknown type, and empty data (RFC 2136 section 2.4). The printed text always
//! reads back to the same bytes. Therefore data whose text would read back to another encoding is
//! printed in the generic form, too.
//!
//! Compressed names are expanded, also in types that must not be compressed (RFC 3597 section 4),
//! because old servers compressed them. Names in lists are not, so that the text is never much
//! longer than the data.

mod address;
mod loc;
mod prefixes;
mod svcb;
mod table;
mod types;
mod value;

use std::fmt::{self, Write as _};

use data_encoding::HEXUPPER;

use self::{
    table::{Field, fields},
    value::{Value, write_digits},
};
use super::{message::Record, mnemonics::Type, name::Name};

/// Data of a record, which prints in presentation form. The alternate form (`{:#}`) has spaces in
/// long base64 and hexadecimal where BIND's programs put them.
#[derive(Clone, Copy, Debug)]
pub struct Rdata<'a> {
    data: &'a [u8],
    cursor: Cursor<'a>,
    /// Fields of the type; empty if the data is printed in the generic form.
    fields: &'static [Field],
}

impl<'a> Rdata<'a> {
    /// Wraps the data of a record.
    #[must_use]
    pub fn of(record: &Record<'a>) -> Self {
        let data = record.bytes();
        let cursor = Cursor {
            message: record.name.message(),
            start: record.data,
            at: record.data,
            end: record.data + data.len(),
        };
        let fields = fields(record.kind, record.class);
        let fits = !data.is_empty() && cursor.fits(fields);
        Self {
            data,
            cursor,
            fields: if fits { fields } else { &[] },
        }
    }

    /// Returns whether the data prints in the generic form of RFC 3597.
    #[must_use]
    pub fn is_generic(&self) -> bool {
        self.fields.is_empty()
    }
}

impl fmt::Display for Rdata<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_generic() {
            write!(f, "\\# {}", self.data.len())?;
            if !self.data.is_empty() {
                f.write_char(' ')?;
                write_digits(&HEXUPPER, self.data, f)?;
            }
            return Ok(());
        }
        let mut cursor = self.cursor;
        let mut is_first = true;
        for field in self.fields {
            match cursor.read(*field) {
                None | Some(Value::Nothing) => {}
                Some(value) => {
                    if !is_first {
                        f.write_char(' ')?;
                    }
                    is_first = false;
                    value.fmt(f)?;
                }
            }
        }
        Ok(())
    }
}

/// A position in the data of a record.
#[derive(Clone, Copy, Debug)]
struct Cursor<'a> {
    /// The message, which pointers of names refer to.
    message: &'a [u8],
    /// Range of the data: its first byte, and the one behind it.
    start: usize,
    end: usize,
    at: usize,
}

impl<'a> Cursor<'a> {
    /// Returns whether the fields fill the data exactly.
    fn fits(mut self, fields: &[Field]) -> bool {
        !fields.is_empty()
            && fields.iter().all(|field| self.read(*field).is_some())
            && self.at == self.end
    }

    /// Reads the next field. Returns `None` if the bytes do not fit it.
    fn read(&mut self, field: Field) -> Option<Value<'a>> {
        Some(match field {
            Field::U8 => Value::Number(self.number(1)?),
            Field::U16 => Value::Number(self.number(2)?),
            Field::U32 => Value::Number(self.number(4)?),
            Field::U48 => Value::Number(self.number(6)?),
            Field::Time => Value::Time(u32::try_from(self.number(4)?).ok()?),
            Field::Type => Value::Type(self.kind()?),
            Field::SigType => match self.kind()? {
                kind if kind.is_known() => Value::Type(kind),
                Type(number) => Value::Number(number.into()),
            },
            Field::Octal => Value::Octal(u16::try_from(self.number(2)?).ok()?),
            Field::Coded(words) => {
                let number = self.number(words.bytes)?;
                match words.of(number) {
                    Some(word) => Value::Word(word),
                    None => Value::Number(number),
                }
            }
            Field::Name => Value::Name(self.name()?),
            Field::V4 => Value::V4(*self.array()?),
            Field::V6 => Value::V6(*self.array()?),
            Field::OptionalText | Field::OptionalBase64 if self.at == self.end => Value::Nothing,
            Field::Text | Field::OptionalText => Value::Text(self.sized(1)?),
            Field::Texts => {
                let from = self.at;
                while self.at < self.end {
                    self.sized(1)?;
                }
                Value::Texts(
                    self.message
                        .get(from..self.at)
                        .filter(|all| !all.is_empty())?,
                )
            }
            Field::RestText => Value::Text(self.rest()),
            Field::Tag => {
                let tag = self.sized(1)?;
                let is_word = !tag.is_empty() && tag.iter().all(u8::is_ascii_alphanumeric);
                is_word.then_some(Value::Plain(tag))?
            }
            Field::Hex => Value::Hex(self.some_rest()?),
            Field::Base64 => Value::Base64(self.some_rest()?),
            Field::DashBase64 if self.at == self.end => Value::Word("-"),
            Field::OptionalBase64 => Value::Base64(self.rest()),
            Field::DashBase64 => Value::Object(self.rest()),
            Field::SizedBase64 => Value::SizedBase64(self.sized(2)?),
            Field::Key => self.key()?,
            Field::Salt => match self.sized(1)? {
                [] => Value::Word("-"),
                salt => Value::Salt(salt),
            },
            Field::Hash => Value::Base32(self.sized(1).filter(|hash| !hash.is_empty())?),
            Field::Nsap => Value::Nsap(self.some_rest()?),
            Field::Atma => match self.some_rest()? {
                [0, hex @ ..] if !hex.is_empty() => Value::LowerHex(hex),
                [1, digits @ ..] if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) => {
                    Value::Phone(digits)
                }
                _ => return None,
            },
            Field::Eui48 => Value::Eui(self.array::<6>()?),
            Field::Eui64 => Value::Eui(self.array::<8>()?),
            Field::Locator => Value::Locator(*self.array()?),
            Field::Types => match self.rest() {
                [] => Value::Nothing,
                bitmap => Value::Types(types::Windows::of(bitmap)?),
            },
            Field::OldTypes => Value::OldTypes(types::Bits::of(self.some_rest()?)?),
            Field::Ports => match self.rest() {
                [] => Value::Nothing,
                bitmap => Value::Ports(types::Bits::of_ports(bitmap)?),
            },
            Field::Loc => Value::Loc(loc::Loc::of(self.array()?)?),
            Field::Prefixes => Value::Prefixes(prefixes::Prefixes::of(self.rest())?),
            Field::A6 => self.a6()?,
            Field::Params => match self.rest() {
                [] => Value::Nothing,
                params => Value::Params(svcb::Params::of(params)?),
            },
            Field::Gateway => self.gateway(0xff)?,
            Field::Relay => {
                let byte = u8::try_from(self.number(1)?).ok()?;
                Value::Relay(byte)
            }
            Field::RelayAddress => self.gateway(0x7f)?,
            Field::Hip => self.hip()?,
        })
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let to = self.at + length;
        let bytes = self.message.get(self.at..to).filter(|_| to <= self.end)?;
        self.at = to;
        Some(bytes)
    }

    fn rest(&mut self) -> &'a [u8] {
        self.take(self.end - self.at).unwrap_or_default()
    }

    fn some_rest(&mut self) -> Option<&'a [u8]> {
        Some(self.rest()).filter(|rest| !rest.is_empty())
    }

    fn array<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        self.take(N)?.first_chunk()
    }

    /// Reads a number of this many bytes.
    fn number(&mut self, bytes: usize) -> Option<u64> {
        let bytes = self.take(bytes)?;
        Some(
            bytes
                .iter()
                .fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        )
    }

    /// Reads bytes behind a length of this many bytes.
    fn sized(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number(bytes)?).ok()?;
        self.take(length)
    }

    fn kind(&mut self) -> Option<Type> {
        u16::try_from(self.number(2)?).ok().map(Type)
    }

    fn name(&mut self) -> Option<Name<'a>> {
        let (name, behind) = Name::parse(self.message, self.at).ok()?;
        self.at = behind;
        (behind <= self.end).then_some(name)
    }

    /// Reads the key behind flags, protocol and algorithm. Certain flags say that there is no key
    /// (RFC 2535 section 3.1.2).
    fn key(&mut self) -> Option<Value<'a>> {
        let has_none = self.message.get(self.start)? & 0xc0 == 0xc0;
        match (has_none, self.rest()) {
            (true, []) => Some(Value::Nothing),
            (false, key) if !key.is_empty() => Some(Value::Base64(key)),
            _ => None,
        }
    }

    /// Reads a gateway (RFC 4025 section 2.5, RFC 8777 section 4.2.4). Its kind is in the second
    /// byte of the data.
    fn gateway(&mut self, mask: u8) -> Option<Value<'a>> {
        Some(match self.message.get(self.start + 1)? & mask {
            0 => Value::Word("."),
            1 => Value::V4(*self.array()?),
            2 => Value::V6(*self.array()?),
            3 => Value::Name(self.name()?),
            _ => return None,
        })
    }

    /// Reads RFC 2874 section 3.1: the prefix length, the bits behind the prefix, and the name that
    /// has the prefix.
    fn a6(&mut self) -> Option<Value<'a>> {
        let prefix = u8::try_from(self.number(1)?)
            .ok()
            .filter(|prefix| *prefix <= 128)?;
        let suffix = self.take(16 - usize::from(prefix / 8))?;
        let padding = 0xff_u8.checked_shl(u32::from(8 - prefix % 8)).unwrap_or(0);
        if suffix.first().is_some_and(|first| first & padding != 0) {
            return None;
        }
        let name = if prefix == 0 {
            None
        } else {
            Some(self.name()?)
        };
        Some(Value::A6 {
            prefix,
            suffix,
            name,
        })
    }

    /// Reads RFC 8005 section 5.
    fn hip(&mut self) -> Option<Value<'a>> {
        let hit_length = usize::try_from(self.number(1)?).ok()?;
        let algorithm = self.number(1)?;
        let key_length = usize::try_from(self.number(2)?).ok()?;
        let hit = self.take(hit_length).filter(|hit| !hit.is_empty())?;
        let key = self.take(key_length).filter(|key| !key.is_empty())?;
        let servers = self.rest();
        let mut at = 0;
        while at < servers.len() {
            let (name, behind) = Name::parse(servers, at).ok()?;
            // A compression pointer is not allowed here: it would refer to the message.
            if name.length() != behind - at {
                return None;
            }
            at = behind;
        }
        Some(Value::Hip {
            algorithm,
            hit,
            key,
            servers,
        })
    }
}

#[cfg(test)]
mod tests;

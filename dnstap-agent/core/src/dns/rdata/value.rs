//! Printing of the fields of record data. Values were checked when they were read, so printing
//! fails only if its writer does.

use std::fmt::{self, Display as _, Write as _};

use data_encoding::{BASE32HEX_NOPAD, BASE64, Encoding, HEXLOWER, HEXUPPER};
use jiff::Timestamp;

use super::{
    address::{v4, v6},
    loc::Loc,
    prefixes::Prefixes,
    svcb::Params,
    types::{Bits, Windows},
};
use crate::dns::{
    mnemonics::Type,
    name::{Name, write_quoted},
};

/// A field of record data.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    /// An optional field that is absent.
    Nothing,
    Number(u64),
    Octal(u16),
    Time(u32),
    Type(Type),
    Word(&'static str),
    Name(Name<'a>),
    V4([u8; 4]),
    V6([u8; 16]),
    Text(&'a [u8]),
    /// Character-strings with their lengths.
    Texts(&'a [u8]),
    /// Letters and digits.
    Plain(&'a [u8]),
    Phone(&'a [u8]),
    Hex(&'a [u8]),
    /// Like `Hex`, but never split into pieces.
    Salt(&'a [u8]),
    LowerHex(&'a [u8]),
    Nsap(&'a [u8]),
    Base32(&'a [u8]),
    Base64(&'a [u8]),
    /// Like `Base64`, but never split into pieces.
    Object(&'a [u8]),
    SizedBase64(&'a [u8]),
    Eui(&'a [u8]),
    Locator([u8; 8]),
    Types(Windows<'a>),
    OldTypes(Bits<'a>),
    Ports(Bits<'a>),
    Loc(Loc),
    Prefixes(Prefixes<'a>),
    A6 {
        prefix: u8,
        suffix: &'a [u8],
        name: Option<Name<'a>>,
    },
    Params(Params<'a>),
    Relay(u8),
    Hip {
        algorithm: u64,
        hit: &'a [u8],
        key: &'a [u8],
        servers: &'a [u8],
    },
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Nothing => Ok(()),
            Self::Number(number) => number.fmt(f),
            Self::Octal(number) => write!(f, "{number:o}"),
            Self::Time(seconds) => time(seconds, f),
            Self::Type(kind) => kind.fmt(f),
            Self::Word(word) => f.write_str(word),
            Self::Name(name) => name.fmt(f),
            Self::V4(address) => v4(address, f),
            Self::V6(address) => v6(address, f),
            Self::Text(text) => write_quoted(f, text),
            Self::Texts(texts) => write_texts(texts, f),
            Self::Plain(text) => text.escape_ascii().fmt(f),
            Self::Phone(digits) => write!(f, "+{}", digits.escape_ascii()),
            Self::Hex(bytes) => write_digits(&HEXUPPER, bytes, f),
            Self::Salt(bytes) => HEXUPPER.encode_display(bytes).fmt(f),
            Self::LowerHex(bytes) => HEXLOWER.encode_display(bytes).fmt(f),
            Self::Nsap(bytes) => write!(f, "0x{}", HEXLOWER.encode_display(bytes)),
            Self::Base32(bytes) => BASE32HEX_NOPAD.encode_display(bytes).fmt(f),
            Self::Base64(bytes) => write_digits(&BASE64, bytes, f),
            Self::Object(bytes) => BASE64.encode_display(bytes).fmt(f),
            Self::SizedBase64([]) => f.write_char('0'),
            Self::SizedBase64(bytes) => {
                write!(f, "{} ", bytes.len())?;
                write_digits(&BASE64, bytes, f)
            }
            Self::Eui(bytes) => {
                for (nth, byte) in bytes.iter().enumerate() {
                    let separator = if nth == 0 { "" } else { "-" };
                    write!(f, "{separator}{byte:02x}")?;
                }
                Ok(())
            }
            Self::Locator(bytes) => {
                for (nth, group) in bytes.as_chunks().0.iter().enumerate() {
                    let separator = if nth == 0 { "" } else { ":" };
                    write!(f, "{separator}{:x}", u16::from_be_bytes(*group))?;
                }
                Ok(())
            }
            Self::Types(types) => types.fmt(f),
            Self::OldTypes(bits) => bits.write(f, |number, f| match Type(number) {
                kind if kind.is_known() => kind.fmt(f),
                _ => number.fmt(f),
            }),
            Self::Ports(bits) => bits.write(f, |port, f| port.fmt(f)),
            Self::Loc(loc) => loc.fmt(f),
            Self::Prefixes(prefixes) => prefixes.fmt(f),
            Self::A6 {
                prefix,
                suffix,
                name,
            } => {
                prefix.fmt(f)?;
                // BIND prints a second space here if there is no suffix.
                if !suffix.is_empty() {
                    let mut address = [0; 16];
                    address[16 - suffix.len()..].copy_from_slice(suffix);
                    f.write_char(' ')?;
                    v6(address, f)?;
                }
                name.map_or(Ok(()), |name| write!(f, " {name}"))
            }
            Self::Params(params) => params.fmt(f),
            Self::Relay(byte) => write!(f, "{} {}", byte >> 7, byte & 0x7f),
            Self::Hip {
                algorithm,
                hit,
                key,
                servers,
            } => {
                write!(f, "{algorithm} {} ", HEXUPPER.encode_display(hit))?;
                BASE64.encode_display(key).fmt(f)?;
                let mut at = 0;
                while let Ok((name, behind)) = Name::parse(servers, at) {
                    write!(f, " {name}")?;
                    at = behind;
                }
                Ok(())
            }
        }
    }
}

/// Length of the pieces into which BIND splits base64 and hexadecimal, in digits.
const PIECE: usize = 56;

/// Writes bytes as digits. The alternate form splits them into pieces with spaces between.
pub(super) fn write_digits(
    encoding: &Encoding,
    bytes: &[u8],
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    if !f.alternate() {
        return encoding.encode_display(bytes).fmt(f);
    }
    let digits = encoding.encode(bytes);
    let mut rest = digits.as_str();
    while let Some((piece, behind)) = rest.split_at_checked(PIECE)
        && !behind.is_empty()
    {
        write!(f, "{piece} ")?;
        rest = behind;
    }
    f.write_str(rest)
}

/// Writes a time as in RFC 4034 section 3.2. A 32-bit value lasts until 2106.
fn time(seconds: u32, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match Timestamp::from_second(seconds.into()) {
        Ok(time) => time.strftime("%Y%m%d%H%M%S").fmt(f),
        Err(_) => seconds.fmt(f),
    }
}

fn write_texts(mut texts: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut separator = "";
    while let Some((length, rest)) = texts.split_first() {
        let Some((text, behind)) = rest.split_at_checked((*length).into()) else {
            return Ok(());
        };
        f.write_str(separator)?;
        write_quoted(f, text)?;
        (separator, texts) = (" ", behind);
    }
    Ok(())
}

//! Owns record data as presentation text.
//!
//! Types whose data holds names or strings are written here, with safe escapes; the other types that hickory-proto knows are
//! left to it, and what comes out is escaped; the rest, and whatever is malformed, is `\# LENGTH HEX` (RFC 3597 section 5).

use std::{
    fmt::{self, Write as _},
    net::{Ipv4Addr, Ipv6Addr},
};

use dnstap_core::dns::{Name, Record, u16_at, write_escaped};
use hickory_proto::{
    rr::{RData, RecordType},
    serialize::binary::{BinDecoder, Restrict},
};

/// The data of `record` in `message`; always printable ASCII and spaces.
pub(super) fn text(message: &[u8], record: &Record<'_>) -> String {
    let end = record.data + usize::from(record.length);
    let data = message.get(record.data..end).unwrap_or_default();
    let mut out = String::new();
    if known(message, record, end, data, &mut out).is_none() {
        out.clear();
        generic(data, &mut out).unwrap_or_else(|_| unreachable!("a String takes all"));
    }
    out
}

/// The data in the generic form of RFC 3597, whatever its type.
pub(super) fn hexadecimal(message: &[u8], record: &Record<'_>) -> String {
    let end = record.data + usize::from(record.length);
    let mut out = String::new();
    generic(message.get(record.data..end).unwrap_or_default(), &mut out)
        .unwrap_or_else(|_| unreachable!("a String takes all"));
    out
}

/// The generic form of RFC 3597.
fn generic(data: &[u8], out: &mut String) -> fmt::Result {
    write!(out, "\\# {}", data.len())?;
    for (nth, byte) in data.iter().enumerate() {
        write!(out, "{}{byte:02x}", if nth == 0 { " " } else { "" })?;
    }
    Ok(())
}

/// `None` if the type is unknown or the data is not what the type promises.
fn known(
    message: &[u8],
    record: &Record<'_>,
    end: usize,
    data: &[u8],
    out: &mut String,
) -> Option<()> {
    let at = record.data;
    let name_at = |at: usize| {
        Name::parse(message, at)
            .ok()
            .filter(|(_, behind)| *behind <= end)
    };
    let only_name = |at: usize| {
        name_at(at)
            .filter(|(_, behind)| *behind == end)
            .map(|(name, _)| name)
    };
    match record.kind.0 {
        1 => write!(out, "{}", Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?)).ok(),
        28 => write!(out, "{}", Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?)).ok(),
        // NS, CNAME, PTR, DNAME
        2 | 5 | 12 | 39 => write!(out, "{}", only_name(at)?).ok(),
        // MX
        15 => write!(out, "{} {}", u16_at(data, 0).ok()?, only_name(at + 2)?).ok(),
        // SRV
        33 => {
            for field in 0..3 {
                write!(out, "{} ", u16_at(data, 2 * field).ok()?).ok()?;
            }
            write!(out, "{}", only_name(at + 6)?).ok()
        }
        // SOA
        6 => {
            let (mname, behind) = name_at(at)?;
            let (rname, behind) = name_at(behind)?;
            let numbers = <[u8; 20]>::try_from(message.get(behind..end)?).ok()?;
            write!(out, "{mname} {rname}").ok()?;
            for number in numbers.as_chunks().0 {
                write!(out, " {}", u32::from_be_bytes(*number)).ok()?;
            }
            Some(())
        }
        // TXT, SPF
        16 | 99 => strings(data, out),
        number => by_hickory(message, record, number, out),
    }
}

/// Character strings in quotes (RFC 1035 section 5.1).
fn strings(mut data: &[u8], out: &mut String) -> Option<()> {
    let mut separator = "";
    while let Some((length, rest)) = data.split_first() {
        let (string, rest) = rest.split_at_checked(usize::from(*length))?;
        write!(out, "{separator}\"").ok()?;
        for (nth, word) in string.split(|byte| *byte == b' ').enumerate() {
            if nth > 0 {
                out.push(' '); // readable as it is, within quotes
            }
            write_escaped(out, word, br#"\""#).ok()?;
        }
        out.push('"');
        separator = " ";
        data = rest;
    }
    Some(())
}

fn by_hickory(message: &[u8], record: &Record<'_>, number: u16, out: &mut String) -> Option<()> {
    let start = u16::try_from(record.data).ok()?;
    let mut decoder = BinDecoder::new(message).clone(start);
    let data = RData::read(
        &mut decoder,
        RecordType::from(number),
        Restrict::new(record.length),
    )
    .ok()?;
    if matches!(data, RData::Unknown { .. } | RData::NULL(_))
        || decoder.index() != record.data + usize::from(record.length)
    {
        return None;
    }
    // Not to_string, which panics: hickory's CAA for one gives an error when its value is not what its tag promises.
    let mut shown = String::new();
    write!(shown, "{data}").ok()?;
    for char in shown.chars() {
        match char {
            ' '..='~' => out.push(char),
            _ => write_escaped(out, char.encode_utf8(&mut [0; 4]).as_bytes(), b"").ok()?,
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use dnstap_core::dns::{Class, Type};
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(1, b"\x7f\0\0\x01", "127.0.0.1")]
    #[case(1, b"\x7f\0\0", r"\# 3 7f0000")]
    #[case(28, b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01", "2001:db8::1")]
    #[case(5, b"\x01a\x00", "a.")]
    #[case(5, b"\x01a\x00x", r"\# 4 01610078")]
    #[case(15, b"\0\x0a\x01\x1b\x00", r"10 \027.")]
    #[case(16, b"\x04a \"\x07\x00", r#""a \"\007" """#)]
    #[case(16, b"\x04a", r"\# 2 0461")]
    #[case(33, b"\0\x01\0\x02\x00\x35\x01s\x00", "1 2 53 s.")]
    #[case(
        6,
        b"\x01m\0\x01r\0\0\0\0\x01\0\0\0\x02\0\0\0\x03\0\0\0\x04\0\0\0\x05",
        "m. r. 1 2 3 4 5"
    )]
    #[case(257, b"\0\x05issueca.example", r#"0 issue "ca.example""#)]
    #[case(46, b"\0\x01", r"\# 2 0001")]
    #[case(65280, b"", r"\# 0")]
    fn data_is_written_as_its_type_says_or_as_rfc_3597_says(
        #[case] kind: u16,
        #[case] data: &[u8],
        #[case] expected: &str,
    ) {
        let message = [b"header......\0", data].concat();
        let (name, _) = Name::parse(&message, 12).expect("the root");
        let length = u16::try_from(data.len()).expect("small");
        let record = Record {
            name,
            kind: Type(kind),
            class: Class(1),
            ttl: 0,
            data: 13,
            length,
        };
        assert_eq!(text(&message, &record), expected);
    }
}

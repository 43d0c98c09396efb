//! Record data in canonical form: names are not compressed, and are in lower case where RFC 4034 section 6.2 requires
//! it.
//!
//! Only types that have names in their data, or data of a fixed length, are parsed. Names in NSEC keep their case,
//! because RFC 6840 section 5.1 removed NSEC from the list. SVCB and HTTPS (RFC 9460) were never on it.

use dnstap_core::dns::{self, LONGEST_NAME};

/// Types that this crate refers to by name.
pub(crate) mod kind {
    pub(crate) const A: u16 = 1;
    pub(crate) const NS: u16 = 2;
    pub(crate) const SIG: u16 = 24;
    pub(crate) const AAAA: u16 = 28;
    pub(crate) const OPT: u16 = 41;
    pub(crate) const RRSIG: u16 = 46;
    pub(crate) const NSEC: u16 = 47;
    pub(crate) const NSEC3: u16 = 50;
}

/// A piece of record data.
#[derive(Clone, Copy)]
enum Piece {
    /// This number of bytes.
    Fixed(usize),
    /// A name that is converted to lower case.
    Name,
    /// A name that keeps its case.
    CasedName,
    /// A character-string.
    Text,
    /// All remaining bytes.
    Rest,
}

fn pieces(kind: u16) -> &'static [Piece] {
    use Piece as P;
    match kind {
        kind::A => &[P::Fixed(4)],
        kind::AAAA => &[P::Fixed(16)],
        // NS MD MF CNAME MB MG MR PTR DNAME
        2 | 3 | 4 | 5 | 7 | 8 | 9 | 12 | 39 => &[P::Name],
        // SOA
        6 => &[P::Name, P::Name, P::Fixed(20)],
        // MINFO RP
        14 | 17 => &[P::Name, P::Name],
        // MX AFSDB RT KX
        15 | 18 | 21 | 36 => &[P::Fixed(2), P::Name],
        // SIG RRSIG
        24 | 46 => &[P::Fixed(18), P::Name, P::Rest],
        // PX
        26 => &[P::Fixed(2), P::Name, P::Name],
        // NXT
        30 => &[P::Name, P::Rest],
        // SRV
        33 => &[P::Fixed(6), P::Name],
        // NAPTR
        35 => &[P::Fixed(4), P::Text, P::Text, P::Text, P::Name],
        // NSEC
        47 => &[P::CasedName, P::Rest],
        // SVCB HTTPS
        64 | 65 => &[P::Fixed(2), P::CasedName, P::Rest],
        _ => &[P::Rest],
    }
}

/// Appends the canonical form of `message[at..end]`, the data of a record of type `kind`. Returns `None` if the data
/// does not fit the type.
pub(crate) fn canonical(
    kind: u16,
    message: &[u8],
    at: usize,
    end: usize,
    out: &mut Vec<u8>,
) -> Option<()> {
    walk(kind, message, at, end, |part| match part {
        Part::Bytes(bytes) => out.extend_from_slice(bytes),
        Part::Name(name, lower) => {
            let mut wire = [0; LONGEST_NAME];
            let length = name.write_wire(&mut wire);
            if lower {
                wire[..length].make_ascii_lowercase();
            }
            out.extend_from_slice(&wire[..length]);
        }
    })
}

/// Passes the names in canonical data to `take`, in lower case, as the index needs them. Skips the types of DNSSEC,
/// whose names are in the zone of the record itself.
pub(crate) fn names(kind: u16, data: &[u8], mut take: impl FnMut(&[u8])) {
    if is_of_dnssec(kind) {
        return;
    }
    let _misfit = walk(kind, data, 0, data.len(), |part| {
        if let Part::Name(name, _) = part {
            let mut wire = [0; LONGEST_NAME];
            let length = name.write_wire(&mut wire);
            wire[..length].make_ascii_lowercase();
            take(&wire[..length]);
        }
    });
}

/// Returns whether data of this type is useful only together with the data that it proves.
pub(crate) fn is_of_dnssec(kind: u16) -> bool {
    matches!(kind, kind::SIG | kind::RRSIG | kind::NSEC | kind::NSEC3)
}

/// Returns whether data of this type contains names.
pub(crate) fn has_names(kind: u16) -> bool {
    pieces(kind)
        .iter()
        .any(|piece| matches!(piece, Piece::Name | Piece::CasedName))
}

/// Returns whether no record of a zone has this type: OPT, and the types from 128 to 255 (RFC 6895 section 3.1), which
/// are for queries and transactions.
pub(crate) fn is_meta(kind: u16) -> bool {
    kind == 0 || kind == kind::OPT || (128..256).contains(&kind)
}

enum Part<'a> {
    Bytes(&'a [u8]),
    /// A name, and whether it is converted to lower case.
    Name(dns::Name<'a>, bool),
}

fn walk<'a>(
    kind: u16,
    message: &'a [u8],
    mut at: usize,
    end: usize,
    mut take: impl FnMut(Part<'a>),
) -> Option<()> {
    for piece in pieces(kind) {
        let behind = match piece {
            Piece::Fixed(length) => at + length,
            Piece::Rest => end,
            Piece::Text => at + 1 + usize::from(*message.get(at)?),
            Piece::Name | Piece::CasedName => {
                let (name, behind) = dns::Name::parse(message, at).ok()?;
                if behind > end {
                    return None;
                }
                take(Part::Name(name, matches!(piece, Piece::Name)));
                at = behind;
                continue;
            }
        };
        if behind > end {
            return None;
        }
        take(Part::Bytes(message.get(at..behind)?));
        at = behind;
    }
    (at == end).then_some(())
}

/// Returns canonical data in presentation form, on one line.
#[must_use]
pub fn text(kind: u16, data: &[u8]) -> String {
    // The reader needs a whole record, so this one has the root as its owner, in front of the data.
    let mut message = Vec::with_capacity(data.len() + 1);
    message.push(0);
    message.extend_from_slice(data);
    let Ok((name, at)) = dns::Name::parse(&message, 0) else {
        return String::new();
    };
    let record = dns::Record {
        name,
        kind: dns::Type(kind),
        class: dns::Class(1),
        ttl: 0,
        data: at,
        length: u16::try_from(data.len()).unwrap_or(u16::MAX),
    };
    dns::Rdata::of(&record).to_string()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn canonical_of(kind: u16, message: &[u8], at: usize) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        canonical(kind, message, at, message.len(), &mut out).map(|()| out)
    }

    #[rstest]
    #[case::ns(2, b"\x03Com\0\x02NS\xc0\x00", 5, Some(&b"\x02ns\x03com\0"[..]))]
    #[case::mx(15, b"\x03Com\0\0\x0a\x02MX\xc0\x00", 5, Some(&b"\0\x0a\x02mx\x03com\0"[..]))]
    #[case::nsec_keeps_its_case(47, b"\x01A\0\0\x01\x40", 0, Some(&b"\x01A\0\0\x01\x40"[..]))]
    #[case::https_keeps_its_case(65, b"\0\x01\x01A\0", 0, Some(&b"\0\x01\x01A\0"[..]))]
    #[case::unknown_stays(65280, b"\x01A\0", 0, Some(&b"\x01A\0"[..]))]
    #[case::a_is_four_bytes(1, b"abc", 0, None)]
    #[case::nothing_behind_a_name(2, b"\x01a\0x", 0, None)]
    #[case::a_name_that_ends_too_late(2, b"\x05a\0", 0, None)]
    #[case::a_text_that_ends_too_late(35, b"\0\0\0\0\x09a", 0, None)]
    fn data_becomes_canonical(
        #[case] kind: u16,
        #[case] message: &[u8],
        #[case] at: usize,
        #[case] expected: Option<&[u8]>,
    ) {
        assert_eq!(canonical_of(kind, message, at).as_deref(), expected);
    }

    #[test]
    fn data_prints_as_its_type_says() {
        assert_eq!(text(1, &[192, 0, 2, 1]), "192.0.2.1");
        assert_eq!(text(15, b"\0\x0a\x02mx\x03com\0"), "10 mx.com.");
        assert_eq!(text(65280, b"ab"), r"\# 2 6162");
    }
}

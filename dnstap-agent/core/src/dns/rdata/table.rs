//! Table of types: the fields of each type's data, in order.

use crate::dns::mnemonics::{Class, Type};

/// A field of record data.
#[derive(Clone, Copy, Debug)]
pub(super) enum Field {
    /// Numbers of this many bits.
    U8,
    U16,
    U32,
    U48,
    /// Seconds since 1970, 32 bits, printed as `YYYYMMDDHHMMSS`.
    Time,
    /// A type.
    Type,
    /// A type that prints as a number if it has no mnemonic.
    SigType,
    /// 16 bits, printed in octal.
    Octal,
    /// A number that may have a mnemonic.
    Coded(Words),
    Name,
    V4,
    V6,
    /// A character-string: a length of 8 bits and bytes.
    Text,
    /// A character-string; absent if the data ends here.
    OptionalText,
    /// Character-strings until the end of the data, at least one.
    Texts,
    /// The remaining bytes, in quotes.
    RestText,
    /// A character-string of letters and digits, without quotes.
    Tag,
    /// The remaining bytes, at least one.
    Hex,
    Base64,
    OptionalBase64,
    /// The remaining bytes, or `-` if there are none.
    DashBase64,
    /// A length of 16 bits and bytes; the length is printed, too.
    SizedBase64,
    /// A public key, which may be missing.
    Key,
    /// A length of 8 bits and bytes: in hex, or `-` if there are none.
    Salt,
    /// A length of 8 bits and bytes in base32, at least one.
    Hash,
    /// RFC 1706 section 5.
    Nsap,
    /// Format and address (ATM Forum AF-SAA-0069.000).
    Atma,
    Eui48,
    Eui64,
    /// 64 bits in four groups (RFC 6742).
    Locator,
    /// RFC 4034 section 4.1.2; may be empty.
    Types,
    /// RFC 2535 section 5.2.
    OldTypes,
    /// RFC 1035 section 3.4.2; may be empty.
    Ports,
    /// RFC 1876.
    Loc,
    /// RFC 3123.
    Prefixes,
    A6,
    /// RFC 9460 section 2.1; may be empty.
    Params,
    /// An address, a name or `.`; the second byte of the data tells which.
    Gateway,
    /// Discovery bit and kind of relay (RFC 8777 section 4.2).
    Relay,
    RelayAddress,
    /// RFC 8005.
    Hip,
}

/// Mnemonics for a number of this many bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words {
    pub(super) bytes: usize,
    words: &'static [(u64, &'static str)],
}

impl Words {
    pub(super) fn of(self, number: u64) -> Option<&'static str> {
        let word = self.words.iter().find(|(known, _)| *known == number);
        word.map(|(_, word)| *word)
    }
}

/// Kinds of certificate (RFC 4398 section 2.1).
const CERTIFICATES: Words = Words {
    bytes: 2,
    words: &[
        (1, "PKIX"),
        (2, "SPKI"),
        (3, "PGP"),
        (4, "IPKIX"),
        (5, "ISPKI"),
        (6, "IPGP"),
        (7, "ACPKIX"),
        (8, "IACPKIX"),
        (253, "URI"),
        (254, "OID"),
    ],
};

/// Key algorithms as CERT prints them (RFC 4398 section 2.2). Other types print the number.
const ALGORITHMS: Words = Words {
    bytes: 1,
    words: &[
        (1, "RSAMD5"),
        (2, "DH"),
        (3, "DSA"),
        (5, "RSASHA1"),
        (6, "NSEC3DSA"),
        (7, "NSEC3RSASHA1"),
        (8, "RSASHA256"),
        (10, "RSASHA512"),
        (12, "ECCGOST"),
        (13, "ECDSAP256SHA256"),
        (14, "ECDSAP384SHA384"),
        (15, "ED25519"),
        (16, "ED448"),
        (252, "INDIRECT"),
        (253, "PRIVATEDNS"),
        (254, "PRIVATEOID"),
    ],
};

/// Errors of transactions (RFC 8945 section 3). 16 has another meaning than in the header.
const ERRORS: Words = Words {
    bytes: 2,
    words: &[
        (0, "NOERROR"),
        (1, "FORMERR"),
        (2, "SERVFAIL"),
        (3, "NXDOMAIN"),
        (4, "NOTIMP"),
        (5, "REFUSED"),
        (6, "YXDOMAIN"),
        (7, "YXRRSET"),
        (8, "NXRRSET"),
        (9, "NOTAUTH"),
        (10, "NOTZONE"),
        (16, "BADSIG"),
        (17, "BADKEY"),
        (18, "BADTIME"),
        (19, "BADMODE"),
        (20, "BADNAME"),
        (21, "BADALG"),
        (22, "BADTRUNC"),
    ],
};

/// RFC 9859 section 2.
const SCHEMES: Words = Words {
    bytes: 1,
    words: &[(1, "NOTIFY")],
};

/// Returns the fields of data of that type and class; an empty slice if they are not known.
///
/// Some types are defined for class IN only. Classes NONE and ANY occur in dynamic updates (RFC
/// 2136) and refer to the zone's class, which nearly always is IN.
pub(super) fn fields(kind: Type, class: Class) -> &'static [Field] {
    use Field as F;
    let is_internet = matches!(class.0, 1 | 254 | 255);
    match kind.0 {
        // A: a Chaosnet address is a name and an octal number; class HS has Internet addresses.
        1 if class.0 == 3 => &[F::Name, F::Octal],
        1 if is_internet || class.0 == 4 => &[F::V4],
        // NS MD MF CNAME MB MG MR PTR DNAME
        2 | 3 | 4 | 5 | 7 | 8 | 9 | 12 | 39 => &[F::Name],
        // SOA
        6 => &[F::Name, F::Name, F::U32, F::U32, F::U32, F::U32, F::U32],
        // WKS
        11 if is_internet => &[F::V4, F::U8, F::Ports],
        // HINFO
        13 => &[F::Text, F::Text],
        // MINFO RP TALINK
        14 | 17 | 58 => &[F::Name, F::Name],
        // MX AFSDB RT LP
        15 | 18 | 21 | 107 => &[F::U16, F::Name],
        // TXT NINFO SPF AVC RESINFO WALLET
        16 | 56 | 99 | 258 | 261 | 262 => &[F::Texts],
        // X25
        19 => &[F::Text],
        // ISDN
        20 => &[F::Text, F::OptionalText],
        // NSAP, NSAP-PTR
        22 if is_internet => &[F::Nsap],
        23 if is_internet => &[F::Name],
        // SIG, RRSIG: only in SIG does BIND print a covered type without mnemonic as a number. BIND
        // prints the time closest to its clock that has these 32 bits, which gives the same result
        // from 1970 to 2038.
        24 => &[
            F::SigType,
            F::U8,
            F::U8,
            F::U32,
            F::Time,
            F::Time,
            F::U16,
            F::Name,
            F::Base64,
        ],
        46 => &[
            F::Type,
            F::U8,
            F::U8,
            F::U32,
            F::Time,
            F::Time,
            F::U16,
            F::Name,
            F::Base64,
        ],
        // KEY DNSKEY RKEY CDNSKEY
        25 | 48 | 57 | 60 => &[F::U16, F::U8, F::U8, F::Key],
        // PX
        26 if is_internet => &[F::U16, F::Name, F::Name],
        // GPOS
        27 => &[F::Text, F::Text, F::Text],
        // AAAA
        28 if is_internet => &[F::V6],
        // LOC
        29 => &[F::Loc],
        // NXT
        30 => &[F::Name, F::OldTypes],
        // EID NIMLOC
        31 | 32 if is_internet => &[F::Hex],
        // SRV
        33 if is_internet => &[F::U16, F::U16, F::U16, F::Name],
        // ATMA
        34 if is_internet => &[F::Atma],
        // NAPTR
        35 => &[F::U16, F::U16, F::Text, F::Text, F::Text, F::Name],
        // KX
        36 if is_internet => &[F::U16, F::Name],
        // CERT
        37 => &[
            F::Coded(CERTIFICATES),
            F::U16,
            F::Coded(ALGORITHMS),
            F::Base64,
        ],
        // A6
        38 if is_internet => &[F::A6],
        // SINK
        40 => &[F::U8, F::U8, F::U8, F::OptionalBase64],
        // APL
        42 if is_internet => &[F::Prefixes],
        // DS CDS TA DLV
        43 | 59 | 32768 | 32769 => &[F::U16, F::U8, F::U8, F::Hex],
        // SSHFP
        44 => &[F::U8, F::U8, F::Hex],
        // IPSECKEY
        45 => &[F::U8, F::U8, F::U8, F::Gateway, F::OptionalBase64],
        // NSEC
        47 => &[F::Name, F::Types],
        // DHCID
        49 if is_internet => &[F::Base64],
        // NSEC3, NSEC3PARAM
        50 => &[F::U8, F::U8, F::U16, F::Salt, F::Hash, F::Types],
        51 => &[F::U8, F::U8, F::U16, F::Salt],
        // TLSA SMIMEA
        52 | 53 => &[F::U8, F::U8, F::U8, F::Hex],
        // HIP
        55 => &[F::Hip],
        // OPENPGPKEY HHIT BRID
        61 | 67 | 68 => &[F::Base64],
        // CSYNC
        62 => &[F::U32, F::U16, F::Types],
        // ZONEMD
        63 => &[F::U32, F::U8, F::U8, F::Hex],
        // SVCB HTTPS
        64 | 65 if is_internet => &[F::U16, F::Name, F::Params],
        // DSYNC
        66 => &[F::Type, F::Coded(SCHEMES), F::U16, F::Name],
        // NID L64, L32
        104 | 106 => &[F::U16, F::Locator],
        105 => &[F::U16, F::V4],
        // EUI48, EUI64
        108 => &[F::Eui48],
        109 => &[F::Eui64],
        // TKEY
        249 => &[
            F::Name,
            F::U32,
            F::U32,
            F::U16,
            F::Coded(ERRORS),
            F::SizedBase64,
            F::SizedBase64,
        ],
        // TSIG
        250 => &[
            F::Name,
            F::U48,
            F::U16,
            F::SizedBase64,
            F::U16,
            F::Coded(ERRORS),
            F::SizedBase64,
        ],
        // URI
        256 => &[F::U16, F::U16, F::RestText],
        // CAA
        257 => &[F::U8, F::Tag, F::RestText],
        // DOA
        259 => &[F::U32, F::U32, F::U8, F::Text, F::DashBase64],
        // AMTRELAY
        260 => &[F::U8, F::Relay, F::RelayAddress],
        // NULL, UINFO, UID, GID and UNSPEC have no presentation form (RFC 1035 section 3.3.10).
        _ => &[],
    }
}

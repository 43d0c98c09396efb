//! Mnemonics of DNS numbers: types, classes, opcodes, rcodes (IANA "Domain Name System (DNS)
//! Parameters").
//!
//! A number without a mnemonic prints as in RFC 3597: `TYPE65280`, `CLASS42`; opcodes and rcodes as
//! `OPCODE7`, `RCODE12`.

use std::{fmt, num::ParseIntError, str::FromStr};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, { $($number:literal => $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name(pub u16);

        impl $name {
            /// Returns whether the number has a mnemonic.
            #[must_use]
            pub fn is_known(self) -> bool {
                matches!(self.0, $($number)|+)
            }
        }

        impl FromStr for $name {
            type Err = ParseIntError;

            /// Parses a mnemonic in any case, or a number with or without its prefix.
            fn from_str(text: &str) -> Result<Self, ParseIntError> {
                let text = text.to_ascii_uppercase();
                match text.as_str() {
                    $($word => Ok(Self($number)),)+
                    other => other.strip_prefix($prefix).unwrap_or(other).parse().map(Self),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.0 {
                    $($number => f.write_str($word),)+
                    other => write!(f, concat!($prefix, "{}"), other),
                }
            }
        }
    };
}

words!(
    /// RR types and question types.
    Type, "TYPE", {
        1 => "A", 2 => "NS", 3 => "MD", 4 => "MF", 5 => "CNAME", 6 => "SOA", 7 => "MB", 8 => "MG", 9 => "MR", 10 => "NULL",
        11 => "WKS", 12 => "PTR", 13 => "HINFO", 14 => "MINFO", 15 => "MX", 16 => "TXT", 17 => "RP", 18 => "AFSDB",
        19 => "X25", 20 => "ISDN", 21 => "RT", 22 => "NSAP", 23 => "NSAP-PTR", 24 => "SIG", 25 => "KEY", 26 => "PX",
        27 => "GPOS", 28 => "AAAA", 29 => "LOC", 30 => "NXT", 31 => "EID", 32 => "NIMLOC", 33 => "SRV", 34 => "ATMA",
        35 => "NAPTR", 36 => "KX", 37 => "CERT", 38 => "A6", 39 => "DNAME", 40 => "SINK", 41 => "OPT", 42 => "APL",
        43 => "DS", 44 => "SSHFP", 45 => "IPSECKEY", 46 => "RRSIG", 47 => "NSEC", 48 => "DNSKEY", 49 => "DHCID",
        50 => "NSEC3", 51 => "NSEC3PARAM", 52 => "TLSA", 53 => "SMIMEA", 55 => "HIP", 56 => "NINFO", 57 => "RKEY",
        58 => "TALINK", 59 => "CDS", 60 => "CDNSKEY", 61 => "OPENPGPKEY", 62 => "CSYNC", 63 => "ZONEMD", 64 => "SVCB",
        65 => "HTTPS", 66 => "DSYNC", 67 => "HHIT", 68 => "BRID", 99 => "SPF", 100 => "UINFO", 101 => "UID", 102 => "GID", 103 => "UNSPEC",
        104 => "NID", 105 => "L32", 106 => "L64", 107 => "LP", 108 => "EUI48", 109 => "EUI64", 128 => "NXNAME",
        249 => "TKEY", 250 => "TSIG", 251 => "IXFR", 252 => "AXFR", 253 => "MAILB", 254 => "MAILA", 255 => "ANY",
        256 => "URI", 257 => "CAA", 258 => "AVC", 259 => "DOA", 260 => "AMTRELAY", 261 => "RESINFO", 262 => "WALLET",
        32768 => "TA", 32769 => "DLV",
    }
);

impl Type {
    /// Name servers.
    pub const NS: Self = Self(2);
    /// Another name of the same (RFC 1035).
    pub const CNAME: Self = Self(5);
    /// Start of a zone of authority.
    pub const SOA: Self = Self(6);
    /// A name of an address.
    pub const PTR: Self = Self(12);
    /// Mail exchange.
    pub const MX: Self = Self(15);
    /// EDNS (RFC 6891).
    pub const OPT: Self = Self(41);
    /// A signature over a message (RFC 8945).
    pub const TSIG: Self = Self(250);
    /// Incremental zone transfer (RFC 1995).
    pub const IXFR: Self = Self(251);
    /// Zone transfer (RFC 5936).
    pub const AXFR: Self = Self(252);

    /// Returns whether the type asks for a zone transfer.
    #[must_use]
    pub fn is_transfer(self) -> bool {
        matches!(self, Self::IXFR | Self::AXFR)
    }
}

words!(
    /// Classes.
    Class, "CLASS", { 1 => "IN", 3 => "CH", 4 => "HS", 254 => "NONE", 255 => "ANY" }
);

words!(
    /// Kinds of request (RFC 1035 section 4.1.1, RFC 1996, RFC 2136, RFC 8490).
    Opcode, "OPCODE", { 0 => "QUERY", 1 => "IQUERY", 2 => "STATUS", 4 => "NOTIFY", 5 => "UPDATE", 6 => "DSO" }
);

impl Opcode {
    /// A standard query (RFC 1035 section 4.1.1).
    pub const QUERY: Self = Self(0);
    /// A notice that a zone has changed (RFC 1996).
    pub const NOTIFY: Self = Self(4);
    /// A dynamic update (RFC 2136).
    pub const UPDATE: Self = Self(5);
}

words!(
    /// Response codes, including the bits that EDNS adds (RFC 6891 section 6.1.3). 16 is BADVERS
    /// there; in TSIG records it means BADSIG.
    Rcode, "RCODE", {
        0 => "NOERROR", 1 => "FORMERR", 2 => "SERVFAIL", 3 => "NXDOMAIN", 4 => "NOTIMP", 5 => "REFUSED", 6 => "YXDOMAIN",
        7 => "YXRRSET", 8 => "NXRRSET", 9 => "NOTAUTH", 10 => "NOTZONE", 11 => "DSOTYPENI", 16 => "BADVERS", 17 => "BADKEY",
        18 => "BADTIME", 19 => "BADMODE", 20 => "BADNAME", 21 => "BADALG", 22 => "BADTRUNC", 23 => "BADCOOKIE",
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_numbers_are_read() {
        let read = ["aaaa", "28", "TYPE28", "Type65280"].map(str::parse);
        assert_eq!(read, [28, 28, 28, 65280].map(|number| Ok(Type(number))));
        for none in ["", "TYPE", "65536", "-1", "NOTYPE"] {
            assert!(none.parse::<Type>().is_err(), "{none}");
        }
        assert_eq!("nxdomain".parse(), Ok(Rcode(3)));
    }

    #[test]
    fn numbers_print_as_words_or_as_rfc_3597_says() {
        let printed = format!("{} {} {} {}", Type(28), Type(65280), Class(1), Class(42));
        assert_eq!(printed, "AAAA TYPE65280 IN CLASS42");
        assert_eq!(
            format!("{} {} {} {}", Opcode(5), Opcode(7), Rcode(3), Rcode(12)),
            "UPDATE OPCODE7 NXDOMAIN RCODE12"
        );
    }
}

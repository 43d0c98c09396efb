//! What messages say by EDNS (RFC 6891): sizes, DO, options, extended errors (RFC 8914).

use crate::{
    formats::render::wire::{Dns, u16_at},
    tally::Frequent,
};

/// The option of extended errors.
const EXTENDED_ERROR: u16 = 15;

/// Upper bit of the flags in the TTL of an OPT record (RFC 3225).
const DO: u32 = 0x8000;

/// What the OPT records of queries say, or of responses.
#[derive(Debug, Default)]
pub(super) struct Edns {
    /// Messages with a readable OPT record.
    pub(super) messages: u64,
    /// Of these: those that want DNSSEC records.
    pub(super) dnssec: u64,
    /// Of these: those of another version than 0.
    pub(super) other_version: u64,
    /// UDP payload sizes.
    pub(super) sizes: Frequent<u16>,
    /// Options by code, as often as they come.
    pub(super) options: Frequent<u16>,
    /// Extended errors by code.
    pub(super) errors: Frequent<u16>,
}

impl Edns {
    /// Counts what the first OPT record of the message says, if there is one.
    pub(super) fn count(&mut self, dns: Dns<'_>) {
        if dns.count(3) == 0 {
            return;
        }
        let opt = dns.records().map_while(Result::ok);
        let Some((_, opt)) = opt.into_iter().find(|(_, record)| record.is_opt()) else {
            return;
        };
        self.messages += 1;
        self.dnssec += u64::from(opt.ttl & DO != 0);
        let [_, version, ..] = opt.ttl.to_be_bytes();
        self.other_version += u64::from(version != 0);
        self.sizes.count(&opt.class.0);
        let end = opt.data + usize::from(opt.length);
        let mut rest = dns.bytes().get(opt.data..end).unwrap_or_default();
        while let (Ok(code), Ok(length)) = (u16_at(rest, 0), u16_at(rest, 2)) {
            let Some((option, behind)) = rest[4..].split_at_checked(length.into()) else {
                break;
            };
            self.options.count(&code);
            if code == EXTENDED_ERROR
                && let Ok(error) = u16_at(option, 0)
            {
                self.errors.count(&error);
            }
            rest = behind;
        }
    }
}

/// An option's name (IANA "DNS EDNS0 Option Codes"), behind its number.
pub(super) fn option_name(code: u16) -> String {
    let name = match code {
        1 => "LLQ",
        2 => "UPDATE LEASE",
        3 => "NSID",
        5 => "DAU",
        6 => "DHU",
        7 => "N3U",
        8 => "CLIENT SUBNET",
        9 => "EXPIRE",
        10 => "COOKIE",
        11 => "TCP KEEPALIVE",
        12 => "PADDING",
        13 => "CHAIN",
        14 => "KEY TAG",
        15 => "EXTENDED ERROR",
        16 => "CLIENT TAG",
        17 => "SERVER TAG",
        18 => "REPORT CHANNEL",
        19 => "ZONE VERSION",
        _ => return format!("option {code}"),
    };
    name.to_owned()
}

/// An extended error's name (IANA "Extended DNS Error Codes"), behind its number.
pub(super) fn error_name(code: u16) -> String {
    let name = match code {
        0 => "Other",
        1 => "Unsupported DNSKEY Algorithm",
        2 => "Unsupported DS Digest Type",
        3 => "Stale Answer",
        4 => "Forged Answer",
        5 => "DNSSEC Indeterminate",
        6 => "DNSSEC Bogus",
        7 => "Signature Expired",
        8 => "Signature Not Yet Valid",
        9 => "DNSKEY Missing",
        10 => "RRSIGs Missing",
        11 => "No Zone Key Bit Set",
        12 => "NSEC Missing",
        13 => "Cached Error",
        14 => "Not Ready",
        15 => "Blocked",
        16 => "Censored",
        17 => "Filtered",
        18 => "Prohibited",
        19 => "Stale NXDOMAIN Answer",
        20 => "Not Authoritative",
        21 => "Not Supported",
        22 => "No Reachable Authority",
        23 => "Network Error",
        24 => "Invalid Data",
        25 => "Signature Expired before Valid",
        26 => "Too Early",
        27 => "Unsupported NSEC3 Iterations Value",
        28 => "Unable to conform to policy",
        29 => "Synthesized",
        30 => "Invalid Query Type",
        _ => return format!("{code}"),
    };
    format!("{code} {name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A query without question, and an OPT record of these options.
    fn message(ttl: u32, options: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 41, 4, 208];
        bytes.extend(ttl.to_be_bytes());
        bytes.extend(u16::try_from(options.len()).expect("short").to_be_bytes());
        bytes.extend(options);
        bytes
    }

    fn counted(bytes: &[u8]) -> Edns {
        let mut edns = Edns::default();
        edns.count(Dns::parse(bytes).expect("a header"));
        edns
    }

    fn rows(frequent: &Frequent<u16>) -> Vec<(String, u64)> {
        Frequent::ranking([frequent].into_iter(), 10, u16::to_string).rows
    }

    #[test]
    fn options_errors_size_and_do_are_counted() {
        let options = [
            0, 10, 0, 1, 99, 0, 15, 0, 3, 0, 18, b'x', 0, 15, 0, 2, 0, 6, 0, 3, 0, 0,
        ];
        let edns = counted(&message(0x0001_8000, &options));
        assert_eq!((edns.messages, edns.dnssec, edns.other_version), (1, 1, 1));
        assert_eq!(rows(&edns.sizes), [("1232".to_owned(), 1)]);
        let counts = [("15", 2), ("10", 1), ("3", 1)];
        let counts = counts.map(|(code, count)| (code.to_owned(), count));
        assert_eq!(
            {
                let mut rows = rows(&edns.options);
                rows.sort_by_key(|(code, count)| (std::cmp::Reverse(*count), code.clone()));
                rows
            },
            counts
        );
        let errors = rows(&edns.errors);
        assert_eq!(errors, [("6".to_owned(), 1), ("18".to_owned(), 1)]);
    }

    #[test]
    fn an_option_that_is_cut_ends_the_list_and_an_error_without_code_is_none() {
        let edns = counted(&message(0, &[0, 15, 0, 1, 0, 0, 8, 0, 9, 1]));
        assert_eq!(rows(&edns.options), [("15".to_owned(), 1)]);
        assert_eq!(rows(&edns.errors), []);
        assert_eq!((edns.messages, edns.dnssec, edns.other_version), (1, 0, 0));
    }
}

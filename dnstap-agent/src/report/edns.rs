//! Counts of EDNS data in messages (RFC 6891): sizes, DO, options, extended errors (RFC 8914).

use dnstap_core::dns::{Dns, Opt, error_purpose, option_name};

use crate::tally::Frequent;

/// Option code of extended errors.
const EXTENDED_ERROR: u16 = 15;

/// Counts from the OPT records of queries, or of responses.
#[derive(Debug, Default)]
pub(super) struct Edns {
    /// Messages with a readable OPT record.
    pub(super) messages: u64,
    /// Of these: messages that want DNSSEC records.
    pub(super) dnssec: u64,
    /// Of these: messages of another version than 0.
    pub(super) other_version: u64,
    /// UDP payload sizes.
    pub(super) sizes: Frequent<u16>,
    /// Options by code; an option counts each time it occurs.
    pub(super) options: Frequent<u16>,
    /// Extended errors by code.
    pub(super) errors: Frequent<u16>,
}

impl Edns {
    /// Counts the first OPT record of the message, if there is one.
    pub(super) fn count(&mut self, dns: Dns<'_>) {
        let Some(opt) = dns.first_opt() else {
            return;
        };
        let opt = Opt::of(opt);
        self.messages += 1;
        self.dnssec += u64::from(opt.dnssec_ok());
        self.other_version += u64::from(opt.version() != 0);
        self.sizes.count(&opt.udp_size());
        for option in opt.options() {
            let Some(code) = option.code else {
                break;
            };
            self.options.count(&code);
            if code == EXTENDED_ERROR
                && let Some(error) = option.data.first_chunk()
            {
                self.errors.count(&u16::from_be_bytes(*error));
            }
        }
    }
}

/// Returns an option's number and name.
pub(super) fn option_label(code: u16) -> String {
    named(code, option_name(code))
}

/// Returns an extended error's number and meaning.
pub(super) fn error_label(code: u16) -> String {
    named(code, error_purpose(code))
}

fn named(code: u16, name: Option<&str>) -> String {
    match name {
        Some(name) => format!("{code} {name}"),
        None => code.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds a query without question, with an OPT record of these options.
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
    fn an_option_that_is_cut_counts_and_an_error_without_code_does_not() {
        let edns = counted(&message(0, &[0, 15, 0, 1, 0, 0, 8, 0, 9, 1]));
        assert_eq!(rows(&edns.options).len(), 2);
        assert_eq!(rows(&edns.errors), []);
        assert_eq!((edns.messages, edns.dnssec, edns.other_version), (1, 0, 0));
    }
}

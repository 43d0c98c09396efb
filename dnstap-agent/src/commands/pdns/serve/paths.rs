//! Parses the paths and parameters of the two interfaces.
//!
//! ```text
//! /dnsdb/v2/lookup|summarize/rrset/name|raw/VALUE[/TYPE[,...][/BAILIWICK]]
//! /dnsdb/v2/lookup|summarize/rdata/name|raw|ip/VALUE[/TYPE[,...]]
//! /dnsdb/v2/ping, /dnsdb/v2/rate_limit
//! /pdns/query/NAME|IP
//! /metrics
//! ```
//!
//! The parameters of DNSDB are `time_first_after`, `time_first_before`, `time_last_after`, `time_last_before`, `limit`
//! and `offset`. Other parameters are ignored, because clients identify themselves with them.

use dnstap_pdns::{Fence, Kinds, Name, Names, Query, What, addresses};

use crate::commands::pdns::query::{hex, kinds, name, names};

/// Largest number of answers if the request has no limit.
const USUAL: usize = 10_000;

/// Largest number of answers in any case.
const MOST: usize = 1_000_000;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// The path does not exist.
    Path,
    /// The query is invalid. The text says why.
    Query(String),
}

#[derive(Debug)]
pub(super) enum Asked {
    Ping,
    RateLimit,
    Metrics,
    Lookup(Lookup),
}

#[derive(Debug)]
pub(super) struct Lookup {
    pub(super) query: Query,
    pub(super) offset: usize,
    pub(super) limit: usize,
    pub(super) style: Style,
}

/// Format of the answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// Every answer, with framing.
    Lookup,
    /// The sum of the answers, with framing.
    Summarize,
    /// Every answer in Common Output Format, without framing.
    Circl,
}

/// Reads a path and its parameters. `now` is in seconds since 1970.
pub(super) fn read(path: &str, parameters: &str, now: u64) -> Result<Asked, Wrong> {
    let parts: Option<Vec<String>> = path.split('/').skip(1).map(unescaped).collect();
    let parts = parts.ok_or(Wrong::Path)?;
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    match &parts[..] {
        ["pdns", "query", value] => circl(value),
        ["metrics"] => Ok(Asked::Metrics),
        ["dnsdb", "v2", "ping"] => Ok(Asked::Ping),
        ["dnsdb", "v2", "rate_limit"] => Ok(Asked::RateLimit),
        [
            "dnsdb",
            "v2",
            verb @ ("lookup" | "summarize"),
            side,
            mode,
            value,
            more @ ..,
        ] => {
            let style = match *verb {
                "lookup" => Style::Lookup,
                _ => Style::Summarize,
            };
            let what = what(side, mode, value)?;
            let (words, zone) = match (&what, more) {
                (_, []) => ("", None),
                (_, [words]) => (*words, None),
                (What::Owner(_), [words, zone]) => (*words, Some(*zone)),
                _ => return Err(Wrong::Path),
            };
            let words: Vec<&str> = words.split(',').filter(|word| !word.is_empty()).collect();
            let mut lookup = Lookup {
                query: Query {
                    what,
                    kinds: kinds(&words).map_err(Wrong::Query)?,
                    bailiwick: zone.map(name).transpose().map_err(Wrong::Query)?,
                    fence: Fence::default(),
                },
                offset: 0,
                limit: USUAL,
                style,
            };
            for parameter in parameters.split('&') {
                let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
                lookup.set(name, value, now)?;
            }
            Ok(Asked::Lookup(lookup))
        }
        _ => Err(Wrong::Path),
    }
}

fn circl(value: &str) -> Result<Asked, Wrong> {
    let what = match value.parse() {
        Ok(address) => What::Address(address..=address),
        Err(_) => What::Owner(Names::Exactly(name(value).map_err(Wrong::Query)?)),
    };
    Ok(Asked::Lookup(Lookup {
        query: Query {
            what,
            kinds: Kinds::Any,
            bailiwick: None,
            fence: Fence::default(),
        },
        offset: 0,
        limit: USUAL,
        style: Style::Circl,
    }))
}

fn what(side: &str, mode: &str, value: &str) -> Result<What, Wrong> {
    let what = match (side, mode) {
        ("rrset", "name") => names(value).map(What::Owner),
        ("rdata", "name") => names(value).map(What::DataName),
        ("rrset", "raw") => hex(value).and_then(|bytes| {
            let name = Name::from_wire(&bytes);
            let name = name.ok_or_else(|| format!("{value:?} is no name in wire form"))?;
            Ok(What::Owner(Names::Exactly(name)))
        }),
        ("rdata", "raw") => hex(value).map(What::Data),
        ("rdata", "ip") => {
            let range = addresses(value).map(What::Address);
            range.ok_or_else(|| format!("{value:?} is no address, network or range"))
        }
        _ => return Err(Wrong::Path),
    };
    what.map_err(Wrong::Query)
}

impl Lookup {
    fn set(&mut self, name: &str, value: &str, now: u64) -> Result<(), Wrong> {
        let wrong = || Wrong::Query(format!("{name}={value} is no number"));
        let number = || value.parse::<usize>().map_err(|_invalid| wrong());
        // A negative number is a number of seconds before now.
        let time = || {
            let time = match value.strip_prefix('-') {
                Some(ago) => ago.parse().map(|ago| now.saturating_sub(ago)),
                None => value.parse(),
            };
            time.map(Some).map_err(|_invalid| wrong())
        };
        let fence = &mut self.query.fence;
        match name {
            "time_first_after" => fence.first_after = time()?,
            "time_first_before" => fence.first_before = time()?,
            "time_last_after" => fence.last_after = time()?,
            "time_last_before" => fence.last_before = time()?,
            "offset" => self.offset = number()?,
            "limit" => {
                self.limit = match number()? {
                    0 => MOST,
                    limit => limit.min(MOST),
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Decodes `%XX` in a part of a path. Returns `None` if an escape is invalid, or if the result is not UTF-8.
fn unescaped(part: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn lookup(path: &str, parameters: &str) -> Lookup {
        match read(path, parameters, 1_000_000).expect(path) {
            Asked::Lookup(lookup) => lookup,
            other => panic!("{path}: {other:?}"),
        }
    }

    #[rstest]
    #[case("rrset/name/www.example.com", What::Owner(Names::Exactly("www.example.com".parse().expect("a name"))))]
    #[case("rrset/name/%2a.example.com.", What::Owner(Names::Below("example.com".parse().expect("a name"))))]
    #[case("rdata/name/ns.example.*", What::DataName(Names::Beginning("ns.example".parse().expect("a name"))))]
    #[case("rdata/ip/192.0.2.0,30", What::Address([192, 0, 2, 0].into()..=[192, 0, 2, 3].into()))]
    #[case("rdata/raw/c0000201", What::Data(vec![192, 0, 2, 1]))]
    #[case("rrset/raw/016100", What::Owner(Names::Exactly("a".parse().expect("a name"))))]
    fn paths_say_what_is_looked_for(#[case] path: &str, #[case] what: What) {
        let asked = lookup(&format!("/dnsdb/v2/lookup/{path}"), "swclient=dnsdbq&id=x");
        assert_eq!(
            (asked.query.what, asked.style, asked.limit),
            (what, Style::Lookup, USUAL)
        );
    }

    #[test]
    fn types_zone_and_parameters_narrow_it() {
        let asked = lookup(
            "/dnsdb/v2/summarize/rrset/name/a.b/NS,A/b",
            "limit=0&offset=3&time_last_after=-10&time_first_before=5",
        );
        assert_eq!(asked.query.kinds, Kinds::These(vec![2, 1]));
        assert_eq!(asked.query.bailiwick, Some("b".parse().expect("a name")));
        assert_eq!(
            (asked.limit, asked.offset, asked.style),
            (MOST, 3, Style::Summarize)
        );
        let fence = Fence {
            last_after: Some(999_990),
            first_before: Some(5),
            ..Fence::default()
        };
        assert_eq!(asked.query.fence, fence);
        let any = lookup("/dnsdb/v2/lookup/rrset/name/a.b/ANY/b", "").query;
        assert_eq!((any.kinds, any.bailiwick.is_some()), (Kinds::Any, true));
    }

    #[rstest]
    #[case("/pdns/query/192.0.2.1", What::Address([192, 0, 2, 1].into()..=[192, 0, 2, 1].into()))]
    #[case("/pdns/query/a.b", What::Owner(Names::Exactly("a.b".parse().expect("a name"))))]
    fn circl_has_names_and_addresses(#[case] path: &str, #[case] what: What) {
        let asked = lookup(path, "");
        assert_eq!((asked.query.what, asked.style), (what, Style::Circl));
    }

    #[rstest]
    #[case("/", true)]
    #[case("", true)]
    #[case("/dnsdb/v2/lookup/rrset/name", true)]
    #[case("/dnsdb/v2/lookup/rrset/ip/192.0.2.1", true)]
    #[case("/dnsdb/v2/lookup/rdata/name/a/NS/b", true)]
    #[case("/dnsdb/v2/lookup/rrset/name/%ff", true)]
    #[case("/dnsdb/v2/lookup/rrset/name/%4", true)]
    #[case("/dnsdb/v2/lookup/rrset/name/a..b", false)]
    #[case("/dnsdb/v2/lookup/rrset/name/a/NOTYPE", false)]
    #[case("/dnsdb/v2/lookup/rdata/ip/a", false)]
    #[case("/dnsdb/v2/lookup/rdata/raw/x", false)]
    #[case("/pdns/query/a..b", false)]
    fn what_cannot_be_asked_is_refused(#[case] path: &str, #[case] is_path: bool) {
        let wrong = read(path, "", 0).expect_err(path);
        assert_eq!(wrong == Wrong::Path, is_path, "{wrong:?}");
    }

    #[test]
    fn numbers_are_numbers() {
        for wrong in ["limit=x", "limit=-1", "offset=", "time_last_after=soon"] {
            let asked = read("/dnsdb/v2/lookup/rrset/name/a", wrong, 0);
            assert!(matches!(asked, Err(Wrong::Query(_))), "{wrong}");
        }
    }
}

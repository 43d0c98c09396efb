//! `pdns query`: makes a query from the options of `dnsdbq`, and prints the answers.

use std::{
    collections::HashSet,
    io::{self, BufWriter},
    iter,
};

use anyhow::{Result, anyhow};
use data_encoding::HEXLOWER_PERMISSIVE;
use dnstap_core::dns::Type;
use dnstap_pdns::{Answer, Fence, Format, Kinds, Name, Names, Query, Store, What, addresses, sort};

use super::{now, refused, times, write_out};
use crate::{
    cli::Query as Options,
    formats::counted,
    host::{
        exit::{Exit, ExitWith},
        log,
    },
};

/// Runs `pdns query`. An error carries [`ExitWith`].
pub(super) fn run(options: &Options) -> Result<Exit> {
    let query = query(options).map_err(|wrong| anyhow!(ExitWith(Exit::Usage, wrong)))?;
    let store = Store::open(&options.db).map_err(refused)?;
    let limit = if options.limit == 0 {
        usize::MAX
    } else {
        options.limit
    };
    let mut found = store.ask(&query).skip(options.offset);
    let mut left = limit;
    let answers = iter::from_fn(|| {
        left = left.checked_sub(1)?;
        found.next()
    });
    let most = options.output_limit.unwrap_or(usize::MAX);
    let mut output = Printer {
        format: options.format,
        output: BufWriter::new(io::stdout().lock()),
        told: HashSet::new(),
        most,
        is_first: true,
    };
    let mut is_read = true;
    if options.ascending || options.descending {
        let answers: Result<Vec<_>, _> = answers.collect();
        let mut answers = answers.map_err(refused)?;
        let keys: Vec<_> = options
            .keys
            .iter()
            .map(|key| (*key, options.descending))
            .collect();
        sort(&mut answers, &keys, options.descending);
        for answer in &answers {
            if !output.print(answer)? {
                break;
            }
        }
    } else {
        for answer in answers {
            if !output.print(&answer.map_err(refused)?)? {
                is_read = false;
                break;
            }
        }
    }
    output.end()?;
    // With sorting, all answers up to the limit were read before the first was printed. So the warning also appears if
    // the output ended early.
    if is_read && left == 0 && found.next().is_some() {
        log::say(format_args!(
            "dnstap-agent: warning: there are more than {}; -l 0 looks for all\n",
            counted(limit as u64, "answer")
        ));
    }
    Ok(Exit::Ok)
}

struct Printer<W: io::Write> {
    format: Format,
    output: BufWriter<W>,
    /// Lines that were printed in the minimal format, which has each line once.
    told: HashSet<String>,
    most: usize,
    is_first: bool,
}

impl<W: io::Write> Printer<W> {
    /// Prints an answer, and returns whether there may be more.
    fn print(&mut self, answer: &Answer) -> Result<bool> {
        if self.most == 0 {
            return Ok(false);
        }
        self.most -= 1;
        let mut text = self.format.write(answer);
        if self.format == Format::Minimal {
            let lines = text
                .lines()
                .filter(|line| self.told.insert((*line).to_owned()));
            text = lines.flat_map(|line| [line, "\n"]).collect();
        }
        if std::mem::take(&mut self.is_first) {
            text.insert_str(0, self.format.head());
        }
        // This flushes the output, so that each answer is shown at once.
        write_out(&mut self.output, &text)
    }

    fn end(mut self) -> Result<()> {
        let text = if self.is_first {
            self.format.head()
        } else {
            ""
        };
        write_out(&mut self.output, text).map(|_reader| ())
    }
}

/// Returns the query that the options describe, or what is wrong with them.
fn query(options: &Options) -> Result<Query, String> {
    let (what, type_words, zone) = what(options)?;
    let mut words: Vec<_> = options.types.iter().map(String::as_str).collect();
    words.extend(type_words.iter().flat_map(|words| words.split(',')));
    let zone = zone.as_deref().or(options.bailiwick.as_deref());
    let now = now();
    let time = |text: &Option<String>| {
        match text {
        Some(text) => times::parse(text, now).map(Some).ok_or_else(|| {
            format!("{text:?} is no time, such as 1300000000, -3600, 1w2d, 2026-11-30 or \"2026-11-30 12:00:00\"")
        }),
        None => Ok(None),
    }
    };
    Ok(Query {
        what,
        kinds: kinds(&words)?,
        bailiwick: zone.map(name).transpose()?,
        fence: Fence::new(
            time(&options.after)?,
            time(&options.before)?,
            options.complete,
        ),
    })
}

/// Returns what to look for, and the types and the bailiwick that follow it after slashes.
fn what(options: &Options) -> Result<(What, Option<String>, Option<String>), String> {
    if let Some(text) = &options.address {
        let range = addresses(text);
        let range = range.ok_or_else(|| format!("{text:?} is no address, network or range"))?;
        return Ok((What::Address(range), None, None));
    }
    let given = [
        &options.owner,
        &options.owner_hex,
        &options.name,
        &options.data_hex,
    ];
    let text = given
        .into_iter()
        .flatten()
        .next()
        .map_or("", String::as_str);
    let by_owner = options.owner.is_some() || options.owner_hex.is_some();
    let mut parts = text
        .splitn(if by_owner { 3 } else { 2 }, '/')
        .map(str::to_owned);
    let subject = parts.next().unwrap_or_default();
    let (kinds, zone) = (parts.next(), parts.next());
    let what = if options.owner.is_some() {
        What::Owner(names(&subject)?)
    } else if options.name.is_some() {
        What::DataName(names(&subject)?)
    } else {
        let bytes = hex(&subject)?;
        if by_owner {
            let name = Name::from_wire(&bytes);
            let name = name.ok_or_else(|| format!("{subject:?} is no name in wire form"))?;
            What::Owner(Names::Exactly(name))
        } else {
            What::Data(bytes)
        }
    };
    Ok((what, kinds, zone))
}

/// Reads hexadecimal digits as bytes.
pub(super) fn hex(text: &str) -> Result<Vec<u8>, String> {
    let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes());
    bytes.map_err(|_invalid| format!("{text:?} is no hexadecimal"))
}

/// Reads `*.NAME`, `NAME.*` or `NAME`.
pub(super) fn names(text: &str) -> Result<Names, String> {
    if let Some(zone) = text.strip_prefix("*.") {
        return name(zone).map(Names::Below);
    }
    match text.strip_suffix(".*").or_else(|| text.strip_suffix(".*.")) {
        Some(start) => name(start).map(Names::Beginning),
        None => name(text).map(Names::Exactly),
    }
}

pub(super) fn name(text: &str) -> Result<Name, String> {
    text.parse()
        .map_err(|error| format!("{text:?} is no name: {error}"))
}

/// Reads a list of the names of types.
pub(super) fn kinds(words: &[&str]) -> Result<Kinds, String> {
    let mut kinds = Vec::new();
    for word in words {
        match word.to_ascii_uppercase().as_str() {
            "ANY" | "ANY-DNSSEC" if words.len() > 1 => {
                return Err(format!("{word} stands alone; leave out the other types"));
            }
            "ANY" => return Ok(Kinds::Any),
            "ANY-DNSSEC" => return Ok(Kinds::AnyDnssec),
            other => {
                let kind = other.parse::<Type>();
                kinds.push(kind.map_err(|_unknown| format!("{word:?} is no type"))?.0);
            }
        }
    }
    Ok(if kinds.is_empty() {
        Kinds::Any
    } else {
        Kinds::These(kinds)
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use rstest::rstest;

    use super::*;
    use crate::cli::{Cli, Command, PdnsCommand};

    fn asked(line: &str) -> Result<Query, String> {
        let words = ["dnstap-agent", "pdns", "query", "--db", "x"].into_iter();
        let cli =
            Cli::try_parse_from(words.chain(line.split(' '))).map_err(|error| error.to_string())?;
        let Command::Pdns(pdns) = cli.command else {
            panic!("not pdns")
        };
        if let Some(mistake) = pdns.mistakes().into_iter().next() {
            return Err(mistake);
        }
        let PdnsCommand::Query(options) = pdns.command else {
            panic!("not query")
        };
        query(&options)
    }

    fn name(text: &str) -> Name {
        text.parse().expect("a name")
    }

    #[rstest]
    #[case(
        "-r WWW.example.com",
        What::Owner(Names::Exactly(name("www.example.com")))
    )]
    #[case("-r *.example.com/A", What::Owner(Names::Below(name("example.com"))))]
    #[case("-r www.example.*", What::Owner(Names::Beginning(name("www.example"))))]
    #[case(
        "-n ns.example.com/NS,MX",
        What::DataName(Names::Exactly(name("ns.example.com")))
    )]
    #[case("-i 192.0.2.0/30", What::Address([192, 0, 2, 0].into()..=[192, 0, 2, 3].into()))]
    #[case("-i 192.0.2.0,30", What::Address([192, 0, 2, 0].into()..=[192, 0, 2, 3].into()))]
    #[case("-i 192.0.2.1-192.0.2.9", What::Address([192, 0, 2, 1].into()..=[192, 0, 2, 9].into()))]
    #[case("-R 0161016200", What::Owner(Names::Exactly(name("a.b"))))]
    #[case("-N C0000201", What::Data(vec![192, 0, 2, 1]))]
    fn letters_say_what_is_looked_for(#[case] line: &str, #[case] what: What) {
        assert_eq!(asked(line).expect("a query").what, what);
    }

    #[test]
    fn what_is_behind_slashes_narrows_it() {
        let query = asked("-r a.b/NS,A/b -A 5 -B 1970-01-02 -c").expect("a query");
        assert_eq!(query.kinds, Kinds::These(vec![2, 1]));
        assert_eq!(query.bailiwick, Some(name("b")));
        let fence = Fence::new(Some(5), Some(86_400), true);
        assert_eq!(query.fence, fence);
        assert_eq!(
            asked("-r a.b/ANY-DNSSEC").expect("a query").kinds,
            Kinds::AnyDnssec
        );
    }

    #[rstest]
    #[case("-r a..b")]
    #[case("-i 192.0.2.9-192.0.2.1")]
    #[case("-i 192.0.2.1-2001:db8::1")]
    #[case("-i 192.0.2.0/33")]
    #[case("-R 01")]
    #[case("-N xy")]
    #[case("-r a -t NOTYPE")]
    #[case("-r a -t ANY,A")]
    #[case("-r a -A yesterday")]
    #[case("-r a -n b")]
    #[case("-n a -b b")]
    #[case("-r a -c")]
    #[case("-r a -k count")]
    #[case("-r a -s -k size")]
    fn what_cannot_be_asked_is_refused(#[case] line: &str) {
        asked(line).expect_err(line);
    }
}

//! The page: one HTML document with its style, script and plots, which loads nothing and lets nothing be loaded.
//!
//! All text goes through `maud`, which escapes it: names and identities come from the network. The content security policy is a second
//! wall: only the style and the script with this page's nonce count.

mod plot;

use std::{
    collections::hash_map::RandomState,
    fmt::Display,
    hash::{BuildHasher as _, Hash},
    time::Duration,
};

use dnstap_core::{
    histogram::Histogram,
    model::{MESSAGE_TYPES, is_response, long_name},
};
use jiff::Timestamp;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use self::plot::Series;
use super::{
    Report, SIZES, edns,
    timeline::{Bucket, Timeline},
    transport_name,
};
use crate::{
    formats::render::mnemonics::Rcode,
    tally::{
        Frequent, Ranking, View,
        tables::{self, Table, float, share},
    },
};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("sort.js");

/// Lines in a plot at most; what has no line of its own is in the last one.
const LINES: usize = plot::COLOURS.len();

/// What the page states beside what was counted.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// Where the messages come from: files, or a server.
    pub(crate) sources: Vec<String>,
    /// Options that choose messages, as they are typed.
    pub(crate) filters: Vec<String>,
    /// What is missing, each as a sentence; `None` if that is not known.
    pub(crate) losses: Option<Vec<String>>,
    /// Rows of each table at most.
    pub(crate) rows: usize,
}

impl Default for Facts {
    /// Nothing is known.
    fn default() -> Self {
        Self {
            sources: Vec::new(),
            filters: Vec::new(),
            losses: None,
            rows: 25,
        }
    }
}

/// The whole document.
pub(super) fn render(report: &Report, facts: &Facts) -> String {
    let view = report.tally.view(facts.rows);
    let nonce = nonce();
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'"
    );
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="referrer" content="no-referrer";
                title { "DNS report" }
                style nonce=(nonce) { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { "DNS report" }
                    (facts_of(report, facts, &view))
                }
                main {
                    (tiles(report, &view))
                    (types(report, &view))
                    (outcomes(report, &view))
                    (latencies(&view))
                    (names(report, &view, facts.rows))
                    (ends(&view))
                    (edns(report, facts.rows))
                    (unanswered(report, facts.rows))
                    (traffic(report))
                }
                footer {
                    p {
                        "Times are UTC. Where a table counts queries and there are none, it counts responses. "
                        "Response times and sizes are counted in classes; a percentile is the upper end of its class. "
                        "A click on a column's head sorts the table."
                    }
                    p { "Written by dnstap-agent " (env!("CARGO_PKG_VERSION")) " at " (second(Timestamp::now())) "." }
                }
                script nonce=(nonce) { (PreEscaped(SCRIPT)) }
            }
        }
    };
    page.into_string()
}

/// What nobody whose names are on the page could know. Random, because each state of a hasher has random keys.
fn nonce() -> String {
    let random = || RandomState::new().hash_one(0);
    format!("{:016x}{:016x}", random(), random())
}

fn facts_of(report: &Report, facts: &Facts, view: &View) -> Markup {
    let or_none = |texts: &[String]| {
        if texts.is_empty() {
            "none".to_owned()
        } else {
            texts.join(" ")
        }
    };
    let identities = ranking(&report.identities, facts.rows, |identity| {
        String::from_utf8_lossy(identity).into_owned()
    });
    html! {
        dl.facts {
            dt { "From" }
            dd { @for source in &facts.sources { div { (source) } } }
            dt { "Time" }
            dd id="span" {
                @match report.span {
                    Some((first, last)) => { (moment(first)) " to " (moment(last)) }
                    None => { "not known" }
                }
                @if report.timeless > 0 { "; messages without a time: " (report.timeless) }
            }
            dt { "Messages" }
            dd { span id="messages" { (view.all) } @if view.malformed > 0 { "; malformed DNS: " (view.malformed) } }
            @if !identities.rows.is_empty() {
                dt { "Identity" }
                dd { @for (identity, count) in &identities.rows { div { (identity) " (" (count) " messages)" } } }
            }
            @if report.unsolicited > 0 {
                dt { "Unsolicited" }
                dd { (report.unsolicited) " responses that the server did not ask for" }
            }
            dt { "Filters" }
            dd id="filters" { (or_none(&facts.filters)) }
            dt { "Losses" }
            dd id="losses" {
                @match facts.losses.as_deref() {
                    None => { "not known" }
                    Some([]) => { "none" }
                    Some(losses) => { @for loss in losses { div.alarm { (loss) } } }
                }
            }
        }
    }
}

fn tiles(report: &Report, view: &View) -> Markup {
    let of = |response: bool| -> u64 {
        let kinds = view.kinds.iter();
        kinds
            .filter(|(kind, ..)| is_response(*kind) == response)
            .map(|(_, count, _)| count)
            .sum()
    };
    let rcode = |name: &str| view.rcodes.rows.iter().find(|(row, _)| row == name);
    let rcode = |name| {
        share(
            rcode(name).map_or(0, |(_, count)| *count),
            view.rcodes.total,
        )
    };
    let unanswered = report.pairs.fates().map(|(_, fates)| fates.unanswered);
    let tile = |name: &str, value: &dyn Display| html! { li { span { (name) } b { (value.to_string()) } } };
    html! {
        ul.tiles {
            (tile("Queries", &of(false)))
            (tile("Responses", &of(true)))
            (tile("Messages per second", &tables::rate(view.messages, view.span)))
            (tile("NXDOMAIN", &rcode("NXDOMAIN")))
            (tile("SERVFAIL", &rcode("SERVFAIL")))
            (tile("Unanswered queries", &unanswered.sum::<u64>()))
            (tile("Over TCP", &over_tcp(report)))
        }
    }
}

/// The share of TCP in all messages of which the transport is known.
fn over_tcp(report: &Report) -> String {
    let of = |number: usize| -> u64 {
        report
            .sides
            .iter()
            .map(|side| side.transports[number])
            .sum()
    };
    let tcp = (1..super::TRANSPORTS).find(|number| transport_name(*number) == "TCP");
    let all = (1..super::TRANSPORTS).map(of).sum();
    share(tcp.map_or(0, of), all)
}

fn types(report: &Report, view: &View) -> Markup {
    let mut counts = tables::types(view);
    // What is in the window and what there was at all is the same here.
    counts.columns = &["TYPE", "PER SECOND", "COUNT"];
    counts.rows.iter_mut().for_each(|row| row.truncate(3));
    let kinds = MESSAGE_TYPES.iter().map(|known| {
        let values = move |bucket: &Bucket| bucket.kinds.of(known.kind);
        (long_name(known.kind).to_owned(), values)
    });
    html! {
        section id="types" {
            h2 { "Messages by type" }
            (over_time("Messages per second by type, over time", &report.timeline, kinds.collect()))
            (table(&counts))
        }
    }
}

fn outcomes(report: &Report, view: &View) -> Markup {
    let last = Bucket::default().rcodes.len() - 1;
    let rcodes = (0..=last).map(|nth| {
        let name = u16::try_from(nth).map(|number| Rcode(number).to_string());
        let name = name.ok().filter(|_| nth < last);
        (
            name.unwrap_or_else(|| "larger".to_owned()),
            move |bucket: &Bucket| bucket.rcodes[nth],
        )
    });
    html! {
        section id="outcomes" {
            h2 { "Response codes" }
            (over_time("Responses per second by response code, over time", &report.timeline, rcodes.collect()))
            (table(&tables::rcodes(view)))
        }
    }
}

/// A plot of rates: a line for each of the largest, one for the sum of all others; and all of its numbers.
fn over_time(
    title: &str,
    timeline: &Timeline,
    mut all: Vec<(String, impl Fn(&Bucket) -> u64)>,
) -> Markup {
    let total = |count: &dyn Fn(&Bucket) -> u64| -> u64 {
        timeline.buckets().map(|(_, bucket)| count(bucket)).sum()
    };
    all.retain(|(_, count)| total(count) > 0);
    // Stable: equal ones stay in their order.
    all.sort_by_key(|(_, count)| std::cmp::Reverse(total(count)));
    let own = if all.len() > LINES {
        LINES - 1
    } else {
        all.len()
    };
    let seconds = float(timeline.width_ns()) / 1e9;
    let rate = |count: u64| float(count) / seconds;
    let mut series: Vec<_> = all[..own]
        .iter()
        .map(|(name, count)| Series {
            name: name.clone(),
            values: timeline
                .buckets()
                .map(|(_, bucket)| rate(count(bucket)))
                .collect(),
        })
        .collect();
    if own < all.len() {
        let rest = |bucket: &Bucket| all[own..].iter().map(|(_, count)| count(bucket)).sum();
        series.push(Series {
            name: "others".to_owned(),
            values: timeline
                .buckets()
                .map(|(_, bucket)| rate(rest(bucket)))
                .collect(),
        });
    }
    let half = timeline.width_ns() / 2;
    let times: Vec<_> = timeline
        .buckets()
        .map(|(begin, _)| float(begin.saturating_add(half)) / 1e9)
        .collect();
    let unit = format!("per second, mean of each {}", length(timeline.width_ns()));
    html! {
        (plot::lines(title, &unit, &times, &series))
        @if times.len() > 1 {
            details {
                summary { "Numbers of this plot" }
                div.scroll {
                    table.numbers {
                        thead { tr { th { "From" } @for (name, _) in &all { th { (name) } } } }
                        tbody {
                            @for (begin, bucket) in timeline.buckets() {
                                tr { td { (moment(begin)) } @for (_, count) in &all { td { (count(bucket)) } } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn latencies(view: &View) -> Markup {
    let classes = |took: &Histogram| -> Vec<u64> {
        let mut before = 0;
        let bounded = took.cumulative().map(|(_, count)| {
            let own = count - before;
            before = count;
            own
        });
        let mut classes: Vec<_> = bounded.collect();
        classes.push(took.count() - before);
        classes
    };
    let bounds = Histogram::default();
    let mut names: Vec<_> = bounds
        .cumulative()
        .map(|(bound, _)| length(u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX)))
        .collect();
    names.push("more".to_owned());
    let used = |nth: usize| {
        view.latencies
            .iter()
            .any(|(_, took)| classes(took)[nth] > 0)
    };
    let begin = (0..names.len()).find(|nth| used(*nth)).unwrap_or(0);
    let end = (0..names.len()).rfind(|nth| used(*nth)).unwrap_or(0);
    let series: Vec<_> = view
        .latencies
        .iter()
        .map(|(family, took)| Series {
            name: (*family).to_owned(),
            values: classes(took)[begin..=end]
                .iter()
                .map(|count| float(*count) * 100.0 / float(took.count()))
                .collect(),
        })
        .collect();
    html! {
        section id="latencies" {
            h2 { "Response times" }
            (plot::bars("Response times by role", "percent of the responses that took at most so long", &names[begin..=end], &series))
            (table(&tables::latencies(view)))
        }
    }
}

fn names(report: &Report, view: &View, rows: usize) -> Markup {
    let (nth, what) = tables::Side::Queries.index(view);
    let domains = ranking(&report.sides[nth].domains, rows, String::clone);
    html! {
        section id="names" {
            h2 { "Names" }
            div.pair {
                (table(&tables::names(view, tables::Side::Queries)))
                (table(&tables::ranking("Registered domains", what, &["DOMAIN", "COUNT", "SHARE"], &domains)))
                (table(&tables::questions(view, tables::Side::Queries)))
            }
        }
    }
}

fn ends(view: &View) -> Markup {
    html! {
        section id="ends" {
            h2 { "Clients and servers" }
            div.pair {
                (table(&tables::clients(view, tables::Side::Queries)))
                (table(&tables::servers(view, tables::Side::Queries)))
            }
        }
    }
}

fn edns(report: &Report, rows: usize) -> Markup {
    let [queries, responses] = &report.sides;
    let both = |name: &str, count: &dyn Fn(&super::Side) -> u64| {
        let cell =
            |side: &super::Side| [count(side).to_string(), share(count(side), side.messages)];
        let [first, second] = [cell(queries), cell(responses)];
        [vec![name.to_owned()], first.into(), second.into()].concat()
    };
    let messages = Table {
        title: "DNS messages".to_owned(),
        columns: &[
            "WITH",
            "QUERIES",
            "SHARE OF QUERIES",
            "RESPONSES",
            "SHARE OF RESPONSES",
        ],
        rows: vec![
            both("any DNS message", &|side| side.messages),
            both("EDNS", &|side| side.edns.messages),
            both("DO (DNSSEC wanted)", &|side| side.edns.dnssec),
            both("EDNS version other than 0", &|side| side.edns.other_version),
            both("TC (cut)", &|side| side.truncated),
        ],
    };
    let options =
        |side: &super::Side| ranking(&side.edns.options, rows, |code| edns::option_name(*code));
    let sizes = |side: &super::Side| ranking(&side.edns.sizes, rows, u16::to_string);
    let errors = ranking(&responses.edns.errors, rows, |code| edns::error_name(*code));
    html! {
        section id="edns" {
            h2 { "EDNS" }
            (table(&messages))
            div.pair {
                (table(&tables::ranking("EDNS options", "queries", &["OPTION", "COUNT", "SHARE"], &options(queries))))
                (table(&tables::ranking("EDNS options", "responses", &["OPTION", "COUNT", "SHARE"], &options(responses))))
                (table(&tables::ranking("Largest UDP payload", "queries", &["BYTES", "COUNT", "SHARE"], &sizes(queries))))
                (table(&tables::ranking("Largest UDP payload", "responses", &["BYTES", "COUNT", "SHARE"], &sizes(responses))))
                (table(&tables::ranking("Extended errors", "responses", &["ERROR", "COUNT", "SHARE"], &errors)))
            }
        }
    }
}

fn unanswered(report: &Report, rows: usize) -> Markup {
    let fates = report.pairs.fates().map(|(family, fates)| {
        let queries = fates.answered + fates.unanswered + fates.unknown;
        vec![
            family.to_owned(),
            queries.to_string(),
            fates.answered.to_string(),
            fates.unanswered.to_string(),
            share(fates.unanswered, queries),
            fates.unknown.to_string(),
            fates.repeated.to_string(),
            fates.unasked.to_string(),
        ]
    });
    let fates = Table {
        title: "Queries by what became of them".to_owned(),
        columns: &[
            "FAMILY",
            "QUERIES",
            "ANSWERED",
            "UNANSWERED",
            "SHARE",
            "NOT KNOWN",
            "REPEATED",
            "UNASKED RESPONSES",
        ],
        rows: fates.collect(),
    };
    let is_known = report.pairs.fates().any(|(_, fates)| fates.unanswered > 0);
    let rows = if is_known { rows } else { 0 };
    let names = ranking(&report.pairs.names, rows, String::clone);
    let servers = ranking(&report.pairs.servers, rows, ToString::to_string);
    html! {
        section id="unanswered" {
            h2 { "Unanswered queries" }
            p.note {
                "A query is unanswered if no response with the same client, id and question comes within 10 seconds. "
                "It is not known for queries in the last 10 seconds. Repeated queries count once. Nothing is known if no response of the family was recorded, or all were filtered out."
            }
            (table(&fates))
            div.pair {
                (table(&tables::ranking("Names", "unanswered queries", &["NAME", "COUNT", "SHARE"], &names)))
                (table(&tables::ranking("Servers", "unanswered queries", &["SERVER", "COUNT", "SHARE"], &servers)))
            }
        }
    }
}

fn traffic(report: &Report) -> Markup {
    let [queries, responses] = &report.sides;
    let all = |side: &super::Side| side.transports.iter().sum();
    let transports = (0..super::TRANSPORTS)
        .map(|number| {
            (
                number,
                queries.transports[number],
                responses.transports[number],
            )
        })
        .filter(|(_, asked, answered)| asked + answered > 0)
        .map(|(number, asked, answered)| {
            vec![
                transport_name(number).to_owned(),
                asked.to_string(),
                share(asked, all(queries)),
                answered.to_string(),
                share(answered, all(responses)),
            ]
        });
    let transports = Table {
        title: "Transports".to_owned(),
        columns: &[
            "TRANSPORT",
            "QUERIES",
            "SHARE OF QUERIES",
            "RESPONSES",
            "SHARE OF RESPONSES",
        ],
        rows: transports.collect(),
    };
    let summary = [("queries", queries), ("responses", responses)].map(|(name, side)| {
        vec![
            name.to_owned(),
            side.messages.to_string(),
            side.bytes.to_string(),
            side.bytes
                .checked_div(side.messages)
                .unwrap_or(0)
                .to_string(),
            side.largest.to_string(),
        ]
    });
    let summary = Table {
        title: "Sizes of DNS messages in bytes".to_owned(),
        columns: &["DNS MESSAGES", "COUNT", "SUM", "MEAN", "LARGEST"],
        rows: summary.into(),
    };
    let names: Vec<_> = SIZES.iter().map(ToString::to_string).collect();
    let series = [("queries", queries), ("responses", responses)].map(|(name, side)| Series {
        name: name.to_owned(),
        values: side
            .sizes
            .iter()
            .map(|count| float(*count) * 100.0 / float(side.messages.max(1)))
            .collect(),
    });
    html! {
        section id="traffic" {
            h2 { "Transports and sizes" }
            (table(&transports))
            (plot::bars("Sizes of DNS messages", "percent of the messages that have at most so many bytes", &names, &series))
            (table(&summary))
        }
    }
}

fn ranking<K: Hash + Eq + Ord>(
    counts: &Frequent<K>,
    rows: usize,
    shown: impl Fn(&K) -> String,
) -> Ranking {
    Frequent::ranking([counts].into_iter(), rows, shown)
}

/// A table with a caption; nothing if it has no rows.
fn table(table: &Table) -> Markup {
    if table.rows.is_empty() {
        return html! {};
    }
    html! {
        div.scroll {
            table {
                caption { (table.title) }
                thead { tr { @for column in table.columns { th scope="col" { (in_lower_case(column)) } } } }
                tbody { @for row in &table.rows { tr { @for cell in row { td { (cell) } } } } }
            }
        }
    }
}

/// `QUESTION TYPE` as `Question type`.
fn in_lower_case(column: &str) -> String {
    let (first, rest) = column.split_at_checked(1).unwrap_or((column, ""));
    format!("{first}{}", rest.to_lowercase())
}

/// `1.024 ms` and the like, with as many digits as powers of two need.
fn length(nanoseconds: u64) -> String {
    let (value, unit) = match nanoseconds {
        0..1_000_000 => (float(nanoseconds) / 1e3, "µs"),
        1_000_000..1_000_000_000 => (float(nanoseconds) / 1e6, "ms"),
        _ => (Duration::from_nanos(nanoseconds).as_secs_f64(), "s"),
    };
    if value >= 10.0 {
        format!("{value:.0} {unit}")
    } else {
        let text = format!("{value:.1}");
        format!("{} {unit}", text.strip_suffix(".0").unwrap_or(&text))
    }
}

/// A time since 1970 in nanoseconds, to the millisecond.
fn moment(nanoseconds: u64) -> String {
    Timestamp::from_nanosecond(nanoseconds.into()).map_or_else(
        |_out_of_range| format!("@{nanoseconds}"),
        |time| time.strftime("%Y-%m-%d %H:%M:%S.%3f").to_string(),
    )
}

fn second(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use dnstap_proto::{Dnstap, message::Type};

    use super::*;
    use crate::tally::tests::message;

    /// The text between the tags of what begins with this tag, without tags.
    fn text_of<'p>(page: &'p str, begin: &str, end: &str) -> &'p str {
        let (_, rest) = page.split_once(begin).expect(begin);
        rest.split_once(end).expect(end).0
    }

    fn page(messages: impl IntoIterator<Item = Dnstap>, facts: &Facts) -> String {
        let mut report = Report::default();
        for message in messages {
            report.take(&message);
        }
        report.page(facts)
    }

    fn facts() -> Facts {
        Facts {
            sources: vec!["a.fstrm".to_owned()],
            rows: 10,
            ..Facts::default()
        }
    }

    /// Rows of the table with this caption.
    fn rows<'p>(page: &'p str, caption: &str) -> Vec<Vec<&'p str>> {
        let table = text_of(page, &format!("<caption>{caption}</caption>"), "</table>");
        let body = text_of(table, "<tbody>", "</tbody>");
        body.split("<tr>")
            .skip(1)
            .map(|row| row.split("<td>").skip(1))
            .map(|cells| {
                cells
                    .map(|cell| cell.split('<').next().unwrap_or(""))
                    .collect()
            })
            .collect()
    }

    fn exchange(name: &str, rcode: u8) -> [Dnstap; 2] {
        [
            message(Type::ClientQuery, name, 0, 0),
            message(Type::ClientResponse, name, rcode, 3_000_000),
        ]
    }

    #[test]
    fn tables_have_what_was_counted() {
        let messages = [exchange("a", 0), exchange("a", 3), exchange("b", 3)];
        let page = page(messages.into_iter().flatten(), &facts());
        assert_eq!(text_of(&page, "id=\"messages\">", "<"), "6");
        let kinds = rows(&page, "dnstap types");
        assert_eq!(kinds[0][0], "CLIENT_QUERY");
        assert_eq!((kinds[0][2], kinds[1][2]), ("3", "3"));
        assert_eq!(
            rows(&page, "Outcomes by responses"),
            [["NXDOMAIN", "2", "66.7%"], ["NOERROR", "1", "33.3%"]]
        );
        assert_eq!(
            rows(&page, "Names by queries"),
            [["a.", "2", "66.7%"], ["b.", "1", "33.3%"]]
        );
        assert_eq!(
            rows(&page, "Registered domains by queries"),
            rows(&page, "Names by queries")
        );
        assert_eq!(
            rows(&page, "Answer times: so many milliseconds at most"),
            [["CLIENT", "3", "4.096", "4.096", "4.096"]]
        );
    }

    #[test]
    fn the_page_states_where_it_comes_from_and_what_is_missing() {
        let facts = Facts {
            sources: vec!["a&b.fstrm".to_owned()],
            filters: vec!["--name <x>".to_owned()],
            losses: Some(vec!["cut <here>".to_owned()]),
            rows: 10,
        };
        let took = [0, 3_000_000];
        let messages = took.map(|took| message(Type::ClientResponse, "a", 0, took));
        let page = page(messages, &facts);
        for stated in [
            "a&amp;b.fstrm",
            "--name &lt;x&gt;",
            "cut &lt;here&gt;",
            "2027-01-15 08:00:00.000 to 2027-01-15 08:00:00.003",
            concat!("dnstap-agent ", env!("CARGO_PKG_VERSION")),
        ] {
            assert!(page.contains(stated), "{stated}\n{page}");
        }
    }

    #[test]
    fn no_name_and_no_identity_becomes_markup() {
        let evil = "<script>x</script><!--'\"";
        let mut messages = exchange(evil, 0);
        for message in &mut messages {
            message.identity = Some(evil.as_bytes().to_vec().into());
        }
        let page = page(messages, &facts());
        assert!(page.contains("&lt;script&gt;x&lt;/script&gt;"), "{page}");
        assert_eq!(page.matches("<script").count(), 1, "{page}");
        assert!(!page.contains("<!--"), "{page}");
    }

    #[test]
    fn nothing_is_loaded_and_only_what_has_the_nonce_counts() {
        let page = page(exchange("a", 0), &facts());
        let nonce = text_of(&page, "<script nonce=\"", "\"");
        assert_eq!(nonce.len(), 32);
        assert_eq!(
            page.matches(nonce).count(),
            4,
            "policy twice, style, script"
        );
        assert!(page.contains("default-src 'none'"), "{page}");
        let addresses = page.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
        for loads in ["http:", "https:", "src=", "url(", "@import", "style="] {
            assert!(!addresses.contains(loads), "{loads}\n{page}");
        }
    }

    #[test]
    fn each_tag_that_is_opened_is_closed_in_order() {
        let messages = (0..50).flat_map(|nth| exchange(["a", "b"][nth % 2], 0));
        let page = page(messages, &facts());
        let (_, body) = page.split_once("<body>").expect("a body");
        let (body, _) = body.rsplit_once("<script").expect("a script");
        let mut open = vec![];
        for tag in body.split('<').skip(1) {
            let (tag, _) = tag.split_once('>').expect("an end");
            match tag.strip_prefix('/') {
                Some(name) => assert_eq!(open.pop(), Some(name)),
                None if tag.ends_with('/') => {}
                None => open.push(tag.split(' ').next().expect("a name")),
            }
        }
        assert_eq!(open, Vec::<&str>::new());
    }

    #[test]
    fn a_report_of_nothing_is_a_page() {
        let page = page([], &facts());
        assert_eq!(text_of(&page, "id=\"messages\">", "<"), "0");
        let (shown, _script) = page.rsplit_once("<script").expect("a script");
        assert!(!shown.contains("NaN") && !shown.contains("<svg"), "{page}");
    }

    #[test]
    fn the_style_sheet_knows_the_colours_of_plots() {
        for plotters::style::RGBColor(red, green, blue) in plot::COLOURS {
            for attribute in ["fill", "stroke"] {
                let rule = format!("svg [{attribute}=\"#{red:02X}{green:02X}{blue:02X}\"]");
                assert!(STYLE.contains(&rule), "{rule}");
            }
        }
    }
}

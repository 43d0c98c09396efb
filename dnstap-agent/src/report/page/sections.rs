//! Sections of the page: each renders counts as plots and tables.

use dnstap_core::{
    dns::Rcode,
    histogram::Histogram,
    model::{MESSAGE_TYPES, long_name},
};
use maud::{Markup, html};

use super::{
    parts::{length, moment, ranking, table},
    plot::{self, Series},
};
use crate::{
    formats::counted,
    report::{
        Report, SIZES, Side, TRANSPORTS, edns,
        timeline::{Bucket, Bulk},
        transport_name,
    },
    tally::{
        View,
        tables::{self, Table, float, share},
    },
};

/// Most lines in a plot. If there are more values, the last line is their sum.
const LINES: usize = plot::COLOURS.len();

pub(super) fn types(bulk: &Bulk, view: &View) -> Markup {
    let mut counts = tables::types(view);
    // A report has no window, so the count in the window and the total are the same.
    counts.columns = &["TYPE", "PER SECOND", "COUNT"];
    counts.rows.iter_mut().for_each(|row| row.truncate(3));
    let kinds = MESSAGE_TYPES.iter().map(|known| {
        let values = move |bucket: &Bucket| bucket.kinds.of(known.kind);
        (long_name(known.kind).to_owned(), values)
    });
    html! {
        section id="types" {
            h2 { "Messages by type" }
            (over_time("Messages per second by type, over time", bulk, kinds.collect()))
            (table(&counts))
        }
    }
}

pub(super) fn outcomes(bulk: &Bulk, view: &View) -> Markup {
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
            (over_time("Responses per second by response code, over time", bulk, rcodes.collect()))
            (table(&tables::rcodes(view)))
        }
    }
}

/// Renders a plot of rates, and all of its numbers as a table. Each of the largest values has a
/// line; one line is the sum of all others.
fn over_time(title: &str, bulk: &Bulk, mut all: Vec<(String, impl Fn(&Bucket) -> u64)>) -> Markup {
    let total = |count: &dyn Fn(&Bucket) -> u64| -> u64 {
        bulk.buckets.iter().map(|(_, bucket)| count(bucket)).sum()
    };
    all.retain(|(_, count)| total(count) > 0);
    // The sort is stable: equal values stay in their order.
    all.sort_by_key(|(_, count)| std::cmp::Reverse(total(count)));
    let own = if all.len() > LINES {
        LINES - 1
    } else {
        all.len()
    };
    let seconds = float(bulk.width_ns) / 1e9;
    let rate = |count: u64| float(count) / seconds;
    let mut series: Vec<_> = all[..own]
        .iter()
        .map(|(name, count)| Series {
            name: name.clone(),
            values: bulk
                .buckets
                .iter()
                .map(|(_, bucket)| rate(count(bucket)))
                .collect(),
        })
        .collect();
    if own < all.len() {
        let rest = |bucket: &Bucket| all[own..].iter().map(|(_, count)| count(bucket)).sum();
        series.push(Series {
            name: "others".to_owned(),
            values: bulk
                .buckets
                .iter()
                .map(|(_, bucket)| rate(rest(bucket)))
                .collect(),
        });
    }
    let half = bulk.width_ns / 2;
    let times: Vec<_> = bulk
        .buckets
        .iter()
        .map(|(begin, _)| float(begin.saturating_add(half)) / 1e9)
        .collect();
    let unit = format!("per second, mean of each {}", length(bulk.width_ns));
    html! {
        (plot::lines(title, &unit, &times, &series))
        @if !bulk.outside.is_empty() {
            p.note {
                "The plot covers the time that nearly all messages share. Outside of it are:"
                @for (count, first, last) in &bulk.outside {
                    " " (counted(*count, "message")) ", " (moment(*first))
                    @if first < last { " to " (moment(*last)) }
                    "."
                }
            }
        }
        @if times.len() > 1 {
            details {
                summary { "Numbers of this plot" }
                div.scroll {
                    table {
                        thead { tr { th { "From" } @for (name, _) in &all { th { (name) } } } }
                        tbody {
                            @for (begin, bucket) in &bulk.buckets {
                                tr { td { (moment(*begin)) } @for (_, count) in &all { td { (count(bucket)) } } }
                            }
                        }
                    }
                }
            }
        }
    }
}

pub(super) fn latencies(view: &View) -> Markup {
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

pub(super) fn names(report: &Report, view: &View, rows: usize) -> Markup {
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

pub(super) fn ends(view: &View) -> Markup {
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

pub(super) fn edns(report: &Report, rows: usize) -> Markup {
    let [queries, responses] = &report.sides;
    let both = |name: &str, count: &dyn Fn(&Side) -> u64| {
        let cell = |side: &Side| [count(side).to_string(), share(count(side), side.messages)];
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
    let options = |side: &Side| ranking(&side.edns.options, rows, |code| edns::option_label(*code));
    let sizes = |side: &Side| ranking(&side.edns.sizes, rows, u16::to_string);
    let errors = ranking(&responses.edns.errors, rows, |code| {
        edns::error_label(*code)
    });
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

pub(super) fn unanswered(report: &Report, rows: usize) -> Markup {
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

pub(super) fn traffic(report: &Report) -> Markup {
    let [queries, responses] = &report.sides;
    let all = |side: &Side| side.transports.iter().sum();
    let transports = (0..TRANSPORTS)
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

//! The report's page: one HTML document with its style, script and plots. It loads nothing from
//! elsewhere.
//!
//! All text goes through `maud`, which escapes it: names and identities come from the network. The
//! content security policy is a second protection: only the style and the script with this page's
//! nonce are used.

mod parts;
mod plot;
mod sections;

use std::{collections::hash_map::RandomState, fmt::Display, hash::BuildHasher as _};

use dnstap_core::model::is_response;
use jiff::Timestamp;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use self::parts::{moment, ranking};
use super::{Report, TRANSPORTS, transport_name};
use crate::formats::{counted, render::extra};
use crate::tally::{
    View,
    tables::{self, share},
};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("sort.js");

/// Facts on the page in addition to the counts.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// Sources of the messages: files, or a server.
    pub(crate) sources: Vec<String>,
    /// Options that select messages, as typed.
    pub(crate) filters: Vec<String>,
    /// Losses, each as a sentence; `None` if they are not known.
    pub(crate) losses: Option<Vec<String>>,
    /// Most rows of each table.
    pub(crate) rows: usize,
}

impl Default for Facts {
    /// Facts when nothing is known.
    fn default() -> Self {
        Self {
            sources: Vec::new(),
            filters: Vec::new(),
            losses: None,
            rows: 25,
        }
    }
}

/// Renders the whole document.
pub(super) fn render(report: &Report, facts: &Facts) -> String {
    let view = report.tally.view(facts.rows);
    let bulk = report.timeline.bulk();
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
                    (sections::types(&bulk, &view))
                    (sections::outcomes(&bulk, &view))
                    (sections::latencies(&view))
                    (sections::names(report, &view, facts.rows))
                    (sections::ends(&view))
                    (sections::edns(report, facts.rows))
                    (sections::unanswered(report, facts.rows))
                    (sections::traffic(report))
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

/// Returns a value that an attacker, whose names may be on the page, cannot guess. It is random,
/// because each hasher state has random keys.
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
        extra::escaped(identity)
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
                dd { @for (identity, count) in &identities.rows { div { (identity) " (" (counted(*count, "message")) ")" } } }
            }
            @if report.unsolicited > 0 {
                dt { "Unsolicited" }
                dd { (counted(report.unsolicited, "response")) " that the server did not ask for" }
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

/// Returns the share of TCP in all messages with a known transport.
fn over_tcp(report: &Report) -> String {
    let of = |number: usize| -> u64 {
        report
            .sides
            .iter()
            .map(|side| side.transports[number])
            .sum()
    };
    let tcp = (1..TRANSPORTS).find(|number| transport_name(*number) == "TCP");
    let all = (1..TRANSPORTS).map(of).sum();
    share(tcp.map_or(0, of), all)
}

fn second(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use dnstap_proto::{Dnstap, message::Type};

    use super::*;
    use crate::tally::tests::message;

    /// Returns the text between the tags `begin` and `end`, without tags.
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

    /// Returns the rows of the table with this caption.
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
    fn a_wrong_time_does_not_stretch_the_plots_and_is_told() {
        let usual = (0..200).map(|nth| message(Type::ClientResponse, "a", 0, nth * 1_000_000));
        let mut wrong = message(Type::ClientResponse, "a", 0, 0);
        if let Some(message) = &mut wrong.message {
            message.response_time_sec = Some(4_000_000_000);
        }
        let right = page(usual.clone(), &facts());
        let page = page(usual.chain([wrong]), &facts());
        let plot = |page: &str| text_of(page, "<svg", "</svg>").to_owned();
        assert_eq!(plot(&page), plot(&right));
        let told = "Outside of it are: 1 message, 2096-10-02 07:06:40.000.";
        assert!(page.contains(told), "{page}");
        assert_eq!(text_of(&page, "id=\"messages\">", "<"), "201");
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

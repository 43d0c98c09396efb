//! What is shown, as tables of text: the same ones on a terminal and for scripts.

use std::{borrow::Cow, time::Duration};

use dnstap_core::{histogram::Histogram, model::long_name};

use super::{
    frequent::Ranking,
    tally::{Ends, View},
};
use crate::observe::summary::Loss;

/// A table. The first column is text, the others are numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    /// What it is about, and what is to be known of it.
    pub(super) title: String,
    /// Names of the columns.
    pub(super) columns: &'static [&'static str],
    /// As many cells as there are columns.
    pub(super) rows: Vec<Vec<String>>,
}

/// Which of the two is counted where a table counts one of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Side {
    /// Queries, or responses if there are no queries: a server may record these alone.
    #[default]
    Queries,
    /// Responses.
    Responses,
}

impl Side {
    /// Those, and what they are called.
    fn of(self, view: &View) -> (&Ends, &'static str) {
        let [queries, responses] = &view.sides;
        let is_empty =
            |ends: &Ends| ends.names.total + ends.clients.total + ends.servers.total == 0;
        if self == Self::Responses || (is_empty(queries) && !is_empty(responses)) {
            (responses, "responses")
        } else {
            (queries, "queries")
        }
    }
}

/// Messages by dnstap type.
pub(super) fn types(view: &View) -> Table {
    let rows = view.kinds.iter().map(|(kind, count, all)| {
        vec![
            long_name(*kind).to_owned(),
            rate(*count, view.span),
            count.to_string(),
            all.to_string(),
        ]
    });
    Table {
        title: "dnstap types".to_owned(),
        columns: &["TYPE", "PER SECOND", "COUNT", "ALL"],
        rows: rows.collect(),
    }
}

/// Names that are asked for.
pub(super) fn names(view: &View, side: Side) -> Table {
    let (ends, what) = side.of(view);
    ranking("Names", what, &["NAME", "COUNT", "SHARE"], &ends.names)
}

/// Question types.
pub(super) fn questions(view: &View, side: Side) -> Table {
    let (ends, what) = side.of(view);
    ranking(
        "Question types",
        what,
        &["QUESTION TYPE", "COUNT", "SHARE"],
        &ends.types,
    )
}

/// Who asks.
pub(super) fn clients(view: &View, side: Side) -> Table {
    let (ends, what) = side.of(view);
    ranking(
        "Clients",
        what,
        &["CLIENT", "COUNT", "SHARE"],
        &ends.clients,
    )
}

/// Who is asked.
pub(super) fn servers(view: &View, side: Side) -> Table {
    let (ends, what) = side.of(view);
    ranking(
        "Servers asked",
        what,
        &["SERVER", "COUNT", "SHARE"],
        &ends.servers,
    )
}

/// Outcomes.
pub(super) fn rcodes(view: &View) -> Table {
    ranking(
        "Outcomes",
        "responses",
        &["RCODE", "COUNT", "SHARE"],
        &view.rcodes,
    )
}

/// How long answers took.
pub(super) fn latencies(view: &View) -> Table {
    let rows = view.latencies.iter().map(|(family, took)| {
        let mut row = vec![(*family).to_owned(), took.count().to_string()];
        row.extend([0.5, 0.9, 0.99].map(|share| bound(took, share)));
        row
    });
    Table {
        title: "Answer times: so many milliseconds at most".to_owned(),
        columns: &["ANSWERS", "COUNT", "HALF", "90 %", "99 %"],
        rows: rows.collect(),
    }
}

/// What is missing in all of this.
pub(super) fn losses(losses: &[Loss]) -> Table {
    let rows = losses.iter().map(|loss| {
        vec![
            format!("{} {}", loss.hop, loss.reason),
            loss.count.to_string(),
        ]
    });
    Table {
        title: "Losses since the start".to_owned(),
        columns: &["LOSS", "COUNT"],
        rows: rows.collect(),
    }
}

/// `2000 messages in 30.0 s (66.7 per second), 4000 in all; lost: none`.
pub(super) fn headline(view: &View, losses: &[Loss]) -> String {
    let View {
        messages,
        all,
        malformed,
        span,
        ..
    } = view;
    let seconds = span.map_or_else(
        || "-".to_owned(),
        |span| format!("{:.1}", span.as_secs_f64()),
    );
    let lost: Vec<_> = losses
        .iter()
        .map(|loss| format!("{} {}", loss.reason, loss.count))
        .collect();
    format!(
        "{messages} messages in {seconds} s ({} per second), {all} in all{}; lost: {}",
        rate(*messages, *span),
        match malformed {
            0 => Cow::Borrowed(""),
            malformed => format!("; malformed: {malformed}").into(),
        },
        if lost.is_empty() {
            "none".to_owned()
        } else {
            lost.join(", ")
        }
    )
}

fn ranking(title: &str, what: &str, columns: &'static [&'static str], ranking: &Ranking) -> Table {
    let rows = ranking
        .rows
        .iter()
        .map(|(key, count)| vec![key.clone(), count.to_string(), share(*count, ranking.total)]);
    let mut title = format!("{title} by {what}");
    if ranking.short_by > 0 {
        title = format!("{title}, each {} too low at most", ranking.short_by);
    }
    Table {
        title,
        columns,
        rows: rows.collect(),
    }
}

/// Messages by second, with one digit behind the point.
fn rate(count: u64, span: Option<Duration>) -> String {
    span.map_or_else(
        || "-".to_owned(),
        |span| format!("{:.1}", float(count) / span.as_secs_f64()),
    )
}

fn share(count: u64, total: u64) -> String {
    if total == 0 {
        return "-".to_owned();
    }
    format!("{:.1}%", float(count) * 100.0 / float(total))
}

/// Milliseconds within which that share of the answers came.
fn bound(took: &Histogram, share: f64) -> String {
    took.quantile(share).map_or_else(
        || ">16777".to_owned(),
        |bound| format!("{:.3}", bound.as_secs_f64() * 1e3),
    )
}

#[expect(
    clippy::cast_precision_loss,
    reason = "what is shown has three digits or so"
)]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use dnstap_proto::message::Type;

    use super::*;
    use crate::commands::top::tally::{Tally, tests::message};

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn rates_and_shares_are_of_the_window() {
        let mut tally = Tally::new(Some(Duration::from_secs(10)), Some(0));
        for nth in 0..20 {
            let name = if nth % 4 == 0 { "rare" } else { "often" };
            tally.count(nth * SECOND, &message(Type::ClientQuery, name, 0, 0));
        }
        let view = tally.view(10);
        assert_eq!(
            types(&view).rows,
            [["CLIENT_QUERY", "1.1", "10", "20"].map(str::to_owned)]
        );
        let names = names(&view, Side::Queries);
        assert_eq!(names.title, "Names by queries");
        assert_eq!(
            names.rows,
            [["often.", "8", "80.0%"], ["rare.", "2", "20.0%"]].map(|row| row.map(str::to_owned))
        );
        let loss = Loss {
            hop: "kernel".to_owned(),
            reason: "ring_full",
            count: 7,
        };
        assert_eq!(
            headline(&view, &[loss]),
            "10 messages in 9.0 s (1.1 per second), 20 in all; lost: ring_full 7"
        );
    }

    #[test]
    fn responses_are_counted_where_there_are_no_queries() {
        let mut tally = Tally::new(None, None);
        tally.count(0, &message(Type::ClientResponse, "a", 0, 0));
        assert_eq!(
            names(&tally.view(10), Side::Queries).title,
            "Names by responses"
        );
        tally.count(0, &message(Type::ClientQuery, "b", 0, 0));
        let view = tally.view(10);
        assert_eq!(names(&view, Side::Queries).rows[0][0], "b.");
        assert_eq!(names(&view, Side::Responses).rows[0][0], "a.");
    }

    #[test]
    fn an_answer_beyond_the_last_bucket_has_no_bound() {
        let mut tally = Tally::new(None, None);
        for took in [1_000_000, 1_000_000, 100 * SECOND] {
            tally.count(0, &message(Type::ClientResponse, "a", 0, took));
        }
        assert_eq!(
            latencies(&tally.view(10)).rows,
            [["CLIENT", "3", "1.024", ">16777", ">16777"].map(str::to_owned)]
        );
    }
}

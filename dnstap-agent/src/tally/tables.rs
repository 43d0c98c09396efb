//! Text tables, used on a terminal, for scripts, and in a report.

use std::time::Duration;

use dnstap_core::{histogram::Histogram, model::long_name};

use super::{Ends, Ranking, View};

/// A table. The first column is text, the others are numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    /// Title, with notes on the content.
    pub(crate) title: String,
    /// Names of the columns.
    pub(crate) columns: &'static [&'static str],
    /// Rows; each has as many cells as there are columns.
    pub(crate) rows: Vec<Vec<String>>,
}

/// Which side is counted in tables that count one side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Side {
    /// Queries. If there are none, responses, because a server may record only these.
    #[default]
    Queries,
    /// Responses.
    Responses,
}

impl Side {
    /// Returns the side's counts and its name.
    fn of(self, view: &View) -> (&Ends, &'static str) {
        let (nth, what) = self.index(view);
        (&view.sides[nth], what)
    }

    /// Returns the side's index in a pair of queries and responses, and its name.
    pub(crate) fn index(self, view: &View) -> (usize, &'static str) {
        let [queries, responses] = &view.sides;
        let is_empty =
            |ends: &Ends| ends.names.total + ends.clients.total + ends.servers.total == 0;
        if self == Self::Responses || (is_empty(queries) && !is_empty(responses)) {
            (1, "responses")
        } else {
            (0, "queries")
        }
    }
}

/// Messages by dnstap type.
pub(crate) fn types(view: &View) -> Table {
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

/// Names in questions.
pub(crate) fn names(view: &View, side: Side) -> Table {
    let (ends, what) = side.of(view);
    ranking("Names", what, &["NAME", "COUNT", "SHARE"], &ends.names)
}

/// Question types.
pub(crate) fn questions(view: &View, side: Side) -> Table {
    let (ends, what) = side.of(view);
    ranking(
        "Question types",
        what,
        &["QUESTION TYPE", "COUNT", "SHARE"],
        &ends.types,
    )
}

/// Clients.
pub(crate) fn clients(view: &View, side: Side) -> Table {
    let (ends, what) = side.of(view);
    ranking(
        "Clients",
        what,
        &["CLIENT", "COUNT", "SHARE"],
        &ends.clients,
    )
}

/// Servers that are asked.
pub(crate) fn servers(view: &View, side: Side) -> Table {
    let (ends, what) = side.of(view);
    ranking(
        "Servers asked",
        what,
        &["SERVER", "COUNT", "SHARE"],
        &ends.servers,
    )
}

/// Response codes.
pub(crate) fn rcodes(view: &View) -> Table {
    ranking(
        "Outcomes",
        "responses",
        &["RCODE", "COUNT", "SHARE"],
        &view.rcodes,
    )
}

/// Response times.
pub(crate) fn latencies(view: &View) -> Table {
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

/// Most frequent entries with their shares.
pub(crate) fn ranking(
    title: &str,
    what: &str,
    columns: &'static [&'static str],
    ranking: &Ranking,
) -> Table {
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

/// Messages per second, with one decimal.
pub(crate) fn rate(count: u64, span: Option<Duration>) -> String {
    span.map_or_else(
        || "-".to_owned(),
        |span| format!("{:.1}", float(count) / span.as_secs_f64()),
    )
}

/// Percentage of the total.
pub(crate) fn share(count: u64, total: u64) -> String {
    if total == 0 {
        return "-".to_owned();
    }
    format!("{:.1}%", float(count) * 100.0 / float(total))
}

/// Milliseconds within which this share of the responses came.
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
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use dnstap_proto::message::Type;

    use super::*;
    use crate::tally::{Tally, tests::message};

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

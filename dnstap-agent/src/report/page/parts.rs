//! Common parts of sections: tables, and the format of durations and times.

use std::{hash::Hash, time::Duration};

use jiff::Timestamp;
use maud::{Markup, html};

use crate::tally::{
    Frequent, Ranking,
    tables::{Table, float},
};

/// Returns the most frequent keys as text.
pub(super) fn ranking<K: Hash + Eq + Ord>(
    counts: &Frequent<K>,
    rows: usize,
    shown: impl Fn(&K) -> String,
) -> Ranking {
    Frequent::ranking([counts].into_iter(), rows, shown)
}

/// Renders a table with a caption; nothing if it has no rows.
pub(super) fn table(table: &Table) -> Markup {
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

/// Converts `QUESTION TYPE` to `Question type`.
pub(super) fn in_lower_case(column: &str) -> String {
    let (first, rest) = column.split_at_checked(1).unwrap_or((column, ""));
    format!("{first}{}", rest.to_lowercase())
}

/// Formats a duration, such as `1.024 ms`, with as many digits as powers of two need.
pub(super) fn length(nanoseconds: u64) -> String {
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

/// Formats a time since 1970 in nanoseconds, to the millisecond.
pub(super) fn moment(nanoseconds: u64) -> String {
    Timestamp::from_nanosecond(nanoseconds.into()).map_or_else(
        |_out_of_range| format!("@{nanoseconds}"),
        |time| time.strftime("%Y-%m-%d %H:%M:%S.%3f").to_string(),
    )
}

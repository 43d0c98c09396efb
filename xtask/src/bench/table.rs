//! The report as Markdown tables.

use std::fmt::Write as _;

use super::{
    figures::{Line, Report, lines},
    stats::{Ratio, Summary},
};

/// Explanation of columns.
const LEGEND: &str = "\
**above untapped**: CPU of server and helper, less that of the untapped server in the same round. **of own dnstap's**: the median of
that, divided by the one of the server's own dnstap; **server of own**: the same of the server's CPU alone. In brackets the smallest and the
largest ratio of a round; not where own dnstap was no dearer than no dnstap in some round, and no ratio at all (–) where its median was not.";

const COLUMNS: [&str; 13] = [
    "",
    "server user",
    "server system",
    "helper",
    "above untapped",
    "of own dnstap's",
    "server of own",
    "queries/s",
    "of untapped's",
    "lost",
    "memory MiB",
    "delay p50, p99 ms",
    "start ms",
];

/// Returns the whole report.
pub(super) fn markdown(report: &Report) -> String {
    let mut text = "<!-- written by `cargo xtask bench` -->\n".to_owned();
    write(&mut text, report).unwrap_or_default(); // writing to a string does not fail
    text
}

fn write(text: &mut String, report: &Report) -> std::fmt::Result {
    for (name, value) in &report.machine {
        writeln!(text, "- {name}: {value}")?;
    }
    writeln!(text, "\n{LEGEND}")?;
    for section in &report.sections {
        let rounds = section.contenders.first().map_or(0, |(_, runs)| runs.len());
        writeln!(
            text,
            "\n## {}\n\nMedians of {rounds} rounds of {} s (smallest to largest). CPU in µs per message.\n",
            section.load.name(),
            section.seconds
        )?;
        writeln!(
            text,
            "|{}\n|---|{}",
            COLUMNS.map(|column| format!(" {column} |")).concat(),
            "--:|".repeat(COLUMNS.len() - 1)
        )?;
        for line in lines(section) {
            row(text, &line)?;
        }
    }
    if let Some(speeds) = &report.tools {
        writeln!(
            text,
            "\n## Reading and receiving\n\nMessages per second: a file of a million messages counted, one of 200,000 printed, and a million received. `dnstap` is\ngolang-dnstap, `dnstap-read` is BIND's.\n\n| | median (smallest to largest) |\n|---|--:|"
        )?;
        for (name, speed) in &speeds.0 {
            writeln!(text, "| `{name}` | {} |", ranged(Some(*speed), 0))?;
        }
    }
    writeln!(text, "\nMeasured in {} s.", report.seconds)
}

fn row(text: &mut String, line: &Line) -> std::fmt::Result {
    let [p50, p99] = line.delay_ms.map_or([None; 2], |delay| delay.map(Some));
    let delay = match (p50, p99) {
        (Some(p50), Some(p99)) => format!("{:.1}, {:.1}", p50.median, p99.median),
        _ => "–".to_owned(),
    };
    writeln!(
        text,
        "| {} | {:.2} | {:.2} | {:.2} | {} | {} | {} | {:.0} | {} | {} | {} | {delay} | {} |",
        line.name,
        line.named_user.median,
        line.named_system.median,
        line.helper.median,
        ranged(Some(line.above), 2),
        relation(line.of_own),
        relation(line.server_of_own),
        line.queries_per_second.median,
        ranged(Some(line.relative), 3),
        line.loss.map_or("–".to_owned(), |loss| format!(
            "{:.3} %",
            100.0 * loss.median
        )),
        line.memory
            .map_or("–".to_owned(), |memory| format!("{:.1}", memory.max)),
        line.start_ms
            .map_or("–".to_owned(), |start| format!("{:.0}", start.median)),
    )
}

fn ranged(summary: Option<Summary>, digits: usize) -> String {
    summary.map_or("–".to_owned(), |Summary { median, min, max }| {
        format!("{median:.digits$} ({min:.digits$} to {max:.digits$})")
    })
}

fn relation(ratio: Option<Ratio>) -> String {
    match ratio {
        None => "–".to_owned(),
        Some(Ratio {
            of_medians,
            range: None,
        }) => format!("{of_medians:.2}"),
        Some(Ratio {
            of_medians,
            range: Some([min, max]),
        }) => format!("{of_medians:.2} ({min:.2} to {max:.2})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_fills_all_columns_and_shows_no_more_of_a_ratio_than_there_is() {
        let ratio = |range| {
            Some(Ratio {
                of_medians: 0.5,
                range,
            })
        };
        let line = Line {
            name: "tap".to_owned(),
            of_own: ratio(Some([0.25, 0.75])),
            server_of_own: ratio(None),
            ..Line::default()
        };
        let mut text = String::new();
        row(&mut text, &line).expect("a string takes all");
        let cells: Vec<_> = text.trim().trim_matches('|').split('|').collect();
        assert_eq!(cells.len(), COLUMNS.len());
        let of = |column| {
            let at = COLUMNS.iter().position(|name| *name == column);
            cells[at.expect("a column")].trim()
        };
        assert_eq!(of("of own dnstap's"), "0.50 (0.25 to 0.75)");
        assert_eq!(of("server of own"), "0.50");
        assert_eq!(relation(None), "–");
    }
}

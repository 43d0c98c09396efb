//! The report as Markdown tables.

use std::fmt::Write as _;

use super::{
    report::{Line, Report, lines},
    stats::Summary,
};

/// The whole report.
pub(super) fn markdown(report: &Report) -> String {
    let mut text = "<!-- written by `cargo xtask bench` -->\n".to_owned();
    write(&mut text, report).unwrap_or_default(); // writing to a string does not fail
    text
}

fn write(text: &mut String, report: &Report) -> std::fmt::Result {
    for (name, value) in &report.machine {
        writeln!(text, "- {name}: {value}")?;
    }
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
            "| | server user | server system | helper | above untapped | of own dnstap's | queries/s | of untapped's | lost | memory MiB | delay p50, p99 ms | start ms |\n\
             |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
        )?;
        for line in lines(section) {
            row(text, &line)?;
        }
    }
    if let Some(speeds) = &report.tools {
        writeln!(
            text,
            "\n## Reading and receiving\n\nA file of a million messages, and the same over a unix socket. Messages per second.\n\n| | median (smallest to largest) |\n|---|--:|"
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
        "| {} | {:.2} | {:.2} | {:.2} | {} | {} | {:.0} | {} | {} | {} | {delay} | {} |",
        line.name,
        line.named_user.median,
        line.named_system.median,
        line.helper.median,
        ranged(Some(line.above), 2),
        ranged(line.of_own, 2),
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

//! Tables as lines of text, for scripts and for terminals without cursor control.

use std::io::{self, Write};

use super::{events::EventView, losses, state::State};
use crate::tally::tables::{self, Table};

/// Writes all tables that have rows.
pub(super) fn write(state: &State, out: &mut impl Write) -> io::Result<()> {
    let (view, side) = (&state.view, state.controls.side);
    writeln!(
        out,
        "{}: {}",
        state.subject,
        losses::headline(view, &state.losses)
    )?;
    let tables = [
        tables::types(view),
        tables::rcodes(view),
        tables::latencies(view),
        tables::names(view, side),
        tables::questions(view, side),
        tables::clients(view, side),
        tables::servers(view, side),
        losses::table(&state.losses),
    ];
    let events = state.events.iter().flat_map(EventView::tables);
    for table in tables.iter().chain(events) {
        if !table.rows.is_empty() {
            writeln!(out, "\n{}", table.title)?;
            write_table(table, out)?;
        }
    }
    Ok(())
}

fn write_table(table: &Table, out: &mut impl Write) -> io::Result<()> {
    let width = |at: usize| {
        let cells = table.rows.iter().map(|row| row[at].len());
        cells.fold(table.columns[at].len(), usize::max)
    };
    let widths: Vec<_> = (0..table.columns.len()).map(width).collect();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        for (at, (cell, width)) in cells.zip(&widths).enumerate() {
            if at == 0 {
                write!(out, "{cell:width$}")?;
            } else {
                write!(out, "  {cell:>width$}")?;
            }
        }
        writeln!(out)
    };
    line(&mut table.columns.iter().copied())?;
    for row in &table.rows {
        line(&mut row.iter().map(String::as_str))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use dnstap_proto::message::Type;

    use super::*;
    use crate::tally::{Tally, tests::message};

    #[test]
    fn each_table_says_what_it_counts_and_in_which_unit() {
        let mut tally = Tally::new(None, None);
        tally.count(0, &message(Type::ClientResponse, "a", 0, 1_000_000));
        let state = State {
            subject: "named".to_owned(),
            view: tally.view(10),
            ..State::default()
        };
        let mut text = Vec::new();
        write(&state, &mut text).expect("written");
        let text = String::from_utf8(text).expect("text");
        for (title, below) in [
            ("Answer times: so many milliseconds at most", "ANSWERS"),
            ("Names by responses", "NAME"),
        ] {
            assert!(text.contains(&format!("\n\n{title}\n{below} ")), "{text}");
        }
    }
}

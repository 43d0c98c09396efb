//! Drawing, as a pure function of the [`State`].
//!
//! ```text
//! subject                                 now and then: PAUSED
//! headline
//! page | page | ...
//! ── table ─────────────   ── table ──────────────
//! ...
//! keys
//! ```

use ratatui::{
    Frame,
    layout::{Alignment, Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Borders, Paragraph, Row, Table as Grid},
};

use super::{
    losses,
    state::{Page, State},
};
use crate::tally::tables::{self, Table};

/// Lines of a table besides its rows: title and column names.
const FRAME: u16 = 2;

/// Terminal width below which the overview has its tables below each other.
const TWO_COLUMNS: u16 = 90;

const KEYS: &str = "q quit  p pause  tab, digit page  s queries/responses  +/- interval";

/// Draws the whole screen.
pub(super) fn draw(frame: &mut Frame<'_>, state: &State) {
    let [subject, headline, pages, body, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let look = Look(state.colours);
    let flag = match (state.ended, state.controls.paused) {
        (_, true) => "PAUSED",
        (true, false) => "ENDED",
        (false, false) => "",
    };
    frame.render_widget(
        Paragraph::new(Line::from(vec![
            Span::styled("dnstap-agent top", STRONG),
            Span::raw(format!("  {}", state.subject)),
        ])),
        subject,
    );
    frame.render_widget(
        Paragraph::new(Span::styled(flag, look.alarm())).alignment(Alignment::Right),
        subject,
    );
    let words = losses::headline(&state.view, &state.losses);
    frame.render_widget(Paragraph::new(words), headline);
    frame.render_widget(Paragraph::new(page_names(state, look)), pages);
    draw_page(frame, state, look, body);
    let words = format!("{KEYS} ({:?})", state.controls.interval);
    frame.render_widget(Paragraph::new(Span::styled(words, FAINT)), keys);
}

const STRONG: Style = Style::new().add_modifier(Modifier::BOLD);
const FAINT: Style = Style::new().add_modifier(Modifier::DIM);
const CHOSEN: Style = Style::new().add_modifier(Modifier::REVERSED);

/// Chooses styles: a colour, or another attribute without colours. Colour is never the only mark.
#[derive(Clone, Copy)]
struct Look(bool);

impl Look {
    fn with(self, colour: Color, without: Modifier) -> Style {
        let style = Style::new().add_modifier(without);
        if self.0 { style.fg(colour) } else { style }
    }

    fn title(self) -> Style {
        self.with(Color::Cyan, Modifier::BOLD)
    }

    fn alarm(self) -> Style {
        self.with(Color::Red, Modifier::REVERSED)
    }
}

fn page_names(state: &State, look: Look) -> Line<'static> {
    let mut spans = Vec::new();
    for (nth, page) in state.controls.pages.iter().enumerate() {
        let calls = match page {
            Page::Losses => !state.losses.is_empty(),
            Page::Events => state.events.as_ref().is_some_and(|all| all.has_ns_changes),
            _ => false,
        };
        let style = if *page == state.controls.page {
            CHOSEN
        } else if calls {
            look.alarm()
        } else {
            Style::new()
        };
        spans.push(Span::styled(
            format!(" {} {} ", Page::key(nth), page.name()),
            style,
        ));
    }
    Line::from(spans)
}

fn draw_page(frame: &mut Frame<'_>, state: &State, look: Look, area: Rect) {
    let (view, side) = (&state.view, state.controls.side);
    let events = || state.events.clone().unwrap_or_default();
    let (left, right) = match state.controls.page {
        Page::Overview => (
            vec![
                tables::types(view),
                tables::latencies(view),
                tables::rcodes(view),
            ],
            vec![
                tables::names(view, side),
                tables::clients(view, side),
                tables::servers(view, side),
            ],
        ),
        Page::Names => (vec![tables::names(view, side)], vec![]),
        Page::Questions => (vec![tables::questions(view, side)], vec![]),
        Page::Clients => (vec![tables::clients(view, side)], vec![]),
        Page::Servers => (vec![tables::servers(view, side)], vec![]),
        Page::Outcomes => (vec![tables::rcodes(view), tables::latencies(view)], vec![]),
        Page::Losses => (vec![losses::table(&state.losses)], vec![]),
        Page::Events => (events().changes, vec![]),
        Page::Transfers => (events().transfers, vec![]),
        Page::Cache => (events().cache, vec![]),
    };
    if right.is_empty() {
        draw_below_each_other(frame, &left, look, area);
    } else if area.width < TWO_COLUMNS {
        let all: Vec<_> = left.into_iter().chain(right).collect();
        draw_below_each_other(frame, &all, look, area);
    } else {
        let columns = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).spacing(2);
        let [first, second] = columns.areas(area);
        draw_below_each_other(frame, &left, look, first);
        draw_below_each_other(frame, &right, look, second);
    }
}

/// Draws the tables that have rows. A page with one table shows it in any case.
fn draw_below_each_other(frame: &mut Frame<'_>, tables: &[Table], look: Look, area: Rect) {
    let shown: Vec<_> = tables
        .iter()
        .filter(|table| tables.len() == 1 || !table.rows.is_empty())
        .collect();
    for (table, height) in
        shown
            .iter()
            .zip(heights(&shown, area.height))
            .scan(area.y, |y, (table, height)| {
                let place = Rect {
                    y: *y,
                    height,
                    ..area
                };
                *y += height;
                Some((table, place))
            })
    {
        draw_table(frame, table, look, height);
    }
}

/// Returns the height of each table: what it needs if there is room, otherwise an even share.
fn heights(tables: &[&Table], room: u16) -> Vec<u16> {
    let mut heights = vec![0; tables.len()];
    let mut room = room;
    loop {
        let before = room;
        for (height, table) in heights.iter_mut().zip(tables) {
            let wanted = u16::try_from(table.rows.len().max(1))
                .unwrap_or(u16::MAX)
                .saturating_add(FRAME);
            // A table without room for one row gets no lines at all.
            let step = if *height == 0 { FRAME + 1 } else { 1 };
            if *height < wanted && step <= room {
                *height += step;
                room -= step;
            }
        }
        if room == before {
            return heights;
        }
    }
}

fn draw_table(frame: &mut Frame<'_>, table: &Table, look: Look, area: Rect) {
    let width = |at: usize| {
        let cells = table.rows.iter().map(|row| row[at].len());
        let longest = cells.fold(table.columns[at].len(), usize::max);
        u16::try_from(longest).unwrap_or(u16::MAX)
    };
    let numbers = (1..table.columns.len()).map(|at| Constraint::Length(width(at)));
    let widths: Vec<_> = std::iter::once(Constraint::Fill(1))
        .chain(numbers)
        .collect();
    let cell = |(at, text): (usize, &str)| {
        let line = Line::from(text.to_owned());
        if at == 0 {
            line
        } else {
            line.alignment(Alignment::Right)
        }
    };
    let header = Row::new(table.columns.iter().copied().enumerate().map(cell));
    let rows = table
        .rows
        .iter()
        .map(|row| Row::new(row.iter().map(String::as_str).enumerate().map(cell)));
    let block = Block::new()
        .borders(Borders::TOP)
        .border_style(FAINT)
        .title(Span::styled(format!(" {} ", table.title), look.title()));
    let grid = Grid::new(rows, widths)
        .header(header.style(FAINT))
        .column_spacing(2)
        .block(block);
    frame.render_widget(grid, area);
}

#[cfg(test)]
mod tests {
    use dnstap_proto::message::Type;
    use ratatui::{Terminal, backend::TestBackend};

    use super::{super::events::EventView, *};
    use crate::{
        observe::summary::Loss,
        tally::{Tally, tests::message},
    };

    #[test]
    fn the_overview_has_everything_side_by_side() {
        let picture = picture(&state(), 110, 24);
        let lines: Vec<_> = picture.lines().collect();
        assert!(
            lines[0].starts_with("dnstap-agent top  named (pid 7)"),
            "{picture}"
        );
        assert!(
            lines[1]
                .starts_with("5 messages in 5.0 s (1.0 per second), 5 in all; lost: ring_full 3"),
            "{picture}"
        );
        assert!(lines[2].starts_with(" 1 Overview  2 Names "), "{picture}");
        assert!(
            lines[3].contains(" dnstap types ─") && lines[3].contains(" Names by queries ─"),
            "{picture}"
        );
        for row in [
            "CLIENT_QUERY 0.8 4 4",
            "NXDOMAIN 1 100.0%",
            "www. 3 75.0%",
            "192.0.2.1 4 100.0%",
        ] {
            let squeezed = picture.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(squeezed.contains(row), "{row}\n{picture}");
        }
        assert!(lines[23].starts_with("q quit"), "{picture}");
    }

    #[test]
    fn a_narrow_terminal_has_the_tables_below_each_other() {
        let picture = picture(&state(), 60, 40);
        let line = |part: &str| picture.lines().position(|line| line.contains(part));
        let (types, names) = (line("dnstap types"), line("Names by queries"));
        assert!(types.is_some() && types < names, "{picture}");
    }

    #[test]
    fn a_page_has_one_table_and_responses_on_request() {
        let mut state = state();
        state.controls.page = Page::Names;
        state.controls.side = tables::Side::Responses;
        state.controls.paused = true;
        let picture = picture(&state, 80, 10);
        assert!(picture.contains("Names by responses"), "{picture}");
        assert!(!picture.contains("dnstap types"), "{picture}");
        assert!(
            picture
                .lines()
                .next()
                .is_some_and(|line| line.ends_with("PAUSED"))
        );
    }

    #[test]
    fn a_terminal_of_any_size_is_drawn_on() {
        for (width, height) in [(1, 1), (3, 7), (20, 5), (89, 6), (90, 6), (300, 100)] {
            for page in Page::ALL {
                let mut state = state();
                state.events = Some(EventView::default());
                state.controls.pages = Page::ALL;
                state.controls.page = *page;
                picture(&state, width, height);
            }
        }
    }

    #[test]
    fn tables_share_what_is_too_little() {
        let table = |rows: usize| Table {
            title: String::new(),
            columns: &["A"],
            rows: vec![vec![String::new()]; rows],
        };
        let (long, short) = (table(100), table(2));
        assert_eq!(heights(&[&long, &short], 40), [36, 4]);
        assert_eq!(heights(&[&long, &long], 40), [20, 20]);
        assert_eq!(heights(&[&long, &short, &long], 7), [4, 3, 0]);
    }

    #[test]
    fn no_colour_is_used_unless_wanted() {
        let coloured = |colours| {
            let mut state = state();
            state.colours = colours;
            let terminal = drawn(&state, 110, 24);
            let cells = terminal.backend().buffer().content();
            cells
                .iter()
                .any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset)
        };
        assert!(coloured(true));
        assert!(!coloured(false));
    }

    fn state() -> State {
        let second = 1_000_000_000;
        let mut tally = Tally::new(None, Some(0));
        for name in ["www", "www", "www", "mail"] {
            tally.count(second, &message(Type::ClientQuery, name, 0, 0));
        }
        tally.count(
            5 * second,
            &message(Type::ClientResponse, "www", 3, 1_000_000),
        );
        State {
            subject: "named (pid 7)".to_owned(),
            view: tally.view(100),
            losses: vec![Loss {
                hop: "kernel".to_owned(),
                reason: "ring_full",
                count: 3,
            }],
            ..State::default()
        }
    }

    fn drawn(state: &State, width: u16, height: u16) -> Terminal<TestBackend> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
        terminal.draw(|frame| draw(frame, state)).expect("drawn");
        terminal
    }

    fn picture(state: &State, width: u16, height: u16) -> String {
        let terminal = drawn(state, width, height);
        let cells = terminal.backend().buffer().content();
        let lines = cells.chunks(usize::from(width)).map(|cells| {
            let line: String = cells.iter().map(ratatui::buffer::Cell::symbol).collect();
            line.trim_end().to_owned() + "\n"
        });
        lines.collect()
    }
}

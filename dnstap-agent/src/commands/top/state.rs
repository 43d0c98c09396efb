//! State of the display, and the part of it that keys change.

use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::{
    observe::summary::Loss,
    tally::{View, tables::Side},
};

/// Everything that is drawn.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    /// Source of the messages.
    pub(super) subject: String,
    /// Counts of the messages.
    pub(super) view: View,
    /// Counts of losses.
    pub(super) losses: Vec<Loss>,
    /// Whether the source has ended.
    pub(super) ended: bool,
    /// Settings chosen by the user.
    pub(super) controls: Controls,
    /// Whether colours are wanted.
    pub(super) colours: bool,
}

/// Settings that keys change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Controls {
    /// Page on the screen.
    pub(super) page: Page,
    /// Whether queries or responses are counted.
    pub(super) side: Side,
    /// Whether the display is paused; counting goes on.
    pub(super) paused: bool,
    /// Time between two redraws.
    pub(super) interval: Duration,
}

/// Pages that can fill the screen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Page {
    /// Overview: the first rows of everything.
    #[default]
    Overview,
    Names,
    Questions,
    Clients,
    Servers,
    Outcomes,
    Losses,
}

/// Intervals to choose from, in milliseconds.
const INTERVALS: [u64; 8] = [100, 250, 500, 1_000, 2_000, 5_000, 10_000, 60_000];

impl Default for Controls {
    fn default() -> Self {
        Self {
            page: Page::default(),
            side: Side::default(),
            paused: false,
            interval: Duration::from_secs(1),
        }
    }
}

impl Page {
    /// All pages, in the order of the tab key.
    pub(super) const ALL: [Self; 7] = [
        Self::Overview,
        Self::Names,
        Self::Questions,
        Self::Clients,
        Self::Servers,
        Self::Outcomes,
        Self::Losses,
    ];

    /// Returns the name on the screen.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Names => "Names",
            Self::Questions => "Questions",
            Self::Clients => "Clients",
            Self::Servers => "Servers",
            Self::Outcomes => "Outcomes",
            Self::Losses => "Losses",
        }
    }

    fn step(self, by: usize) -> Self {
        Self::ALL[(self as usize + by) % Self::ALL.len()]
    }
}

/// Request of a key beyond a changed setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Go on.
    Nothing,
    /// Redraw the whole screen: another program may have written to the terminal.
    Redraw,
    /// Quit.
    Quit,
}

impl Controls {
    /// Handles a key.
    pub(super) fn press(&mut self, key: KeyEvent) -> Wish {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c' | 'd') => Wish::Quit,
                KeyCode::Char('l') => Wish::Redraw,
                _ => Wish::Nothing,
            };
        }
        let pages = Page::ALL.len();
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Wish::Quit,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Tab | KeyCode::Right => self.page = self.page.step(1),
            KeyCode::BackTab | KeyCode::Left => self.page = self.page.step(pages - 1),
            KeyCode::Char(digit @ '1'..='7') => {
                self.page = Page::ALL[digit as usize - '1' as usize];
            }
            KeyCode::Char('s') => {
                self.side = match self.side {
                    Side::Queries => Side::Responses,
                    Side::Responses => Side::Queries,
                }
            }
            KeyCode::Char('+' | '=') => self.change_interval(
                INTERVALS
                    .iter()
                    .copied()
                    .map(Duration::from_millis)
                    .find(|longer| *longer > self.interval),
            ),
            KeyCode::Char('-') => self.change_interval(
                INTERVALS
                    .iter()
                    .rev()
                    .copied()
                    .map(Duration::from_millis)
                    .find(|shorter| *shorter < self.interval),
            ),
            _ => {}
        }
        Wish::Nothing
    }

    fn change_interval(&mut self, to: Option<Duration>) {
        self.interval = to.unwrap_or(self.interval);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_go_round_both_ways_and_have_numbers() {
        let mut controls = Controls::default();
        press(&mut controls, KeyCode::BackTab);
        assert_eq!(controls.page, Page::Losses);
        press(&mut controls, KeyCode::Tab);
        assert_eq!(controls.page, Page::Overview);
        for (nth, page) in ('1'..).zip(Page::ALL) {
            press(&mut controls, KeyCode::Char(nth));
            assert_eq!(controls.page, page);
        }
    }

    #[test]
    fn the_interval_ends_at_the_shortest_and_the_longest() {
        let mut controls = Controls::default();
        press(&mut controls, KeyCode::Char('+'));
        assert_eq!(controls.interval, Duration::from_secs(2));
        for _ in 0..20 {
            press(&mut controls, KeyCode::Char('+'));
        }
        assert_eq!(controls.interval, Duration::from_mins(1));
        for _ in 0..20 {
            press(&mut controls, KeyCode::Char('-'));
        }
        assert_eq!(controls.interval, Duration::from_millis(100));
    }

    #[test]
    fn q_escape_and_control_c_end_it_and_other_keys_do_not() {
        let mut controls = Controls::default();
        assert_eq!(press(&mut controls, KeyCode::Char('q')), Wish::Quit);
        assert_eq!(press(&mut controls, KeyCode::Esc), Wish::Quit);
        let control = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(controls.press(control), Wish::Quit);
        assert_eq!(controls, Controls::default());
        assert_eq!(press(&mut controls, KeyCode::Char('p')), Wish::Nothing);
        assert!(controls.paused);
        assert_eq!(press(&mut controls, KeyCode::Char('s')), Wish::Nothing);
        assert_eq!(controls.side, Side::Responses);
    }

    fn press(controls: &mut Controls, code: KeyCode) -> Wish {
        controls.press(KeyEvent::new(code, KeyModifiers::NONE))
    }
}

//! State of the display, and the part of it that keys change.

use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::events::EventView;
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
    /// Events, if they are asked for. They have pages of their own.
    pub(super) events: Option<EventView>,
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
    /// Pages that there are.
    pub(super) pages: &'static [Page],
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
    Events,
    Transfers,
    Cache,
}

/// Intervals to choose from, in milliseconds.
const INTERVALS: [u64; 8] = [100, 250, 500, 1_000, 2_000, 5_000, 10_000, 60_000];

impl Default for Controls {
    fn default() -> Self {
        Self {
            pages: Page::OF_MESSAGES,
            page: Page::default(),
            side: Side::default(),
            paused: false,
            interval: Duration::from_secs(1),
        }
    }
}

impl Page {
    /// Pages of messages, in the order of the tab key.
    pub(super) const OF_MESSAGES: &[Self] = Self::ALL.split_at(7).0;

    /// All pages, in the order of the tab key. Those of events come last.
    pub(super) const ALL: &[Self] = &[
        Self::Overview,
        Self::Names,
        Self::Questions,
        Self::Clients,
        Self::Servers,
        Self::Outcomes,
        Self::Losses,
        Self::Events,
        Self::Transfers,
        Self::Cache,
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
            Self::Events => "Events",
            Self::Transfers => "Transfers",
            Self::Cache => "Cache",
        }
    }

    /// Returns the key of the page with this index: `1` to `9`, then `0`.
    pub(super) fn key(nth: usize) -> char {
        char::from_digit(u32::try_from(nth + 1).unwrap_or_default() % 10, 10).unwrap_or(' ')
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
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Wish::Quit,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Tab | KeyCode::Right => self.step(1),
            KeyCode::BackTab | KeyCode::Left => self.step(self.pages.len() - 1),
            KeyCode::Char(digit @ '0'..='9') => {
                let nth = (0..self.pages.len()).find(|nth| Page::key(*nth) == digit);
                self.page = nth.map_or(self.page, |nth| self.pages[nth]);
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

    fn step(&mut self, by: usize) {
        self.page = self.pages[(self.page as usize + by) % self.pages.len()];
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
        press(&mut controls, KeyCode::Char('8'));
        assert_eq!(controls.page, Page::Overview, "there are no events");
        controls.pages = Page::ALL;
        press(&mut controls, KeyCode::BackTab);
        assert_eq!(controls.page, Page::Cache);
        for (key, page) in "1234567890".chars().zip(Page::ALL) {
            press(&mut controls, KeyCode::Char(key));
            assert_eq!(controls.page, *page);
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

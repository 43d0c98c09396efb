//! The terminal: taken at the start, given back as it was at the end, also after a panic.

use std::{
    env, io, panic,
    sync::{
        Once,
        mpsc::{self, TryRecvError},
    },
    time::{Duration, Instant},
};

use ratatui::{
    Terminal,
    backend::CrosstermBackend,
    crossterm::{
        cursor::Show,
        event::{self, Event},
        execute,
        terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
};

use super::{
    draw::draw,
    state::{Controls, State, Wish},
};
use crate::host::log;

/// How soon the end is noticed.
const LOOK: Duration = Duration::from_millis(100);

/// Rows of each ranking: more than terminals have.
const ROWS: usize = 200;

/// Draws what `now` says, with so many rows, until the user has seen enough, or `stopped` is closed.
pub(super) fn run(
    interval: Duration,
    now: impl Fn(usize) -> State,
    stopped: &mpsc::Receiver<()>,
) -> io::Result<()> {
    let _held = log::hold();
    let drawn = enter().and_then(|()| pictures(interval, now, stopped));
    let left = leave();
    drawn.and(left)
}

fn pictures(
    interval: Duration,
    now: impl Fn(usize) -> State,
    stopped: &mpsc::Receiver<()>,
) -> io::Result<()> {
    let mut terminal = Terminal::new(CrosstermBackend::new(io::stdout()))?;
    let colours = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let mut controls = Controls {
        interval,
        ..Controls::default()
    };
    let mut state = now(ROWS);
    let mut shown = Instant::now();
    let mut stale = true;
    while stopped.try_recv() != Err(TryRecvError::Disconnected) {
        if shown.elapsed() >= controls.interval && !controls.paused {
            state = now(ROWS);
            shown = Instant::now();
            stale = true;
        }
        if stale {
            state.colours = colours;
            state.controls = controls;
            terminal.draw(|frame| draw(frame, &state))?;
            stale = false;
        }
        let left = controls.interval.saturating_sub(shown.elapsed());
        if !event::poll(if controls.paused {
            LOOK
        } else {
            left.min(LOOK)
        })? {
            continue;
        }
        stale = true;
        if let Event::Key(key) = event::read()?
            && key.is_press()
        {
            match controls.press(key) {
                Wish::Nothing => {}
                Wish::Redraw => terminal.clear()?,
                Wish::Quit => break,
            }
        }
    }
    Ok(())
}

/// Takes the terminal; from now on a panic of any thread gives it back before it is told.
fn enter() -> io::Result<()> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let told = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            // The panic is what matters.
            leave().ok();
            told(panic);
        }));
    });
    enable_raw_mode()?;
    execute!(io::stdout(), EnterAlternateScreen)
}

/// Gives the terminal back; no harm if it was not taken.
fn leave() -> io::Result<()> {
    let shown = execute!(io::stdout(), LeaveAlternateScreen, Show);
    disable_raw_mode().and(shown)
}

/// As far as that is possible while the terminal takes nothing.
pub(super) fn give_up() {
    // There is no place left for a message.
    disable_raw_mode().ok();
}

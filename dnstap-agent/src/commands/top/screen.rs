//! The terminal: initialised at the start and restored at the end, also after a panic.

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
    state::{Controls, Page, State, Wish},
};
use crate::host::log;

/// Time within which the end is noticed.
const LOOK: Duration = Duration::from_millis(100);

/// Rows of each ranking; more than terminals have.
const ROWS: usize = 200;

/// Draws the state that `now` returns for this number of rows, until the user quits or `stopped` is
/// closed.
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
    if state.events.is_some() {
        controls.pages = Page::ALL;
    }
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

/// Initialises the terminal. From now on a panic of any thread restores it before the panic is
/// reported.
fn enter() -> io::Result<()> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let told = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            // An error here would hide the panic.
            leave().ok();
            told(panic);
        }));
    });
    enable_raw_mode()?;
    execute!(io::stdout(), EnterAlternateScreen)
}

/// Restores the terminal; harmless if it was not initialised.
fn leave() -> io::Result<()> {
    let shown = execute!(io::stdout(), LeaveAlternateScreen, Show);
    disable_raw_mode().and(shown)
}

/// Restores what can be restored while the terminal accepts no output.
pub(super) fn give_up() {
    // Ignore errors, because they could not be shown.
    disable_raw_mode().ok();
}

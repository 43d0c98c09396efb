//! The thread that shows the board on a terminal or as text, and how it ends.

use std::{
    io::{self, ErrorKind, Write as _},
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use tokio::sync::oneshot;

use super::{
    board::Board,
    cannot_print, plain, screen,
    state::{Controls, State},
};
use crate::{
    host::exit::Exit,
    observe::{Newest, summary::Loss},
};

/// Time that the thread may take to restore the terminal. Normally it needs none once it was
/// stopped.
const GRACE: Duration = Duration::from_secs(2);

/// Settings of the thread that shows the board.
#[derive(Debug)]
pub(super) struct Viewer {
    pub(super) board: Arc<Board>,
    pub(super) subject: String,
    /// Source of losses, if losses are shown.
    pub(super) newest: Option<Newest>,
    pub(super) interval: Duration,
    /// Most rows of each text table.
    pub(super) rows: usize,
    pub(super) kind: Kind,
}

/// Ways to show the board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Terminal,
    /// As text, after each interval.
    Plain,
    /// As text, once at the end.
    Once,
}

/// Resolves when the thread has ended.
pub(super) struct Ended(oneshot::Receiver<()>);

impl Ended {
    pub(super) async fn wait(self) {
        let _gone_either_way = self.0.await;
    }
}

/// A running viewer thread.
pub(super) struct Running {
    viewer: Arc<Viewer>,
    /// Stops the thread when dropped; nothing is ever sent.
    stop: mpsc::Sender<()>,
    done: mpsc::Receiver<io::Result<()>>,
}

impl Viewer {
    /// Starts to show the board.
    pub(super) fn start(self) -> Result<(Ended, Running)> {
        let (over, ended) = oneshot::channel::<()>();
        let (stop, stopped) = mpsc::channel();
        let (finished, done) = mpsc::channel();
        let viewer = Arc::new(self);
        let shown = Arc::clone(&viewer);
        thread::Builder::new()
            .name("view".to_owned())
            .spawn(move || {
                let outcome = shown.run(&stopped);
                // At the end the receivers may be gone.
                finished.send(outcome).ok();
                drop(over);
            })
            .context("the system gives no thread for the view")?;
        Ok((Ended(ended), Running { viewer, stop, done }))
    }

    /// Shows the board until the user quits, the output is closed, or `stopped` is.
    fn run(&self, stopped: &mpsc::Receiver<()>) -> io::Result<()> {
        match self.kind {
            Kind::Terminal => screen::run(self.interval, |rows| self.state(rows), stopped),
            Kind::Plain => loop {
                match stopped.recv_timeout(self.interval) {
                    Err(RecvTimeoutError::Timeout) => {
                        self.print(&self.state(self.rows))?;
                    }
                    _ => return Ok(()),
                }
            },
            Kind::Once => {
                let _closed = stopped.recv();
                Ok(())
            }
        }
    }

    /// Returns the state to show, with rankings of at most this many rows.
    pub(super) fn state(&self, rows: usize) -> State {
        let published = self
            .newest
            .as_ref()
            .and_then(|newest| newest.borrow().clone());
        let losses = published.map(|published| published.now.losses());
        self.state_with(rows, losses.unwrap_or_default())
    }

    fn state_with(&self, rows: usize, mut losses: Vec<Loss>) -> State {
        let broken = self.board.broken();
        if broken > 0 {
            losses.push(Loss {
                hop: "input".to_owned(),
                reason: "malformed",
                count: broken,
            });
        }
        State {
            subject: self.subject.clone(),
            view: self.board.view(rows),
            events: self.board.events(rows),
            losses,
            ended: self.board.has_ended(),
            controls: Controls {
                interval: self.interval,
                ..Controls::default()
            },
            colours: false,
        }
    }

    fn print(&self, state: &State) -> io::Result<()> {
        let mut text = Vec::new();
        plain::write(state, &mut text)?;
        if self.kind == Kind::Plain {
            writeln!(text)?;
        }
        let mut out = io::stdout().lock();
        out.write_all(&text)?;
        out.flush()
    }
}

impl Running {
    /// Ends the thread. Prints the final state as text, unless the board was shown on a terminal.
    pub(super) fn finish(self, losses: &[Loss]) -> Result<Exit> {
        let viewer = Arc::clone(&self.viewer);
        let shown = self.end().and_then(|()| {
            if viewer.kind == Kind::Terminal {
                return Ok(());
            }
            viewer.print(&viewer.state_with(viewer.rows, losses.to_vec()))
        });
        match shown {
            Ok(()) => Ok(Exit::Ok),
            // The reader has gone away, which is no error.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Exit::Ok),
            Err(error) if viewer.kind == Kind::Terminal => {
                Err(anyhow!(error).context("cannot use the terminal; --plain does without"))
            }
            Err(error) => Err(cannot_print(error)),
        }
    }

    /// Ends the thread after another failure.
    pub(super) fn abandon(self) {
        // The first failure is the one that is reported.
        self.end().ok();
    }

    fn end(self) -> io::Result<()> {
        drop(self.stop);
        match self.done.recv_timeout(GRACE) {
            Ok(outcome) => outcome,
            Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("the view has panicked")),
            Err(RecvTimeoutError::Timeout) => {
                screen::give_up();
                Ok(())
            }
        }
    }
}

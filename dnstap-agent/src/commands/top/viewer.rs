//! The thread that shows the board, on a terminal or as text, and its end.

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

/// How long the thread may take to give the terminal back: one that was stopped takes nothing.
const GRACE: Duration = Duration::from_secs(2);

/// What shows the board, and how.
#[derive(Debug)]
pub(super) struct Viewer {
    pub(super) board: Arc<Board>,
    pub(super) subject: String,
    /// Where losses are told, if there are any to be told there.
    pub(super) newest: Option<Newest>,
    pub(super) interval: Duration,
    /// Of each table of text.
    pub(super) rows: usize,
    pub(super) kind: Kind,
}

/// How the board is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Terminal,
    /// As text after each interval.
    Plain,
    /// As text at the end.
    Once,
}

/// Ends when the thread has.
pub(super) struct Ended(oneshot::Receiver<()>);

impl Ended {
    pub(super) async fn wait(self) {
        let _gone_either_way = self.0.await;
    }
}

/// The thread at work.
pub(super) struct Running {
    viewer: Arc<Viewer>,
    /// Nothing is ever sent: the thread ends when this is dropped.
    stop: mpsc::Sender<()>,
    done: mpsc::Receiver<io::Result<()>>,
}

impl Viewer {
    /// Shows the board from now on.
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
                // The receivers are gone at the end.
                finished.send(outcome).ok();
                drop(over);
            })
            .context("the system gives no thread for the view")?;
        Ok((Ended(ended), Running { viewer, stop, done }))
    }

    /// Until the user has seen enough, the output is closed, or `stopped` is.
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

    /// What is to be shown now, with rankings of at most so many rows.
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
    /// Ends the thread, and shows as text what has come up to the end, unless that was on a terminal.
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
            // Who reads has seen enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Exit::Ok),
            Err(error) if viewer.kind == Kind::Terminal => {
                Err(anyhow!(error).context("cannot use the terminal; --plain does without"))
            }
            Err(error) => Err(cannot_print(error)),
        }
    }

    /// Ends the thread after something else has failed.
    pub(super) fn abandon(self) {
        // What has failed first is what is told.
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

//! `dnstap-agent top`: a live view of a DNS server, or of dnstap from elsewhere.
//!
//! ```text
//! tap ─────┐ queue of a sink                        ┌─► draw (terminal)
//! receive ─┴───────────────► board: tally ─ view ─► state
//! files ───────────────────►   (a lock, never       └─► plain (lines of text)
//!                               held while drawing)
//! ```
//!
//! The view is a sink like others: it has a bounded queue and a thread of its own, and it drops and
//! counts messages that are too many. The terminal has another thread. While the terminal accepts
//! no output, only the display stands still.

mod board;
mod draw;
mod events;
mod files;
mod losses;
mod plain;
mod screen;
mod state;
mod viewer;

use std::{
    env,
    io::{self, IsTerminal as _},
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use tokio::signal::unix::{SignalKind, signal};

use self::{board::Board, viewer::Viewer};
use crate::cli::{Events, Top};
use crate::{
    commands::{attach, receive},
    config::Origin,
    host::exit::{Exit, ExitWith},
    observe::{Newest, Observe, StatusSocket},
    sinks::{Batch, Consumer, OutputSpec, SinkOptions},
};

/// Default window of a live view.
const WINDOW: Duration = Duration::from_secs(30);

/// Name of the view among outputs.
const NAME: &str = "top";

/// Name of the view of events among outputs.
const EVENTS: &str = "top-events";

/// Runs `top`.
pub(super) fn run(args: &Top, origin: &Origin) -> Result<Exit> {
    if !args.files.is_empty() {
        return files::run(args);
    }
    let mut board = Board::live(args.live_window(), args.messages).of(&args.identities);
    if !args.events.is_empty() {
        board = board.with_events();
    }
    let board = Arc::new(board);
    let once = args.once && args.duration.is_none() && args.messages.is_none();
    let limit = args.duration.or(once.then_some(args.interval));
    let mut viewer = None;
    let begin = |subject: &str, newest: Newest| {
        let counting = args.viewer(&board, subject, Some(newest));
        let (ended, running) = counting.start()?;
        viewer = Some(running);
        end(Arc::clone(&board), ended, limit)
    };
    let view = OutputSpec::function(NAME, consumer(&board));
    let summary = if args.listen.is_empty() {
        let events = args.events(&board);
        attach::tap(&args.tap_job(origin, &events), &[view], begin)
    } else {
        receive::take(&args.receive_job(origin), &[view], begin)
    };
    // The terminal is restored first in any case.
    match (viewer, summary) {
        (Some(viewer), Ok(summary)) => viewer.finish(&summary.losses()),
        (Some(viewer), Err(error)) => {
            viewer.abandon();
            Err(error)
        }
        (None, summary) => summary.map(|_nothing_was_shown| Exit::Ok),
    }
}

/// Waits for a reason to end the view, other than those that the source knows itself. Returns the
/// reason.
fn end(
    board: Arc<Board>,
    ended: viewer::Ended,
    limit: Option<Duration>,
) -> Result<impl Future<Output = String>> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut quit = signal(SignalKind::quit())?;
    Ok(async move {
        let timer = async {
            match limit {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        let reason = tokio::select! {
            () = board.has_enough() => "the messages given by --messages have come",
            () = ended.wait() => "the view was closed",
            () = timer => "the time is over",
            _ = hangup.recv() => "the terminal has gone (SIGHUP)",
            _ = quit.recv() => "asked to (SIGQUIT)",
        };
        reason.to_owned()
    })
}

fn consumer(board: &Arc<Board>) -> Consumer {
    let board = Arc::clone(board);
    Box::new(move |batch: &Batch| board.take(batch.frames.clone()))
}

impl Top {
    /// Returns the window for live messages: the whole time if the view is shown once.
    fn live_window(&self) -> Option<Duration> {
        self.window.or((!self.once).then_some(WINDOW))
    }

    /// Returns whether the view is drawn on a terminal.
    fn draws(&self) -> bool {
        let terminal =
            io::stdout().is_terminal() && env::var_os("TERM").is_none_or(|is| is != "dumb");
        terminal && !self.plain && !self.once
    }

    fn viewer(&self, board: &Arc<Board>, subject: &str, newest: Option<Newest>) -> Viewer {
        Viewer {
            board: Arc::clone(board),
            subject: subject.to_owned(),
            newest,
            interval: self.interval,
            rows: self.rows.into(),
            kind: match (self.once, self.draws()) {
                (true, _) => viewer::Kind::Once,
                (false, true) => viewer::Kind::Terminal,
                (false, false) => viewer::Kind::Plain,
            },
        }
    }

    /// Returns the events of a tap. They go to the board.
    fn events(&self, board: &Arc<Board>) -> Events {
        let board = Arc::clone(board);
        let consumer: Consumer =
            Box::new(move |batch: &Batch| board.take_events(batch.frames.clone()));
        let outputs = if self.events.is_empty() {
            Vec::new()
        } else {
            vec![OutputSpec::function(EVENTS, consumer)]
        };
        Events {
            events: self.events.clone(),
            events_outputs: outputs,
        }
    }

    fn tap_job<'a>(&'a self, origin: &'a Origin, events: &'a Events) -> attach::Job<'a> {
        attach::Job {
            origin,
            target: &self.target,
            tapping: &self.tapping,
            messages: &self.selection,
            events,
            observe: &UNOBSERVED,
            identity: Some(""),
            interval: Duration::from_millis(10),
            queues: SinkOptions::default(),
            duration: None,
            paths: false,
            reloadable: false,
        }
    }

    fn receive_job<'a>(&'a self, origin: &'a Origin) -> receive::Job<'a> {
        receive::Job {
            origin,
            listen: &self.listen,
            connections: &self.connections,
            observe: &UNOBSERVED,
            no_sandbox: self.tapping.no_sandbox,
            paths: false,
        }
    }
}

/// The view has no metrics and no status socket, because its user sees everything already.
static UNOBSERVED: Observe = Observe {
    metrics: None,
    status_socket: Some(StatusSocket::None),
};

/// Builds the error for an output that cannot be written to.
fn cannot_print(error: io::Error) -> anyhow::Error {
    anyhow::Error::from(error).context(ExitWith(
        Exit::Output,
        "cannot write to standard output".to_owned(),
    ))
}

//! `dnstap-agent top`: what goes on at a DNS server, or in dnstap that comes from elsewhere, for people to look at.
//!
//! ```text
//! tap ─────┐ queue of a sink                        ┌─► draw (terminal)
//! receive ─┴───────────────► board: tally ─ view ─► state
//! files ───────────────────►   (a lock, never       └─► plain (lines of text)
//!                               held while drawing)
//! ```
//!
//! The view is a sink like others: it has a bounded queue and a thread of its own, drops what is too much, and counts it. The terminal
//! has another thread; as long as it takes nothing, only the picture stands still.

mod board;
mod draw;
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
use crate::cli::Top;
use crate::{
    commands::{attach, receive},
    config::Origin,
    host::exit::{Exit, ExitWith},
    observe::{Newest, Observe, StatusSocket},
    sinks::{Batch, Consumer, OutputSpec, SinkOptions},
};

/// The window, if none is asked for and it is not everything.
const WINDOW: Duration = Duration::from_secs(30);

/// What the view is called among outputs.
const NAME: &str = "top";

/// Runs `top`.
pub(super) fn run(args: &Top, origin: &Origin) -> Result<Exit> {
    if !args.files.is_empty() {
        return files::run(args);
    }
    let board = Arc::new(Board::live(args.live_window(), args.messages).of(&args.identities));
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
        attach::tap(&args.tap_job(origin), &[view], begin)
    } else {
        receive::take(&args.receive_job(origin), &[view], begin)
    };
    // In any case the terminal is given back first.
    match (viewer, summary) {
        (Some(viewer), Ok(summary)) => viewer.finish(&summary.losses()),
        (Some(viewer), Err(error)) => {
            viewer.abandon();
            Err(error)
        }
        (None, summary) => summary.map(|_nothing_was_shown| Exit::Ok),
    }
}

/// Why the view ends, other than by what the source knows itself.
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
    /// The window over what comes now: all of it if it is shown once.
    fn live_window(&self) -> Option<Duration> {
        self.window.or((!self.once).then_some(WINDOW))
    }

    /// Whether pictures are drawn on a terminal.
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

    fn tap_job<'a>(&'a self, origin: &'a Origin) -> attach::Job<'a> {
        attach::Job {
            origin,
            target: &self.target,
            tapping: &self.tapping,
            messages: &self.selection,
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

/// Who looks at it sees it already.
static UNOBSERVED: Observe = Observe {
    metrics: None,
    status_socket: Some(StatusSocket::None),
};

/// What an output that cannot be written to ends with.
fn cannot_print(error: io::Error) -> anyhow::Error {
    anyhow::Error::from(error).context(ExitWith(
        Exit::Output,
        "cannot write to standard output".to_owned(),
    ))
}

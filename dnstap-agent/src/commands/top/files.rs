//! Files as the source: read as fast as possible, on a thread of their own.

use std::{fs::File, sync::Arc, thread};

use anyhow::{Context as _, Result};
use tokio::sync::oneshot;
use tracing::warn;

use super::{board::Board, end, viewer::Kind};
use crate::{
    cli::Top,
    commands::{
        progress::Progress,
        read::{self, Outcome, Warn},
    },
    host::{exit::Exit, shutdown::Shutdown},
    select::{Filter, Select},
    sources::file::{self, Opened},
};

/// Shows the content of the files.
pub(super) fn run(args: &Top) -> Result<Exit> {
    // Open the files before anything is shown.
    let mut inputs: Vec<_> = args.files.iter().map(file::open).collect();
    if let [(_, Err(_))] = &inputs[..] {
        return inputs
            .remove(0)
            .1
            .map(|_file| unreachable!("it could not be opened"));
    }
    let is_one_missing = inputs.iter().any(|(_, opened)| opened.is_err());
    // A pipe counts as live, because a program may be writing to it now.
    let is_pipe = |file: &File| file.metadata().is_ok_and(|metadata| !metadata.is_file());
    let grows = inputs
        .iter()
        .any(|(_, opened)| opened.as_ref().is_ok_and(is_pipe));
    let board = if grows {
        Board::live(args.live_window(), args.messages)
    } else {
        Board::past(args.window, args.messages)
    };
    let board = Arc::new(board);
    let filter = Select {
        identities: args.identities.clone(),
        ..Select::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the system gives no descriptor to wait on")?;
    let subject = args.files.iter().map(|file| file.display().to_string());
    let viewer = args.viewer(&board, &subject.collect::<Vec<_>>().join(", "), None);
    let kind = viewer.kind;
    let (running, read) = runtime.block_on(async {
        let mut shutdown = Shutdown::listen()?;
        let (ended, running) = viewer.start()?;
        let seen = end(Arc::clone(&board), ended, args.duration)?;
        let limit = args.connections.frames.in_files();
        let reading = read_all(inputs, limit, filter.compile(), &board)?;
        let reading = async {
            let read = reading.await;
            board.finish();
            if kind == Kind::Terminal {
                // The user can look at the final state for any time.
                std::future::pending::<()>().await;
            }
            read.ok()
        };
        let read = tokio::select! {
            read = reading => read,
            _ = seen => None,
            _ = shutdown.asked() => None,
        };
        anyhow::Ok((running, read))
    })?;
    let shown = running.finish(&[])?;
    match read {
        Some(Err(error)) => Err(error),
        Some(Ok(outcome)) if outcome.exit() != Exit::Ok => Ok(outcome.exit()),
        None if is_one_missing => Ok(Exit::NoInput),
        Some(Ok(_)) | None => Ok(shown),
    }
}

/// Writes warnings to the log, which is held back while a full-screen display is shown.
struct Log;

impl Warn for Log {
    fn warn(&mut self, message: &str) {
        warn!("{message}");
    }
}

/// Reads the files one after the other, on a thread that is left behind when the view is closed.
fn read_all(
    inputs: Vec<Opened>,
    limit: u32,
    filter: Filter,
    board: &Arc<Board>,
) -> Result<oneshot::Receiver<Result<Outcome>>> {
    let (done, reading) = oneshot::channel();
    let board = Arc::clone(board);
    thread::Builder::new()
        .name("input".to_owned())
        .spawn(move || {
            let read = read::consume(
                inputs.into_iter(),
                limit,
                filter,
                Progress::none(),
                &mut Log,
                &mut |dnstap| board.take_one(dnstap),
            );
            // The receiver is gone if the view was closed.
            done.send(read).ok();
        })
        .context("the system gives no thread for the input")?;
    Ok(reading)
}

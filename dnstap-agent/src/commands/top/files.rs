//! Files as the source: read as fast as they can be, on a thread of their own.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, ErrorKind, Read},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use anyhow::{Context as _, Result, anyhow};
use dnstap_proto::frame_streams::{DNSTAP_CONTENT_TYPE, ReadError, Reader};
use tokio::sync::oneshot;
use tracing::warn;

use super::{board::Board, end, viewer::Kind};
use crate::cli::Top;
use crate::{
    host::{
        exit::{Exit, ExitWith},
        shutdown::Shutdown,
    },
    sources::file::{Source, skip_long},
};

/// Shows what is in the files.
pub(super) fn run(args: &Top) -> Result<Exit> {
    let mut inputs = Vec::new();
    for file in &args.files {
        match Input::open(file) {
            Ok(input) => inputs.push(input),
            // As `read` does: the others are looked at all the same.
            Err(error) if args.files.len() > 1 => warn!("{error:#}"),
            Err(error) => return Err(error),
        }
    }
    let is_one_missing = inputs.len() < args.files.len();
    let grows = inputs.iter().any(|input| input.grows);
    let board = if grows {
        Board::live(args.live_window(), args.messages)
    } else {
        Board::past(args.window, args.messages)
    };
    let board = Arc::new(board.of(&args.identities));
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
        let reading = read_all(inputs, limit, &board)?;
        let reading = async {
            let read = reading.await;
            board.finish();
            if kind == Kind::Terminal {
                // What there was can be looked at as long as the user likes.
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
        _ if is_one_missing => Ok(Exit::NoInput),
        Some(Ok(false)) => Ok(Exit::Data),
        Some(Ok(true)) | None => Ok(shown),
    }
}

struct Input {
    name: PathBuf,
    source: Box<dyn Read + Send>,
    /// Somebody may be writing it now: a pipe.
    grows: bool,
}

impl Input {
    fn open(path: &Path) -> Result<Self> {
        let opened = if path.as_os_str() == OsStr::new("-") {
            io::stdin().as_fd().try_clone_to_owned().map(File::from)
        } else {
            File::open(path)
        };
        let known = opened.and_then(|file| file.metadata().map(|metadata| (file, metadata)));
        let (file, metadata) = known
            .with_context(|| ExitWith(Exit::NoInput, format!("cannot open {}", path.display())))?;
        Ok(Self {
            name: path.to_owned(),
            source: Box::new(file),
            grows: !metadata.is_file(),
        })
    }
}

/// Reads them one after the other on a thread that is left behind if nobody waits for it. Tells at the end whether all were whole.
fn read_all(
    inputs: Vec<Input>,
    limit: u32,
    board: &Arc<Board>,
) -> Result<oneshot::Receiver<Result<bool>>> {
    let (done, reading) = oneshot::channel();
    let board = Arc::clone(board);
    thread::Builder::new()
        .name("input".to_owned())
        .spawn(move || {
            let mut whole = true;
            let read = inputs.into_iter().try_for_each(|input| {
                whole &= read(input, limit, &board)?;
                Ok(())
            });
            // Nobody listens any more if the view was closed.
            done.send(read.map(|()| whole && board.broken() == 0)).ok();
        })
        .context("the system gives no thread for the input")?;
    Ok(reading)
}

/// Counts what is in the file; false if it is damaged, of which is told where.
fn read(input: Input, limit: u32, board: &Board) -> Result<bool> {
    let name = input.name.display().to_string();
    let source = Source::open(input.source);
    let source = source.with_context(|| ExitWith(Exit::NoInput, format!("cannot read {name}")))?;
    let mut whole = true;
    let frames = Reader::with_max_data_frame(source, DNSTAP_CONTENT_TYPE, limit);
    let ended = frames.and_then(|mut reader| {
        loop {
            match reader.next_frame() {
                Ok(Some(frame)) => {
                    if !board.take_one(frame.payload) {
                        return Ok(());
                    }
                }
                Ok(None) => return Ok(()),
                Err(error) if skip_long(&mut reader, &error) => {
                    warn!("{name}: skipped the {error} (--max-frame)");
                    whole = false;
                }
                Err(error) => return Err(error),
            }
        }
    });
    match ended {
        Ok(()) => Ok(whole),
        Err(ReadError::Io { source, offset }) if !is_damage(&source) => Err(anyhow!(source)
            .context(ExitWith(
                Exit::NoInput,
                format!("cannot read {name} from byte {offset} on"),
            ))),
        Err(damage) => {
            warn!("{name}: {:#}", anyhow!(damage));
            Ok(false)
        }
    }
}

/// Whether it comes from what is compressed, not from the system.
fn is_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::UnexpectedEof | ErrorKind::InvalidData
    )
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write as _};

    use dnstap_proto::{
        DnstapRef, MessageRef,
        frame_streams::{WriteError, Writer},
        message::Type,
    };

    use super::*;

    #[test]
    fn compressed_files_are_read_and_damage_is_told() {
        let whole = file(&[7, 200, 7]).expect("memory");
        let gzip = |bytes: &[u8]| {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).expect("memory");
            encoder.finish().expect("memory")
        };
        let zstd = zstd::encode_all(&whole[..], 1).expect("memory");
        let limit = 1_000;
        for compressed in [whole.repeat(2), gzip(&whole).repeat(2), zstd.repeat(2)] {
            assert_eq!(counted(compressed, limit), (true, 6));
        }
        assert_eq!(counted(gzip(&whole[..whole.len() - 20]), limit), (false, 2));
        assert_eq!(counted(gzip(&whole)[..30].to_vec(), limit), (false, 0));
        assert_eq!(counted(whole, 100), (false, 2), "one is too long");
    }

    fn counted(bytes: Vec<u8>, limit: u32) -> (bool, u64) {
        let board = Board::past(None, None);
        let input = Input {
            name: "file".into(),
            source: Box::new(Cursor::new(bytes)),
            grows: false,
        };
        let whole = read(input, limit, &board).expect("readable");
        (whole, board.view(1).all)
    }

    /// A message for each size of a query.
    fn file(sizes: &[usize]) -> Result<Vec<u8>, WriteError> {
        let mut writer = Writer::new(Vec::new(), DNSTAP_CONTENT_TYPE)?;
        for size in sizes {
            let query = vec![0; *size];
            let message = MessageRef {
                query_message: Some(&query),
                ..MessageRef::new(Type::ClientQuery)
            };
            writer.write_frame(&DnstapRef::new(message).encode_to_vec())?;
        }
        writer.finish()
    }
}

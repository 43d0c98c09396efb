//! Reading of a file that is still being written. What has been read stays read, even if the end of
//! the file changes.
//!
//! The end of such a file is never final. The agent's own files have an end mark at every moment,
//! which the next messages overwrite; so has each compressed piece. Therefore each read of the file
//! begins behind the last whole message. Apparent damage is reported only if the file has stopped
//! changing, because the file may have been read while it was written.
//!
//! If a file was replaced (rotation), it is read to its end, and then its successor from the
//! beginning. If it was truncated, it is read again from the beginning.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read as _, Seek as _, SeekFrom},
    mem,
    os::{fd::BorrowedFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use anyhow::anyhow;
use dnstap_proto::frame_streams::{
    DNSTAP_CONTENT_TYPE, Decoder, EVENT_CONTENT_TYPE, ReadError, Reader,
};

use super::{
    Fault,
    bytes::{Bytes, skip_long},
    format::Format,
    named, open,
    unzstd::Place,
};
use crate::{
    host::exit::{Exit, ExitWith},
    sources::{Item, Source},
};

/// A file that is being written, and its successors with the same name.
///
/// ```text
/// reading ──(end for now)──► waiting ──(it has changed)──► reading
///                               ├──(it has not, and looks damaged; or it cannot be read)──► over
///                               └──(it has not, and was replaced)──► reading its successor
/// ```
///
/// The first state is waiting.
pub struct Followed {
    path: PathBuf,
    /// Bytes of the longest frame.
    limit: u32,
    file: Arc<File>,
    /// Bytes of the stream that need not be read again.
    read: u64,
    /// Whether the stream there is one of events.
    has_events: bool,
    /// Position at which reading behind them begins.
    from: Place,
    state: State,
}

enum State {
    /// The file is being read. The stamp is from the start of this read.
    Reading(Stamp, Reader<Bytes<Arc<File>>>),
    /// The end has been reached for now, with the apparent damage there. The stamp is `None` before
    /// the first read.
    Waiting(Option<Stamp>, Option<Fault>),
    Over,
}

/// Properties that change when a file is written to.
#[derive(PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified: Option<SystemTime>,
}

impl Followed {
    /// Opens the file; frames longer than `limit` are skipped. An error carries [`ExitWith`].
    pub fn open(path: &Path, limit: u32) -> anyhow::Result<Self> {
        let path = path.to_path_buf();
        Ok(Self {
            file: Arc::new(open(&path).1?),
            path,
            limit,
            read: 0,
            has_events: false,
            from: Place::default(),
            state: State::Waiting(None, None),
        })
    }

    /// Returns whether the end of the file has been reached for now.
    pub const fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting(..))
    }

    /// Returns whether nothing more will come.
    pub const fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    fn stamp(&self) -> Result<Stamp, Fault> {
        let metadata = self.file.metadata().map_err(|error| self.failed(error))?;
        Ok(Stamp {
            size: metadata.len(),
            modified: metadata.modified().ok(),
        })
    }

    /// Returns whether another file has the name now.
    fn is_replaced(&self) -> bool {
        let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let named = fs::metadata(&self.path).map(identity).ok();
        named.is_some() && named != self.file.metadata().map(identity).ok()
    }

    /// At the end of the file, checks whether there is more to read.
    fn look(&mut self) -> Result<(), Fault> {
        // The order matters: once a file has been replaced, nothing more is added to it.
        let replaced = self.is_replaced();
        let now = self.stamp()?;
        let State::Waiting(before, fault) = &mut self.state else {
            return Ok(());
        };
        if before.as_ref() != Some(&now) {
            return self.begin(now);
        }
        if let Some(fault) = fault.take() {
            return Err(fault);
        }
        if replaced {
            *self = Self::open(&self.path, self.limit).map_err(Fault::Unread)?;
            return self.begin(self.stamp()?);
        }
        Ok(())
    }

    /// Begins to read behind what was read.
    fn begin(&mut self, now: Stamp) -> Result<(), Fault> {
        if now.size < self.from.file {
            (self.read, self.from) = (0, Place::default());
        }
        // There may be too few bytes yet to recognise the compression.
        let Some(bytes) = self.bytes()? else {
            self.state = State::Waiting(Some(now), None);
            return Ok(());
        };
        let compressed = bytes.is_compressed();
        let [first, other] = if self.read > 0 && self.has_events {
            [EVENT_CONTENT_TYPE, DNSTAP_CONTENT_TYPE]
        } else {
            [DNSTAP_CONTENT_TYPE, EVENT_CONTENT_TYPE]
        };
        let decoder = match self.read {
            0 => Decoder::new(first),
            read => Decoder::resume(first, read),
        };
        let decoder = decoder.or_content_type(other).max_data_frame(self.limit);
        let reader = Reader::with_decoder(bytes, decoder);
        self.state = match reader {
            Ok(reader) => State::Reading(now, reader),
            Err(error) => State::Waiting(Some(now), self.fault(error, compressed)),
        };
        Ok(())
    }

    /// Passes on the next row, if there is one.
    fn row(&mut self, take: &mut dyn FnMut(Item<'_>)) {
        let State::Reading(_, reader) = &mut self.state else {
            return;
        };
        let error = match reader.next_row() {
            Ok(Some(row)) => {
                self.has_events = reader.content_type() == EVENT_CONTENT_TYPE;
                take(if self.has_events {
                    Item::EventRow(&self.path, &row)
                } else {
                    Item::Row(&self.path, &row)
                });
                self.read = row.offset + row.frames.bytes.len() as u64;
                return;
            }
            // No writer writes such a large length temporarily.
            Err(error) if skip_long(reader, &error) => {
                take(Item::Fault(&self.path, Fault::TooLong(error)));
                self.read = reader.offset();
                return;
            }
            Ok(None) => None,
            Err(error) => Some(error),
        };
        let compressed = reader.source().is_compressed();
        self.from = reader.source().last_before(self.read).unwrap_or(self.from);
        let fault = error.and_then(|error| self.fault(error, compressed));
        if let State::Reading(before, _) = mem::replace(&mut self.state, State::Over) {
            self.state = State::Waiting(Some(before), fault);
        }
    }

    /// Returns the bytes behind what was read; `None` if there are too few to recognise the
    /// compression.
    fn bytes(&self) -> Result<Option<Bytes<Arc<File>>>, Fault> {
        let format = self.format().map_err(|error| self.failed(error))?;
        let Some(format) = format else {
            return Ok(None);
        };
        if !matches!(format, Format::Plain | Format::Zstd) {
            let (path, name) = (named(&self.path), format.name());
            let text = format!(
                "{path} is compressed by {name}, which cannot be followed; plain files and those compressed by zstd can"
            );
            return Err(Fault::Unread(anyhow!(ExitWith(Exit::Usage, text))));
        }
        let bytes = self.resume(format).map_err(|error| self.failed(error))?;
        Ok(Some(bytes))
    }

    fn format(&self) -> io::Result<Option<Format>> {
        (&*self.file).seek(SeekFrom::Start(0))?;
        Format::of(&*self.file)
    }

    fn resume(&self, format: Format) -> io::Result<Bytes<Arc<File>>> {
        (&*self.file).seek(SeekFrom::Start(self.from.file))?;
        let mut bytes = Bytes::resume(Arc::clone(&self.file), format, self.from)?;
        let known = self.read - self.from.plain;
        io::copy(&mut (&mut bytes).take(known), &mut io::sink())?;
        Ok(bytes)
    }

    fn failed(&self, error: io::Error) -> Fault {
        Fault::cannot_read(&self.path, error)
    }

    /// Converts an error to a fault; `None` if the file just ends there for now.
    fn fault(&self, error: ReadError, compressed: bool) -> Option<Fault> {
        match error {
            ReadError::Unfinished { .. } => None,
            ReadError::Io { source, .. } if source.kind() == ErrorKind::UnexpectedEof => None,
            error => Some(Fault::of(&self.path, error, compressed)),
        }
    }
}

impl Source for Followed {
    /// Returns none: one cannot wait for a file to grow, so the caller has to drain it now and
    /// then.
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    /// Passes on the next row of frames, or the next fault.
    fn drain(&mut self, last: bool, take: &mut dyn FnMut(Item<'_>)) {
        if self.is_waiting()
            && let Err(fault) = self.look()
        {
            self.state = State::Over;
            return take(Item::Fault(&self.path, fault));
        }
        self.row(take);
        while last && matches!(self.state, State::Reading(..)) {
            self.row(take);
        }
    }

    fn stop(&mut self) {
        self.state = State::Over;
    }
}

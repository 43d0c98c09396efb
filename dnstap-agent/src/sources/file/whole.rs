//! Reading of files one after the other, each from its beginning to its end.

use std::{
    fs::File,
    io::Read,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
};

use dnstap_proto::frame_streams::{DNSTAP_CONTENT_TYPE, Decoder, EVENT_CONTENT_TYPE, Reader};

use super::{
    Fault, Opened,
    bytes::{Bytes, skip_long},
};
use crate::sources::{Item, Source};

/// Files to read. Each is opened by the iterator when it is next.
pub struct Files<'a> {
    inputs: Box<dyn Iterator<Item = Opened> + 'a>,
    /// Wrapper of each file's bytes, such as a counter.
    through: Box<dyn Fn(File) -> Box<dyn Read> + 'a>,
    /// Bytes of the longest frame.
    limit: u32,
    /// Whether files may hold events.
    with_events: bool,
    current: Option<Current>,
    is_over: bool,
}

struct Current {
    path: PathBuf,
    reader: Reader<Bytes<Box<dyn Read>>>,
    compressed: bool,
}

impl<'a> Files<'a> {
    /// Creates the source. Frames longer than `limit` are skipped.
    pub fn new(
        inputs: impl Iterator<Item = Opened> + 'a,
        through: impl Fn(File) -> Box<dyn Read> + 'a,
        limit: u32,
    ) -> Self {
        Self {
            inputs: Box::new(inputs),
            through: Box::new(through),
            limit,
            with_events: false,
            current: None,
            is_over: false,
        }
    }

    /// Also accepts files of events.
    #[must_use]
    pub fn with_events(mut self) -> Self {
        self.with_events = true;
        self
    }

    /// Returns whether all files have been read.
    pub const fn is_over(&self) -> bool {
        self.is_over
    }

    fn begin(&self, path: &Path, file: File) -> Result<Current, Fault> {
        let bytes = Bytes::open((self.through)(file));
        let bytes = bytes.map_err(|error| Fault::cannot_read(path, error))?;
        let compressed = bytes.is_compressed();
        let mut decoder = Decoder::new(DNSTAP_CONTENT_TYPE).max_data_frame(self.limit);
        if self.with_events {
            decoder = decoder.or_content_type(EVENT_CONTENT_TYPE);
        }
        let reader = Reader::with_decoder(bytes, decoder);
        Ok(Current {
            path: path.to_path_buf(),
            reader: reader.map_err(|error| Fault::of(path, error, compressed))?,
            compressed,
        })
    }

    fn one(&mut self, take: &mut dyn FnMut(Item<'_>)) {
        let Some(Current {
            path,
            reader,
            compressed,
        }) = &mut self.current
        else {
            return match self.inputs.next() {
                Some((path, opened)) => {
                    let begun = opened.map_err(Fault::Unread);
                    match begun.and_then(|file| self.begin(&path, file)) {
                        Ok(begun) => self.current = Some(begun),
                        Err(fault) => take(Item::Fault(&path, fault)),
                    }
                }
                None => self.is_over = true,
            };
        };
        match reader.next_row() {
            Ok(Some(row)) if reader.content_type() == EVENT_CONTENT_TYPE => {
                take(Item::EventRow(path, &row));
            }
            Ok(Some(row)) => take(Item::Row(path, &row)),
            Err(error) if skip_long(reader, &error) => {
                take(Item::Fault(path, Fault::TooLong(error)));
            }
            Err(error) => {
                take(Item::Fault(path, Fault::of(path, error, *compressed)));
                self.current = None;
            }
            Ok(None) => self.current = None,
        }
    }
}

impl Source for Files<'_> {
    /// Returns none: a file is always ready.
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    /// Passes on the next row of frames, or the next fault.
    fn drain(&mut self, last: bool, take: &mut dyn FnMut(Item<'_>)) {
        loop {
            self.one(take);
            if !last || self.is_over {
                return;
            }
        }
    }

    fn stop(&mut self) {
        self.is_over = true;
    }
}

//! Handling of each frame: it is parsed in place, and only if it passes the filter it is printed or
//! counted.

use std::{
    fmt,
    io::{self, Write},
    path::Path,
};

use dnstap_core::{
    events::EventKind,
    model::{KindCounts, long_name},
};
use dnstap_proto::{
    Dnstap, Event, View,
    frame_streams::{ReadError, Row},
    lenient,
};
use prost::{DecodeError, Message as _};

use super::{Damage, Outcome};
use crate::{
    commands::progress::Progress,
    formats::{Encoder, counted},
    select::Filter,
    sources::{
        Item, Source,
        file::{Fault, named},
    },
};

/// Number of skipped frames that are reported one by one.
const TOLD: u64 = 100;

/// Size at which collected output is written.
const CHUNK: usize = 64 * 1024;

/// Reasons to stop.
pub(super) enum Stop {
    /// The consumer needs no more.
    Enough,
    Input(anyhow::Error),
    Output(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// Receives each message that passes the filter, and `None` for each frame without a message.
/// Returns false if it needs no more.
pub(in crate::commands) type Consumer<'a> = dyn FnMut(Option<&Dnstap>) -> bool + 'a;

/// Destination of warnings.
pub(in crate::commands) trait Warn {
    /// Writes a warning as a line.
    fn warn(&mut self, message: &str);
}

/// A warning that cannot be written is lost; the outcome still records the problem.
impl<W: Write> Warn for W {
    fn warn(&mut self, message: &str) {
        writeln!(self, "dnstap-agent: warning: {message}").ok();
    }
}

/// Prints or counts frames.
pub(super) struct Printer<'a> {
    output: &'a mut dyn Write,
    warnings: &'a mut dyn Warn,
    filter: Filter,
    /// Encoder of the output format; `None`: only count.
    encoder: Option<Encoder>,
    /// Whether there is only one file.
    pub(super) is_only: bool,
    /// Receives the messages instead of the output.
    pub(super) consumer: Option<&'a mut Consumer<'a>>,
    pub(super) progress: Progress,
    /// Output that is not yet written.
    content: Vec<u8>,
    counts: KindCounts,
    /// Events by kind.
    events: [u64; EventKind::ALL.len()],
    pub(super) outcome: Outcome,
}

impl<'a> Printer<'a> {
    pub(super) fn new(
        output: &'a mut dyn Write,
        warnings: &'a mut dyn Warn,
        filter: Filter,
        encoder: Option<Encoder>,
    ) -> Self {
        Self {
            output,
            warnings,
            filter,
            content: encoder.as_ref().map(Encoder::head).unwrap_or_default(),
            encoder,
            is_only: true,
            consumer: None,
            progress: Progress::none(),
            counts: KindCounts::default(),
            events: [0; EventKind::ALL.len()],
            outcome: Outcome::default(),
        }
    }

    /// Handles the next item of a source of files.
    pub(super) fn next_of(&mut self, source: &mut impl Source) -> Result<(), Stop> {
        let mut done = Ok(());
        source.drain(false, &mut |item| {
            done = match item {
                Item::Row(file, row) => self.row(file, row),
                Item::EventRow(file, row) => self.events(file, row),
                Item::Fault(file, fault) => self.fault(file, fault),
                _ => unreachable!("files have rows and faults"),
            };
        });
        done
    }

    /// Reports a fault and goes on. If the only file cannot be read, returns an error.
    fn fault(&mut self, file: &Path, fault: Fault) -> Result<(), Stop> {
        match fault {
            Fault::TooLong(error) => self.skipped(file, &error),
            Fault::Damaged { error, compressed } => self.damaged(file, error, compressed),
            Fault::Unread(error) if self.is_only => Err(Stop::Input(error)),
            Fault::Unread(error) => {
                self.outcome.unread.push(file.to_path_buf());
                self.warn(format_args!("{error:#}"))
            }
        }
    }

    /// Handles the frames of a row and writes the output, because the next row may take long.
    fn row(&mut self, file: &Path, row: &Row) -> Result<(), Stop> {
        for (offset, payload) in row.payloads() {
            let Some(view) = View::parse(payload) else {
                self.broken(file, offset, payload)?;
                self.consume(None)?;
                continue;
            };
            self.outcome.messages += 1;
            if !self.filter.matches(&view) {
                continue;
            }
            self.outcome.selected += 1;
            if self.consumer.is_some() {
                match lenient::decode(row.frames.bytes.slice_ref(payload)) {
                    Ok(dnstap) => self.consume(Some(&dnstap))?,
                    Err(_) => self.outcome.unfit += 1,
                }
                continue;
            }
            let Some(encoder) = &mut self.encoder else {
                if let Some(kind) = view.kind() {
                    self.counts.count(kind);
                }
                continue;
            };
            let payload = row.frames.bytes.slice_ref(payload);
            if !encoder.frame(&payload, &mut self.content) {
                self.outcome.unfit += 1;
            }
            if self.content.len() >= CHUNK {
                self.flush()?;
            }
        }
        self.progress.messages(self.outcome.messages);
        self.flush()
    }

    /// Handles the events of a row.
    fn events(&mut self, file: &Path, row: &Row) -> Result<(), Stop> {
        for (offset, payload) in row.payloads() {
            let event = match Event::decode(payload) {
                Ok(event) => event,
                Err(error) => {
                    self.broken_event(file, offset, payload, &error)?;
                    continue;
                }
            };
            self.outcome.messages += 1;
            if !self.filter.matches_event(&event) {
                continue;
            }
            self.outcome.selected += 1;
            match &mut self.encoder {
                Some(encoder) => {
                    let is_shown = encoder.event(&event, &mut self.content);
                    self.outcome.unfit += u64::from(!is_shown);
                }
                None => {
                    if let Some(content) = &event.kind {
                        self.events[EventKind::of(content) as usize] += 1;
                    }
                }
            }
            if self.content.len() >= CHUNK {
                self.flush()?;
            }
        }
        self.flush()
    }

    fn broken_event(
        &mut self,
        file: &Path,
        offset: u64,
        payload: &[u8],
        error: &DecodeError,
    ) -> Result<(), Stop> {
        let (name, size) = (named(file), counted(payload.len() as u64, "byte"));
        self.outcome.broken += 1;
        self.skip(format_args!(
            "{name}: skipped the frame at byte {offset} ({size}): no event: {error}"
        ))
    }

    fn consume(&mut self, dnstap: Option<&Dnstap>) -> Result<(), Stop> {
        if let Some(consumer) = &mut self.consumer
            && !consumer(dnstap)
        {
            return Err(Stop::Enough);
        }
        Ok(())
    }

    /// Reports a frame that was skipped because it is longer than the limit.
    fn skipped(&mut self, file: &Path, error: &ReadError) -> Result<(), Stop> {
        let name = named(file);
        self.outcome.long += 1;
        self.skip(format_args!("{name}: skipped the {error} (--max-frame)"))
    }

    fn broken(&mut self, file: &Path, offset: u64, payload: &[u8]) -> Result<(), Stop> {
        let (name, size) = (named(file), counted(payload.len() as u64, "byte"));
        let why = Dnstap::decode(payload)
            .err()
            .map_or_else(String::new, |error| format!(": {error}"));
        self.outcome.broken += 1;
        self.skip(format_args!(
            "{name}: skipped the frame at byte {offset} ({size}){why}"
        ))
    }

    /// Reports a skipped frame, unless there were too many: a damaged file may have one every few
    /// bytes.
    fn skip(&mut self, what: fmt::Arguments<'_>) -> Result<(), Stop> {
        let skipped = self.outcome.skipped();
        if skipped > TOLD {
            return Ok(());
        }
        self.warn(what)?;
        if skipped == TOLD {
            self.warn(format_args!(
                "further frames that are skipped are only counted"
            ))?;
        }
        Ok(())
    }

    /// Reports why a stream ended too early.
    fn damaged(&mut self, file: &Path, error: ReadError, compressed: bool) -> Result<(), Stop> {
        let name = named(file);
        let decompressed = if compressed { " (decompressed)" } else { "" };
        let truncated = |offset| Damage::Truncated {
            file: file.to_path_buf(),
            offset,
        };
        let malformed = |offset| Damage::Malformed {
            file: file.to_path_buf(),
            offset,
        };
        let damage = match error {
            ReadError::Unfinished { offset, .. } => truncated(offset),
            ReadError::Io { source, offset } if source.kind() == io::ErrorKind::UnexpectedEof => {
                truncated(offset)
            }
            ReadError::Malformed(error) => {
                self.warn(format_args!(
                    "{name}: not Frame Streams of dnstap from byte {}{decompressed} on: {}",
                    error.offset, error.kind
                ))?;
                malformed(error.offset)
            }
            ReadError::Io { source, offset } => {
                self.warn(format_args!(
                    "{name}: cannot be decompressed from byte {offset}{decompressed} on: {source}"
                ))?;
                malformed(offset)
            }
        };
        if let Damage::Truncated { offset, .. } = damage {
            self.warn(format_args!(
                "{name}: cut off at byte {offset}{decompressed}, or still being written; everything before is whole"
            ))?;
        }
        self.outcome.damaged.push(damage);
        Ok(())
    }

    /// Writes the end of the output.
    pub(super) fn finish(&mut self) -> Result<(), Stop> {
        match &mut self.encoder {
            Some(encoder) => self.content.extend(encoder.foot()),
            None => self.print_counts()?,
        }
        self.flush()?;
        let (skipped, unfit) = (self.outcome.skipped(), self.outcome.unfit);
        if skipped > TOLD {
            self.warn(format_args!("{skipped} frames were skipped in all"))?;
        }
        if unfit > 0 {
            let left_out = counted(unfit, "message");
            self.warn(format_args!(
                "{left_out} left out: events, or without a DNS message, or with one that no packet can hold"
            ))?;
        }
        Ok(())
    }

    fn print_counts(&mut self) -> io::Result<()> {
        for (kind, count) in self.counts.iter() {
            writeln!(self.content, "{} {count}", long_name(kind))?;
        }
        for (kind, count) in EventKind::ALL.iter().zip(self.events) {
            if count > 0 {
                writeln!(self.content, "{} {count}", kind.name())?;
            }
        }
        let events: u64 = self.events.iter().sum();
        let other = self.outcome.selected - self.counts.total() - events;
        if other > 0 {
            writeln!(self.content, "other {other}")?;
        }
        writeln!(self.content, "total {}", self.outcome.selected)
    }

    /// Writes all collected output.
    pub(super) fn flush(&mut self) -> Result<(), Stop> {
        let result = self
            .output
            .write_all(&self.content)
            .and_then(|()| self.output.flush());
        self.content.clear();
        result.map_err(Stop::Output)
    }

    /// Writes a warning after the output that it refers to.
    fn warn(&mut self, message: fmt::Arguments<'_>) -> Result<(), Stop> {
        self.flush()?;
        let warnings = &mut self.warnings;
        self.progress.aside(|| warnings.warn(&message.to_string()));
        Ok(())
    }
}

//! `dnstap-agent read`: prints Frame Streams files with dnstap, of this agent or any other program,
//! as text, JSON, packets or counts.
//!
//! ```text
//! file ─► source (decompressed frames) ─► filter ─► content ─► standard output
//! ```
//!
//! A file that was cut off (its writer died, the disk was full) is printed up to its last whole
//! frame. A frame that is no dnstap message is reported with its offset and skipped. Both go to
//! standard error and into the [`Outcome`], and the caller chooses the exit code. When the reader
//! of standard output goes away, the command ends quietly.

mod follow;
mod printer;

use std::{
    fs::File,
    io::{self, ErrorKind, IsTerminal as _, Write},
    os::fd::AsFd as _,
    path::PathBuf,
};

use anyhow::{Context as _, Result, anyhow};
use clap::ColorChoice;

pub(super) use self::printer::{Consumer, Warn};
use self::{
    follow::{Signals, follow},
    printer::{Printer, Stop},
};
use super::progress::Progress;
use crate::{
    cli::{Read as Options, YamlStyle},
    formats::Encoder,
    host::exit::{Exit, ExitWith},
    select::Filter,
    sources::file::{self, Files, Opened},
};

/// Result of reading.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Frames that hold a dnstap message.
    pub messages: u64,
    /// Of these: messages that pass the filter.
    pub selected: u64,
    /// Of the selected messages: those that the format cannot show.
    pub unfit: u64,
    /// Frames that hold no dnstap message; they were reported and skipped.
    pub broken: u64,
    /// Frames that are longer than the limit; they were reported and skipped.
    pub long: u64,
    /// Files that end before STOP, or are no Frame Streams from some offset on, in their order.
    pub damaged: Vec<Damage>,
    /// Files that could not be opened or read; the other files were read.
    pub unread: Vec<PathBuf>,
    /// Whether the reader of standard output went away before the end.
    pub output_closed: bool,
}

impl Outcome {
    fn skipped(&self) -> u64 {
        self.broken + self.long
    }

    /// Returns the exit code: [`Exit::NoInput`] if a file could not be read, otherwise
    /// [`Exit::Data`] if one was damaged or a frame was skipped. It is [`Exit::Ok`] if all files
    /// were read to their end, or the reader of the output went away before.
    #[must_use]
    pub(super) fn exit(&self) -> Exit {
        if !self.unread.is_empty() {
            Exit::NoInput
        } else if self.skipped() > 0 || !self.damaged.is_empty() {
            Exit::Data
        } else {
            Exit::Ok
        }
    }
}

/// Damage of a file. Everything before it was printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Damage {
    /// The file ends there: it was cut off, or is still being written.
    Truncated {
        /// Path as the user named it.
        file: PathBuf,
        /// Bytes of the file that are whole frames.
        offset: u64,
    },
    /// The bytes that follow are no frame.
    Malformed {
        /// Path as the user named it.
        file: PathBuf,
        /// Bytes of the file that are whole frames.
        offset: u64,
    },
}

/// Prints the files to standard output and the warnings to standard error.
///
/// # Errors
///
/// Fails if the only file cannot be opened or read (of several files, the others are read), or if
/// writing fails for another reason than that the reader went away. The error carries [`ExitWith`].
pub(super) fn run(args: &Options) -> Result<Outcome> {
    let terminal = io::stdout().is_terminal();
    if args.format.is_binary() && terminal {
        return Err(anyhow!(ExitWith(
            Exit::Usage,
            "this format is not for a terminal; send it to a file or another program".to_owned(),
        )));
    }
    let colours = match args.colour {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => {
            terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        }
    };
    // The standard library's own buffer would look for ends of lines.
    let mut output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    print(args, colours, &mut output, &mut io::stderr())
}

/// Reads the files for another purpose than printing. Frames longer than `limit` are skipped. Ends
/// when all files have been read, or when `take` needs no more. Fails like [`run`].
pub(super) fn consume(
    inputs: impl ExactSizeIterator<Item = Opened>,
    limit: u32,
    filter: Filter,
    progress: Progress,
    warnings: &mut dyn Warn,
    take: &mut Consumer<'_>,
) -> Result<Outcome> {
    let mut output = io::sink();
    let mut printer = Printer::new(&mut output, warnings, filter, None);
    printer.consumer = Some(take);
    printer.progress = progress;
    printer.is_only = inputs.len() == 1;
    let files = Files::new(inputs, printer.progress.counter(), limit);
    match print_files(files, &mut printer) {
        Ok(()) | Err(Stop::Enough) => Ok(printer.outcome),
        Err(Stop::Input(error)) => Err(error),
        Err(Stop::Output(error)) => unreachable!("a sink takes everything: {error}"),
    }
}

fn print(
    args: &Options,
    colours: bool,
    output: &mut dyn Write,
    warnings: &mut dyn Warn,
) -> Result<Outcome> {
    let encoder = (!args.count).then(|| {
        let mut encoder = Encoder::new(args.format, colours);
        if args.show_identity {
            encoder = encoder.with_identity();
        }
        if args.yaml_style == Some(YamlStyle::Bind) {
            encoder = encoder.with_bind_yaml();
        }
        encoder
    });
    let mut printer = Printer::new(output, warnings, args.select.compile(), encoder);
    if !args.follow && is_written_to_file() {
        printer.progress = Progress::over(&args.files);
    }
    let done = read_all(args, &mut printer).and_then(|()| printer.finish());
    match done {
        Ok(()) | Err(Stop::Enough) => {}
        Err(Stop::Output(error)) if error.kind() == ErrorKind::BrokenPipe => {
            printer.outcome.output_closed = true;
        }
        Err(Stop::Output(error)) => {
            return Err(error).context(ExitWith(
                Exit::Output,
                "cannot write to standard output".to_owned(),
            ));
        }
        Err(Stop::Input(error)) => {
            // The messages that were read before the error are still printed.
            return Err(match printer.flush() {
                Err(Stop::Output(output)) if output.kind() != ErrorKind::BrokenPipe => {
                    error.context(output)
                }
                _ => error,
            });
        }
    }
    Ok(printer.outcome)
}

/// Returns whether standard output is a file. If it is a pipe, progress could mix with the display
/// of another program, such as `less`.
fn is_written_to_file() -> bool {
    let output = io::stdout().as_fd().try_clone_to_owned().map(File::from);
    let metadata = output.and_then(|output| output.metadata());
    metadata.is_ok_and(|metadata| metadata.is_file())
}

fn read_all(args: &Options, printer: &mut Printer<'_>) -> Result<(), Stop> {
    let limit = args.frames.in_files();
    if args.follow {
        let signals = Signals::new()
            .context("cannot wait for signals")
            .map_err(Stop::Input)?;
        return follow(&args.files[0], limit, printer, |patience| {
            signals.none_within(patience)
        });
    }
    printer.is_only = args.files.len() == 1;
    let inputs = args.files.iter().map(file::open);
    let files = Files::new(inputs, printer.progress.counter(), limit);
    print_files(files.with_events(), printer)
}

fn print_files(mut files: Files<'_>, printer: &mut Printer<'_>) -> Result<(), Stop> {
    while !files.is_over() {
        printer.next_of(&mut files)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;

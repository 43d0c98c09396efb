//! Owns `dnstap-agent read`: prints Frame Streams files of dnstap, this agent's or any other's, as text, JSON or counts.
//!
//! A file that was cut off (its writer died, the disk was full) is printed up to its last whole frame; a frame that is not a
//! dnstap message is reported with its offset and skipped. Both go to standard error and into the [`Outcome`]: the caller
//! chooses the exit code. When the reader of standard output goes away, it ends quietly.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, ErrorKind, Read, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use dnstap_proto::{
    Dnstap,
    frame_streams::{DNSTAP_CONTENT_TYPE, ReadError, Reader},
    message::Type,
};
use prost::Message as _;

use crate::{
    content::Content,
    exit::{Exit, ExitWith},
    render::{KindCounts, Renderer},
};

/// Lines are collected up to this many bytes before they are written.
const CHUNK: usize = 64 * 1024;

/// Print dnstap files.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Frame Streams files of dnstap; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// How each message is printed: a readable line, or a JSON object on a line
    #[arg(long, value_enum, default_value_t = Content::Text)]
    pub format: Content,

    /// Print only how many messages of each type there are
    #[arg(short, long, conflicts_with = "format")]
    pub count: bool,
}

/// How reading ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Frames that hold a dnstap message.
    pub messages: u64,
    /// Frames that do not; they were reported and skipped.
    pub broken: u64,
    /// Files that end before STOP, or from some offset on are no Frame Streams, in their order.
    pub damaged: Vec<Damage>,
    /// The reader of standard output went away before the end.
    pub output_closed: bool,
}

impl Outcome {
    /// All files were read to their end, and every frame held a message (or nobody wanted to see the rest).
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.broken == 0 && self.damaged.is_empty()
    }
}

/// Where a file stopped making sense; everything before was printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    /// The file ends there: cut off, or still being written.
    Truncated {
        /// As it was named.
        file: PathBuf,
        /// Bytes of the file that are whole frames.
        offset: u64,
    },
    /// What follows is no frame.
    Malformed {
        /// As it was named.
        file: PathBuf,
        /// Bytes of the file that are whole frames.
        offset: u64,
    },
}

/// Prints the files to standard output and the warnings to standard error.
///
/// An error is a file that cannot be opened or read, or an output that fails otherwise than by its reader going away.
/// It carries [`ExitWith`].
pub fn run(args: &Args) -> Result<Outcome> {
    let mut warnings = io::stderr();
    print(args, &mut io::stdout().lock(), &mut warnings)
}

fn print(args: &Args, output: &mut impl Write, warnings: &mut impl Write) -> Result<Outcome> {
    let mut printer = Printer {
        output,
        lines: Vec::with_capacity(2 * CHUNK),
        renderer: (!args.count).then(|| Renderer::new(args.format, false)),
        counts: KindCounts::default(),
        outcome: Outcome::default(),
    };
    let ended = args
        .files
        .iter()
        .try_for_each(|file| printer.file(file, warnings));
    let ended = ended
        .and_then(|()| {
            if args.count {
                printer.print_counts()
            } else {
                Ok(())
            }
        })
        .and_then(|()| printer.flush());
    match ended {
        Ok(()) => {}
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
            // What was read before belongs to the user all the same.
            let flushed = printer.flush();
            return Err(match flushed {
                Err(Stop::Output(output)) if output.kind() != ErrorKind::BrokenPipe => {
                    error.context(output)
                }
                _ => error,
            });
        }
    }
    Ok(printer.outcome)
}

/// Why it cannot go on.
enum Stop {
    Input(anyhow::Error),
    Output(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

struct Printer<'a, W> {
    output: &'a mut W,
    /// Rendered and not yet written.
    lines: Vec<u8>,
    /// None: only count.
    renderer: Option<Renderer>,
    counts: KindCounts,
    outcome: Outcome,
}

impl<W: Write> Printer<'_, W> {
    fn file(&mut self, file: &Path, warnings: &mut impl Write) -> Result<(), Stop> {
        if file.as_os_str() == OsStr::new("-") {
            return self.stream(file, io::stdin().lock(), warnings);
        }
        let source = File::open(file)
            .with_context(|| ExitWith(Exit::NoInput, format!("cannot open {}", file.display())))
            .map_err(Stop::Input)?;
        self.stream(file, source, warnings)
    }

    fn stream(
        &mut self,
        file: &Path,
        source: impl Read,
        warnings: &mut impl Write,
    ) -> Result<(), Stop> {
        let end = match Reader::new(source, DNSTAP_CONTENT_TYPE) {
            Ok(mut reader) => self.frames(file, &mut reader, warnings)?,
            Err(error) => Some(error),
        };
        let Some(error) = end else { return Ok(()) };
        let name = file.display();
        let damage = match error {
            ReadError::Unfinished { offset, .. } => {
                self.flush()?; // so that the warning comes after what it is about
                warn(
                    warnings,
                    format_args!(
                        "{name}: cut off at byte {offset}, or still being written; everything before is whole"
                    ),
                );
                Damage::Truncated {
                    file: file.to_path_buf(),
                    offset,
                }
            }
            ReadError::Malformed(error) => {
                self.flush()?;
                warn(
                    warnings,
                    format_args!(
                        "{name}: not Frame Streams of dnstap from byte {} on: {}",
                        error.offset, error.kind
                    ),
                );
                Damage::Malformed {
                    file: file.to_path_buf(),
                    offset: error.offset,
                }
            }
            ReadError::Io { source, offset } => {
                let message = format!("cannot read {name} from byte {offset} on");
                return Err(Stop::Input(
                    anyhow::Error::from(source).context(ExitWith(Exit::NoInput, message)),
                ));
            }
        };
        self.outcome.damaged.push(damage);
        Ok(())
    }

    /// Prints every frame; gives the error at which the stream ended, if it did not end with STOP.
    fn frames<R: Read>(
        &mut self,
        file: &Path,
        reader: &mut Reader<R>,
        warnings: &mut impl Write,
    ) -> Result<Option<ReadError>, Stop> {
        loop {
            let frame = match reader.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => return Ok(None),
                Err(error) => return Ok(Some(error)),
            };
            let size = frame.payload.len();
            match Dnstap::decode(frame.payload) {
                Ok(dnstap) => self.message(&dnstap)?,
                Err(error) => {
                    self.outcome.broken += 1;
                    self.flush()?;
                    let (name, offset) = (file.display(), frame.offset);
                    warn(
                        warnings,
                        format_args!(
                            "{name}: skipped the frame at byte {offset} ({size} bytes): {error}"
                        ),
                    );
                }
            }
        }
    }

    fn message(&mut self, dnstap: &Dnstap) -> Result<(), Stop> {
        self.outcome.messages += 1;
        if let Some(kind) = dnstap
            .message
            .as_ref()
            .and_then(|message| Type::try_from(message.r#type).ok())
        {
            self.counts.count(kind);
        }
        if let Some(renderer) = &mut self.renderer {
            renderer.message(dnstap, &mut self.lines);
            if self.lines.len() >= CHUNK {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn print_counts(&mut self) -> Result<(), Stop> {
        for (kind, count) in self.counts.iter() {
            writeln!(self.lines, "{} {count}", crate::render::long_name(kind))?;
        }
        let other = self.outcome.messages - self.counts.total();
        if other > 0 {
            writeln!(self.lines, "other {other}")?;
        }
        writeln!(self.lines, "total {}", self.outcome.messages)?;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Stop> {
        let result = self
            .output
            .write_all(&self.lines)
            .and_then(|()| self.output.flush());
        self.lines.clear();
        result.map_err(Stop::Output)
    }
}

/// A warning that cannot be written is lost; the outcome still has it.
fn warn(warnings: &mut impl Write, message: std::fmt::Arguments<'_>) {
    writeln!(warnings, "dnstap-agent: warning: {message}").ok();
}

#[cfg(test)]
mod tests {
    use std::fs;

    use dnstap_proto::{DnstapRef, MessageRef, frame_streams::Writer};
    use rstest::rstest;

    use super::*;

    const LINE: &str = "- CQ -:- -> -:- - - no DNS message\n";
    /// START, then each frame: length, type CQ in a message, type MESSAGE.
    const START: u64 = 42;
    const FRAME: u64 = 4 + 6;

    #[test]
    fn whole_files_are_printed_one_after_the_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let (one, two) = (
            written(folder.path(), "one", &[true; 2]),
            written(folder.path(), "two", &[true; 3]),
        );
        let (outcome, output, warnings) = printed(&args(vec![one, two], false));
        assert_eq!(
            outcome.expect("readable"),
            Outcome {
                messages: 5,
                ..Outcome::default()
            }
        );
        assert_eq!(
            (output.as_str(), warnings.as_str()),
            (LINE.repeat(5).as_str(), "")
        );
    }

    #[rstest]
    #[case(0, 2)]
    #[case(5, 2)]
    #[case(FRAME - 1, 2)]
    fn a_cut_file_is_printed_up_to_the_cut_and_the_offset_is_told(
        #[case] rest: u64,
        #[case] whole: u64,
    ) {
        let folder = tempfile::tempdir().expect("a folder");
        let file = written(folder.path(), "cut", &[true; 3]);
        let offset = START + whole * FRAME;
        File::options()
            .write(true)
            .open(&file)
            .and_then(|opened| opened.set_len(offset + rest))
            .expect("cut");
        let (outcome, output, warnings) = printed(&args(vec![file.clone()], false));
        let outcome = outcome.expect("readable");
        assert_eq!(outcome.damaged, [Damage::Truncated { file, offset }]);
        assert!(!outcome.is_complete());
        assert_eq!(output, LINE.repeat(2));
        assert!(
            warnings.contains(&format!("cut off at byte {offset}")),
            "{warnings}"
        );
    }

    #[test]
    fn a_broken_frame_is_told_with_its_offset_and_skipped() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = written(folder.path(), "broken", &[true, false, true]);
        let (outcome, output, warnings) = printed(&args(vec![file], false));
        assert_eq!(
            outcome.expect("readable"),
            Outcome {
                messages: 2,
                broken: 1,
                ..Outcome::default()
            }
        );
        assert_eq!(output, LINE.repeat(2));
        assert!(
            warnings.contains(&format!("the frame at byte {} (3 bytes)", START + FRAME)),
            "{warnings}"
        );
    }

    #[test]
    fn another_kind_of_file_is_told_and_the_next_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let other = folder.path().join("other");
        fs::write(&other, "zone file").expect("written");
        let good = written(folder.path(), "good", &[true]);
        let (outcome, output, warnings) = printed(&args(vec![other.clone(), good], false));
        assert_eq!(
            outcome.expect("readable").damaged,
            [Damage::Malformed {
                file: other,
                offset: 0
            }]
        );
        assert_eq!(output, LINE);
        assert!(warnings.contains("not a Frame Streams file"), "{warnings}");
    }

    #[test]
    fn counts_are_by_type() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = written(folder.path(), "file", &[true; 3]);
        let (_, output, _) = printed(&args(vec![file], true));
        assert_eq!(output, "CLIENT_QUERY 3\ntotal 3\n");
    }

    #[test]
    fn a_missing_file_is_an_error_with_its_own_exit_code() {
        let (outcome, _, _) = printed(&args(vec!["/no/such/file".into()], false));
        let error = outcome.expect_err("not there");
        assert_eq!(Exit::of(&error), Exit::NoInput);
        assert!(
            format!("{error:#}").contains("cannot open /no/such/file: No such file"),
            "{error:#}"
        );
    }

    #[rstest]
    #[case(ErrorKind::BrokenPipe, true)]
    #[case(ErrorKind::StorageFull, false)]
    fn a_reader_that_went_away_is_a_quiet_end_and_a_full_disk_is_not(
        #[case] kind: ErrorKind,
        #[case] quiet: bool,
    ) {
        struct Failing(ErrorKind);
        impl Write for Failing {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(self.0.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let folder = tempfile::tempdir().expect("a folder");
        let file = written(folder.path(), "file", &[true; 3]);
        match print(
            &args(vec![file], false),
            &mut Failing(kind),
            &mut Vec::new(),
        ) {
            Ok(outcome) => assert!(quiet && outcome.output_closed && outcome.is_complete()),
            Err(error) => assert!(!quiet && Exit::of(&error) == Exit::Output, "{error:#}"),
        }
    }

    /// A file with a message (true) or something else (false) in each frame.
    fn written(folder: &Path, name: &str, frames: &[bool]) -> PathBuf {
        let file = folder.join(name);
        let mut writer = Writer::new(File::create(&file).expect("created"), DNSTAP_CONTENT_TYPE)
            .expect("written");
        for good in frames {
            let mut payload = Vec::new();
            let message = MessageRef::new(Type::ClientQuery);
            DnstapRef {
                identity: None,
                version: None,
                extra: None,
                message,
            }
            .encode(&mut payload);
            writer
                .write_frame(if *good { &payload } else { b"\xff\xff\xff" })
                .expect("written");
        }
        writer.finish().expect("written");
        file
    }

    fn args(files: Vec<PathBuf>, count: bool) -> Args {
        Args {
            files,
            format: Content::Text,
            count,
        }
    }

    fn printed(args: &Args) -> (Result<Outcome>, String, String) {
        let (mut output, mut warnings) = (Vec::new(), Vec::new());
        let outcome = print(args, &mut output, &mut warnings);
        (
            outcome,
            String::from_utf8(output).expect("ASCII"),
            String::from_utf8(warnings).expect("ASCII"),
        )
    }
}

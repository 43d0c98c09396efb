//! Owns the following of a file that is being written: what has been read stays read, whatever happens to the file's end.
//!
//! The end of a file is never final here. This agent's own files have an end mark at every moment, which the next messages overwrite, and
//! so does each compressed piece; so every look at the file begins again behind the last whole message. What looks
//! damaged is believed only once the file has stopped changing: it may have been read while it was written.
//!
//! A file that was replaced (rotation) is read to its end, and then its successor from the beginning; one that was cut is begun anew.

use std::{
    convert::Infallible,
    fs::{self, File},
    io::{self, ErrorKind, Read as _, Seek as _, SeekFrom},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, SystemTime},
};

use anyhow::anyhow;
use dnstap_proto::frame_streams::{DNSTAP_CONTENT_TYPE, ReadError, Reader};

use super::{
    named, open,
    printer::{Printer, Stop},
};
use crate::{
    host::{
        exit::{Exit, ExitWith},
        shutdown::Shutdown,
    },
    sources::file::{Format, Place, Source, skip_long},
};

/// How often the file is looked at.
const PAUSE: Duration = Duration::from_millis(100);

/// Tells when it is time to end.
///
/// The first SIGINT or SIGTERM ends it in order, with everything that belongs to the end of what was printed. That has to wait until what is
/// being written is taken; who does not want to wait sends a second one, which ends the process at once.
pub(super) struct Signals {
    /// Nothing is ever sent: it closes with the first signal.
    first: mpsc::Receiver<Infallible>,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let within = runtime.enter();
        let mut shutdown = Shutdown::listen()?;
        drop(within);
        let (waiting, first) = mpsc::channel();
        // A thread of its own, because this one may be where only the reader of standard output can free it.
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                runtime.block_on(shutdown.asked());
                drop(waiting);
                runtime.block_on(shutdown.asked());
                process::exit(Exit::Output as i32);
            })?;
        Ok(Self { first })
    }

    /// False once a signal has come, which is waited for so long.
    pub(super) fn none_within(&self, patience: Duration) -> bool {
        self.first.recv_timeout(patience) == Err(RecvTimeoutError::Timeout)
    }
}

/// Prints what is in the file and what is added to it, until `goes_on` says that it is enough. That is asked between any two rows, and
/// after each look at the file with a pause to wait for; once it has said so, it says so always.
pub(super) fn follow(
    path: &Path,
    max_frame: u32,
    printer: &mut Printer<'_>,
    mut goes_on: impl FnMut(Duration) -> bool,
) -> Result<(), Stop> {
    let mut followed = Followed::open(path.to_path_buf(), max_frame)?;
    loop {
        let before = followed.state()?;
        let fault = followed.print(&before, printer, || goes_on(Duration::ZERO))?;
        printer.flush()?;
        loop {
            if !goes_on(PAUSE) {
                return Ok(());
            }
            // In this order: when it has been replaced, nothing more is added to it.
            let replaced = followed.is_replaced();
            if followed.state()? != before {
                break;
            }
            if let Some((error, compressed)) = fault {
                return printer.ended_by(path, error, compressed);
            }
            if replaced {
                followed = Followed::open(path.to_path_buf(), max_frame)?;
                break;
            }
        }
    }
}

struct Followed {
    path: PathBuf,
    max_frame: u32,
    file: File,
    /// Bytes of the stream that need not be read again.
    read: u64,
    /// Where to begin to read what comes behind them.
    from: Place,
}

/// What changes when a file is written to.
#[derive(PartialEq, Eq)]
struct State {
    size: u64,
    modified: Option<SystemTime>,
}

/// An error of the stream, and whether it was compressed.
type Fault = (ReadError, bool);

impl Followed {
    fn open(path: PathBuf, max_frame: u32) -> Result<Self, Stop> {
        Ok(Self {
            file: open(&path).1.map_err(Stop::Input)?,
            max_frame,
            path,
            read: 0,
            from: Place::default(),
        })
    }

    fn state(&self) -> Result<State, Stop> {
        let metadata = self.file.metadata().map_err(|error| self.failed(error))?;
        Ok(State {
            size: metadata.len(),
            modified: metadata.modified().ok(),
        })
    }

    /// Whether another file has its name.
    fn is_replaced(&self) -> bool {
        let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let named = fs::metadata(&self.path).map(identity).ok();
        named.is_some() && named != self.file.metadata().map(identity).ok()
    }

    /// Prints all whole messages that are new, row by row while it `goes_on`; gives what looks like damage behind them.
    fn print(
        &mut self,
        state: &State,
        printer: &mut Printer<'_>,
        mut goes_on: impl FnMut() -> bool,
    ) -> Result<Option<Fault>, Stop> {
        if state.size < self.from.file {
            (self.read, self.from) = (0, Place::default());
        }
        let Some(source) = self.source()? else {
            return Ok(None);
        };
        let compressed = source.is_compressed();
        let mut reader = if self.read == 0 {
            match Reader::with_max_data_frame(source, DNSTAP_CONTENT_TYPE, self.max_frame) {
                Ok(reader) => reader,
                Err(error) => return Ok(fault(error, compressed)),
            }
        } else {
            Reader::resume(source, DNSTAP_CONTENT_TYPE, self.read).max_data_frame(self.max_frame)
        };
        let mut read = self.read;
        let end = loop {
            match reader.next_row() {
                Ok(Some(row)) => {
                    printer.row(&self.path, &row)?;
                    read = row.offset + row.frames.bytes.len() as u64;
                    if !goes_on() {
                        break None;
                    }
                }
                Ok(None) => break None,
                // Nobody writes so large a length for a moment only.
                Err(error) if skip_long(&mut reader, &error) => {
                    printer.skipped(&self.path, &error)?;
                    read = reader.offset();
                }
                Err(error) => break fault(error, compressed),
            }
        };
        let from = reader.source().last_before(read);
        drop(reader);
        self.read = read;
        self.from = from.unwrap_or(self.from);
        Ok(end)
    }

    /// What comes behind what was read; `None` if there are too few bytes yet to tell how they are compressed.
    fn source(&self) -> Result<Option<Source<&File>>, Stop> {
        let format = self.format().map_err(|error| self.failed(error))?;
        let Some(format) = format else {
            return Ok(None);
        };
        if !matches!(format, Format::Plain | Format::Zstd) {
            let (path, name) = (named(&self.path), format.name());
            let text = format!(
                "{path} is compressed by {name}, which cannot be followed; plain files and those compressed by zstd can"
            );
            return Err(Stop::Input(anyhow!(ExitWith(Exit::Usage, text))));
        }
        let source = self.resume(format).map_err(|error| self.failed(error))?;
        Ok(Some(source))
    }

    fn format(&self) -> io::Result<Option<Format>> {
        (&self.file).seek(SeekFrom::Start(0))?;
        Format::of(&self.file)
    }

    fn resume(&self, format: Format) -> io::Result<Source<&File>> {
        (&self.file).seek(SeekFrom::Start(self.from.file))?;
        let mut source = Source::resume(&self.file, format, self.from)?;
        let known = self.read - self.from.plain;
        io::copy(&mut (&mut source).take(known), &mut io::sink())?;
        Ok(source)
    }

    fn failed(&self, error: io::Error) -> Stop {
        super::cannot_read(&self.path, error)
    }
}

/// What is none if the file just ends there for now.
fn fault(error: ReadError, compressed: bool) -> Option<Fault> {
    match error {
        ReadError::Unfinished { .. } => None,
        ReadError::Io { source, .. } if source.kind() == ErrorKind::UnexpectedEof => None,
        error => Some((error, compressed)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use dnstap_proto::{DnstapRef, MessageRef, frame_streams::Writer, message::Type};
    use rstest::rstest;

    use super::*;
    use crate::{
        commands::read::Outcome,
        formats::{Content, Encoder},
        select::Filter,
    };

    /// Makes the bytes of a piece: plain, or a zstd frame of its own.
    type Form = fn(&[u8]) -> Vec<u8>;

    fn plain(bytes: &[u8]) -> Vec<u8> {
        bytes.to_vec()
    }

    fn compressed(bytes: &[u8]) -> Vec<u8> {
        zstd::encode_all(bytes, 1).expect("memory")
    }

    /// START, a frame for each message, STOP.
    fn parts(messages: usize) -> [Vec<u8>; 3] {
        let empty = Writer::new(Vec::new(), DNSTAP_CONTENT_TYPE).and_then(Writer::finish);
        let empty = empty.expect("memory");
        let mut frame = Vec::new();
        DnstapRef {
            identity: None,
            version: None,
            extra: None,
            message: MessageRef::new(Type::ClientQuery),
        }
        .append_frame(&mut frame);
        [
            empty[..42].to_vec(),
            frame.repeat(messages),
            empty[42..].to_vec(),
        ]
    }

    /// A step of the writer, and how many messages must have been printed when the next one begins.
    type Step<'a> = (&'a dyn Fn(), usize);

    fn followed(path: &Path, steps: &[Step<'_>]) -> Outcome {
        let (mut output, mut warnings) = (Shared::default(), Vec::new());
        let printed = output.clone();
        let encoder = Encoder::new(Content::Text, false);
        let mut printer =
            Printer::new(&mut output, &mut warnings, Filter::default(), Some(encoder));
        let mut steps = steps.iter();
        let (mut expected, mut pauses) = (0, 0);
        let done = follow(path, u32::MAX, &mut printer, |patience| {
            if patience.is_zero() {
                return true;
            }
            // The first pause after a step is where the change is seen; then there may be another file.
            pauses += 1;
            if pauses % 4 != 0 {
                return true;
            }
            let lines = String::from_utf8_lossy(&printed.0.borrow()).lines().count();
            assert_eq!(lines, expected);
            let Some((step, messages)) = steps.next() else {
                return false;
            };
            step();
            expected += messages;
            true
        });
        assert!(done.is_ok());
        printer.outcome
    }

    #[derive(Clone, Default)]
    struct Shared(std::rc::Rc<std::cell::RefCell<Vec<u8>>>);

    impl io::Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[rstest]
    #[case(plain)]
    #[case(compressed)]
    fn messages_written_over_the_end_mark_are_printed_once(#[case] form: Form) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        let file = File::create(&path).expect("created");
        let [start, two, stop] = parts(2);
        let (start, two, stop) = (form(&start), form(&two), form(&stop));
        let end = std::cell::Cell::new(0);
        let put = |bytes: &[u8], end_mark: &[u8]| {
            file.write_all_at(bytes, end.get()).expect("written");
            end.set(end.get() + bytes.len() as u64);
            file.write_all_at(end_mark, end.get()).expect("written");
        };
        let outcome = followed(
            &path,
            &[
                (&|| put(&start, &stop), 0),
                (&|| put(&two, &stop), 2),
                (&|| put(&two, &two[..9]), 2),
                (&|| put(&two, &stop), 2),
            ],
        );
        assert_eq!(
            outcome,
            Outcome {
                messages: 6,
                selected: 6,
                ..Outcome::default()
            }
        );
    }

    #[rstest]
    #[case(plain)]
    #[case(compressed)]
    fn a_successor_is_read_after_the_rest_of_the_file(#[case] form: Form) {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, old) = (folder.path().join("file"), folder.path().join("old"));
        let whole = |messages| form(&parts(messages).concat());
        fs::write(&path, b"").expect("written");
        let begin = || fs::write(&path, whole(1)).expect("written");
        let rotate = || {
            fs::rename(&path, &old).expect("renamed");
            fs::write(&path, whole(5)).expect("written");
        };
        let begin_anew = || fs::write(&path, whole(0)).expect("written");
        let outcome = followed(&path, &[(&begin, 1), (&rotate, 5), (&begin_anew, 0)]);
        assert_eq!(outcome.messages, 6);
    }

    #[rstest]
    #[case(plain)]
    #[case(compressed)]
    fn whoever_has_seen_enough_gets_no_row_more(#[case] form: Form) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        let whole = parts(100_000).concat();
        fs::write(&path, form(&whole)).expect("written");
        let (mut output, mut warnings, mut asked) = (Vec::new(), Vec::new(), 0);
        let mut printer = Printer::new(&mut output, &mut warnings, Filter::default(), None);
        let done = follow(&path, u32::MAX, &mut printer, |_| {
            asked += 1;
            false
        });
        assert!(done.is_ok());
        let messages = printer.outcome.messages;
        assert!((1..100_000).contains(&messages), "{messages}");
        assert_eq!((asked, warnings.as_slice()), (2, &b""[..]));
    }

    /// The beginning of a file may be written piece by piece, and so may skippable frames before, between and behind others.
    #[test]
    fn what_tells_the_format_is_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        fs::write(&path, b"").expect("written");
        let skippable = b"\x5a\x2a\x4d\x18\x05\0\0\0first";
        let [start, two, stop] = parts(2);
        let append = |bytes: &[u8]| {
            let mut file = File::options().append(true).open(&path).expect("there");
            io::Write::write_all(&mut file, bytes).expect("written");
        };
        let begin = compressed(&[&start[..], &two].concat());
        let end = compressed(&[&two[..], &stop].concat());
        let outcome = followed(
            &path,
            &[
                (&|| append(&skippable[..3]), 0),
                (&|| append(&skippable[3..10]), 0),
                (&|| append(&skippable[10..]), 0),
                (&|| append(&begin[..2]), 0),
                (&|| append(&begin[2..]), 2),
                (&|| append(&skippable[..6]), 0),
                (&|| append(&skippable[6..11]), 0),
                (&|| append(&[&skippable[11..], &end].concat()), 2),
            ],
        );
        assert_eq!((outcome.messages, outcome.damaged), (4, vec![]));
    }

    #[test]
    fn what_cannot_be_followed_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        fs::write(&path, b"\x1f\x8b\x08\0").expect("written");
        let (mut output, mut warnings) = (Vec::new(), Vec::new());
        let mut printer = Printer::new(&mut output, &mut warnings, Filter::default(), None);
        let Err(Stop::Input(error)) = follow(&path, u32::MAX, &mut printer, |_| true) else {
            panic!("no error");
        };
        assert_eq!(Exit::of(&error), Exit::Usage);
        assert!(error.to_string().contains("gzip"), "{error}");
    }

    #[test]
    fn a_stream_that_is_appended_and_a_frame_that_is_too_long_are_passed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        let whole = parts(2).concat();
        fs::write(&path, &whole).expect("written");
        let long = [&parts(0)[0][..], b"\0\0\x01\0", &[7; 256]].concat();
        let append = || {
            let mut file = File::options().append(true).open(&path).expect("there");
            io::Write::write_all(&mut file, &[&long[..], &whole[42..]].concat()).expect("written");
        };
        let (mut output, mut warnings, mut pauses) = (Vec::new(), Vec::new(), 0);
        let mut printer = Printer::new(&mut output, &mut warnings, Filter::default(), None);
        let done = follow(&path, 64, &mut printer, |patience| {
            if !patience.is_zero() {
                pauses += 1;
                if pauses == 2 {
                    append();
                }
            }
            pauses < 5
        });
        assert!(done.is_ok());
        assert_eq!((printer.outcome.messages, printer.outcome.long), (4, 1));
        assert!(String::from_utf8_lossy(&warnings).contains("256 bytes"));
    }

    #[test]
    fn damage_is_believed_when_the_file_stays_as_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        let [start, two, stop] = parts(2);
        fs::write(&path, [&start[..], b"\0\0\0\0\xff\xff\xff\xff"].concat()).expect("written");
        let (mut output, mut warnings, mut pauses) = (Vec::new(), Vec::new(), 0);
        let mut printer = Printer::new(&mut output, &mut warnings, Filter::default(), None);
        let done = follow(&path, u32::MAX, &mut printer, |patience| {
            if patience.is_zero() {
                return true;
            }
            pauses += 1;
            match pauses {
                1 => fs::write(&path, [&start[..], &two, &stop].concat()).expect("written"),
                2 => {
                    fs::write(&path, [&start[..], &two, &stop, b"more"].concat()).expect("written");
                }
                _ => {}
            }
            pauses < 100
        });
        assert!(done.is_ok() && pauses < 100);
        let outcome = printer.outcome;
        assert_eq!((outcome.messages, outcome.damaged.len()), (2, 1));
    }
}

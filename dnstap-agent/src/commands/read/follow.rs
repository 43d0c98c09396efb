//! `read --follow`: when the file is read again, and when to stop.

use std::{
    convert::Infallible,
    io,
    path::Path,
    process,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use super::printer::{Printer, Stop};
use crate::{
    host::{exit::Exit, shutdown::Shutdown},
    sources::file::Followed,
};

/// Interval at which the file is read.
const PAUSE: Duration = Duration::from_millis(100);

/// Signals to stop.
///
/// The first SIGINT or SIGTERM ends the command in order, with the end of the output. This has to
/// wait until pending writes succeed. A second signal ends the process at once.
pub(super) struct Signals {
    /// Closes with the first signal; nothing is ever sent.
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
        // Signals need a thread of their own, because this one may be blocked until the reader of
        // standard output reads.
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

    /// Waits for a signal for this time. Returns false once a signal has come.
    pub(super) fn none_within(&self, patience: Duration) -> bool {
        self.first.recv_timeout(patience) == Err(RecvTimeoutError::Timeout)
    }
}

/// Prints the content of the file and what is added to it, until `goes_on` returns false. `goes_on`
/// is called between any two rows, and after each read of the file with a pause to wait. Once it
/// has returned false, it always must.
pub(super) fn follow(
    path: &Path,
    limit: u32,
    printer: &mut Printer<'_>,
    mut goes_on: impl FnMut(Duration) -> bool,
) -> Result<(), Stop> {
    let mut followed = Followed::open(path, limit).map_err(Stop::Input)?;
    while !followed.is_over() {
        printer.next_of(&mut followed)?;
        let patience = if followed.is_waiting() {
            printer.flush()?;
            PAUSE
        } else {
            Duration::ZERO
        };
        if !goes_on(patience) {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        os::unix::fs::FileExt as _,
    };

    use dnstap_proto::{
        DnstapRef, MessageRef,
        frame_streams::{DNSTAP_CONTENT_TYPE, Writer},
        message::Type,
    };
    use rstest::rstest;

    use super::*;
    use crate::{
        commands::read::Outcome,
        formats::{Content, Encoder},
        select::Filter,
    };

    /// Encodes the bytes of a piece: plain, or as a zstd frame of its own.
    type Form = fn(&[u8]) -> Vec<u8>;

    fn plain(bytes: &[u8]) -> Vec<u8> {
        bytes.to_vec()
    }

    fn compressed(bytes: &[u8]) -> Vec<u8> {
        zstd::encode_all(bytes, 1).expect("memory")
    }

    /// Builds START, a frame for each message, and STOP.
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

    /// A step of the writer, and the number of messages that must have been printed before the next
    /// one.
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
            // The change is seen in the first pause after a step. Then there may be another file.
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
        assert_eq!((asked, warnings.as_slice()), (1, &b""[..]));
    }

    /// The beginning of a file may be written piece by piece. The same holds for skippable frames
    /// before, between and behind others.
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

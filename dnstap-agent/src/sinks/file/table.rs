//! A Parquet file: messages are gathered as rows, and written as row groups.
//!
//! Messages wait in memory: for their partner, and for enough rows or for `write=`. They count as queued until their
//! row group is in the file. If the disk is full, they stay, and new messages are dropped. After `kill -9` they are lost.
//!
//! A file has `.part` behind its name until it is complete (`names`). It has a foot behind each row group
//! (`output_file`), so one that a killed agent left can nearly always be read. The next run looks at it ([`is_whole`]).

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    sync::Arc,
    time::{Duration, Instant},
};

use parquet::file::metadata::ParquetMetaDataReader;
use tracing::warn;

use super::{
    device::Descriptor,
    options::FileOptions,
    output_file::{Frame, OutputFile},
    piece::{Ends, Piece},
    rotation::{MOST_GROUPS, RotatedFiles},
};
use crate::{
    formats::table::{Group, HEAD, Limits, Table},
    host::units::{parse_bytes, parse_seconds},
    sinks::{
        batch::Batch,
        queue::blocking::{Failure, Output, Written, is_full},
        report::{FileCounters, add},
        sink::Place,
    },
};

/// Time after which a full disk is tried again if no message comes.
const RETRY: Duration = Duration::from_secs(10);

/// Options of a table, besides those of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TableOptions {
    /// `memory=` and `unanswered=`.
    limits: Limits,
    /// `write=`: longest time that rows wait in memory.
    write: Duration,
}

impl Default for TableOptions {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            write: Duration::from_mins(5),
        }
    }
}

impl TableOptions {
    /// Takes the options of a table out of the text, and returns the rest.
    pub(super) fn take(&mut self, text: Option<&str>) -> Result<Option<String>, String> {
        let mut rest = Vec::new();
        let mut seen = Vec::new();
        for option in text.into_iter().flat_map(|text| text.split(',')) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let wrong = |problem: String| format!("`{option}`: {problem}");
            let time = || {
                let time = parse_seconds(value).map_err(wrong)?;
                (!time.is_zero())
                    .then_some(time)
                    .ok_or_else(|| wrong("no time".to_owned()))
            };
            match name {
                "memory" => {
                    self.limits.memory = parse_bytes(value).map_err(wrong)?;
                    if self.limits.memory < 1 << 20 {
                        return Err(wrong("less than 1M".to_owned()));
                    }
                }
                "write" => self.write = time()?,
                "unanswered" => self.limits.unanswered = time()?,
                _ => {
                    rest.push(option);
                    continue;
                }
            }
            if seen.contains(&name) {
                return Err(format!("`{name}` is given twice"));
            }
            seen.push(name);
        }
        Ok((!rest.is_empty()).then(|| rest.join(",")))
    }
}

/// Checks the options of a file for a table.
pub(super) fn check(options: &FileOptions, place: &Place) -> Result<(), String> {
    if options.zstd {
        return Err("Parquet is compressed by zstd in any case; leave out `compress`".to_owned());
    }
    let is_named =
        matches!(place, Place::Path(path) if path.as_os_str().as_encoded_bytes().contains(&b'%'));
    if options.rotates() && !is_named {
        let why = "rotation needs a time in the file's name, so that all names end in `.parquet`, which readers look for; \
                   such as `q-%Y%m%d-%H%M%S.parquet`";
        return Err(why.to_owned());
    }
    Ok(())
}

/// Returns whether the file is a whole Parquet file: whether it has head and footer.
pub(super) fn is_whole(file: &File) -> bool {
    let is_whole = || -> io::Result<bool> {
        let mut file = file;
        let mut head = [0; HEAD.len()];
        file.seek(SeekFrom::Start(0))?;
        file.read_exact(&mut head)?;
        let metadata = ParquetMetaDataReader::new().parse_and_finish(file);
        Ok(head == HEAD && metadata.is_ok())
    };
    is_whole().unwrap_or(false)
}

/// An [`Output`] of a table to a file, rotated files, or a pipe.
pub(super) struct TableOutput {
    table: Table,
    output_file: OutputFile<Descriptor>,
    /// Rotation; `None` if the output is no regular file.
    rotated: Option<RotatedFiles>,
    counters: Arc<FileCounters>,
    write: Duration,
    /// Time from which arrivals are counted.
    begun: Instant,
    /// When rows were last written, or could not be written.
    written: Instant,
    /// Whether the last attempt found no room.
    is_full: bool,
    /// Bytes of frames since rows were last written.
    bytes: u64,
    /// Evicted messages that are counted.
    evicted: u64,
}

impl TableOutput {
    /// Begins the first file by `begin`.
    pub(super) fn start(
        options: TableOptions,
        counters: Arc<FileCounters>,
        begin: impl FnOnce(Frame) -> io::Result<(OutputFile<Descriptor>, Option<RotatedFiles>)>,
    ) -> io::Result<Self> {
        let table = Table::new(options.limits);
        let mut directory = table.directory();
        let (output_file, rotated) = begin(Frame {
            head: HEAD.to_vec(),
            foot: directory.foot().map_err(io::Error::other)?,
            directory: Some(directory),
        })?;
        let now = Instant::now();
        Ok(Self {
            table,
            output_file,
            rotated,
            counters,
            write: options.write,
            begun: now,
            written: now,
            is_full: false,
            bytes: 0,
            evicted: 0,
        })
    }

    /// Writes all rows, to the next file if this one is too large for them.
    fn store(&mut self) -> io::Result<()> {
        self.written = Instant::now();
        let group = self.table.encode().map_err(io::Error::other)?;
        let stored = group.map_or(Ok(()), |group| self.append(&group));
        self.is_full = stored.as_ref().is_err_and(is_full);
        if stored.is_ok() {
            if self.output_file.groups() == MOST_GROUPS {
                // A file with a successor has ended before.
                warn!(
                    groups = MOST_GROUPS,
                    "a Parquet file becomes slow to write and takes memory; name it by the time, and rotate"
                );
            }
            self.table.clear();
            self.bytes = 0;
        }
        stored
    }

    fn append(&mut self, group: &Group) -> io::Result<()> {
        let piece = Piece {
            bytes: &group.bytes,
            messages: 1,
            unfit: 0,
            ends: Ends::Group(group),
        };
        if let Some(rotated) = &mut self.rotated {
            rotated.mend(&mut self.output_file)?;
            if !rotated.is_late(&self.output_file) {
                rotated.turn(&mut self.output_file, piece.bytes.len());
            }
        }
        let written = self.output_file.append(&piece);
        written.map(drop).map_err(|failure| failure.error)
    }

    /// Begins the next file if the time of this one is over. Rows from before go to this one.
    fn rotate(&mut self) -> io::Result<()> {
        let is_late = |rotated: &RotatedFiles| rotated.is_late(&self.output_file);
        let stored = if self.rotated.as_ref().is_some_and(is_late) {
            self.store()
        } else {
            Ok(())
        };
        if let Some(rotated) = &mut self.rotated {
            rotated.turn(&mut self.output_file, 0);
        }
        stored
    }

    fn arrival(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn count_evicted(&mut self) {
        let evicted = self.table.evicted();
        add(&self.counters.evicted, evicted - self.evicted);
        self.evicted = evicted;
    }
}

impl Output for TableOutput {
    fn write(&mut self, batch: &Batch) -> Result<Written, Failure> {
        let mut written = Written::default();
        let now = self.arrival();
        if self.table.messages() == 0 {
            self.written = Instant::now();
        }
        let mut failed = self.rotate().err();
        batch.for_each(|message| {
            if failed.is_none() && self.table.is_full() {
                failed = self.store().err();
            }
            match message {
                _ if failed.is_some() => {}
                Some(message) if self.table.take(message, now) => written.messages += 1,
                _ => written.unfit += 1,
            }
        });
        self.count_evicted();
        match failed {
            None => {
                written.bytes = batch.frames.len() as u64;
                self.bytes += written.bytes;
                Ok(written)
            }
            Some(error) => Err(Failure {
                written,
                resumable: is_full(&error),
                error,
            }),
        }
    }

    fn next_turn(&self) -> Option<Duration> {
        let wait = if self.is_full { RETRY } else { self.write };
        let write =
            (self.table.messages() > 0).then(|| wait.saturating_sub(self.written.elapsed()));
        let rotate = self
            .rotated
            .as_ref()
            .and_then(|rotated| rotated.next_turn(&self.output_file));
        // After a failure, a rotation that is due waits, too.
        let rotate = rotate.filter(|_| !self.is_full);
        write.into_iter().chain(rotate).min()
    }

    fn turn(&mut self) -> io::Result<()> {
        let now = self.arrival();
        self.table.give_up(now);
        self.count_evicted();
        let wait = if self.is_full { RETRY } else { self.write };
        let stored = if self.written.elapsed() >= wait {
            self.store()
        } else {
            self.rotate()
        };
        match stored {
            // It is tried again, and by then dropped messages say that the disk is full.
            Err(error) if is_full(&error) => Ok(()),
            stored => stored,
        }
    }

    fn held(&self) -> Written {
        Written {
            messages: self.table.messages(),
            bytes: self.bytes,
            unfit: 0,
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        self.table.end();
        // The file stays whole without what there is no room for.
        let mended = match &mut self.rotated {
            Some(rotated) => rotated.mend(&mut self.output_file),
            None => Ok(()),
        };
        let stored = self.store();
        let ended = self.output_file.finish();
        // A part that others have cut must not get the name of a whole file.
        if let Some(rotated) = self.rotated.take()
            && mended.is_ok()
        {
            rotated.end(&self.output_file);
        }
        mended.and(stored).and(ended)
    }

    fn reopen(&mut self) {
        if let Some(rotated) = &mut self.rotated {
            rotated.reopen(&mut self.output_file);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, sync::atomic::Ordering::Relaxed};

    use dnstap_proto::{message::Type, prost::Message as _};
    use parquet::file::reader::{FileReader as _, SerializedFileReader};
    use rstest::rstest;

    use super::*;
    use crate::{
        sinks::{
            file::{FileSink, Open},
            report::Account,
            sink::Typed as _,
        },
        tally::tests::message,
    };

    fn open(path: &Path, options: &str) -> Result<(FileSink, Open), String> {
        let rest = format!("{}{options}", path.display());
        let sink = FileSink::parse("parquet", &rest).map_err(|mistake| format!("{mistake:?}"))?;
        let open = sink.open_place()?;
        Ok((sink, open))
    }

    fn output(path: &Path, options: &str) -> TableOutput {
        let (sink, open) = open(path, options).expect("opened");
        open.table(sink.table, &sink.options, &Account::default())
            .expect("room")
    }

    /// Returns a batch of an exchange, which is two messages and one row.
    fn exchange() -> Batch {
        let mut frames = Vec::new();
        for kind in [Type::ClientQuery, Type::ClientResponse] {
            let frame = message(kind, "name", 1, 0).encode_to_vec();
            frames.extend(u32::try_from(frame.len()).expect("short").to_be_bytes());
            frames.extend(frame);
        }
        Batch::new(frames, 2)
    }

    /// Returns the names in the folder, with the number of rows of those files that can be read.
    fn files(folder: &Path) -> Vec<(String, Option<i64>)> {
        let mut files: Vec<_> = fs::read_dir(folder)
            .expect("there")
            .map(|entry| {
                let entry = entry.expect("there");
                let reader = SerializedFileReader::new(File::open(entry.path()).expect("there"));
                let rows = reader
                    .ok()
                    .map(|reader| reader.metadata().file_metadata().num_rows());
                (entry.file_name().into_string().expect("ASCII"), rows)
            })
            .collect();
        files.sort();
        files
    }

    fn named(files: &[(&str, Option<i64>)]) -> Vec<(String, Option<i64>)> {
        files
            .iter()
            .map(|(name, rows)| ((*name).to_owned(), *rows))
            .collect()
    }

    #[test]
    fn a_file_gets_its_name_when_it_is_complete_and_messages_are_held_until_they_are_in_it() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("q.parquet"), "an earlier one").expect("written");
        let mut output = output(&folder.path().join("q.parquet"), "");
        assert_eq!(output.write(&exchange()).expect("taken").messages, 2);
        assert_eq!(output.held().messages, 2);
        let early = [("q.parquet", None), ("q.parquet.part", Some(0))];
        assert_eq!(files(folder.path()), named(&early));
        output.store().expect("room");
        assert_eq!(output.held(), Written::default());
        let later = [("q.parquet", None), ("q.parquet.part", Some(1))];
        assert_eq!(
            files(folder.path()),
            named(&later),
            "readable after each row group"
        );
        output.write(&exchange()).expect("taken");
        output.finish().expect("room");
        assert_eq!(files(folder.path()), named(&[("q.parquet", Some(2))]));
    }

    #[test]
    fn what_a_killed_run_left_is_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("q.parquet");
        let mut killed = output(&path, "");
        killed.write(&exchange()).expect("taken");
        killed.store().expect("room");
        let refused = open(&path, "").err().expect("in use");
        assert!(refused.contains("another process writes"), "{refused}");
        drop(killed);
        let second = output(&path, "");
        let both = [("q.1.parquet", Some(1)), ("q.parquet.part", Some(0))];
        assert_eq!(files(folder.path()), named(&both));
        drop(second);
        // A part that ends in the middle of a row group.
        fs::write(folder.path().join("q.parquet.part"), "PAR1 and more").expect("written");
        output(&path, "").finish().expect("room");
        let all = [
            ("q.1.parquet", Some(1)),
            ("q.parquet", Some(0)),
            ("q.parquet.broken", None),
        ];
        assert_eq!(files(folder.path()), named(&all));
    }

    #[test]
    fn files_are_rotated_by_size_and_never_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        // Each file begins in the same century.
        let mut output = output(&folder.path().join("q-%C.parquet"), ",rotate-size=1K");
        for _ in 0..3 {
            output.write(&exchange()).expect("taken");
            output.store().expect("room");
        }
        output.finish().expect("room");
        let all = [
            ("q-20.1.parquet", Some(1)),
            ("q-20.2.parquet", Some(1)),
            ("q-20.parquet", Some(1)),
        ];
        assert_eq!(files(folder.path()), named(&all));
        assert_eq!(output.counters.rotations.load(Relaxed), 2);
    }

    #[test]
    fn rows_stay_while_the_disk_is_full_and_new_messages_are_dropped() {
        let full = File::options()
            .write(true)
            .open("/dev/full")
            .expect("there");
        let mut output = TableOutput::start(TableOptions::default(), Arc::default(), |frame| {
            // Its beginning finds room.
            let file = OutputFile::start(
                Descriptor::stream(full),
                &Frame {
                    head: Vec::new(),
                    ..frame
                },
            )?;
            Ok((file, None))
        })
        .expect("a stream");
        output.write(&exchange()).expect("taken");
        assert!(is_full(&output.store().expect_err("no room")));
        output.turn().expect("it is tried again");
        assert_eq!((output.held().messages, output.is_full), (2, true));
        assert!(output.next_turn().is_some_and(|left| left > RETRY / 2));
        assert!(is_full(&output.finish().expect_err("no room")));
        assert_eq!(output.held().messages, 2, "lost, and counted by the caller");
    }

    #[rstest]
    #[case(",compress=zstd", "in any case")]
    #[case(",rotate-time=1h", "%Y%m%d")]
    #[case(",memory=1K", "less than 1M")]
    #[case(",write=0s", "`write=0s`")]
    #[case(",unanswered=x", "`unanswered=x`")]
    #[case(",write=1m,write=1m", "twice")]
    #[case(",rows=5", "no option of a file")]
    fn what_makes_no_sense_is_refused(#[case] options: &str, #[case] part: &str) {
        let error = open(Path::new("/tmp/q.parquet"), options)
            .err()
            .expect("refused");
        assert!(error.contains(part), "{error}");
    }

    #[test]
    fn options_of_table_and_file_can_be_mixed() {
        let sink = FileSink::parse(
            "parquet",
            "q-%s.parquet,write=1m,rotate-time=1h,memory=8M,unanswered=5s,keep=3",
        );
        let sink = sink.expect("valid");
        assert_eq!(sink.table.write, Duration::from_mins(1));
        assert_eq!(sink.table.limits.memory, 8 << 20);
        assert_eq!(sink.table.limits.unanswered, Duration::from_secs(5));
        assert_eq!(
            (sink.options.keep, sink.options.rotate_time),
            (Some(3), Some(Duration::from_hours(1)))
        );
    }
}

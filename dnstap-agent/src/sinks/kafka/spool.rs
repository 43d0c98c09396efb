//! Messages on disk until a broker has them: `spool=DIR`.
//!
//! ```text
//! DIR/lock                  held while an output has the folder
//! DIR/position              up to where everything is acknowledged: segment, offset, index, CRC-32
//! DIR/NUMBER.spool          a segment: "dnstapS2", run, index of its first record, CRC-32, records
//! DIR/NUMBER.damaged        a segment whose head cannot be read; it is kept for you
//!     record                length, CRC-32 of the rest, seq, payload of the frame
//!
//!   removed ◄── acknowledged ── sent ── read ◄── waiting ◄── appended
//! ```
//!
//! All numbers are big-endian. The index counts the records of all runs. Each opening begins a segment,
//! so a segment has one run, and an old one is never written again. A crash of the agent (`kill -9`)
//! loses nothing that was appended, because the kernel has it. A crash of the host may lose the last
//! seconds: nothing is synced. Its torn end is cut when it is read, and counted.
//!
//! Records are read again after [`Spool::rewind`], or in the next run, from the position on. So what
//! was sent and not acknowledged comes twice then, with the same run and number.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use bytes::{Bytes, BytesMut};
use tracing::warn;

use crate::sinks::batch::payloads;

const MAGIC: &[u8; 8] = b"dnstapS2";
/// Bytes before the first record of a segment, and before the payload of a record.
const HEAD: usize = 28;
const RECORD: usize = 16;
/// Longest payload that is believed. Frames of the agent and of its senders are shorter.
const LONGEST: usize = 64 << 20;
/// Bytes to read at once.
const CHUNK: usize = 256 << 10;
/// Parts that a spool is divided into, so that room becomes free in small pieces; and the largest.
const SEGMENTS: u64 = 16;
const LARGEST_SEGMENT: u64 = 64 << 20;

/// A place between two records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Place {
    segment: u64,
    offset: u64,
    /// Number of records of all runs before it.
    index: u64,
}

impl Place {
    fn encode(self) -> [u8; 28] {
        let mut bytes = [0; 28];
        for (field, value) in bytes
            .chunks_mut(8)
            .zip([self.segment, self.offset, self.index])
        {
            field.copy_from_slice(&value.to_be_bytes());
        }
        let crc = crc32fast::hash(&bytes[..24]);
        bytes[24..].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (fields, crc) = bytes.split_at_checked(24)?;
        let is_whole = crc == crc32fast::hash(fields).to_be_bytes();
        is_whole.then(|| Self {
            segment: number(&fields[..8]),
            offset: number(&fields[8..16]),
            index: number(&fields[16..]),
        })
    }
}

/// Reads up to eight bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |all, byte| all << 8 | u64::from(*byte))
}

/// A message that has waited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) run: u64,
    pub(super) seq: u64,
    pub(super) payload: Bytes,
}

/// Result of a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Read {
    Message(Waiting),
    /// A segment ends with bytes that are no record.
    Damage {
        run: u64,
        bytes: u64,
        /// Records that are lost.
        messages: u64,
    },
    /// Everything has been read.
    Nothing,
}

/// A segment on disk.
#[derive(Debug)]
struct Segment {
    number: u64,
    run: u64,
    /// Index of the first record.
    index: u64,
    /// Size of the file.
    bytes: u64,
}

/// A spool. One output has it.
#[derive(Debug)]
pub(super) struct Spool {
    folder: PathBuf,
    run: u64,
    limit: u64,
    /// Segments, oldest first.
    segments: VecDeque<Segment>,
    /// The last segment, if this run has begun one.
    writer: Option<File>,
    /// Index behind the last record.
    end: u64,
    /// Where to read next.
    read: Place,
    reader: Option<File>,
    /// What was read of the file and not handed out yet; it begins at `read`.
    chunk: Bytes,
    /// Places behind the records that were handed out and are not acknowledged.
    sent: VecDeque<Place>,
    acknowledged: Place,
    /// Bytes of segments whose heads could not be read.
    damaged: u64,
    position: File,
    _lock: File,
}

fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:020}.spool"))
}

fn create() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

impl Spool {
    /// Opens the folder, and makes it if it is not there. `run` is that of new messages. Returns the problem
    /// with its remedy.
    pub(super) fn open(folder: &Path, limit: u64, run: u64) -> Result<Self, String> {
        let failed = |error: &io::Error| format!("spool {}: {error}", folder.display());
        fs::create_dir_all(folder).map_err(|error| failed(&error))?;
        let file = |name: &str| {
            let mut options = create();
            options.create(true).truncate(false);
            options
                .open(folder.join(name))
                .map_err(|error| failed(&error))
        };
        let lock = file("lock")?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(format!(
                    "spool {}: another output or process has it; give this one a folder of its own",
                    folder.display()
                ));
            }
            Err(fs::TryLockError::Error(error)) => return Err(failed(&error)),
        }
        let mut spool = Self {
            folder: folder.to_path_buf(),
            run,
            limit,
            segments: VecDeque::new(),
            writer: None,
            end: 0,
            read: Place::default(),
            reader: None,
            chunk: Bytes::new(),
            sent: VecDeque::new(),
            acknowledged: Place::default(),
            damaged: 0,
            position: file("position")?,
            _lock: lock,
        };
        spool.find().map_err(|error| failed(&error))?;
        Ok(spool)
    }

    /// Finds what earlier runs have left.
    fn find(&mut self) -> io::Result<()> {
        let mut position = Vec::new();
        io::Read::read_to_end(&mut &self.position, &mut position)?;
        let position = Place::decode(&position);
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".spool"));
            let number = number.and_then(|number| number.parse::<u64>().ok());
            // Another spelling of the number is not ours.
            numbers.extend(number.filter(|number| {
                *number < u64::MAX && path(&self.folder, *number).file_name() == Some(&name)
            }));
        }
        numbers.sort_unstable();
        for segment in numbers {
            let path = path(&self.folder, segment);
            let file = File::open(&path)?;
            let mut head = [0; HEAD];
            let bytes = file.metadata()?.len();
            let is_read = position.is_some_and(|position| segment < position.segment);
            if is_read || bytes < HEAD as u64 {
                // It was being begun when the agent was killed, or being removed.
                fs::remove_file(&path)?;
                continue;
            }
            file.read_exact_at(&mut head, 0)?;
            let (facts, crc) = head.split_at(HEAD - 4);
            let index = number(&facts[16..]);
            let is_whole = facts.starts_with(MAGIC) && crc == crc32fast::hash(facts).to_be_bytes();
            if !is_whole || !self.may_follow(index) {
                let kept = path.with_extension("damaged");
                fs::rename(&path, &kept)?;
                warn!(segment = %kept.display(), bytes, "the spool has a segment whose head is damaged; it is kept under this name");
                self.damaged += bytes;
                continue;
            }
            self.segments.push_back(Segment {
                number: segment,
                run: number(&facts[8..16]),
                index,
                bytes,
            });
        }
        let Some(first) = self.segments.front() else {
            let position = position.unwrap_or_default();
            (self.read, self.end) = (position, position.index);
            self.acknowledged = position;
            return Ok(());
        };
        self.read = Place {
            segment: first.number,
            offset: HEAD as u64,
            index: first.index,
        };
        if let Some(position) = position.filter(|position| position.segment == first.number) {
            self.read = position;
        }
        self.acknowledged = self.read;
        // Only the last segment has to be read to know how many records there are.
        let start = self.read;
        if let Some(last) = self
            .segments
            .back()
            .filter(|last| last.number > start.segment)
        {
            self.read = Place {
                segment: last.number,
                offset: HEAD as u64,
                index: last.index,
            };
        }
        self.end = u64::MAX;
        while let Read::Message(_) = self.read()? {}
        self.end = self.read.index;
        (self.read, self.reader, self.chunk) = (start, None, Bytes::new());
        self.sent.clear();
        Ok(())
    }

    /// Returns whether a segment that begins with this index may follow the last one.
    fn may_follow(&self, index: u64) -> bool {
        self.segments.back().is_none_or(|last| {
            let records = index.checked_sub(last.index);
            records.is_some_and(|records| records <= last.bytes / RECORD as u64)
        })
    }

    /// Returns the bytes of segments whose heads could not be read when the folder was opened.
    pub(super) fn damaged(&self) -> u64 {
        self.damaged
    }

    /// Returns the number of messages that are not acknowledged.
    pub(super) fn messages(&self) -> u64 {
        self.end.saturating_sub(self.acknowledged.index)
    }

    /// Returns the bytes on disk.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Returns whether a batch with this number of bytes and messages fits. An empty spool takes any.
    pub(super) fn has_room(&self, bytes: usize, messages: u64) -> bool {
        let size = bytes as u64 + messages * RECORD as u64;
        self.messages() == 0 || self.bytes() + size + HEAD as u64 <= self.limit
    }

    /// Appends all messages of a batch; the first has the number `seq`. After an error none of them is there.
    pub(super) fn append(&mut self, frames: &Bytes, mut seq: u64) -> io::Result<()> {
        let mut records = BytesMut::with_capacity(frames.len() * 2);
        let mut messages = 0;
        for payload in payloads(frames) {
            let mut crc = crc32fast::Hasher::new();
            crc.update(&seq.to_be_bytes());
            crc.update(&payload);
            // The payload came in a frame, so its length fits.
            let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
            records.extend_from_slice(&length.to_be_bytes());
            records.extend_from_slice(&crc.finalize().to_be_bytes());
            records.extend_from_slice(&seq.to_be_bytes());
            records.extend_from_slice(&payload);
            seq += 1;
            messages += 1;
        }
        let largest = (self.limit / SEGMENTS).min(LARGEST_SEGMENT);
        let is_full = |segment: &Segment| segment.bytes >= largest;
        if self.writer.is_none() || self.segments.back().is_some_and(is_full) {
            self.begin_segment()?;
        }
        let (Some(file), Some(segment)) = (&self.writer, self.segments.back_mut()) else {
            return Err(ErrorKind::NotFound.into());
        };
        if let Err(error) = file.write_all_at(&records, segment.bytes) {
            file.set_len(segment.bytes)?;
            return Err(error);
        }
        segment.bytes += records.len() as u64;
        self.end += messages;
        Ok(())
    }

    fn begin_segment(&mut self) -> io::Result<()> {
        let last = self.segments.back().map(|segment| segment.number);
        let number = last.map_or(self.read.segment, |last| last.max(self.read.segment)) + 1;
        let mut head = Vec::with_capacity(HEAD);
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(&self.run.to_be_bytes());
        head.extend_from_slice(&self.end.to_be_bytes());
        head.extend_from_slice(&crc32fast::hash(&head).to_be_bytes());
        // It may be there with a part of its head, if the disk was full.
        let file = create()
            .create(true)
            .truncate(true)
            .open(path(&self.folder, number))?;
        file.write_all_at(&head, 0)?;
        self.writer = Some(file);
        self.segments.push_back(Segment {
            number,
            run: self.run,
            index: self.end,
            bytes: HEAD as u64,
        });
        Ok(())
    }

    /// Returns the next message that was not handed out.
    pub(super) fn read(&mut self) -> io::Result<Read> {
        loop {
            if self.read.index >= self.end {
                return Ok(Read::Nothing);
            }
            let here = self
                .segments
                .iter()
                .position(|segment| segment.number >= self.read.segment);
            let Some(here) = here else {
                return Ok(Read::Nothing);
            };
            let segment = &self.segments[here];
            if segment.number > self.read.segment {
                // The one before is gone.
                self.read = Place {
                    segment: segment.number,
                    offset: HEAD as u64,
                    index: segment.index,
                };
                (self.reader, self.chunk) = (None, Bytes::new());
            }
            let (run, bytes) = (segment.run, segment.bytes);
            let left = bytes.saturating_sub(self.read.offset);
            if left > 0
                && let Some(message) = self.record(run, left)?
            {
                self.sent.push_back(self.read);
                return Ok(Read::Message(message));
            }
            let next = self.segments.get(here + 1);
            let (Some(next), index) = (next, self.read.index) else {
                // While the folder is opened, the end is not known yet.
                if left > 0 && self.writer.is_some() {
                    // What follows goes to a segment that can be read.
                    self.writer = None;
                    self.begin_segment()?;
                    continue;
                }
                return Ok(Read::Nothing);
            };
            let messages = next.index.saturating_sub(index);
            self.read = Place {
                segment: next.number,
                offset: HEAD as u64,
                index: next.index,
            };
            (self.reader, self.chunk) = (None, Bytes::new());
            if left > 0 || messages > 0 {
                self.sent.extend((0..messages).map(|_| self.read));
                return Ok(Read::Damage {
                    run,
                    bytes: left,
                    messages,
                });
            }
        }
    }

    /// Reads a record of the segment, of which so many bytes are left. Returns `None` if it is not whole.
    fn record(&mut self, run: u64, left: u64) -> io::Result<Option<Waiting>> {
        if left < RECORD as u64 || !self.load(RECORD, left)? {
            return Ok(None);
        }
        let length = usize::try_from(number(&self.chunk[..4])).unwrap_or(usize::MAX);
        let size = length.saturating_add(RECORD);
        if length > LONGEST || size as u64 > left || !self.load(size, left)? {
            return Ok(None);
        }
        let crc = crc32fast::hash(&self.chunk[8..size]);
        if self.chunk[4..8] != crc.to_be_bytes() {
            return Ok(None);
        }
        let waiting = Waiting {
            run,
            seq: number(&self.chunk[8..16]),
            payload: self.chunk.slice(RECORD..size),
        };
        self.chunk = self.chunk.slice(size..);
        self.read.offset += size as u64;
        self.read.index += 1;
        Ok(Some(waiting))
    }

    /// Makes sure that the chunk has so many bytes. Returns false if the file has not.
    fn load(&mut self, bytes: usize, left: u64) -> io::Result<bool> {
        if self.chunk.len() >= bytes {
            return Ok(true);
        }
        if self.reader.is_none() {
            self.reader = Some(File::open(path(&self.folder, self.read.segment))?);
        }
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let mut chunk = vec![0; left.min(CHUNK.max(bytes))];
        let reader = self.reader.as_ref().ok_or(ErrorKind::NotFound)?;
        match reader.read_exact_at(&mut chunk, self.read.offset) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
        self.chunk = chunk.into();
        Ok(true)
    }

    /// Notes that the oldest of the messages that were handed out are acknowledged, and removes segments that are no
    /// longer needed. Keeps the note in the file.
    pub(super) fn acknowledge(&mut self, messages: u64) -> io::Result<()> {
        for _ in 0..messages {
            let Some(place) = self.sent.pop_front() else {
                break;
            };
            self.acknowledged = place;
        }
        // If the disk is full, this fails, and what follows makes room. An older note only repeats records.
        let noted = self.position.write_all_at(&self.acknowledged.encode(), 0);
        let acknowledged = self.acknowledged.segment;
        while let Some(done) = self
            .segments
            .pop_front_if(|segment| segment.number < acknowledged)
        {
            fs::remove_file(path(&self.folder, done.number))?;
        }
        noted
    }

    /// Hands out again what is not acknowledged.
    pub(super) fn rewind(&mut self) {
        self.read = self.acknowledged;
        (self.reader, self.chunk) = (None, Bytes::new());
        self.sent.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    fn frames(payloads: &[&[u8]]) -> Bytes {
        let mut frames = Vec::new();
        for payload in payloads {
            frames.extend(u32::try_from(payload.len()).expect("short").to_be_bytes());
            frames.extend(*payload);
        }
        frames.into()
    }

    fn open(folder: &Path, run: u64) -> Spool {
        Spool::open(folder, 4 << 20, run).expect("opened")
    }

    /// Returns all that waits, as run and number.
    fn rest(spool: &mut Spool) -> Vec<(u64, u64)> {
        let mut found = Vec::new();
        loop {
            match spool.read().expect("read") {
                Read::Message(waiting) => {
                    assert_eq!(waiting.payload, format!("{:03}", waiting.seq));
                    found.push((waiting.run, waiting.seq));
                }
                Read::Damage { .. } => {}
                Read::Nothing => return found,
            }
        }
    }

    fn append(spool: &mut Spool, from: u64, count: u64) {
        let payloads: Vec<_> = (from..from + count)
            .map(|seq| format!("{seq:03}"))
            .collect();
        let payloads: Vec<_> = payloads.iter().map(String::as_bytes).collect();
        spool.append(&frames(&payloads), from).expect("appended");
    }

    #[test]
    fn what_is_not_acknowledged_comes_again_in_order_in_the_next_run() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut spool = open(folder.path(), 7);
        append(&mut spool, 0, 3);
        append(&mut spool, 3, 2);
        assert_eq!(rest(&mut spool), [(7, 0), (7, 1), (7, 2), (7, 3), (7, 4)]);
        spool.acknowledge(2).expect("noted");
        spool.rewind();
        assert_eq!(rest(&mut spool), [(7, 2), (7, 3), (7, 4)]);
        spool.acknowledge(1).expect("noted");
        drop(spool);
        let mut spool = open(folder.path(), 8);
        assert_eq!(spool.messages(), 2);
        append(&mut spool, 0, 1);
        assert_eq!(spool.messages(), 3);
        assert_eq!(rest(&mut spool), [(7, 3), (7, 4), (8, 0)]);
        spool.acknowledge(3).expect("noted");
        assert_eq!((spool.messages(), spool.segments.len()), (0, 1));
        drop(spool);
        let mut spool = open(folder.path(), 9);
        assert_eq!((spool.messages(), rest(&mut spool)), (0, vec![]));
        append(&mut spool, 0, 1);
        assert_eq!(rest(&mut spool), [(9, 0)]);
    }

    #[test]
    fn a_torn_end_is_cut_and_counted_and_what_follows_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut spool = open(folder.path(), 1);
        append(&mut spool, 0, 2);
        let last = path(folder.path(), spool.segments[0].number);
        drop(spool);
        let mut file = OpenOptions::new().append(true).open(last).expect("there");
        file.write_all(&[0, 0, 0, 9, 1, 2, 3]).expect("written");
        let mut spool = open(folder.path(), 2);
        assert_eq!(spool.messages(), 2);
        append(&mut spool, 0, 1);
        for seq in 0..2 {
            let read = spool.read().expect("read");
            assert!(matches!(read, Read::Message(one) if (one.run, one.seq) == (1, seq)));
        }
        let damage = Read::Damage {
            run: 1,
            bytes: 7,
            messages: 0,
        };
        assert_eq!(spool.read().expect("read"), damage);
        assert_eq!(rest(&mut spool), [(2, 0)]);
    }

    #[test]
    fn a_damaged_record_costs_the_rest_of_its_segment_and_the_loss_is_known() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut spool = open(folder.path(), 1);
        append(&mut spool, 0, 4);
        let segment = path(folder.path(), spool.segments[0].number);
        drop(spool);
        let mut spool = open(folder.path(), 2);
        append(&mut spool, 0, 1);
        let file = OpenOptions::new().write(true).open(segment).expect("there");
        let second = (HEAD + RECORD + 3 + RECORD) as u64;
        file.write_all_at(b"X", second).expect("written");
        assert!(matches!(spool.read().expect("read"), Read::Message(_)));
        assert!(matches!(
            spool.read().expect("read"),
            Read::Damage {
                run: 1,
                messages: 3,
                ..
            }
        ));
        assert_eq!(rest(&mut spool), [(2, 0)]);
        spool.acknowledge(5).expect("noted");
        assert_eq!(spool.messages(), 0);
    }

    #[test]
    fn a_segment_with_a_damaged_head_is_kept_aside_and_its_loss_is_known() {
        for (at, bytes) in [(0, &b"X"[..]), (8, &[0; HEAD - 8]), (16, &[0xff; 8])] {
            let folder = tempfile::tempdir().expect("a folder");
            for run in 1..4 {
                append(&mut open(folder.path(), run), 0, 2);
            }
            let damaged = path(folder.path(), 2);
            let file = OpenOptions::new().write(true).open(&damaged);
            file.expect("there")
                .write_all_at(bytes, at)
                .expect("written");
            let mut spool = open(folder.path(), 4);
            assert_eq!(
                spool.damaged(),
                fs::metadata(damaged.with_extension("damaged"))
                    .expect("kept")
                    .len()
            );
            let mut lost = 0;
            let mut found = Vec::new();
            loop {
                match spool.read().expect("read") {
                    Read::Message(one) => found.push((one.run, one.seq)),
                    Read::Damage { messages, .. } => lost += messages,
                    Read::Nothing => break,
                }
            }
            assert_eq!((found, lost), (vec![(1, 0), (1, 1), (3, 0), (3, 1)], 2));
        }
    }

    #[test]
    fn files_of_others_do_no_harm() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in [
            "7.spool",
            "+7.spool",
            "x.spool",
            "00000000000000000009.spool",
        ] {
            fs::write(folder.path().join(name), "").expect("written");
        }
        assert_eq!(open(folder.path(), 1).messages(), 0);
    }

    #[test]
    fn segments_are_removed_as_they_are_acknowledged_and_the_size_is_bounded() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut spool = open(folder.path(), 1);
        let large = vec![1; 100_000];
        let one = frames(&[&large]);
        let mut seq = 0;
        while spool.has_room(one.len(), 1) {
            spool.append(&one, seq).expect("appended");
            seq += 1;
        }
        assert!(spool.bytes() <= 4 << 20 && seq > 35, "{seq}");
        assert!(spool.segments.len() > 10);
        for _ in 0..seq {
            assert!(matches!(spool.read().expect("read"), Read::Message(_)));
        }
        spool.acknowledge(seq).expect("noted");
        assert_eq!(spool.segments.len(), 1);
        let files = fs::read_dir(folder.path()).expect("a folder").count();
        assert_eq!(files, 3, "lock, position, one segment");
        assert!(spool.has_room(one.len(), 1));
    }

    #[test]
    fn two_cannot_have_one_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        let _spool = open(folder.path(), 1);
        let refused = Spool::open(folder.path(), 4 << 20, 2).expect_err("locked");
        assert!(refused.contains("folder of its own"), "{refused}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever is appended, read, acknowledged, rewound and opened again, in any order: the messages that are not
        /// acknowledged are all there, once, in order.
        #[test]
        fn nothing_is_lost_and_nothing_comes_twice(steps in prop::collection::vec((0..5_u8, 1..6_u64), 1..40)) {
            let folder = tempfile::tempdir().expect("a folder");
            let mut spool = open(folder.path(), 0);
            let (mut run, mut next) = (0, 0);
            let mut waiting: VecDeque<(u64, u64)> = VecDeque::new();
            let mut handed = 0;
            for (step, count) in steps {
                match step {
                    0 | 1 => {
                        append(&mut spool, next, count);
                        waiting.extend((next..next + count).map(|seq| (run, seq)));
                        next += count;
                    }
                    2 => for _ in 0..count {
                        match spool.read().expect("read") {
                            Read::Message(one) => {
                                prop_assert_eq!(Some(&(one.run, one.seq)), waiting.get(handed));
                                handed += 1;
                            }
                            Read::Damage { .. } => prop_assert!(false, "damage"),
                            Read::Nothing => prop_assert_eq!(handed, waiting.len()),
                        }
                    },
                    3 => {
                        let known = count.min(handed as u64);
                        spool.acknowledge(known).expect("noted");
                        for _ in 0..known {
                            waiting.pop_front();
                            handed -= 1;
                        }
                    }
                    _ => {
                        handed = 0;
                        if count > 3 {
                            drop(spool);
                            run += 1;
                            next = 0;
                            spool = open(folder.path(), run);
                        } else {
                            spool.rewind();
                        }
                    }
                }
                prop_assert_eq!(spool.messages(), waiting.len() as u64);
            }
            spool.rewind();
            prop_assert_eq!(rest(&mut spool), Vec::from(waiting));
        }
    }
}

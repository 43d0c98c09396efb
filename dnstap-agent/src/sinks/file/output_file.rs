//! One file: its head, pieces and foot.
//!
//! A regular file is complete at every moment between two pieces: each piece is written over the
//! foot of the one before, and is followed by a foot of its own. So a killed agent leaves a file
//! that every reader accepts. A full disk always has room for the foot, because the bytes under it
//! belonged to the file already. If the disk becomes full within a piece, the file is cut back to
//! its last whole message.
//!
//! If another process has truncated the file ([`OutputFile::is_cut`]), nothing is written at the
//! old end. The file would begin with a hole, which no reader accepts.
//!
//! The foot of a Parquet file lists its row groups, so it is another one behind each of them.
//!
//! On a pipe the foot is written once, at the end.

use std::{io, mem};

use super::{
    device::{Device, Partial, write_all_at},
    piece::{Ends, Piece},
};
use crate::{
    formats::table::Directory,
    sinks::queue::blocking::{Failure, Written},
};

/// Bytes at the beginning and at the end of every file of an output; either may be empty.
#[derive(Debug, Clone, Default)]
pub(super) struct Frame {
    pub(super) head: Vec<u8>,
    pub(super) foot: Vec<u8>,
    /// What the foot lists, if the pieces are row groups: nothing yet.
    pub(super) directory: Option<Directory>,
}

/// A file that is being written.
#[derive(Debug)]
pub(super) struct OutputFile<D> {
    device: D,
    foot: Vec<u8>,
    /// Row groups that the foot lists, if the pieces are such.
    directory: Option<Directory>,
    /// Position just after the last whole message.
    end: u64,
    messages: u64,
}

impl<D: Device> OutputFile<D> {
    /// Writes the head.
    pub(super) fn start(device: D, frame: &Frame) -> io::Result<Self> {
        let mut output_file = Self {
            device,
            foot: Vec::new(),
            directory: None,
            end: 0,
            messages: 0,
        };
        output_file.begin(frame)?;
        Ok(output_file)
    }

    /// Returns whether another process has made the file shorter than what was written to it.
    pub(super) fn is_cut(&self) -> bool {
        self.device.is_rewritable() && self.device.length().is_ok_and(|length| length < self.end)
    }

    /// Begins again at the file's start and drops the remaining content. After a failure the file
    /// still counts as cut.
    pub(super) fn begin_anew(&mut self, frame: &Frame) -> io::Result<()> {
        self.device.cut(0)?;
        self.begin(frame)
    }

    /// Returns the size in bytes.
    pub(super) fn size(&self) -> u64 {
        self.end + self.foot.len() as u64
    }

    /// Returns whether the file holds no message.
    pub(super) fn is_empty(&self) -> bool {
        self.messages == 0
    }

    pub(super) fn device(&self) -> &D {
        &self.device
    }

    /// Writes the whole piece, or as many whole messages as there is room for.
    pub(super) fn append(&mut self, piece: &Piece<'_>) -> Result<Written, Failure> {
        let end = self.end + piece.bytes.len() as u64;
        let next = self.list(piece).map_err(|error| Failure {
            written: Written::default(),
            error,
            resumable: false,
        })?;
        let written = write_all_at(&mut self.device, piece.bytes, self.end);
        let (reached, error) = match written {
            Err(Partial { written, error }) => (written, error),
            Ok(()) if !self.device.is_rewritable() => {
                self.foot = next.unwrap_or(mem::take(&mut self.foot));
                return Ok(self.accept(piece.all(), end));
            }
            Ok(()) => {
                match write_all_at(&mut self.device, next.as_ref().unwrap_or(&self.foot), end) {
                    Ok(()) => {
                        self.foot = next.unwrap_or(mem::take(&mut self.foot));
                        return Ok(self.accept(piece.all(), end));
                    }
                    Err(Partial { error, .. }) => (piece.bytes.len(), error),
                }
            }
        };
        if let (Some(_), Some(directory)) = (&next, &mut self.directory) {
            directory.pop();
        }
        let (written, resumable) = self.cut_back(piece, reached);
        Err(Failure {
            written,
            error,
            resumable,
        })
    }

    /// Ends the file: writes the foot if the output is a pipe.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        if self.device.is_rewritable() {
            return Ok(()); // the foot is there already
        }
        self.write_foot(self.end).map_err(|partial| partial.error)
    }

    fn begin(&mut self, frame: &Frame) -> io::Result<()> {
        let end = frame.head.len() as u64;
        self.foot.clone_from(&frame.foot);
        self.directory.clone_from(&frame.directory);
        write_all_at(&mut self.device, &frame.head, 0).map_err(|partial| partial.error)?;
        if self.device.is_rewritable() {
            self.write_foot(end).map_err(|partial| partial.error)?;
        }
        (self.end, self.messages) = (end, 0);
        Ok(())
    }

    /// Lists a row group, and returns the foot for the time after it; `None` for other pieces.
    fn list(&mut self, piece: &Piece<'_>) -> io::Result<Option<Vec<u8>>> {
        let (Ends::Group(group), Some(directory)) = (piece.ends, &mut self.directory) else {
            return Ok(None);
        };
        directory.push(group, self.end).map_err(io::Error::other)?;
        match directory.foot() {
            Ok(foot) => Ok(Some(foot)),
            Err(error) => {
                directory.pop();
                Err(io::Error::other(error))
            }
        }
    }

    /// Returns the number of row groups.
    pub(super) fn groups(&self) -> usize {
        self.directory.as_ref().map_or(0, Directory::len)
    }

    fn accept(&mut self, written: Written, end: u64) -> Written {
        self.end = end;
        self.messages += written.messages;
        written
    }

    fn write_foot(&mut self, at: u64) -> Result<(), Partial> {
        write_all_at(&mut self.device, &self.foot, at)
    }

    /// Repairs the file after a write that left `reached` bytes behind `end`: keeps the whole
    /// messages, cuts the rest off, writes the foot. Returns what was kept, and whether writing may
    /// go on behind it.
    fn cut_back(&mut self, piece: &Piece<'_>, reached: usize) -> (Written, bool) {
        let mut whole = piece.whole(reached);
        loop {
            let written = whole.last().copied().unwrap_or_default();
            let end = self.end + written.bytes;
            if !self.device.is_rewritable() {
                // Bytes in a pipe cannot be taken back.
                return (self.accept(written, end), false);
            }
            let cut = self.device.cut(end).is_ok();
            // A file that cannot be cut cannot be repaired, and its messages are in it.
            if !cut || self.write_foot(end).is_ok() || whole.pop().is_none() {
                return (self.accept(written, end), cut);
            }
            // There is no room for the foot; dropping one more message makes room.
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::{
        super::{device::mock::Disk, piece::Ends},
        *,
    };
    use crate::sinks::batch::frame_ends;

    const HEAD: &[u8] = b"<head>";
    const FOOT: &[u8] = b"<foot>";

    #[test]
    fn the_file_is_complete_after_every_piece() {
        let disk = Disk::file(usize::MAX);
        let mut output_file = OutputFile::start(disk.clone(), &frame()).expect("room");
        assert_eq!(disk.bytes(), [HEAD, FOOT].concat());
        let frames = frames(&[10, 20]);
        for so_far in 1..4 {
            let written = output_file.append(&piece(&frames, 2)).expect("room");
            assert_eq!((written.messages, written.bytes), (2, 38));
            assert_eq!(disk.bytes(), [HEAD, &frames.repeat(so_far), FOOT].concat());
        }
        output_file.finish().expect("nothing to do");
        assert_eq!(disk.bytes().len(), HEAD.len() + 3 * 38 + FOOT.len());
    }

    #[test]
    fn a_pipe_gets_one_foot_at_the_end() {
        let pipe = Disk::pipe(usize::MAX);
        let mut output_file = OutputFile::start(pipe.clone(), &frame()).expect("room");
        let frames = frames(&[10, 20]);
        output_file.append(&piece(&frames, 2)).expect("room");
        output_file.append(&piece(&frames, 2)).expect("room");
        output_file.finish().expect("room");
        assert_eq!(pipe.bytes(), [HEAD, &frames.repeat(2), FOOT].concat());
    }

    #[test]
    fn a_file_that_was_cut_begins_anew_once_there_is_room_for_its_head() {
        let mut disk = Disk::file(HEAD.len() + 38 + FOOT.len());
        let mut output_file = OutputFile::start(disk.clone(), &frame()).expect("room");
        let frames = frames(&[10, 20]);
        output_file.append(&piece(&frames, 2)).expect("room");
        assert!(!output_file.is_cut());
        disk.cut(HEAD.len() as u64).expect("a file");
        *disk.room.lock().expect("no panic elsewhere") = 3;
        assert!(output_file.is_cut());
        output_file.begin_anew(&frame()).expect_err("no room");
        assert!(output_file.is_cut());
        disk.grow(100);
        output_file.begin_anew(&frame()).expect("room");
        assert!(output_file.is_empty() && !output_file.is_cut());
        output_file.append(&piece(&frames, 2)).expect("room");
        assert_eq!(disk.bytes(), [HEAD, &frames, FOOT].concat());
    }

    #[rstest]
    #[case::between_two_frames(0)]
    #[case::within_a_frame(1)]
    fn a_broken_pipe_counts_the_messages_that_went_through(#[case] rest: usize) {
        let pipe = Disk::pipe(HEAD.len() + 38 + 14 + rest);
        let mut output_file = OutputFile::start(pipe, &frame()).expect("room");
        let frames = frames(&[10, 20]);
        output_file.append(&piece(&frames, 2)).expect("room");
        let failure = output_file.append(&piece(&frames, 2)).expect_err("no room");
        assert_eq!((failure.written.messages, failure.written.bytes), (1, 14));
        assert_eq!(failure.error.kind(), io::ErrorKind::BrokenPipe);
        assert!(!failure.resumable);
    }

    #[test]
    fn a_compressed_piece_is_kept_whole_or_not_at_all() {
        let disk = Disk::file(HEAD.len() + 30 + FOOT.len());
        let mut output_file = OutputFile::start(disk.clone(), &frame()).expect("room");
        let compressed = |bytes| Piece {
            ends: Ends::Whole,
            ..piece(bytes, 7)
        };
        output_file.append(&compressed(&[b'z'; 20])).expect("room");
        let failure = output_file
            .append(&compressed(&[b'z'; 11]))
            .expect_err("no room");
        assert_eq!(
            (failure.written, failure.resumable),
            (Written::default(), true)
        );
        assert_eq!(disk.bytes(), [HEAD, &[b'z'; 20], FOOT].concat());
        output_file.append(&compressed(&[b'y'; 10])).expect("room");
        assert_eq!(
            disk.bytes(),
            [HEAD, &[b'z'; 20], &[b'y'; 10], FOOT].concat()
        );
    }

    proptest! {
        /// For any amount of room, also if it changes: the file holds whole messages and the foot,
        /// and the count is exact.
        #[test]
        fn a_full_disk_leaves_whole_messages_and_takes_more_when_it_has_room(
            room in 0usize..300,
            more in 0usize..300,
            sizes in prop::collection::vec(prop::collection::vec(1usize..60, 1..6), 1..6),
            freed in 0usize..6,
        ) {
            let mut disk = Disk::file(HEAD.len() + FOOT.len() + room);
            let mut output_file = OutputFile::start(disk.clone(), &frame()).expect("room");
            let mut expected = Vec::new();
            for (nth, sizes) in sizes.iter().enumerate() {
                if nth == freed {
                    disk.grow(more);
                }
                let room = if nth >= freed { room + more } else { room };
                let bytes = frames(sizes);
                let left = room - expected.len();
                let fits: Vec<usize> = frame_ends(&bytes).take_while(|end| *end <= left).collect();
                let kept = fits.last().copied().unwrap_or(0);
                let (written, failed) = match output_file.append(&piece(&bytes, sizes.len() as u64)) {
                    Ok(written) => (written, false),
                    Err(Failure { written, error, resumable }) => {
                        prop_assert_eq!(error.kind(), io::ErrorKind::StorageFull);
                        prop_assert!(resumable);
                        (written, true)
                    }
                };
                prop_assert_eq!(failed, bytes.len() > left);
                prop_assert_eq!((written.messages, written.bytes), (fits.len() as u64, kept as u64), "every message that fits is kept");
                expected.extend_from_slice(&bytes[..kept]);
                prop_assert_eq!(disk.bytes(), [HEAD, &expected, FOOT].concat());
            }
        }
    }

    fn frame() -> Frame {
        Frame {
            head: HEAD.to_vec(),
            foot: FOOT.to_vec(),
            directory: None,
        }
    }

    fn piece(bytes: &[u8], messages: u64) -> Piece<'_> {
        Piece {
            bytes,
            messages,
            unfit: 0,
            ends: Ends::Frames,
        }
    }

    fn frames(sizes: &[usize]) -> Vec<u8> {
        let mut frames = Vec::new();
        for size in sizes {
            frames.extend(u32::try_from(*size).expect("small").to_be_bytes());
            frames.extend(std::iter::repeat_n(b'x', *size));
        }
        frames
    }
}

//! Owns the Frame Streams file: START, the frames as they come, STOP.
//!
//! A regular file is a complete one at every moment between two batches: each batch is written over the STOP of the one before,
//! and followed by a STOP of its own. So a killed agent leaves a file that every reader accepts, and a full disk always has
//! room for the STOP: the bytes under it were ours already. Within a batch, a full disk cuts the file back to its last whole frame.
//!
//! On a pipe STOP is written once, at the end.

use std::io;

use bytes::Bytes;
use dnstap_proto::frame_streams::{ControlFrame, DNSTAP_CONTENT_TYPE};

use super::{
    Batch,
    device::{Device, Partial, write_all_at},
    output::{Failure, Output, Written, frame_ends},
};

/// An [`Output`] that holds frames.
#[derive(Debug)]
pub(super) struct FrameFile<D> {
    device: D,
    stop: Vec<u8>,
    /// Just after the last whole frame.
    end: u64,
}

impl<D: Device> FrameFile<D> {
    /// Writes START.
    pub(super) fn start(mut device: D) -> io::Result<Self> {
        let start = control(&ControlFrame::Start {
            content_type: Some(Bytes::from_static(DNSTAP_CONTENT_TYPE)),
        })?;
        let stop = control(&ControlFrame::Stop)?;
        write_all_at(&mut device, &start, 0).map_err(|partial| partial.error)?;
        let mut file = Self {
            device,
            stop,
            end: start.len() as u64,
        };
        if file.device.is_rewritable() {
            file.write_stop(file.end).map_err(|partial| partial.error)?;
        }
        Ok(file)
    }

    fn write_stop(&mut self, at: u64) -> Result<(), Partial> {
        write_all_at(&mut self.device, &self.stop, at)
    }

    /// After a write that left `reached` bytes behind `end`: keeps the whole frames, cuts the rest off, writes STOP.
    fn cut_back(&mut self, frames: &[u8], reached: usize) -> Written {
        let mut whole: Vec<usize> = frame_ends(frames)
            .take_while(|end| *end <= reached)
            .collect();
        loop {
            let bytes = whole.last().copied().unwrap_or(0) as u64;
            let written = Written {
                messages: whole.len() as u64,
                bytes,
            };
            let end = self.end + bytes;
            // What a pipe has taken stays taken; a file that cannot be cut is past help, and its frames are in it.
            let settled = !self.device.is_rewritable()
                || self.device.cut(end).is_err()
                || self.write_stop(end).is_ok();
            if settled || whole.pop().is_none() {
                self.end = end;
                return written;
            }
            // No room for STOP: one frame less makes it.
        }
    }
}

impl<D: Device> Output for FrameFile<D> {
    fn write(&mut self, batch: &Batch) -> Result<Written, Failure> {
        let frames = &batch.frames[..];
        let end = self.end + frames.len() as u64;
        if let Err(Partial { written, error }) = write_all_at(&mut self.device, frames, self.end) {
            return Err(Failure {
                written: self.cut_back(frames, written),
                error,
            });
        }
        if self.device.is_rewritable()
            && let Err(Partial { error, .. }) = self.write_stop(end)
        {
            return Err(Failure {
                written: self.cut_back(frames, frames.len()),
                error,
            });
        }
        self.end = end;
        Ok(Written {
            messages: batch.messages,
            bytes: frames.len() as u64,
        })
    }

    fn finish(&mut self) -> io::Result<()> {
        if self.device.is_rewritable() {
            return Ok(()); // it is there
        }
        self.write_stop(self.end).map_err(|partial| partial.error)
    }
}

fn control(frame: &ControlFrame) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::{super::device::mock::Disk, *};

    /// START: escape, length 34, type 2, field `CONTENT_TYPE` (1) of 22 bytes.
    const START: &[u8] = b"\0\0\0\0\0\0\0\x22\0\0\0\x02\0\0\0\x01\0\0\0\x16protobuf:dnstap.Dnstap";
    /// STOP: escape, length 4, type 3.
    const STOP: &[u8] = b"\0\0\0\0\0\0\0\x04\0\0\0\x03";

    #[test]
    fn the_file_is_complete_after_every_batch() {
        let disk = Disk::file(usize::MAX);
        let mut file = FrameFile::start(disk.clone()).expect("room");
        assert_eq!(disk.bytes(), [START, STOP].concat());
        for so_far in 1..4 {
            let frames = batch(&[10, 20]);
            let written = file.write(&frames).expect("room");
            assert_eq!(
                written,
                Written {
                    messages: 2,
                    bytes: 38
                }
            );
            assert_eq!(
                disk.bytes(),
                [START, &frames.frames.repeat(so_far), STOP].concat()
            );
        }
        file.finish().expect("nothing to do");
        assert!(
            disk.bytes().ends_with(STOP) && disk.bytes().len() == START.len() + 3 * 38 + STOP.len()
        );
    }

    #[test]
    fn a_pipe_gets_one_stop_at_the_end() {
        let pipe = Disk::pipe(usize::MAX);
        let mut file = FrameFile::start(pipe.clone()).expect("room");
        let frames = batch(&[10, 20]);
        file.write(&frames).expect("room");
        file.write(&frames).expect("room");
        file.finish().expect("room");
        assert_eq!(
            pipe.bytes(),
            [START, &frames.frames.repeat(2), STOP].concat()
        );
    }

    #[rstest]
    #[case::between_two_frames(0)]
    #[case::within_a_frame(1)]
    fn a_broken_pipe_counts_the_frames_that_went_through(#[case] rest: usize) {
        let pipe = Disk::pipe(START.len() + 38 + 14 + rest);
        let mut file = FrameFile::start(pipe).expect("room");
        file.write(&batch(&[10, 20])).expect("room");
        let failure = file.write(&batch(&[10, 20])).expect_err("no room");
        assert_eq!(
            failure.written,
            Written {
                messages: 1,
                bytes: 14
            }
        );
        assert_eq!(failure.error.kind(), io::ErrorKind::BrokenPipe);
    }

    proptest! {
        /// Whatever the size of the disk: whole frames, STOP, and the count of exactly these.
        #[test]
        fn a_full_disk_leaves_whole_frames_and_a_stop(room in 0usize..400, sizes in prop::collection::vec(1usize..60, 1..12)) {
            let disk = Disk::file(START.len() + STOP.len() + room);
            let mut file = FrameFile::start(disk.clone()).expect("room");
            let (first, second) = sizes.split_at(sizes.len() / 2);
            let mut written = Written::default();
            let mut failed = false;
            for batch in [batch(first), batch(second)] {
                match file.write(&batch) {
                    Ok(more) => written = Written { messages: written.messages + more.messages, bytes: written.bytes + more.bytes },
                    Err(Failure { written: more, error }) => {
                        prop_assert_eq!(error.kind(), io::ErrorKind::StorageFull);
                        written = Written { messages: written.messages + more.messages, bytes: written.bytes + more.bytes };
                        failed = true;
                        break;
                    }
                }
            }
            let all = batch(&sizes).frames;
            prop_assert_eq!(failed, all.len() > room);
            let kept = usize::try_from(written.bytes).expect("small");
            prop_assert_eq!(disk.bytes(), [START, &all[..kept], STOP].concat());
            let whole: Vec<usize> = frame_ends(&all).take_while(|end| *end <= room).collect();
            prop_assert_eq!(written.messages, whole.len() as u64, "every frame that fits is kept");
            prop_assert_eq!(kept, whole.last().copied().unwrap_or(0));
        }
    }

    fn batch(sizes: &[usize]) -> Batch {
        let mut frames = Vec::new();
        for size in sizes {
            frames.extend(u32::try_from(*size).expect("small").to_be_bytes());
            frames.extend(std::iter::repeat_n(b'x', *size));
        }
        Batch {
            frames: frames.into(),
            messages: sizes.len() as u64,
        }
    }
}

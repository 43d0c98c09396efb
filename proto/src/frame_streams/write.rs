//! Writes Frame Streams files. The output is always a stream of whole frames, up to the first failure of the sink.

use std::io::Write;

use bytes::Bytes;

use super::{ControlFrame, DEFAULT_MAX_DATA_FRAME, WriteError, be32};

/// Writes one stream: START when it is created, data frames, STOP when it is finished.
///
/// Every call writes to the sink immediately, so use a [`BufWriter`](std::io::BufWriter) for single frames;
/// [`write_frames`](Self::write_frames) is for callers that collect frames themselves. A writer that is dropped without
/// [`finish`](Self::finish) leaves a stream without STOP, which readers report as cut between two frames.
///
/// After a failed write the sink may hold a part of a frame, and frames after it would be misread. So all later calls
/// fail with [`WriteError::Broken`], and STOP is not written.
#[derive(Debug)]
pub struct Writer<W> {
    sink: W,
    bytes: u64,
    frames: u64,
    broken: bool,
}

impl<W: Write> Writer<W> {
    /// Writes START with this content type, at most 256 bytes.
    pub fn new(sink: W, content_type: &[u8]) -> Result<Self, WriteError> {
        let mut start = Vec::new();
        let content_type = Some(Bytes::copy_from_slice(content_type));
        ControlFrame::Start { content_type }.encode(&mut start)?;
        Self::begin(sink, &start)
    }

    /// Writes this START, which is already encoded.
    pub(super) fn begin(sink: W, start: &[u8]) -> Result<Self, WriteError> {
        let mut writer = Self {
            sink,
            bytes: 0,
            frames: 0,
            broken: false,
        };
        writer.write(&[start])?;
        Ok(writer)
    }

    /// Writes one data frame around `payload`: 1 byte to [`DEFAULT_MAX_DATA_FRAME`].
    pub fn write_frame(&mut self, payload: &[u8]) -> Result<(), WriteError> {
        if payload.is_empty() {
            return Err(WriteError::Empty);
        }
        let Some(len) = frame_len(payload.len()) else {
            let len = payload.len();
            return Err(WriteError::TooLong { len });
        };
        self.write(&[&len.to_be_bytes(), payload])?;
        self.frames += 1;
        Ok(())
    }

    /// Writes data that is already in data frames, one after the other, as
    /// [`append_frame`](crate::DnstapRef::append_frame) makes them. Returns the number of frames.
    ///
    /// Writes nothing if the bytes are not a sequence of whole data frames.
    pub fn write_frames(&mut self, frames: &[u8]) -> Result<u64, WriteError> {
        let count = count_frames(frames)?;
        self.write(&[frames])?;
        self.frames += count;
        Ok(count)
    }

    /// Flushes the sink.
    pub fn flush(&mut self) -> Result<(), WriteError> {
        self.check()?;
        let flushed = self.sink.flush();
        self.note(flushed)
    }

    /// Writes STOP, flushes the sink and returns it.
    pub fn finish(self) -> Result<W, WriteError> {
        let mut stop = Vec::new();
        ControlFrame::Stop.encode(&mut stop)?;
        self.end(&stop)
    }

    /// Writes this STOP, which is already encoded, flushes the sink and returns it.
    pub(super) fn end(mut self, stop: &[u8]) -> Result<W, WriteError> {
        self.write(&[stop])?;
        self.flush()?;
        Ok(self.sink)
    }

    /// Returns the number of bytes that successful calls have written: the length of the valid part if the sink has no
    /// buffer.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the number of data frames that successful calls have written.
    #[must_use]
    pub const fn frames(&self) -> u64 {
        self.frames
    }

    /// Returns the sink.
    #[must_use]
    pub const fn get_ref(&self) -> &W {
        &self.sink
    }

    fn write(&mut self, parts: &[&[u8]]) -> Result<(), WriteError> {
        self.check()?;
        for part in parts {
            let written = self.sink.write_all(part);
            self.note(written)?;
        }
        self.bytes += parts.iter().map(|part| part.len() as u64).sum::<u64>();
        Ok(())
    }

    fn check(&self) -> Result<(), WriteError> {
        if self.broken {
            return Err(WriteError::Broken);
        }
        Ok(())
    }

    fn note(&mut self, result: std::io::Result<()>) -> Result<(), WriteError> {
        self.broken |= result.is_err();
        Ok(result?)
    }
}

/// Returns the length field of a frame of this length, if a frame may be that long.
fn frame_len(len: usize) -> Option<u32> {
    u32::try_from(len)
        .ok()
        .filter(|len| (1..=DEFAULT_MAX_DATA_FRAME).contains(len))
}

fn count_frames(frames: &[u8]) -> Result<u64, WriteError> {
    let mut count = 0;
    let mut at = 0;
    while at < frames.len() {
        let next = be32(frames, at)
            .and_then(|len| frame_len(len as usize))
            .map(|len| at + 4 + len as usize)
            .filter(|&next| next <= frames.len());
        let Some(next) = next else {
            return Err(WriteError::NotFrames { at });
        };
        at = next;
        count += 1;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::frame_streams::DNSTAP_CONTENT_TYPE;

    #[test]
    fn single_frames_and_rows_of_frames_give_the_same_file() {
        let mut single = Writer::new(Vec::new(), DNSTAP_CONTENT_TYPE).unwrap();
        single.write_frame(b"one").unwrap();
        single.write_frame(b"three").unwrap();
        let mut row = Writer::new(Vec::new(), DNSTAP_CONTENT_TYPE).unwrap();
        let frames = b"\0\0\0\x03one\0\0\0\x05three";
        assert_eq!(row.write_frames(frames).unwrap(), 2);

        for writer in [&single, &row] {
            assert_eq!(writer.frames(), 2);
            assert_eq!(writer.bytes(), writer.get_ref().len() as u64);
        }
        assert_eq!(single.finish().unwrap(), row.finish().unwrap());
    }

    #[test]
    fn what_is_not_a_data_frame_is_refused_and_leaves_no_trace() {
        let mut writer = Writer::new(Vec::new(), DNSTAP_CONTENT_TYPE).unwrap();
        let before = writer.bytes();
        assert!(matches!(writer.write_frame(b""), Err(WriteError::Empty)));
        let long = vec![0; (1 << 20) + 1];
        assert!(matches!(
            writer.write_frame(&long),
            Err(WriteError::TooLong { len: 1_048_577 })
        ));
        for (frames, broken_at) in [
            (&b"\0\0\0\x01x\0\0\0\0\0\0\0\x04\0\0\0\x03"[..], 5), // a control frame
            (b"\0\0\0\x02x", 0),                                  // cut in the payload
            (b"\0\0\0\x01x\0\0", 5),                              // cut in the length
            (b"\xff\xff\xff\xff", 0),                             // too long
        ] {
            let refused = writer.write_frames(frames);
            assert!(matches!(refused, Err(WriteError::NotFrames { at }) if at == broken_at));
        }
        assert_eq!(writer.write_frames(b"").unwrap(), 0);
        assert_eq!(writer.bytes(), before);
        assert_eq!(writer.get_ref().len() as u64, before);
        writer.write_frame(&long[1..]).unwrap();
        writer.finish().unwrap();
    }

    #[test]
    fn after_a_failed_write_nothing_more_is_written() {
        let mut writer = Writer::new(Full { room: 50 }, DNSTAP_CONTENT_TYPE).unwrap();
        assert!(matches!(
            writer.write_frame(b"too long"),
            Err(WriteError::Io(_))
        ));
        assert_eq!(writer.bytes(), 42);
        assert_eq!(writer.frames(), 0);
        assert!(matches!(writer.write_frame(b"x"), Err(WriteError::Broken)));
        assert!(matches!(writer.flush(), Err(WriteError::Broken)));
        assert!(matches!(writer.finish(), Err(WriteError::Broken)));
    }

    /// A disk with `room` bytes left.
    #[derive(Debug)]
    struct Full {
        room: usize,
    }

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.room);
            self.room -= taken;
            if taken == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}

//! Owns the outputs of one line per message: text and JSON, to a file or to standard output.
//!
//! A batch is rendered into one reused buffer and written at once. A full disk cuts a regular file back to its last whole line.

use std::io;

use super::{
    Batch,
    device::{Device, Partial, write_all_at},
    output::{Failure, Output, Written},
};
use crate::render::{Format, Renderer};

/// An [`Output`] that holds lines.
#[derive(Debug)]
pub(super) struct LineFile<D> {
    device: D,
    /// Just after the last whole line.
    end: u64,
    renderer: Renderer,
    lines: Vec<u8>,
    /// Where in `lines` each message's line ends.
    ends: Vec<usize>,
}

impl<D: Device> LineFile<D> {
    pub(super) fn new(device: D, format: Format) -> Self {
        Self {
            device,
            end: 0,
            renderer: Renderer::new(format),
            lines: Vec::new(),
            ends: Vec::new(),
        }
    }

    fn render(&mut self, batch: &Batch) {
        self.lines.clear();
        self.ends.clear();
        let mut frames = batch.frames.clone();
        while frames.len() >= 4 {
            let length = u32::from_be_bytes([frames[0], frames[1], frames[2], frames[3]]);
            let end = usize::try_from(length)
                .unwrap_or(usize::MAX)
                .saturating_add(4)
                .min(frames.len());
            let frame = frames.split_to(end).split_off(4);
            self.renderer.line(frame, &mut self.lines);
            self.ends.push(self.lines.len());
        }
    }
}

impl<D: Device> Output for LineFile<D> {
    fn write(&mut self, batch: &Batch) -> Result<Written, Failure> {
        self.render(batch);
        let Err(Partial {
            written: reached,
            mut error,
        }) = write_all_at(&mut self.device, &self.lines, self.end)
        else {
            self.end += self.lines.len() as u64;
            return Ok(Written {
                messages: batch.messages,
                bytes: self.lines.len() as u64,
            });
        };
        let whole = self.ends.partition_point(|end| *end <= reached);
        let bytes = whole.checked_sub(1).map_or(0, |last| self.ends[last]) as u64;
        self.end += bytes;
        if self.device.is_rewritable()
            && let Err(cut) = self.device.cut(self.end)
        {
            error = io::Error::new(
                error.kind(),
                format!("{error} (and the half line could not be cut off: {cut})"),
            );
        }
        Err(Failure {
            written: Written {
                messages: whole as u64,
                bytes,
            },
            error,
        })
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(()) // nothing is held back
    }
}

#[cfg(test)]
mod tests {
    use dnstap_proto::{Dnstap, Message};
    use proptest::prelude::*;
    use prost::Message as _;

    use super::{super::device::mock::Disk, *};

    proptest! {
        #[test]
        fn a_full_disk_leaves_whole_lines_and_counts_them(room in 0usize..300, first in 0u64..6, second in 0u64..6) {
            let disk = Disk::file(room);
            let mut file = LineFile::new(disk.clone(), Format::Text);
            let mut written = Written::default();
            for messages in [first, second] {
                let (more, failed) = match file.write(&batch(messages)) {
                    Ok(more) => (more, false),
                    Err(Failure { written, .. }) => (written, true),
                };
                written = Written { messages: written.messages + more.messages, bytes: written.bytes + more.bytes };
                if failed {
                    break;
                }
            }
            let fits = (room / LINE.len()).min(usize::try_from(first + second).expect("small"));
            prop_assert_eq!(disk.bytes(), LINE.repeat(fits));
            prop_assert_eq!(written, Written { messages: fits as u64, bytes: (fits * LINE.len()) as u64 });
        }
    }

    #[test]
    fn what_a_broken_pipe_took_is_counted_by_whole_lines() {
        let mut file = LineFile::new(Disk::pipe(LINE.len() * 2 + 3), Format::Text);
        let failure = file.write(&batch(5)).expect_err("broken");
        assert_eq!(failure.written.messages, 2);
        assert_eq!(failure.error.kind(), io::ErrorKind::BrokenPipe);
    }

    const LINE: &[u8] = b"- CQ -:- -> -:- - - no DNS message\n";

    fn batch(messages: u64) -> Batch {
        let dnstap = Dnstap {
            r#type: 1,
            message: Some(Message {
                r#type: 5,
                ..Message::default()
            }),
            ..Dnstap::default()
        };
        let payload = dnstap.encode_to_vec();
        let frame = [
            &u32::try_from(payload.len()).expect("small").to_be_bytes()[..],
            &payload,
        ]
        .concat();
        Batch {
            frames: frame
                .repeat(usize::try_from(messages).expect("small"))
                .into(),
            messages,
        }
    }
}

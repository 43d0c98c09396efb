//! Writes messages to files: batches are formatted, compressed if asked for, and written to
//! successive files.

use std::{io, time::Duration};

use bytes::Bytes;
use zstd::{bulk::Compressor, zstd_safe::CParameter};

use super::{
    device::Descriptor,
    output_file::{Frame, OutputFile},
    piece::{Ends, Piece},
    rotation::RotatedFiles,
};
use crate::{
    formats::Encoder,
    sinks::{
        batch::{Batch, payloads},
        queue::blocking::{Failure, Gather, Output, Written},
    },
};

/// Amount that is compressed together. A larger amount compresses better, but is written later.
const GATHER: Gather = Gather {
    bytes: 256 * 1024,
    age: Duration::from_secs(1),
};

/// Formats batches as bytes of a file.
pub(super) struct Composer {
    encoder: Encoder,
    zstd: Option<Compressor<'static>>,
    plain: Vec<u8>,
    /// End of each message in `plain`.
    ends: Vec<usize>,
    compressed: Vec<u8>,
}

impl Composer {
    pub(super) fn new(encoder: Encoder, zstd: bool) -> io::Result<Self> {
        let zstd = if zstd {
            let mut compressor = Compressor::new(zstd::DEFAULT_COMPRESSION_LEVEL)?;
            compressor.set_parameter(CParameter::ChecksumFlag(true))?;
            Some(compressor)
        } else {
            None
        };
        Ok(Self {
            encoder,
            zstd,
            plain: Vec::new(),
            ends: Vec::new(),
            compressed: Vec::new(),
        })
    }

    /// Returns the beginning and the end of every file.
    pub(super) fn frame(&mut self) -> io::Result<Frame> {
        let (mut head, mut foot) = (self.encoder.head(), self.encoder.foot());
        if let Some(zstd) = &mut self.zstd {
            // An empty head is compressed, too: without a zstd frame, an empty file would be no
            // zstd file.
            head = zstd.compress(&head)?;
            if !foot.is_empty() {
                foot = zstd.compress(&foot)?;
            }
        }
        Ok(Frame {
            head,
            foot,
            directory: None,
        })
    }

    fn piece<'a>(&'a mut self, batch: &'a Batch) -> io::Result<Piece<'a>> {
        let frames = matches!(self.encoder, Encoder::Frames(_));
        if !frames {
            self.encode(&batch.frames);
        }
        let messages = if frames {
            batch.messages
        } else {
            self.ends.len() as u64
        };
        let (bytes, ends) = if frames {
            (&batch.frames[..], Ends::Frames)
        } else {
            (&self.plain[..], Ends::At(&self.ends))
        };
        let (bytes, ends) = match &mut self.zstd {
            Some(_) if bytes.is_empty() => (bytes, ends),
            Some(zstd) => {
                // One zstd frame per piece, which can be read without the others.
                self.compressed.clear();
                self.compressed
                    .reserve(zstd::zstd_safe::compress_bound(bytes.len()));
                zstd.compress_to_buffer(bytes, &mut self.compressed)?;
                (&self.compressed[..], Ends::Whole)
            }
            None => (bytes, ends),
        };
        Ok(Piece {
            bytes,
            messages,
            unfit: batch.messages - messages,
            ends,
        })
    }

    fn encode(&mut self, frames: &Bytes) {
        self.plain.clear();
        self.ends.clear();
        for payload in payloads(frames) {
            if self.encoder.frame(&payload, &mut self.plain) {
                self.ends.push(self.plain.len());
            }
        }
    }
}

/// An [`Output`] to a file, rotated files, or a pipe.
pub(super) struct FileOutput {
    pub(super) composer: Composer,
    pub(super) output_file: OutputFile<Descriptor>,
    /// Rotation; `None` if the output is no regular file.
    pub(super) rotated: Option<RotatedFiles>,
}

impl Output for FileOutput {
    fn write(&mut self, batch: &Batch) -> Result<Written, Failure> {
        let piece = self.composer.piece(batch).map_err(|error| Failure {
            written: Written::default(),
            error,
            resumable: false,
        })?;
        if let Some(rotated) = &mut self.rotated {
            rotated
                .mend(&mut self.output_file)
                .map_err(|error| Failure {
                    written: Written::default(),
                    error,
                    resumable: true,
                })?;
            rotated.turn(&mut self.output_file, piece.bytes.len());
        }
        self.output_file.append(&piece)
    }

    fn finish(&mut self) -> io::Result<()> {
        let mended = match &mut self.rotated {
            Some(rotated) => rotated.mend(&mut self.output_file),
            None => Ok(()),
        };
        self.rotated = None;
        mended.and_then(|()| self.output_file.finish())
    }

    fn gather(&self) -> Option<Gather> {
        self.composer.zstd.is_some().then_some(GATHER)
    }

    fn next_turn(&self) -> Option<Duration> {
        self.rotated.as_ref()?.next_turn(&self.output_file)
    }

    fn turn(&mut self) -> io::Result<()> {
        if let Some(rotated) = &mut self.rotated {
            // If mending fails now, it is tried again with the next batch and at the end.
            rotated.mend(&mut self.output_file).ok();
            rotated.turn(&mut self.output_file, 0);
        }
        Ok(())
    }

    fn reopen(&mut self) {
        if let Some(rotated) = &mut self.rotated {
            rotated.reopen(&mut self.output_file);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, fs::File, path::Path};

    use rstest::rstest;

    use super::{super::FileSink, *};
    use crate::{
        formats::Content,
        sinks::{
            report::{Account, Takes},
            sink::Typed as _,
        },
    };

    /// Opens a file output from the form and the options behind the path.
    fn output(form: &str, path: &Path, options: &str) -> Box<dyn Output> {
        let rest = format!("{}{options}", path.display());
        let sink = FileSink::parse(form, &rest).expect("valid");
        let account = Account::default();
        let open = sink.open_place().expect("opened");
        let encoder = sink.encoder(Takes::Messages);
        let output = open.start(encoder, &sink.options, &account);
        Box::new(output.expect("room"))
    }

    fn cut_to(path: &Path, length: u64) {
        let file = File::options().write(true).open(path).expect("there");
        file.set_len(length).expect("ours");
    }

    #[rstest]
    fn a_file_that_others_cut_is_whole_at_the_end(
        #[values("", ",compress=zstd")] compressed: &str,
        #[values(false, true)] turns: bool,
    ) {
        let folder = tempfile::tempdir().expect("a folder");
        let [cut, whole] = ["cut", "whole"].map(|name| folder.path().join(name));
        let [mut one, mut other] = [&cut, &whole].map(|path| output("file", path, compressed));
        let batch = Batch::new(b"\0\0\0\x02\x78\x01".repeat(100), 100);
        one.write(&batch).expect("room");
        cut_to(&cut, 0);
        if turns {
            one.turn().expect("no error");
        } else {
            one.finish().expect("room");
        }
        other.finish().expect("room");
        let [cut, whole] = [cut, whole].map(|path| fs::read(path).expect("there"));
        assert!(cut == whole, "{} bytes, not {}", cut.len(), whole.len());
    }

    /// Truncates like `copytruncate` of logrotate.
    #[rstest]
    fn a_file_that_others_cut_holds_what_came_since(
        #[values("file", "text")] form: &str,
        #[values("", ",compress=zstd")] compressed: &str,
        #[values(0, 20)] left: u64,
    ) {
        let folder = tempfile::tempdir().expect("a folder");
        let [cut, whole] = ["cut", "whole"].map(|name| folder.path().join(name));
        let batch = |messages| Batch::new(b"\0\0\0\x02\x78\x01".repeat(messages), messages as u64);
        let [mut one, mut other] = [&cut, &whole].map(|path| output(form, path, compressed));
        let written = one.write(&batch(100)).expect("room");
        assert_eq!(written.messages, 100);
        cut_to(&cut, left);
        for _ in 0..2 {
            for output in [&mut one, &mut other] {
                let written = output.write(&batch(3)).expect("room");
                assert_eq!(written.messages, 3);
            }
        }
        let [cut, whole] = [cut, whole].map(|path| fs::read(path).expect("there"));
        assert!(cut == whole, "{} bytes, not {}", cut.len(), whole.len());
    }

    #[rstest]
    #[case(Content::Text)]
    #[case(Content::Dnstap)]
    fn a_compressed_file_is_whole_from_its_beginning(#[case] content: Content) {
        let mut composer = Composer::new(Encoder::new(content, false), true).expect("memory");
        let Frame { head, foot, .. } = composer.frame().expect("memory");
        let payload = b"\0\0\0\x06broken";
        let batch = Batch::new(&payload[..], 1);
        let pieces: Vec<_> = (0..2)
            .map(|_| composer.piece(&batch).expect("memory").bytes.to_vec())
            .collect();
        let plain = |parts: &[&[u8]]| zstd::decode_all(&parts.concat()[..]).expect("zstd");
        let mut encoder = Encoder::new(content, false);
        assert!(!head.is_empty());
        assert_eq!(
            plain(&[&head, &foot]),
            [encoder.head(), encoder.foot()].concat()
        );
        let whole = plain(&[&head, &pieces[0], &pieces[1], &foot]);
        assert_eq!(plain(&[&pieces[0]]), plain(&[&pieces[1]]), "each by itself");
        assert_eq!(
            whole,
            [
                &encoder.head()[..],
                &plain(&[&pieces[0]]).repeat(2),
                &encoder.foot()
            ]
            .concat()
        );
    }
}

//! Writing bytes to a file descriptor: large writes, without further buffers.
//!
//! A regular file can be rewritten and cut ([`Device::is_rewritable`]). A pipe, a terminal, a
//! device and standard output cannot, so offsets have no meaning there.

use std::{
    fs::File,
    io::{self, ErrorKind, Write as _},
    os::unix::fs::{FileExt as _, MetadataExt as _},
};

/// A destination of writes. Tests replace it with one that fails.
pub(super) trait Device: Send {
    /// Writes some of `bytes` and returns their number. Only a rewritable device uses `offset`.
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// Cuts a rewritable device to `length` bytes.
    fn cut(&mut self, length: u64) -> io::Result<()>;
    /// Returns the current length of a rewritable device.
    fn length(&self) -> io::Result<u64>;
    /// Returns whether [`cut`](Self::cut), [`length`](Self::length) and offsets work.
    fn is_rewritable(&self) -> bool;
}

/// A write that stopped early.
#[derive(Debug)]
pub(super) struct Partial {
    /// Bytes that were written before the error.
    pub(super) written: usize,
    pub(super) error: io::Error,
}

/// Writes all of `bytes`, or returns how many were written.
pub(super) fn write_all_at(
    device: &mut impl Device,
    bytes: &[u8],
    offset: u64,
) -> Result<(), Partial> {
    let mut written = 0;
    while written < bytes.len() {
        match device.write_at(&bytes[written..], offset + written as u64) {
            Ok(0) => {
                return Err(Partial {
                    written,
                    error: ErrorKind::WriteZero.into(),
                });
            }
            Ok(more) => written += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Partial { written, error }),
        }
    }
    Ok(())
}

/// An open file descriptor.
#[derive(Debug)]
pub(super) struct Descriptor {
    file: File,
    rewritable: bool,
}

impl Descriptor {
    /// Wraps a regular file that only this output writes.
    pub(super) fn file(file: File) -> Self {
        Self {
            file,
            rewritable: true,
        }
    }

    /// Returns device and inode number.
    pub(super) fn identity(&self) -> io::Result<(u64, u64)> {
        let metadata = self.file.metadata()?;
        Ok((metadata.dev(), metadata.ino()))
    }

    /// Waits until the content is on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Wraps a descriptor that other processes may share, and with it the position.
    pub(super) fn stream(file: File) -> Self {
        Self {
            file,
            rewritable: false,
        }
    }
}

impl Device for Descriptor {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        if self.rewritable {
            self.file.write_at(bytes, offset)
        } else {
            self.file.write(bytes)
        }
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn is_rewritable(&self) -> bool {
        self.rewritable
    }
}

/// A disk with `room` bytes, for tests: accepts up to there, then fails with `error`.
#[cfg(test)]
pub(super) mod mock {
    use std::sync::{Arc, Mutex};

    use super::{Device, ErrorKind, io};

    #[derive(Debug, Clone)]
    pub(in crate::sinks) struct Disk {
        pub(in crate::sinks) content: Arc<Mutex<Vec<u8>>>,
        pub(in crate::sinks) room: Arc<Mutex<usize>>,
        pub(in crate::sinks) rewritable: bool,
        pub(in crate::sinks) error: ErrorKind,
    }

    impl Disk {
        pub(in crate::sinks) fn file(room: usize) -> Self {
            Self {
                content: Arc::default(),
                room: Arc::new(Mutex::new(room)),
                rewritable: true,
                error: ErrorKind::StorageFull,
            }
        }

        pub(in crate::sinks) fn pipe(room: usize) -> Self {
            Self {
                content: Arc::default(),
                room: Arc::new(Mutex::new(room)),
                rewritable: false,
                error: ErrorKind::BrokenPipe,
            }
        }

        pub(in crate::sinks) fn grow(&mut self, more: usize) {
            *self.room.lock().expect("no panic elsewhere") += more;
        }

        fn room(&self) -> usize {
            *self.room.lock().expect("no panic elsewhere")
        }

        pub(in crate::sinks) fn bytes(&self) -> Vec<u8> {
            self.content.lock().expect("no panic elsewhere").clone()
        }
    }

    impl Device for Disk {
        fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<usize> {
            let mut content = self.content.lock().expect("no panic elsewhere");
            let offset = if self.rewritable {
                usize::try_from(offset).expect("small")
            } else {
                content.len()
            };
            assert!(offset <= content.len(), "a hole at {offset}");
            let fits = bytes.len().min(self.room().saturating_sub(offset));
            if fits == 0 && !bytes.is_empty() {
                return Err(self.error.into());
            }
            let end = (offset + fits).max(content.len());
            content.resize(end, 0);
            content[offset..offset + fits].copy_from_slice(&bytes[..fits]);
            Ok(fits)
        }

        fn cut(&mut self, length: u64) -> io::Result<()> {
            assert!(self.rewritable);
            self.content
                .lock()
                .expect("no panic elsewhere")
                .truncate(usize::try_from(length).expect("small"));
            Ok(())
        }

        fn length(&self) -> io::Result<u64> {
            Ok(self.bytes().len() as u64)
        }

        fn is_rewritable(&self) -> bool {
            self.rewritable
        }
    }
}

//! Dnstap in files: each from its beginning to its end ([`Files`]), or one as it grows ([`Followed`]).

mod bytes;
mod followed;
mod format;
mod input;
mod members;
mod unzstd;
mod whole;

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, ErrorKind},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use dnstap_proto::frame_streams::ReadError;

pub use self::{followed::Followed, whole::Files};
use crate::host::{
    exit::{Exit, ExitWith},
    log,
};

/// What a file has instead of messages.
#[derive(Debug)]
pub enum Fault {
    /// It cannot be opened or read. The error carries [`ExitWith`].
    Unread(anyhow::Error),
    /// A frame is longer than the limit. The frames behind it follow.
    TooLong(ReadError),
    /// From this place on it is not Frame Streams, or it ends there without STOP.
    Damaged {
        /// What the reader has met, and where.
        error: ReadError,
        /// Whether the place is one of what the file decompresses to.
        compressed: bool,
    },
}

impl Fault {
    fn cannot_read(file: &Path, error: io::Error) -> Self {
        let message = format!("cannot read {}", named(file));
        Self::Unread(anyhow::Error::from(error).context(ExitWith(Exit::NoInput, message)))
    }

    /// An error of the stream.
    fn of(file: &Path, error: ReadError, compressed: bool) -> Self {
        match error {
            ReadError::Io { source, offset } if !is_of_content(&source) => {
                let decompressed = if compressed { " (decompressed)" } else { "" };
                let (name, error) = (named(file), anyhow::Error::from(source));
                let message = format!("cannot read {name} from byte {offset}{decompressed} on");
                Self::Unread(error.context(ExitWith(Exit::NoInput, message)))
            }
            error => Self::Damaged { error, compressed },
        }
    }
}

/// Whether the error is about what is in the file, and not about the reading.
fn is_of_content(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::UnexpectedEof | ErrorKind::InvalidData
    )
}

/// A file that can be read, as it was named, or why it cannot.
pub type Opened = (PathBuf, Result<File>);

/// Opens a file; `-` is standard input.
pub(crate) fn open(file: &PathBuf) -> Opened {
    let opened = if file.as_os_str() == OsStr::new("-") {
        // Not through the standard library's own buffer, which would be a second one.
        io::stdin().as_fd().try_clone_to_owned().map(File::from)
    } else {
        File::open(file)
    };
    let opened =
        opened.with_context(|| ExitWith(Exit::NoInput, format!("cannot open {}", named(file))));
    (file.clone(), opened)
}

/// The name of a file, for people on terminals.
pub(crate) fn named(file: &Path) -> String {
    log::printable(&file.to_string_lossy())
}

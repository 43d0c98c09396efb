//! Dnstap in files: whole files one after the other ([`Files`]), or one file as it grows
//! ([`Followed`]).

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

/// A problem with a file.
#[derive(Debug)]
pub enum Fault {
    /// The file cannot be opened or read. The error carries [`ExitWith`].
    Unread(anyhow::Error),
    /// A frame is longer than the limit. The frames behind it follow.
    TooLong(ReadError),
    /// The content is no Frame Streams from here on, or it ends without STOP.
    Damaged {
        /// Error of the reader, with the position.
        error: ReadError,
        /// Whether the position refers to decompressed bytes.
        compressed: bool,
    },
}

impl Fault {
    fn cannot_read(file: &Path, error: io::Error) -> Self {
        let message = format!("cannot read {}", named(file));
        Self::Unread(anyhow::Error::from(error).context(ExitWith(Exit::NoInput, message)))
    }

    /// Converts an error of the stream.
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

/// Returns whether the error is about the file's content rather than about reading it.
fn is_of_content(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::UnexpectedEof | ErrorKind::InvalidData
    )
}

/// A file as the user named it, opened, or with the error.
pub type Opened = (PathBuf, Result<File>);

/// Opens a file; `-` is standard input.
pub(crate) fn open(file: &PathBuf) -> Opened {
    let opened = if file.as_os_str() == OsStr::new("-") {
        // The standard library's own buffer would be a second one.
        io::stdin().as_fd().try_clone_to_owned().map(File::from)
    } else {
        File::open(file)
    };
    let opened =
        opened.with_context(|| ExitWith(Exit::NoInput, format!("cannot open {}", named(file))));
    (file.clone(), opened)
}

/// Returns the name of a file in a form that is safe for terminals.
pub(crate) fn named(file: &Path) -> String {
    log::printable(&file.to_string_lossy())
}

//! Outputs to files and to standard output.
//!
//! A file consists of a head, pieces and a foot (`output_file`). A piece is a batch in the file's
//! format (`output`). `rotation` handles the successive files of one output, `names` their names,
//! `options` the options that an operator can give. `table` gathers rows for Parquet files.
//!
//! New files get mode 0640 by default, because they hold names and addresses. Descriptors are
//! closed on exec (std does that).

mod access;
mod command;
mod device;
mod names;
mod options;
mod output;
mod output_file;
mod piece;
mod rotation;
mod table;

use std::{
    env,
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, IsTerminal as _},
    os::{fd::AsFd as _, unix::fs::OpenOptionsExt as _},
    path::Path,
    sync::Arc,
};

use jiff::Timestamp;
use tracing::{info, warn};

use self::{
    access::Access,
    device::Descriptor,
    names::{Leftover, Names},
    options::FileOptions,
    output::{Composer, FileOutput},
    output_file::{Frame, OutputFile},
    rotation::{Clock, First, RotatedFiles},
    table::{TableOptions, TableOutput, is_whole},
};
use super::{
    queue::blocking,
    report::{Account, Takes},
    sink::{About, Mistake, Opened, Place, Sink, Typed},
};
use crate::{
    formats::{Content, Encoder},
    host::sandbox::NeededPrivileges,
};

/// Format names before the colon.
const CONTENTS: [(&str, Content); 6] = [
    ("text", Content::Text),
    ("json", Content::Json),
    ("yaml", Content::Yaml),
    ("pcap", Content::Pcap),
    ("parquet", Content::Parquet),
    ("file", Content::Dnstap),
];

/// A specified file output.
#[derive(Debug, PartialEq)]
pub(super) struct FileSink {
    /// Format of the file.
    pub(super) content: Content,
    /// Path, or standard output.
    pub(super) place: Place,
    /// Options behind the first comma.
    options: FileOptions,
    /// Options of a table, if it is one.
    table: TableOptions,
}

impl Typed for FileSink {
    fn parse(form: &str, rest: &str) -> Result<Self, Mistake> {
        let (place, options) = Place::parse(rest)?;
        let other = |problem| Mistake::Other(format!("`{form}:{rest}`: {problem}"));
        let content = CONTENTS.into_iter().find(|(known, _)| *known == form);
        let (_, content) = content.ok_or_else(|| other("no content of a file".to_owned()))?;
        let mut table = TableOptions::default();
        let rest;
        let options = if content == Content::Parquet {
            rest = table.take(options).map_err(other)?;
            rest.as_deref()
        } else {
            options
        };
        let options = FileOptions::parse(options, &place).map_err(other)?;
        if content == Content::Parquet {
            table::check(&options, &place).map_err(other)?;
        }
        Ok(Self {
            content,
            place,
            options,
            table,
        })
    }
}

impl Sink for FileSink {
    fn name(&self) -> String {
        let form = CONTENTS
            .iter()
            .find(|(_, content)| *content == self.content);
        format!("{}:{}", form.map_or("full", |(form, _)| form), self.place)
    }

    fn place(&self) -> Option<&Place> {
        Some(&self.place)
    }

    fn privileges(&self) -> NeededPrivileges {
        let FileOptions {
            owner, mode, exec, ..
        } = &self.options;
        NeededPrivileges {
            owners: owner.is_some(),
            modes: owner.is_some() || mode.is_some(),
            commands: exec.is_some(),
            ..privileges_at(&self.place)
        }
    }

    fn writes_lines(&self) -> bool {
        !self.content.is_binary()
    }

    fn shows_events(&self) -> bool {
        !matches!(self.content, Content::Pcap | Content::Parquet)
    }

    fn open(&self, takes: Takes, _: &About) -> Result<Opened, String> {
        let options = self.options.clone();
        let first = |error| format!("its first bytes could not be written: {error}");
        let open = self.open_place()?;
        if self.content == Content::Parquet {
            let table = self.table;
            return Ok(Box::new(move |account| {
                let output = open.table(table, &options, account).map_err(first)?;
                blocking::start(Box::new(output))
            }));
        }
        let encoder = self.encoder(takes);
        Ok(Box::new(move |account| {
            let output = open.start(encoder, &options, account).map_err(first)?;
            blocking::start(Box::new(output))
        }))
    }
}

impl FileSink {
    fn encoder(&self, takes: Takes) -> Encoder {
        match takes {
            Takes::Messages | Takes::Notices => Encoder::new(self.content, false),
            Takes::Events => {
                let is_seen = self.place == Place::Stdout && io::stdout().is_terminal();
                let wants_none = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
                Encoder::of_events(self.content, is_seen && !wants_none)
            }
        }
    }

    fn open_place(&self) -> Result<Open, String> {
        match &self.place {
            Place::Stdout => {
                let binary = self.content.is_binary() || self.options.zstd;
                if binary && io::stdout().is_terminal() {
                    let message = "this form is binary and standard output is a terminal; use a pipe or a path";
                    return Err(message.to_owned());
                }
                open_stdout().map(Open::Stream)
            }
            Place::Path(path) => {
                let access = Access::new(&self.options)?;
                let is_table = self.content == Content::Parquet;
                let open =
                    open_path(path, access, is_table).map_err(|error| explain(path, &error))?;
                if matches!(open, Open::Stream(_)) && !self.options.are_plain() {
                    let message = "no regular file, so it takes no option but `compress=zstd`";
                    return Err(message.to_owned());
                }
                Ok(open)
            }
        }
    }
}

/// Returns the privileges for writing there: file names, except for standard output.
pub(super) fn privileges_at(place: &Place) -> NeededPrivileges {
    NeededPrivileges {
        paths: *place != Place::Stdout,
        ..NeededPrivileges::default()
    }
}

/// Destination of an output's bytes.
enum Open {
    /// A pipe, a device or standard output, to which bytes can only be appended.
    Stream(File),
    /// A regular file that only this output writes, and its permissions.
    Regular(First, Access),
}

impl Open {
    fn start(
        self,
        encoder: Encoder,
        options: &FileOptions,
        account: &Account,
    ) -> io::Result<FileOutput> {
        let mut composer = Composer::new(encoder, options.zstd)?;
        let frame = composer.frame()?;
        let (output_file, rotated) = self.begin(frame, options, account)?;
        Ok(FileOutput {
            composer,
            output_file,
            rotated,
        })
    }

    /// Starts a table.
    fn table(
        self,
        table: TableOptions,
        options: &FileOptions,
        account: &Account,
    ) -> io::Result<TableOutput> {
        TableOutput::start(table, Arc::clone(&account.files), |frame| {
            self.begin(frame, options, account)
        })
    }

    fn begin(
        self,
        frame: Frame,
        options: &FileOptions,
        account: &Account,
    ) -> io::Result<(OutputFile<Descriptor>, Option<RotatedFiles>)> {
        match self {
            Self::Stream(file) => Ok((OutputFile::start(Descriptor::stream(file), &frame)?, None)),
            Self::Regular(first, access) => {
                let clock: Clock = Arc::new(Timestamp::now);
                let counters = Arc::clone(&account.files);
                let (rotated, output_file) =
                    RotatedFiles::begin(first, options, access, frame, clock, counters)?;
                Ok((output_file, Some(rotated)))
            }
        }
    }
}

pub(super) fn open_stdout() -> Result<File, String> {
    let descriptor = io::stdout().as_fd().try_clone_to_owned();
    let descriptor = descriptor.map_err(|error| format!("standard output: {error}"))?;
    Ok(descriptor.into())
}

/// Opens the file without truncating it: another output may still fail to open.
pub(super) fn open_unchanged(path: &Path) -> Result<File, String> {
    open_or_create(path).map_err(|error| explain(path, &error))
}

fn open_or_create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o640)
        .open(path)
}

fn open_path(path: &Path, access: Access, is_table: bool) -> io::Result<Open> {
    let mut names = Names::new(path);
    let now = Timestamp::now();
    // A device or a named pipe has no parts.
    let is_file = !fs::metadata(path).is_ok_and(|there| !there.is_file());
    if is_table && is_file {
        names = names.with_parts();
        tell(names.complete_leftovers(is_whole)?);
    }
    let (file, live) = if names.is_timed() || names.has_parts() {
        names.create(now)?
    } else {
        let live = names.live(now)?;
        (open_or_create(&live)?, live)
    };
    Ok(if file.metadata()?.is_file() {
        Open::Regular(First { names, live, file }, access)
    } else {
        Open::Stream(file)
    })
}

/// Tells what became of the files that earlier runs left.
fn tell(leftovers: Vec<Leftover>) {
    for leftover in leftovers {
        match leftover {
            Leftover::Completed(file) => {
                info!(file = %file.display(), "an earlier run was killed; its last file is whole, and has its name now");
            }
            Leftover::Broken(file) => {
                warn!(file = %file.display(), "an earlier run was killed; its last file cannot be read, and was renamed");
            }
            Leftover::Failed(file, error) => {
                warn!(file = %file.display(), %error, "an earlier run left this file, and it cannot be completed");
            }
            Leftover::Used(file) => {
                warn!(file = %file.display(), "another process writes this file; it stays as it is");
            }
        }
    }
}

/// Returns the cause and the remedy in words.
fn explain(path: &Path, error: &io::Error) -> String {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    match error.kind() {
        ErrorKind::NotFound => {
            format!(
                "folder {} does not exist; create it or name another (mkdir -p {0})",
                folder.display()
            )
        }
        ErrorKind::NotADirectory => format!(
            "a part of {} is not a folder; name another path",
            folder.display()
        ),
        ErrorKind::AlreadyExists => format!(
            "another process writes {}.part; name another path",
            path.display()
        ),
        ErrorKind::IsADirectory => format!("{} is a folder; name a file in it", path.display()),
        ErrorKind::PermissionDenied if path.exists() => {
            format!(
                "permission denied; this user may not write {}: change its mode or name another path",
                path.display()
            )
        }
        ErrorKind::PermissionDenied => {
            format!(
                "permission denied; this user may not create files in {}: change its mode or name another folder",
                folder.display()
            )
        }
        ErrorKind::ReadOnlyFilesystem => {
            format!(
                "{} is on a read-only file system; name a path on another",
                path.display()
            )
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            format!(
                "no room for a new file in {} ({error}); free some or name another folder",
                folder.display()
            )
        }
        _ => error.to_string(),
    }
}

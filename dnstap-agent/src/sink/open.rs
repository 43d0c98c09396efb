//! Owns opening the outputs: all are tried, every problem is told at once with its cause and its fix, and only when all
//! are open is an existing file emptied (as `tcpdump -w` does).
//!
//! New files get mode 0640, for they hold names and addresses; descriptors are closed on exec (std does that).

use std::{
    collections::HashSet,
    fmt,
    fs::{File, OpenOptions},
    io::{self, ErrorKind, IsTerminal as _},
    os::{fd::AsFd as _, unix::fs::OpenOptionsExt as _},
    path::Path,
};

use super::{
    OutputSpec, Place, device::Descriptor, frame_file::FrameFile, line_file::LineFile,
    output::Output,
};
use crate::{
    render::Format,
    socket::{self, Address},
};

/// Why the outputs could not be opened: every problem, each with the output, the cause and the fix.
#[derive(Debug)]
pub struct OpenError {
    /// Never empty.
    pub problems: Vec<Problem>,
}

/// One output that could not be opened.
#[derive(Debug)]
pub struct Problem {
    /// The output as the operator named it.
    pub output: String,
    /// What is wrong and what to do about it, in words.
    pub message: String,
    /// The system's error, if there was one.
    pub error: Option<io::Error>,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (
            nth,
            Problem {
                output, message, ..
            },
        ) in self.problems.iter().enumerate()
        {
            let separator = if nth == 0 { "" } else { "\n" };
            write!(f, "{separator}cannot open output {output}: {message}")?;
        }
        Ok(())
    }
}

impl std::error::Error for OpenError {}

/// Opens all outputs, in order. For a socket there is nothing to open yet: `None`.
pub(super) fn open_all(specs: &[OutputSpec]) -> Result<Vec<Option<Box<dyn Output>>>, OpenError> {
    let mut problems = Vec::new();
    let mut seen = HashSet::new();
    let mut opened = Vec::new();
    for spec in specs {
        if seen.insert(Target::of(spec)) {
            match open_descriptor(spec) {
                Ok(open) => opened.push((spec, open)),
                Err((message, error)) => problems.push(Problem {
                    output: spec.to_string(),
                    message,
                    error,
                }),
            }
        } else {
            let message = match Target::of(spec) {
                Target::Place(Place::Stdout) => {
                    "standard output is already taken by another output; give one of them a path"
                }
                Target::Place(Place::Path(_)) => {
                    "another output has the same path; give one of them another"
                }
                Target::Socket(_) => {
                    "another output goes to the same collector, which would get everything twice"
                }
            };
            problems.push(Problem {
                output: spec.to_string(),
                message: message.to_owned(),
                error: None,
            });
        }
    }
    if !problems.is_empty() {
        return Err(OpenError { problems });
    }
    let mut outputs = Vec::new();
    for (spec, open) in opened {
        match open.map(|open| open.start(spec)).transpose() {
            Ok(output) => outputs.push(output),
            Err(error) => problems.push(Problem {
                output: spec.to_string(),
                message: format!("its first bytes could not be written: {error}"),
                error: Some(error),
            }),
        }
    }
    if problems.is_empty() {
        Ok(outputs)
    } else {
        Err(OpenError { problems })
    }
}

struct Open {
    file: File,
    /// A regular file that is ours alone.
    regular: bool,
}

impl Open {
    fn start(self, spec: &OutputSpec) -> io::Result<Box<dyn Output>> {
        let device = if self.regular {
            self.file.set_len(0)?;
            Descriptor::file(self.file, true)
        } else {
            Descriptor::stream(self.file)
        };
        Ok(match spec {
            OutputSpec::Text(_) => Box::new(LineFile::new(device, Format::Text)),
            OutputSpec::Json(_) => Box::new(LineFile::new(device, Format::Json)),
            OutputSpec::File(_) | OutputSpec::Socket(_) => Box::new(FrameFile::start(device)?),
        })
    }
}

/// What no two outputs can share.
#[derive(PartialEq, Eq, Hash)]
enum Target<'a> {
    Place(&'a Place),
    Socket(&'a Address),
}

impl<'a> Target<'a> {
    fn of(spec: &'a OutputSpec) -> Self {
        match spec {
            OutputSpec::Text(place) | OutputSpec::Json(place) | OutputSpec::File(place) => {
                Self::Place(place)
            }
            OutputSpec::Socket(address) => Self::Socket(address),
        }
    }
}

fn open_descriptor(spec: &OutputSpec) -> Result<Option<Open>, (String, Option<io::Error>)> {
    let place = match Target::of(spec) {
        Target::Socket(Address::Tls(tls)) => {
            return match socket::connector(tls) {
                Ok(_) => Ok(None),
                Err(error) => Err((error.to_string(), Some(error))),
            };
        }
        Target::Socket(_) => return Ok(None),
        Target::Place(place) => place,
    };
    match place {
        Place::Stdout => {
            let stdout = io::stdout();
            if matches!(spec, OutputSpec::File(_)) && stdout.is_terminal() {
                let message = "Frame Streams is binary and standard output is a terminal; use a pipe or `file:PATH`";
                return Err((message.to_owned(), None));
            }
            match stdout.as_fd().try_clone_to_owned() {
                Ok(descriptor) => Ok(Some(Open {
                    file: descriptor.into(),
                    regular: false,
                })),
                Err(error) => Err((format!("standard output: {error}"), Some(error))),
            }
        }
        Place::Path(path) => open_path(path)
            .map(Some)
            .map_err(|error| (explain(path, &error), Some(error))),
    }
}

fn open_path(path: &Path) -> io::Result<Open> {
    // Not truncated yet: another output may still turn out to be impossible.
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o640)
        .open(path)?;
    let regular = file.metadata()?.is_file();
    Ok(Open { file, regular })
}

/// The cause and the fix in words.
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

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

    use super::*;

    #[test]
    fn a_new_file_is_readable_by_owner_and_group_alone_and_an_old_one_is_emptied() {
        let folder = tempfile::tempdir().expect("a folder");
        let (new, old) = (folder.path().join("new"), folder.path().join("old"));
        fs::write(&old, "x".repeat(1000)).expect("written");
        open_all(&[file(&new), file(&old)]).expect("opened");
        let mode = fs::metadata(&new).expect("there").permissions().mode();
        assert_eq!(mode & 0o137, 0, "{mode:o}"); // 0640 under whatever umask
        assert_eq!(fs::read(&new).expect("read"), fs::read(&old).expect("read"));
        assert!(
            fs::read(&old)
                .expect("read")
                .starts_with(b"\0\0\0\0\0\0\0\x22")
        );
    }

    #[test]
    fn every_problem_is_told_with_its_fix_and_nothing_is_emptied() {
        let folder = tempfile::tempdir().expect("a folder");
        let old = folder.path().join("old");
        fs::write(&old, "precious").expect("written");
        let specs = [
            file(&old),
            file(&folder.path().join("no/such.fstrm")),
            file(folder.path()),
            file(&old.join("below-a-file")),
            OutputSpec::Json(Place::Path(old.clone())),
            OutputSpec::Text(Place::Stdout),
            OutputSpec::Json(Place::Stdout),
        ];
        let error = open_all(&specs).err().expect("cannot work");
        let text = error.to_string();
        let told: Vec<&str> = text.lines().collect();
        assert_eq!(told.len(), 5, "{text}");
        for (told, part) in told.iter().zip([
            "mkdir -p",
            "is a folder",
            "not a folder",
            "same path",
            "already taken",
        ]) {
            assert!(
                told.starts_with("cannot open output ") && told.contains(part),
                "{told}"
            );
        }
        assert_eq!(fs::read(&old).expect("read"), b"precious");
    }

    #[test]
    fn a_device_is_written_as_a_stream() {
        open_all(&[file(Path::new("/dev/null"))]).expect("opened");
        let error = open_all(&[file(Path::new("/dev/full"))])
            .err()
            .expect("no room");
        assert!(error.to_string().contains("No space left"), "{error}");
    }

    fn file(path: &Path) -> OutputSpec {
        OutputSpec::File(Place::Path(PathBuf::from(path)))
    }
}

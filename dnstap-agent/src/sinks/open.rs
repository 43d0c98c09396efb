//! Owns opening the outputs: all are tried, every problem is told at once with its cause and its fix, and only when all
//! are open is an existing file emptied (as `tcpdump -w` does), or left aside if the output rotates.
//!
//! New files get mode 0640 unless told otherwise, for they hold names and addresses; descriptors are closed on exec (std does that).

use std::{
    collections::HashSet,
    fmt,
    fs::{File, OpenOptions},
    io::{self, ErrorKind, IsTerminal as _},
    os::{fd::AsFd as _, unix::fs::OpenOptionsExt as _},
    path::Path,
    sync::Arc,
};

use jiff::Timestamp;

use super::{
    FileOptions, FileSpec, OutputSpec, Place,
    access::Access,
    device::Descriptor,
    file::{Composer, FileOutput},
    names::{Names, create_free},
    output::Output,
    page::{About, PageOutput},
    report::FileCounters,
    series::{Clock, First, Series},
    volume::Volume,
};
use crate::host::net::{self, Address};

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

/// Opens all outputs, in order; `counters` are those of each, `about` is for pages. For a socket there is nothing to open yet: `None`.
pub(super) fn open_all(
    specs: &[OutputSpec],
    counters: &[Arc<FileCounters>],
    about: &About,
) -> Result<Vec<Option<Box<dyn Output>>>, OpenError> {
    let mut problems = Vec::new();
    let mut seen = HashSet::new();
    let mut opened = Vec::new();
    for (spec, counters) in specs.iter().zip(counters) {
        let is_new = match spec {
            OutputSpec::Socket(address) => seen.insert(Target::Socket(address)),
            OutputSpec::File(FileSpec { place, .. }) | OutputSpec::Page(place) => {
                seen.insert(Target::Place(place))
            }
        };
        let result = match spec {
            _ if !is_new => Err((taken(spec).to_owned(), None)),
            OutputSpec::File(file) => {
                open_file(file).map(|open| Some(Begun::File(file, open, counters)))
            }
            OutputSpec::Page(place) => open_page(place).map(|file| Some(Begun::Page(file, about))),
            OutputSpec::Socket(address) => check_socket(address).map(|()| None),
        };
        match result {
            Ok(open) => opened.push((spec, open)),
            Err((message, error)) => problems.push(Problem {
                output: spec.to_string(),
                message,
                error,
            }),
        }
    }
    if !problems.is_empty() {
        return Err(OpenError { problems });
    }
    let mut outputs = Vec::new();
    for (spec, open) in opened {
        match open.map(Begun::start).transpose() {
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

/// An output that is open, before its first bytes.
enum Begun<'a> {
    File(&'a FileSpec, Open, &'a Arc<FileCounters>),
    Page(File, &'a About),
}

impl Begun<'_> {
    fn start(self) -> io::Result<Box<dyn Output>> {
        match self {
            Self::File(spec, open, counters) => open.start(spec, counters),
            Self::Page(file, about) => Ok(Box::new(PageOutput::new(file, about.clone()))),
        }
    }
}

/// Why two outputs cannot have the same place.
fn taken(spec: &OutputSpec) -> &'static str {
    match spec.place() {
        Some(Place::Stdout) => {
            "standard output is already taken by another output; give one of them a path"
        }
        Some(Place::Path(_)) => "another output has the same path; give one of them another",
        None => "another output goes to the same collector, which would get everything twice",
    }
}

/// What no two outputs can share.
#[derive(PartialEq, Eq, Hash)]
enum Target<'a> {
    Place(&'a Place),
    Socket(&'a Address),
}

/// Where the bytes of an output go.
enum Open {
    /// What can only be written on: a pipe, a device, standard output.
    Stream(File),
    /// A regular file that is ours alone, and who may read it.
    Regular(First, Access),
}

impl Open {
    fn start(self, spec: &FileSpec, counters: &Arc<FileCounters>) -> io::Result<Box<dyn Output>> {
        let mut composer = Composer::new(spec.content, spec.options.zstd)?;
        let frame = composer.frame()?;
        let (volume, series) = match self {
            Self::Stream(file) => (Volume::start(Descriptor::stream(file), &frame)?, None),
            Self::Regular(first, access) => {
                let clock: Clock = Arc::new(Timestamp::now);
                let counters = Arc::clone(counters);
                let (series, volume) =
                    Series::begin(first, &spec.options, access, frame, clock, counters)?;
                (volume, Some(series))
            }
        };
        Ok(Box::new(FileOutput::new(composer, volume, series)))
    }
}

type Cause = (String, Option<io::Error>);

fn check_socket(address: &Address) -> Result<(), Cause> {
    match address {
        Address::Tls(tls) => net::connector(tls)
            .map(drop)
            .map_err(|error| (error.to_string(), Some(error))),
        _ => Ok(()),
    }
}

fn open_file(spec: &FileSpec) -> Result<Open, Cause> {
    match &spec.place {
        Place::Stdout => {
            let stdout = io::stdout();
            if (spec.content.is_binary() || spec.options.zstd) && stdout.is_terminal() {
                let message =
                    "this form is binary and standard output is a terminal; use a pipe or a path";
                return Err((message.to_owned(), None));
            }
            match stdout.as_fd().try_clone_to_owned() {
                Ok(descriptor) => Ok(Open::Stream(descriptor.into())),
                Err(error) => Err((format!("standard output: {error}"), Some(error))),
            }
        }
        Place::Path(path) => {
            let access = Access::new(&spec.options).map_err(|unknown| (unknown, None))?;
            let open =
                open_path(path, access).map_err(|error| (explain(path, &error), Some(error)))?;
            let plain = FileOptions {
                zstd: spec.options.zstd,
                ..FileOptions::default()
            };
            if matches!(open, Open::Stream(_)) && spec.options != plain {
                let message = "no regular file, so it takes no option but `compress=zstd`";
                return Err((message.to_owned(), None));
            }
            Ok(open)
        }
    }
}

fn open_page(place: &Place) -> Result<File, Cause> {
    let opened = match place {
        Place::Stdout => io::stdout().as_fd().try_clone_to_owned().map(File::from),
        Place::Path(path) => open_unchanged(path),
    };
    opened.map_err(|error| match place {
        Place::Stdout => (format!("standard output: {error}"), Some(error)),
        Place::Path(path) => (explain(path, &error), Some(error)),
    })
}

/// Not truncated yet: another output may still turn out to be impossible.
fn open_unchanged(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o640)
        .open(path)
}

fn open_path(path: &Path, access: Access) -> io::Result<Open> {
    let names = Names::new(path);
    let live = names.live(Timestamp::now())?;
    let (file, live) = if names.is_timed() {
        create_free(&live)?
    } else {
        (open_unchanged(&live)?, live)
    };
    Ok(if file.metadata()?.is_file() {
        Open::Regular(First { names, live, file }, access)
    } else {
        Open::Stream(file)
    })
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
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn a_new_file_is_readable_by_owner_and_group_alone_and_an_old_one_is_emptied() {
        let folder = tempfile::tempdir().expect("a folder");
        let (new, old) = (folder.path().join("new"), folder.path().join("old"));
        fs::write(&old, "x".repeat(1000)).expect("written");
        opened(&[file(&new), file(&old)]).expect("opened");
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
    fn a_page_and_a_file_cannot_have_the_same_path() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a").display().to_string();
        let specs = ["text:", "html:"].map(|form| format!("{form}{path}").parse().expect("valid"));
        let Err(error) = opened(&specs) else {
            panic!("both are open")
        };
        assert_eq!(error.problems.len(), 1, "{error}");
        assert!(error.to_string().contains("the same path"), "{error}");
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
            spec(&format!("json:{}", old.display())),
            spec("text:-"),
            spec("json:-"),
            spec(&format!(
                "text:{}/x,owner=no-such-user",
                folder.path().display()
            )),
            spec("text:/dev/null,mode=0600"),
        ];
        let error = opened(&specs).err().expect("cannot work");
        let text = error.to_string();
        let told: Vec<&str> = text.lines().collect();
        assert_eq!(told.len(), 7, "{text}");
        for (told, part) in told.iter().zip([
            "mkdir -p",
            "is a folder",
            "not a folder",
            "same path",
            "already taken",
            "no user no-such-user",
            "no regular file",
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
        opened(&[file(Path::new("/dev/null"))]).expect("opened");
        let error = opened(&[file(Path::new("/dev/full"))])
            .err()
            .expect("no room");
        assert!(error.to_string().contains("No space left"), "{error}");
    }

    fn opened(specs: &[OutputSpec]) -> Result<Vec<Option<Box<dyn Output>>>, OpenError> {
        let counters = vec![Arc::default(); specs.len()];
        open_all(specs, &counters, &About::default())
    }

    fn file(path: &Path) -> OutputSpec {
        spec(&format!("file:{}", path.display()))
    }

    fn spec(text: &str) -> OutputSpec {
        text.parse().expect("valid")
    }
}

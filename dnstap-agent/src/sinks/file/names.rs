//! Names of an output's files.
//!
//! A path with `%` is a strftime pattern: each file is named by the time at which it begins, and
//! keeps that name. A path without `%` names the file that is being written. When this file is
//! complete, `.20261124T001500Z` is appended, the time at which it was closed. Times are UTC. If a
//! name is taken, `.1`, `.2`, ... is appended, so no file is ever overwritten.
//!
//! Files that nobody may read before they are complete have `.part` behind their name until then. If the name of such a
//! file is taken, the number stands before its suffix (`q.1.parquet`), because readers look for the suffix.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use jiff::{Timestamp, fmt::strtime};

/// Suffix of a file that is not complete.
const PART: &str = ".part";

/// Suffix of a file that an earlier run left, and that cannot be read.
const BROKEN: &str = ".broken";

/// Time in a complete file's name.
const LEFT_AT: &str = "%Y%m%dT%H%M%SZ";

/// Names of one output's files.
#[derive(Debug)]
pub(super) struct Names {
    folder: PathBuf,
    /// File name, or its pattern.
    name: OsString,
    /// Whether the name is a pattern.
    timed: bool,
    /// Whether a file has another name until it is complete.
    parts: bool,
}

/// What became of a file that an earlier run left incomplete.
#[derive(Debug)]
pub(super) enum Leftover {
    /// It was whole, and got this name.
    Completed(PathBuf),
    /// It cannot be read, and got this name.
    Broken(PathBuf),
    /// Another process writes it.
    Used(PathBuf),
    /// It could not be opened or renamed.
    Failed(PathBuf, io::Error),
}

/// Checks whether a path can be used for future files.
pub(super) fn check(path: &Path) -> Result<(), String> {
    let folder = path.parent().unwrap_or(Path::new(""));
    if folder.as_os_str().as_encoded_bytes().contains(&b'%') {
        return Err("a % may stand in the file's name only, not in a folder's".to_owned());
    }
    Names::new(path)
        .live(Timestamp::UNIX_EPOCH)
        .map(drop)
        .map_err(|error| format!("{}: {error}; write %% for a %", path.display()))
}

/// Checks whether files with such names can be recognised later, which `keep=` needs.
pub(super) fn check_known(path: &Path) -> Result<(), String> {
    let names = Names::new(path);
    // Two times, whose numbers are as short and as long as possible.
    for second in [0, 1_795_479_330] {
        let then = Timestamp::from_second(second).map_err(|error| error.to_string())?;
        let live = names.live(then).map_err(|error| error.to_string())?;
        let name = live.file_name().unwrap_or_default();
        if names.timed && !names.is_complete(name) {
            return Err(format!(
                "`keep` could not know a file called {} again: what some conversions write cannot be read back, such as %Z, %c, %r, \
                 %x, %X and %q; write UTC for %Z, and dates and times of %Y, %m, %d, %H, %M and %S",
                name.display()
            ));
        }
    }
    Ok(())
}

impl Names {
    pub(super) fn new(path: &Path) -> Self {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let name = path.file_name().unwrap_or_default().to_owned();
        Self {
            folder: folder.to_owned(),
            timed: name.as_encoded_bytes().contains(&b'%'),
            name,
            parts: false,
        }
    }

    /// Returns these names for files that have `.part` behind their name until they are complete.
    pub(super) fn with_parts(self) -> Self {
        Self {
            parts: true,
            ..self
        }
    }

    /// Returns whether a file has another name until it is complete.
    pub(super) fn has_parts(&self) -> bool {
        self.parts
    }

    /// Creates the file that begins now, if the path is not one that is opened again: with a pattern, or with parts.
    pub(super) fn create(&self, now: Timestamp) -> io::Result<(File, PathBuf)> {
        let path = self.live(now)?;
        if !self.parts {
            return create_free(&path);
        }
        for number in 0.. {
            let complete = if number == 0 {
                path.clone()
            } else {
                numbered_before_suffix(&path, number)
            };
            // Without a pattern the complete file replaces the one that is there, as other outputs overwrite it.
            if self.timed && complete.try_exists()? {
                continue;
            }
            match create_new(&with(&complete, PART)) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists && self.timed => {}
                created => {
                    let file = created?;
                    // Tells other runs that this one still writes it. Some file systems have no locks.
                    file.try_lock().ok();
                    return Ok((file, with(&complete, PART)));
                }
            }
        }
        Err(ErrorKind::AlreadyExists.into())
    }

    /// Gives a complete file its final name, and returns it.
    pub(super) fn complete_part(&self, live: &Path) -> io::Result<PathBuf> {
        let Some(complete) = without_part(live).filter(|_| self.parts) else {
            return Ok(live.to_owned());
        };
        if self.timed {
            return move_to_free_before_suffix(live, &complete, 0);
        }
        fs::rename(live, &complete)?;
        Ok(complete)
    }

    /// Renames the incomplete files of earlier runs: to their final names those that `is_whole`, and the others so that
    /// they are not in the way.
    pub(super) fn complete_leftovers(
        &self,
        is_whole: fn(&File) -> bool,
    ) -> io::Result<Vec<Leftover>> {
        let mut leftovers = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = self.folder.join(entry?.file_name());
            let Some(complete) = without_part(&path) else {
                continue;
            };
            let name = complete.file_name().unwrap_or_default();
            if !(name == self.name || self.is_complete(name)) || !path.is_file() {
                continue;
            }
            let leftover = self.complete_leftover(&path, &complete, is_whole);
            leftovers.push(leftover.unwrap_or_else(|error| Leftover::Failed(path, error)));
        }
        Ok(leftovers)
    }

    fn complete_leftover(
        &self,
        path: &Path,
        complete: &Path,
        is_whole: fn(&File) -> bool,
    ) -> io::Result<Leftover> {
        let file = File::open(path)?;
        let is_used = matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock));
        Ok(if is_used {
            Leftover::Used(path.to_owned())
        } else if is_whole(&file) {
            // Without a pattern, this run replaces the file of the plain name at its end.
            let first = u32::from(!self.timed);
            Leftover::Completed(move_to_free_before_suffix(path, complete, first)?)
        } else {
            Leftover::Broken(move_to_free(path, &with(complete, BROKEN))?)
        })
    }

    /// Returns whether each file has its final name from the beginning.
    pub(super) fn is_timed(&self) -> bool {
        self.timed
    }

    /// Returns the path of a file that begins now, without `.part`. If the name is a pattern, the path may be taken.
    pub(super) fn live(&self, now: Timestamp) -> io::Result<PathBuf> {
        if !self.timed {
            return Ok(self.folder.join(&self.name));
        }
        let pattern = self.name.to_str().ok_or(ErrorKind::InvalidFilename)?;
        let name = strtime::format(pattern, now).map_err(io::Error::other)?;
        if name.contains('/') {
            return Err(io::Error::other("the time has a / in it"));
        }
        Ok(self.folder.join(name))
    }

    /// Returns the path at which the next file is prepared while the name is still in use.
    pub(super) fn next(&self) -> PathBuf {
        self.folder.join(
            [".".as_ref(), self.name.as_os_str(), ".next".as_ref()]
                .into_iter()
                .collect::<OsString>(),
        )
    }

    /// Returns the path for a file that was completed at this time; the path may be taken.
    pub(super) fn left(&self, then: Timestamp) -> PathBuf {
        let mut name = self.name.clone();
        name.push(format!(".{}", then.strftime(LEFT_AT)));
        self.folder.join(name)
    }

    /// Returns all complete files of this output, also those of earlier runs, oldest first, without
    /// the one at `live`.
    pub(super) fn complete(&self, live: &Path) -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let path = self.folder.join(entry.file_name());
            if path != live
                && self.is_complete(&entry.file_name())
                && let Ok(metadata) = entry.metadata()
                && metadata.is_file()
            {
                let changed = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                found.push((changed, path));
            }
        }
        found.sort();
        Ok(found.into_iter().map(|(_, path)| path).collect())
    }

    /// Returns whether this is the name of a complete file of this output. Only such files may be
    /// deleted.
    fn is_complete(&self, name: &std::ffi::OsStr) -> bool {
        let Some(name) = name.to_str() else {
            return false;
        };
        let (pattern, time) = match self.name.to_str() {
            Some(pattern) if self.timed => (pattern, name),
            Some(live) => match name
                .strip_prefix(live)
                .and_then(|rest| rest.strip_prefix('.'))
            {
                Some(time) => (LEFT_AT, time),
                None => return false,
            },
            None => return false,
        };
        let fits = |time: &str| strtime::parse(pattern, time).is_ok();
        let numbered = time.rsplit_once('.').filter(|(_, number)| {
            !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
        });
        let unnumbered = || {
            let (rest, suffix) = time.rsplit_once('.')?;
            let (time, number) = rest.rsplit_once('.')?;
            number.parse::<u32>().ok()?;
            Some(format!("{time}.{suffix}"))
        };
        fits(time)
            || numbered.is_some_and(|(time, _)| fits(time))
            || (self.parts && unnumbered().is_some_and(|time| fits(&time)))
    }
}

/// Appends to the name of a file.
fn with(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Returns the path without `.part`, if it ends with this.
fn without_part(path: &Path) -> Option<PathBuf> {
    let is_part = path.extension()?.as_encoded_bytes() == &PART.as_bytes()[1..];
    is_part.then(|| path.with_extension(""))
}

/// Returns `q.1.parquet` for `q.parquet`.
fn numbered_before_suffix(path: &Path, number: u32) -> PathBuf {
    let mut suffix = OsString::from(number.to_string());
    if let Some(old) = path.extension() {
        suffix.push(".");
        suffix.push(old);
    }
    path.with_extension(suffix)
}

/// Creates a new file at `path`. If that is taken, uses the first of `path.1`, `path.2`, ... that
/// is free.
pub(super) fn create_free(path: &Path) -> io::Result<(File, PathBuf)> {
    let mut candidate = path.to_owned();
    for number in 1.. {
        match create_new(&candidate) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let mut name = path.as_os_str().to_owned();
                name.push(format!(".{number}"));
                candidate = name.into();
            }
            created => return created.map(|file| (file, candidate)),
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

/// Creates a new file that only the owner and the group can access, because it holds names and
/// addresses.
pub(super) fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o640)
        .open(path)
}

/// Renames the file at `from` to `to`, or to a numbered name. The new name is created first, so
/// nothing is overwritten.
pub(super) fn move_to_free(from: &Path, to: &Path) -> io::Result<PathBuf> {
    let (_, free) = create_free(to)?;
    match fs::rename(from, &free) {
        Ok(()) => Ok(free),
        Err(error) => {
            fs::remove_file(&free)?;
            Err(error)
        }
    }
}

/// Renames the file at `from` to `q.parquet` (number 0), `q.1.parquet`, ...: the first name from number `first` on that is
/// free. The new name is created first, so nothing is overwritten.
fn move_to_free_before_suffix(from: &Path, to: &Path, first: u32) -> io::Result<PathBuf> {
    for number in first.. {
        let free = if number == 0 {
            to.to_owned()
        } else {
            numbered_before_suffix(to, number)
        };
        match create_new(&free) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
            created => drop(created?),
        }
        return match fs::rename(from, &free) {
            Ok(()) => Ok(free),
            Err(error) => {
                fs::remove_file(&free)?;
                Err(error)
            }
        };
    }
    Err(ErrorKind::AlreadyExists.into())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("q.fstrm", "q.fstrm.20261124T001500Z", true)]
    #[case("q.fstrm", "q.fstrm.20261124T001500Z.12", true)]
    #[case("q.fstrm", "q.fstrm", false)]
    #[case("q.fstrm", "q.fstrm.1", false)]
    #[case("q.fstrm", "q.fstrm.20261124T001500Z.gz", false)]
    #[case("q.fstrm", "q.fstrm.20261124T001500Z.", false)]
    #[case("q.fstrm", "r.fstrm.20261124T001500Z", false)]
    #[case("q-%Y%m%d-%H%M%S.fstrm", "q-20261124-001500.fstrm", true)]
    #[case("q-%Y%m%d-%H%M%S.fstrm", "q-20261124-001500.fstrm.3", true)]
    #[case("q-%Y%m%d-%H%M%S.fstrm", "q-20261124-001500.fstrm.zst", false)]
    #[case("q-%Y%m%d-%H%M%S.fstrm", "q-important.fstrm", false)]
    fn only_its_own_complete_files_are_known(
        #[case] path: &str,
        #[case] name: &str,
        #[case] known: bool,
    ) {
        assert_eq!(
            Names::new(Path::new(path)).is_complete(name.as_ref()),
            known
        );
    }

    #[test]
    fn a_taken_name_is_numbered_and_never_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        let (old, taken) = (folder.path().join("old"), folder.path().join("taken"));
        fs::write(&taken, "precious").expect("written");
        for number in 1..3 {
            fs::write(&old, "old").expect("written");
            let moved = move_to_free(&old, &taken).expect("moved");
            assert_eq!(moved, folder.path().join(format!("taken.{number}")));
            assert_eq!(fs::read(&moved).expect("read"), b"old");
        }
        assert_eq!(fs::read(&taken).expect("read"), b"precious");
        move_to_free(&old, &taken).expect_err("it is gone");
        assert!(
            !folder.path().join("taken.3").exists(),
            "a name left behind"
        );
    }
}

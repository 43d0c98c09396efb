//! Rotation of one output's files: when the next file begins, how it gets the name, and which old
//! files are deleted. [`State`] has the diagram.
//!
//! The next file exists, with its head, before the old one is closed, so a full disk or a missing
//! permission costs no message. Every file is complete whenever nothing is being written to it (see
//! `output_file`), so closing one takes no more than a rename.

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use tracing::{info, warn};

use super::{
    access::Access,
    command::Runner,
    device::Descriptor,
    names::{Names, create_new, move_to_free},
    options::FileOptions,
    output_file::{Frame, OutputFile},
};
use crate::sinks::report::{FileCounters, add};

/// Time for which the old file is continued if the next cannot be created.
const RETRY: SignedDuration = SignedDuration::from_secs(10);

/// Interval at which to look whether the program has finished with a file that is to be deleted.
const LOOK: Duration = Duration::from_secs(1);

/// Most row groups of a Parquet file that has a successor. Each takes about 100 KB of memory, and is listed again in the
/// foot behind each later one.
pub(super) const MOST_GROUPS: usize = 500;

/// Clock; tests have their own.
pub(super) type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The first file as it was opened, with its old content.
#[derive(Debug)]
pub(super) struct First {
    pub(super) names: Names,
    pub(super) live: PathBuf,
    pub(super) file: File,
}

/// The files of one output.
pub(super) struct RotatedFiles {
    names: Names,
    options: FileOptions,
    access: Access,
    frame: Frame,
    clock: Clock,
    /// Path of the file that is being written.
    live: PathBuf,
    /// Latest time at which the file is closed.
    ends: Option<Timestamp>,
    state: State,
    /// First of the old files that the program still uses.
    spared: Option<PathBuf>,
    runner: Option<Runner>,
    counters: Arc<FileCounters>,
}

/// State of the file that is being written. It accepts messages in each state.
///
/// ```text
/// begin ──► Current ──too large, or its time is over──► the next file: Current
///            │  ▲ │                                └──impossible──► Overdue ──10 s──► again ──► the next file
///            │  │ └──SIGHUP: renamed or removed by others──► a new file: Current
///            │  │                                      └──impossible──► Nameless ──10 s──► again ──► a new file
///            └──┘ cut by others: the same file, from its start (mend)
/// ```
///
/// Impossible means for example a full disk or a missing permission. A SIGHUP in `Overdue` has the
/// same effect as in `Current`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The file has its name, and its time is not over.
    Current,
    /// The file should have been closed, but the next could not be created. Holds the time of the
    /// next attempt.
    Overdue(Timestamp),
    /// The file may have lost its name, and a new one could not be created. Holds the time of the
    /// next attempt.
    Nameless(Timestamp),
}

impl State {
    /// Returns the time of the next attempt, if it is not now. The time is never far away, unless
    /// the clock was set back.
    fn put_off(self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Current => None,
            Self::Overdue(retry) | Self::Nameless(retry) => {
                Some(retry).filter(|retry| *retry > now && retry.duration_since(now) <= RETRY)
            }
        }
    }
}

impl RotatedFiles {
    /// Begins the first file.
    pub(super) fn begin(
        first: First,
        options: &FileOptions,
        access: Access,
        frame: Frame,
        clock: Clock,
        counters: Arc<FileCounters>,
    ) -> io::Result<(Self, OutputFile<Descriptor>)> {
        let First { names, live, file } = first;
        let runner = match &options.exec {
            Some(program) => Some(Runner::start(program, Arc::clone(&counters))?),
            None => None,
        };
        let mut rotated = Self {
            names,
            options: options.clone(),
            access,
            frame,
            clock,
            live,
            ends: None,
            state: State::Current,
            spared: None,
            runner,
            counters,
        };
        let now = (rotated.clock)();
        let output_file = if options.rotates() && file.metadata()?.len() > 0 {
            // The file of an earlier run is complete, too.
            let changed = file.metadata()?.modified()?;
            let then = Timestamp::try_from(changed).unwrap_or(now);
            let left = move_to_free(&rotated.live, &rotated.names.left(then))?;
            let output_file = rotated.start(create_new(&rotated.live)?)?;
            rotated.complete(left);
            output_file
        } else {
            file.set_len(0)?;
            rotated.start(file)?
        };
        rotated.begins(now);
        rotated.prune();
        Ok((rotated, output_file))
    }

    /// Begins the file again if another process has truncated it.
    pub(super) fn mend(&self, output_file: &mut OutputFile<Descriptor>) -> io::Result<()> {
        if output_file.is_cut() {
            output_file.begin_anew(&self.frame)?;
            warn!(file = %self.live.display(), "cut by others; begun anew from its start");
        }
        Ok(())
    }

    /// Reopens or rotates if either is due, before `more` bytes are written.
    pub(super) fn turn(&mut self, output_file: &mut OutputFile<Descriptor>, more: usize) {
        if matches!(self.state, State::Nameless(_)) && self.state.put_off((self.clock)()).is_none()
        {
            self.reopen(output_file);
        }
        if self.is_full(output_file, more) || self.is_late(output_file) {
            self.rotate(output_file);
        }
        if self.spared.as_ref().is_some_and(|file| !self.holds(file)) {
            self.prune();
        }
    }

    /// Returns whether `more` bytes no longer fit into the file. An empty file is continued.
    fn is_full(&self, output_file: &OutputFile<Descriptor>, more: usize) -> bool {
        let size = self.options.rotate_size;
        let is_large = size.is_some_and(|size| output_file.size() + more as u64 > size);
        let has_all = self.names.is_timed() && output_file.groups() >= MOST_GROUPS;
        !output_file.is_empty() && (is_large || has_all)
    }

    /// Returns whether the time of the file is over. An empty file is continued.
    pub(super) fn is_late(&self, output_file: &OutputFile<Descriptor>) -> bool {
        let has_come = |end| self.has_come(end, (self.clock)());
        !output_file.is_empty() && self.ends.is_some_and(has_come)
    }

    /// Returns the time until the next rotation or reopening.
    pub(super) fn next_turn(&self, output_file: &OutputFile<Descriptor>) -> Option<Duration> {
        let now = (self.clock)();
        let end = self.ends.filter(|_| !output_file.is_empty());
        let end = end.map(|end| if self.has_come(end, now) { now } else { end });
        let reopen = matches!(self.state, State::Nameless(_)).then_some(now);
        let next = end.into_iter().chain(reopen).min().map(|at| {
            let at = self.state.put_off(now).map_or(at, |retry| retry.max(at));
            Duration::try_from(at.duration_since(now)).unwrap_or_default()
        });
        let look = self.spared.as_ref().map(|_| LOOK);
        next.into_iter().chain(look).min()
    }

    /// Returns whether the end of the file's time has come. An end further away than it ever was
    /// also counts: the clock was set back, and the file would last as much longer. A smaller step
    /// back, for example by NTP just after a rotation, makes the file last that much longer.
    fn has_come(&self, end: Timestamp, now: Timestamp) -> bool {
        let every = self.options.rotate_time.unwrap_or_default();
        let away = Duration::try_from(end.duration_since(now)).unwrap_or_default();
        away.is_zero() || away > 2 * every
    }

    /// Closes the file and begins the next, if that is possible.
    fn rotate(&mut self, output_file: &mut OutputFile<Descriptor>) {
        let now = (self.clock)();
        if self.state.put_off(now).is_some() {
            return;
        }
        if self.names.has_parts() {
            self.sync(output_file);
        }
        match self.next(now) {
            Ok((next, left)) => {
                *output_file = next;
                self.begins(now);
                add(&self.counters.rotations, 1);
                if let Some(left) = left {
                    self.complete(left);
                }
                self.prune();
            }
            Err(error) => {
                let retry = self.failed(now, &error);
                // A file without a name has priority.
                self.state = match self.state {
                    State::Nameless(_) => State::Nameless(retry),
                    _ => State::Overdue(retry),
                };
            }
        }
    }

    /// Begins a new file if the current one has lost its name.
    pub(super) fn reopen(&mut self, output_file: &mut OutputFile<Descriptor>) {
        let now = (self.clock)();
        match self.renewed(output_file, now) {
            Ok(None) => {
                if matches!(self.state, State::Nameless(_)) {
                    self.state = State::Current;
                }
            }
            Ok(Some(next)) => {
                *output_file = next;
                self.begins(now);
                add(&self.counters.reopened, 1);
                info!(file = %self.live.display(), "opened anew");
            }
            Err(error) => self.state = State::Nameless(self.failed(now, &error)),
        }
    }

    /// Creates the next file. Also returns the old one's new path.
    fn next(&mut self, now: Timestamp) -> io::Result<(OutputFile<Descriptor>, Option<PathBuf>)> {
        if self.names.is_timed() {
            let (file, path) = self.names.create(now)?;
            let next = self.start(file).inspect_err(|_| discard(&path))?;
            let left = std::mem::replace(&mut self.live, path);
            return Ok((next, self.end_of_part(&left)));
        }
        let prepared = self.names.next();
        discard(&prepared); // left by a run that was killed at this point
        let next = create_new(&prepared)
            .and_then(|file| self.start(file))
            .inspect_err(|_| discard(&prepared))?;
        let left = match move_to_free(&self.live, &self.names.left(now)) {
            Ok(left) => Some(left),
            Err(error) if error.kind() == ErrorKind::NotFound => None, // another process has moved it
            Err(error) => {
                discard(&prepared);
                return Err(error);
            }
        };
        fs::rename(&prepared, &self.live)?;
        Ok((next, left))
    }

    /// Creates a new file if the old one is no longer at its path.
    fn renewed(
        &mut self,
        output_file: &OutputFile<Descriptor>,
        now: Timestamp,
    ) -> io::Result<Option<OutputFile<Descriptor>>> {
        match fs::metadata(&self.live) {
            Ok(there) if (there.dev(), there.ino()) == output_file.device().identity()? => {
                return Ok(None);
            }
            // A new empty file is meant for this output. Another file's content must not be lost.
            Ok(there) if there.is_file() && there.len() == 0 && !self.names.is_timed() => {
                let file = File::options().write(true).open(&self.live)?;
                return self.start(file).map(Some);
            }
            Ok(_) if !self.names.is_timed() => {
                move_to_free(&self.live, &self.names.left(now))?;
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let (file, path) = self.names.create(now)?;
        let next = self.start(file).inspect_err(|_| discard(&path))?;
        self.live = path;
        Ok(Some(next))
    }

    /// Gives the file its final name, if it has another until it is complete. Returns `None` if others have moved it.
    fn end_of_part(&self, file: &Path) -> Option<PathBuf> {
        match self.names.complete_part(file) {
            Ok(complete) => complete.exists().then_some(complete),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => {
                warn!(file = %file.display(), %error, "a complete file cannot get its name");
                add(&self.counters.rotation_errors, 1);
                None
            }
        }
    }

    /// Gives the last file its final name.
    pub(super) fn end(self, output_file: &OutputFile<Descriptor>) {
        self.sync(output_file);
        self.end_of_part(&self.live);
    }

    /// Makes sure that a file with its final name is whole after a crash of the machine, too.
    fn sync(&self, output_file: &OutputFile<Descriptor>) {
        if let Err(error) = output_file.device().sync() {
            warn!(file = %self.live.display(), %error, "not known to be on the disk");
            add(&self.counters.rotation_errors, 1);
        }
    }

    fn start(&self, file: File) -> io::Result<OutputFile<Descriptor>> {
        self.access.apply(&file)?;
        OutputFile::start(Descriptor::file(file), &self.frame)
    }

    fn begins(&mut self, now: Timestamp) {
        let every = self.options.rotate_time;
        self.ends = every.and_then(|every| end_of(now, every));
        self.state = State::Current;
    }

    /// Warns that a file could not be created. Returns the time of the next attempt.
    fn failed(&self, now: Timestamp, error: &io::Error) -> Timestamp {
        warn!(file = %self.live.display(), %error, "cannot begin a new file; the old one goes on");
        add(&self.counters.rotation_errors, 1);
        now.checked_add(RETRY).unwrap_or(now)
    }

    fn complete(&self, file: PathBuf) {
        if let Some(runner) = &self.runner {
            runner.complete(file);
        }
    }

    /// Returns whether the program still uses the file.
    fn holds(&self, file: &Path) -> bool {
        self.runner
            .as_ref()
            .is_some_and(|runner| runner.holds(file))
    }

    /// Deletes files that are too old; a file that the program still uses is deleted later.
    fn prune(&mut self) {
        let Some(keep) = self.options.keep else {
            return;
        };
        self.spared = None;
        let pruned = self.names.complete(&self.live).and_then(|mut files| {
            files.truncate(files.len().saturating_sub(keep));
            let (spared, old): (Vec<_>, Vec<_>) =
                files.into_iter().partition(|file| self.holds(file));
            self.spared = spared.into_iter().next();
            old.iter().try_for_each(|file| remove(file))
        });
        if let Err(error) = pruned {
            warn!(file = %self.live.display(), %error, "cannot delete old files");
            add(&self.counters.rotation_errors, 1);
        }
    }
}

/// Returns the next multiple of `every` since 1970.
fn end_of(now: Timestamp, every: Duration) -> Option<Timestamp> {
    let every = i64::try_from(every.as_secs()).ok()?;
    let next = (now.as_second().div_euclid(every) + 1).checked_mul(every)?;
    Timestamp::from_second(next).ok()
}

/// Removes the file. It may already be gone, because the program may move or remove it.
fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Removes a file that is not used after all. If that fails, the next attempt overwrites it, or the
/// file has a name of its own.
fn discard(path: &Path) {
    fs::remove_file(path).ok();
}

#[cfg(test)]
mod tests;

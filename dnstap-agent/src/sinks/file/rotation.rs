//! Owns the files of one output one after the other: when the next begins, how it takes the name over, which old ones go.
//! [`State`] has the diagram.
//!
//! The next file is there, with its head, before the old one is left: a full disk or a missing permission costs no message.
//! Every file is complete whenever nothing is being written to it (see `output_file`), so leaving one takes no more than a rename.

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
    names::{Names, create_free, create_new, move_to_free},
    options::FileOptions,
    output_file::{Frame, OutputFile},
};
use crate::sinks::report::{FileCounters, add};

/// How long to go on with the old file when the next cannot be had.
const RETRY: SignedDuration = SignedDuration::from_secs(10);

/// How often to look whether the program is done with a file that is to go.
const LOOK: Duration = Duration::from_secs(1);

/// Gives the time. Tests have their own.
pub(super) type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The first file as it was opened, with what it held before.
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
    /// The file that is being written.
    live: PathBuf,
    /// When it has to be left, at the latest.
    ends: Option<Timestamp>,
    state: State,
    /// The first of those that are too old and still the program's.
    spared: Option<PathBuf>,
    runner: Option<Runner>,
    counters: Arc<FileCounters>,
}

/// Where the file that is being written stands. It takes messages in each of these states.
///
/// ```text
/// begin ──► Current ──too large, or its time is over──► the next file: Current
///            │  ▲ │                                └──impossible──► Overdue ──10 s──► again ──► the next file
///            │  │ └──SIGHUP: renamed or removed by others──► a new file: Current
///            │  │                                      └──impossible──► Nameless ──10 s──► again ──► a new file
///            └──┘ cut by others: the same file, from its start (mend)
/// ```
///
/// Impossible: a full disk, a missing permission. From `Overdue` a SIGHUP leads where it leads from `Current`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It has its name and its time.
    Current,
    /// It was to be left, and the next could not be begun. When to try again.
    Overdue(Timestamp),
    /// It may have lost its name, and a new one could not be begun. When to try again.
    Nameless(Timestamp),
}

impl State {
    /// When the next attempt may be made, if not now. That is never far away, unless the clock was set back.
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
    /// The first file.
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
            // What an earlier run has left is complete, too.
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

    /// Begins the file again if others have cut it.
    pub(super) fn mend(&self, output_file: &mut OutputFile<Descriptor>) -> io::Result<()> {
        if output_file.is_cut() {
            output_file.begin_anew(&self.frame)?;
            warn!(file = %self.live.display(), "cut by others; begun anew from its start");
        }
        Ok(())
    }

    /// Does what has become due, before `more` bytes are written.
    pub(super) fn turn(&mut self, output_file: &mut OutputFile<Descriptor>, more: usize) {
        if matches!(self.state, State::Nameless(_)) && self.state.put_off((self.clock)()).is_none()
        {
            self.reopen(output_file);
        }
        if self.is_over(output_file, more) {
            self.rotate(output_file);
        }
        if self.spared.as_ref().is_some_and(|file| !self.holds(file)) {
            self.prune();
        }
    }

    /// Whether `more` bytes do not fit into the file any more, or its time is over. An empty file goes on.
    fn is_over(&self, output_file: &OutputFile<Descriptor>, more: usize) -> bool {
        if output_file.is_empty() {
            return false;
        }
        let full = self
            .options
            .rotate_size
            .is_some_and(|size| output_file.size() + (more + self.frame.foot.len()) as u64 > size);
        full || self
            .ends
            .is_some_and(|end| self.has_come(end, (self.clock)()))
    }

    /// How long until something is due.
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

    /// Whether the end of the file's time has come, or is further away than it ever was: then the clock was set back, and would take
    /// as long to come to it. Set back by less, for example by NTP just after a turn, it makes the file last that much longer.
    fn has_come(&self, end: Timestamp, now: Timestamp) -> bool {
        let every = self.options.rotate_time.unwrap_or_default();
        let away = Duration::try_from(end.duration_since(now)).unwrap_or_default();
        away.is_zero() || away > 2 * every
    }

    /// Leaves the file and begins the next, if that is possible.
    fn rotate(&mut self, output_file: &mut OutputFile<Descriptor>) {
        let now = (self.clock)();
        if self.state.put_off(now).is_some() {
            return;
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
                // What lacks a name comes first.
                self.state = match self.state {
                    State::Nameless(_) => State::Nameless(retry),
                    _ => State::Overdue(retry),
                };
            }
        }
    }

    /// Begins a new file if the one that is being written has lost its name.
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

    /// The next file, and where the old one lies now.
    fn next(&mut self, now: Timestamp) -> io::Result<(OutputFile<Descriptor>, Option<PathBuf>)> {
        if self.names.is_timed() {
            let (file, path) = create_free(&self.names.live(now)?)?;
            let next = self.start(file).inspect_err(|_| discard(&path))?;
            let left = std::mem::replace(&mut self.live, path);
            return Ok((next, left.exists().then_some(left)));
        }
        let prepared = self.names.next();
        discard(&prepared); // of a run that was killed just then
        let next = create_new(&prepared)
            .and_then(|file| self.start(file))
            .inspect_err(|_| discard(&prepared))?;
        let left = match move_to_free(&self.live, &self.names.left(now)) {
            Ok(left) => Some(left),
            Err(error) if error.kind() == ErrorKind::NotFound => None, // another process has taken it
            Err(error) => {
                discard(&prepared);
                return Err(error);
            }
        };
        fs::rename(&prepared, &self.live)?;
        Ok((next, left))
    }

    /// A new file if the old one is not where it was.
    fn renewed(
        &mut self,
        output_file: &OutputFile<Descriptor>,
        now: Timestamp,
    ) -> io::Result<Option<OutputFile<Descriptor>>> {
        match fs::metadata(&self.live) {
            Ok(there) if (there.dev(), there.ino()) == output_file.device().identity()? => {
                return Ok(None);
            }
            // A new and empty one is meant for us; another's is not to be lost.
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
        let (file, path) = create_free(&self.names.live(now)?)?;
        let next = self.start(file).inspect_err(|_| discard(&path))?;
        self.live = path;
        Ok(Some(next))
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

    /// Tells that a file could not be begun, and when to try again.
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

    /// Whether the program is not done with the file.
    fn holds(&self, file: &Path) -> bool {
        self.runner
            .as_ref()
            .is_some_and(|runner| runner.holds(file))
    }

    /// Deletes what is too old, later what is still the program's.
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

/// The next multiple of `every` since 1970.
fn end_of(now: Timestamp, every: Duration) -> Option<Timestamp> {
    let every = i64::try_from(every.as_secs()).ok()?;
    let next = (now.as_second().div_euclid(every) + 1).checked_mul(every)?;
    Timestamp::from_second(next).ok()
}

/// Sees to it that the file is gone; the program may have moved or removed it.
fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// A file that was made in vain. If it stays, it is overwritten by the next attempt or has a name of its own.
fn discard(path: &Path) {
    fs::remove_file(path).ok();
}

#[cfg(test)]
mod tests;

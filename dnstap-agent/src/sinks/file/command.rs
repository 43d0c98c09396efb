//! The program that is run for each complete file: one at a time, on a thread of its own, so that
//! the output never waits.
//!
//! | | |
//! |---|---|
//! | sender | the output |
//! | receiver | the thread |
//! | capacity | 64 files that wait for the program |
//! | when full | the file is skipped; logged and counted |
//!
//! A file that was handed over belongs to the program until that has ended ([`Runner::holds`]). The
//! agent does not delete it before.
//!
//! A program that fails or cannot be run is logged and counted. Files that still wait when the
//! agent ends are not handled.

use std::{
    collections::VecDeque,
    io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use tracing::{debug, warn};

use crate::sinks::report::{FileCounters, add};

const WAITING: usize = 64;

/// Runs the program; has the files that wait for it.
#[derive(Debug)]
pub(super) struct Runner {
    files: SyncSender<PathBuf>,
    line: Arc<Mutex<Line>>,
    counters: Arc<FileCounters>,
}

/// Files that were handed over and not yet handled.
#[derive(Debug, Default)]
struct Line {
    files: VecDeque<PathBuf>,
    /// Whether the program runs for the first file.
    begun: bool,
}

impl Runner {
    /// Starts the thread. Fails if the system creates no thread.
    pub(super) fn start(program: &Path, counters: Arc<FileCounters>) -> io::Result<Self> {
        let (files, receiver) = sync_channel(WAITING);
        let line = Arc::<Mutex<Line>>::default();
        let (program, its_counters, its_line) =
            (program.to_owned(), Arc::clone(&counters), Arc::clone(&line));
        thread::Builder::new()
            .name("sink-exec".to_owned())
            .spawn(move || run(&program, &receiver, &its_line, &its_counters))?;
        Ok(Self {
            files,
            line,
            counters,
        })
    }

    /// Makes the program run for `file`. Never blocks.
    pub(super) fn complete(&self, file: PathBuf) {
        let mut line = lock(&self.line);
        line.files.push_back(file.clone());
        if let Err(error) = self.files.try_send(file) {
            line.files.pop_back();
            warn!(%error, "a file is complete and its program is not run: too many wait for it");
            add(&self.counters.command_errors, 1);
        }
    }

    /// Returns whether the file was handed over and the program has not ended for it.
    pub(super) fn holds(&self, file: &Path) -> bool {
        lock(&self.line).files.iter().any(|held| held == file)
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        let line = lock(&self.line);
        let left = (line.files.len() - usize::from(line.begun)) as u64;
        if left > 0 {
            warn!(
                files = left,
                "the end has come before the program was run for all files"
            );
            add(&self.counters.command_errors, left);
        }
    }
}

fn lock(line: &Mutex<Line>) -> MutexGuard<'_, Line> {
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run(program: &Path, files: &Receiver<PathBuf>, line: &Mutex<Line>, counters: &FileCounters) {
    for file in files {
        lock(line).begun = true;
        let done = Command::new(program)
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0) // Ctrl-C must not reach the program
            .status();
        let (program, file) = (program.display(), file.display());
        match done {
            Ok(status) if status.success() => debug!(%program, %file, "done with a file"),
            Ok(status) => {
                warn!(%program, %file, %status, "the program for complete files failed");
                add(&counters.command_errors, 1);
            }
            Err(error) => {
                warn!(%program, %file, %error, "the program for complete files cannot be run");
                add(&counters.command_errors, 1);
            }
        }
        let mut line = lock(line);
        line.files.pop_front();
        line.begun = false;
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::Ordering::Relaxed,
        time::{Duration, Instant},
    };

    use super::*;

    #[test]
    fn a_program_that_hangs_holds_nobody_up_and_what_it_misses_is_counted() {
        let counters = Arc::<FileCounters>::default();
        let folder = tempfile::tempdir().expect("a folder");
        let (script, gate) = (folder.path().join("hang"), folder.path().join("gate"));
        // Opening a named pipe waits for its writer.
        let made = Command::new("mkfifo")
            .arg(&gate)
            .status()
            .expect("coreutils");
        assert!(made.success());
        std::fs::write(
            &script,
            format!("#!/bin/sh\nread line < {}\n", gate.display()),
        )
        .expect("written");
        executable(&script);
        let runner = Runner::start(&script, Arc::clone(&counters)).expect("a thread");
        let many = WAITING as u64 + 10;
        for _ in 0..many {
            runner.complete("/x".into());
        }
        // The thread has taken one file at most.
        let passed_over = counters.command_errors.load(Relaxed);
        assert!((9..=10).contains(&passed_over), "{passed_over}");
        drop(runner);
        let errors = counters.command_errors.load(Relaxed);
        assert!((many - 1..=many).contains(&errors), "{errors}");
        // Unblock the program: it reads to the end of the pipe and ends.
        std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&gate)
            .expect("opened");
        std::fs::remove_file(&script).expect("removed");
    }

    #[test]
    fn a_program_that_fails_or_is_not_there_is_counted() {
        for program in ["/bin/false", "/no/such/program"] {
            let counters = Arc::<FileCounters>::default();
            let runner =
                Runner::start(Path::new(program), Arc::clone(&counters)).expect("a thread");
            runner.complete("/x".into());
            let deadline = Instant::now() + Duration::from_mins(1);
            while counters.command_errors.load(Relaxed) == 0 {
                assert!(Instant::now() < deadline, "not counted");
                thread::yield_now();
            }
        }
    }

    fn executable(path: &Path) {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("ours");
    }
}

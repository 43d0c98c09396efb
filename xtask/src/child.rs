//! Programs that run at the same time as a task. Dropping their handle stops them, and the kernel does so if the task
//! is killed.

use std::{
    collections::VecDeque,
    io::{BufRead as _, BufReader},
    mem,
    process::{self, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{exec, ui};

/// Number of lines of standard error that are kept for the message of a failure.
const LAST_WORDS: usize = 12;

/// Handling of the program's standard error.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Log {
    /// It is shown.
    Shown,
    /// Only its last lines are shown, and only in the message of a failure.
    Kept,
}

/// A running program.
pub(crate) struct Child {
    name: String,
    process: process::Child,
    lines: Receiver<String>,
    last: VecDeque<String>,
}

impl Child {
    /// Starts a program whose standard output goes to the same place as this program's.
    pub(crate) fn spawn(command: &Command, log: Log) -> Result<Self> {
        let name = exec::display(command);
        ui::command(&name);
        // setpriv executes the program with the same process id. The signal is sent when this program dies.
        let mut guarded = Command::new("setpriv");
        guarded
            .args(["--pdeathsig", "TERM", "--"])
            .arg(command.get_program())
            .args(command.get_args());
        let mut process = guarded
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run `{name}`"))?;
        let stderr = process
            .stderr
            .take()
            .context("standard error is not piped")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                if log == Log::Shown {
                    eprintln!("{line}");
                }
                if sender.send(line).is_err() {
                    break; // the handle was dropped, so the program has ended
                }
            }
        });
        Ok(Self {
            name,
            process,
            lines,
            last: VecDeque::new(),
        })
    }

    /// Returns its process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Waits for a line on standard error that `is_it` recognises; `what` names it in errors.
    pub(crate) fn wait_for(
        &mut self,
        what: &str,
        patience: Duration,
        is_it: impl Fn(&str) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) => {
                    let found = is_it(&line);
                    self.remember(line);
                    if found {
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!(
                        "`{}` did not say \"{what}\" in {} s{}",
                        self.name,
                        patience.as_secs(),
                        self.last_words()
                    );
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.process.wait().context("cannot wait for a child")?;
                    bail!(
                        "`{}` ended too early: {status}{}",
                        self.name,
                        self.last_words()
                    );
                }
            }
        }
    }

    /// Sends this signal, which asks it to end.
    pub(crate) fn signal(&self, signal: &str) -> Result<()> {
        // The child has not been waited for, so no other process can have its id.
        exec::output(Command::new("sh").args(["-c", &format!("kill -{signal} {}", self.id())]))
            .map(drop)
    }

    /// Waits until it ends by itself, which must be a success. Returns the last lines of its standard error.
    pub(crate) fn finish(mut self, patience: Duration) -> Result<Vec<String>> {
        let deadline = Instant::now() + patience;
        loop {
            match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) => self.remember(line),
                Err(RecvTimeoutError::Timeout) => {
                    bail!("`{}` did not end in {} s", self.name, patience.as_secs())
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let status = self
            .process
            .wait()
            .with_context(|| format!("cannot wait for `{}`", self.name))?;
        if !status.success() {
            bail!("`{}` failed: {status}{}", self.name, self.last_words());
        }
        Ok(mem::take(&mut self.last).into())
    }

    fn remember(&mut self, line: String) {
        self.last.push_back(line);
        if self.last.len() > LAST_WORDS {
            self.last.pop_front();
        }
    }

    fn last_words(&self) -> String {
        self.last
            .iter()
            .fold("; its last words:".to_owned(), |text, line| {
                text + "\n" + line
            })
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Failures do not matter here: a process that has ended and been waited for is not signalled.
        self.process
            .kill()
            .and_then(|()| self.process.wait().map(drop))
            .unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_line_that_was_waited_for_is_found() {
        let mut child = Child::spawn(
            &shell("echo one >&2; echo two now >&2; exec sleep 60"),
            Log::Kept,
        )
        .expect("sh");
        child
            .wait_for("two", PATIENCE, |line| line == "two now")
            .expect("it was said");
    }

    #[test]
    fn a_program_that_ends_early_is_reported_with_its_last_words() {
        let mut child =
            Child::spawn(&shell("echo no such thing >&2; exit 7"), Log::Kept).expect("sh");
        let error = child
            .wait_for("ready", PATIENCE, |line| line == "ready")
            .expect_err("it ended")
            .to_string();
        assert!(
            error.contains("exit status: 7") && error.ends_with("\nno such thing"),
            "{error}"
        );
    }

    #[test]
    fn a_program_ends_with_its_handle() {
        let child = Child::spawn(&shell("exec sleep 60"), Log::Kept).expect("sh");
        let process = format!("/proc/{}", child.id());
        assert!(Path::new(&process).exists());
        drop(child);
        assert!(!Path::new(&process).exists());
    }

    #[test]
    fn the_process_id_is_that_of_the_program_itself() {
        let mut child =
            Child::spawn(&shell("echo I am $$ >&2; exec sleep 60"), Log::Kept).expect("sh");
        let expected = format!("I am {}", child.id());
        child
            .wait_for("I am", PATIENCE, |line| line == expected)
            .expect("the same id");
    }
}

//! Child processes: they are started, watched line by line, signalled by their own PID, and never left behind.
//!
//! Waiting is always for an event (a line, the end of the process) with a deadline, never for a time to pass. A child
//! dies with the [`Running`] that owns it, on panic too, and with this process, however that ends (`PR_SET_PDEATHSIG`).

use std::{
    fs,
    io::{BufRead as _, BufReader, Read, Write as _},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::system;

/// Longest wait for anything that should happen at once. Generous, because emulated machines are slow.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// Output of the child that is watched.
#[derive(Clone, Copy)]
pub(crate) enum Watch {
    /// Standard output; standard error goes where the command says.
    Stdout,
    /// Standard error; standard output goes where the command says.
    Stderr,
}

/// A line to wait for: its meaning, and a function that recognises it.
pub(crate) type Line = (&'static str, fn(&str) -> bool);

/// A child process and the lines that it has written so far.
pub(crate) struct Running {
    name: String,
    child: Child,
    incoming: Receiver<String>,
    lines: Vec<String>,
    /// Number of lines that [`Self::wait_for`] has already read.
    looked: usize,
    ended: Option<ExitStatus>,
}

/// Result of a process that has ended.
pub(crate) struct Finished {
    /// Its exit status.
    pub(crate) status: ExitStatus,
    /// All lines of the watched output.
    pub(crate) lines: Vec<String>,
}

impl Running {
    /// Starts `command` under `name` (for messages).
    pub(crate) fn start(name: &str, mut command: Command, watch: Watch) -> Result<Self> {
        match watch {
            Watch::Stdout => command.stdout(Stdio::piped()),
            Watch::Stderr => command.stderr(Stdio::piped()),
        };
        system::die_with_this_process(&mut command);
        let mut child = command
            .spawn()
            .with_context(|| format!("starting {name}: {command:?}"))?;
        let output: Box<dyn Read + Send> = match watch {
            Watch::Stdout => Box::new(child.stdout.take().context("standard output is piped")?),
            Watch::Stderr => Box::new(child.stderr.take().context("standard error is piped")?),
        };
        let (sender, incoming) = channel();
        thread::spawn(move || {
            let mut reader = BufReader::new(output);
            let mut line = Vec::new();
            while reader
                .read_until(b'\n', &mut line)
                .is_ok_and(|count| count > 0)
            {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                if sender.send(text).is_err() {
                    break;
                }
                line.clear();
            }
        });
        Ok(Self {
            name: name.to_owned(),
            child,
            incoming,
            lines: Vec::new(),
            looked: 0,
            ended: None,
        })
    }

    /// Returns the process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the next line for which `wanted` is true, and skips the lines before it.
    pub(crate) fn wait_for(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            while let Some(line) = self.lines.get(self.looked) {
                self.looked += 1;
                if wanted(line) {
                    return Ok(line.clone());
                }
            }
            match self.next_line(deadline) {
                Ok(line) => self.lines.push(line),
                Err(RecvTimeoutError::Timeout) => {
                    bail!("{} did not get to: {what}\n{}", self.name, self.tail())
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("{} ended before: {what}\n{}", self.name, self.tail())
                }
            }
        }
    }

    /// Waits until each of several lines has arrived, in any order. Skips the lines up to the last of them.
    pub(crate) fn wait_for_each(&mut self, lines: &[Line]) -> Result<()> {
        let start = self.looked;
        let mut end = start;
        for (what, wanted) in lines {
            self.looked = start;
            self.wait_for(what, wanted)?;
            end = end.max(self.looked);
        }
        self.looked = end;
        Ok(())
    }

    /// Writes one line to the child's standard input, which the command must have piped.
    pub(crate) fn tell(&mut self, line: &str) -> Result<()> {
        let input = self
            .child
            .stdin
            .as_mut()
            .context("standard input is not piped")?;
        writeln!(input, "{line}").with_context(|| format!("telling {} `{line}`", self.name))?;
        Ok(input.flush()?)
    }

    /// Sends `signal` (a `libc::SIG*`) to the process.
    pub(crate) fn signal(&self, signal: i32) -> Result<()> {
        system::kill(self.pid(), signal).with_context(|| format!("signalling {}", self.name))
    }

    /// Sends `signal`, then waits for the end.
    pub(crate) fn stop(self, signal: i32) -> Result<Finished> {
        self.signal(signal)?;
        self.finish(PATIENCE)
    }

    /// Waits until the process has closed its output and ended.
    pub(crate) fn finish(mut self, patience: Duration) -> Result<Finished> {
        let deadline = Instant::now() + patience;
        drop(self.child.stdin.take());
        loop {
            match self.next_line(deadline) {
                Ok(line) => self.lines.push(line),
                Err(RecvTimeoutError::Timeout) => {
                    bail!("{} does not end\n{}", self.name, self.tail())
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let status = self.child.wait()?;
        self.ended = Some(status);
        Ok(Finished {
            status,
            lines: std::mem::take(&mut self.lines),
        })
    }

    fn next_line(&self, deadline: Instant) -> Result<String, RecvTimeoutError> {
        self.incoming
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
    }

    fn tail(&self) -> String {
        let start = self.lines.len().saturating_sub(15);
        self.lines[start..].join(
            "
",
        )
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended.is_none() {
            // Both fail only if the process has already ended, which is the goal.
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}

/// Runs `command`, which must succeed. Returns its standard output and error.
pub(crate) fn output(mut command: Command) -> Result<(String, String)> {
    system::die_with_this_process(&mut command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("running {command:?}"))?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let (output_text, error_text) = (text(&output.stdout), text(&output.stderr));
    ensure!(
        output.status.success(),
        "{command:?}: {}\n{error_text}{output_text}",
        output.status
    );
    Ok((output_text, error_text))
}

/// Returns the resident memory of a process in KiB.
pub(crate) fn resident(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let size = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let size = size.and_then(|size| size.trim().strip_suffix(" kB"));
    Ok(size.context("no VmRSS")?.parse()?)
}

/// Returns the number of open descriptors of a process.
pub(crate) fn descriptors(pid: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_in_whatever_order_they_come() -> Result<()> {
        let mut command = Command::new("sh");
        command.args(["-c", "echo transferred; echo running; echo transferred"]);
        let mut process = Running::start("sh", command, Watch::Stdout)?;
        process.wait_for_each(&[
            ("running", |line| line == "running"),
            ("the transfer", |line| line == "transferred"),
        ])?;
        process.wait_for("the next transfer", |line| line == "transferred")?;
        Ok(())
    }
}

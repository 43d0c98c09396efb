//! The agent under test: it is attached to a process and stopped regularly, and its summary is read.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use dnstap_ebpf::Counter;
use serde_json::Value;

use crate::{
    environment::{self, Combination},
    kernel,
    process::{Finished, Running, Watch},
    record::{self, Record},
};

/// A running agent that writes to a file.
pub(crate) struct Tap {
    process: Running,
    file: PathBuf,
    summary: PathBuf,
    said: String,
}

/// Output of an agent that has ended.
pub(crate) struct Tapped {
    /// Its file of frames.
    pub(crate) file: PathBuf,
    /// Its summary.
    pub(crate) summary: Summary,
}

/// The JSON object that `--summary-json` writes.
pub(crate) struct Summary(Value);

impl Tap {
    /// Attaches to `pid` and returns when the agent reports that it is attached. Files go to `folder`.
    pub(crate) fn attach(
        folder: &Path,
        pid: u32,
        how: &Combination,
        more: &[&str],
    ) -> Result<Self> {
        let name = format!("{}-{}", how.hook, how.ring);
        let (file, summary) = (
            folder.join(format!("{name}.fstrm")),
            folder.join(format!("{name}.json")),
        );
        Self::attach_with(&file, &summary, pid, how, more)
    }

    /// Attaches to the targets that `targets` (options of the agent) select.
    pub(crate) fn attach_to(
        folder: &Path,
        targets: &[&str],
        how: &Combination,
        more: &[&str],
    ) -> Result<Self> {
        let name = format!("{}-{}", how.hook, how.ring);
        let (file, summary) = (
            folder.join(format!("{name}.fstrm")),
            folder.join(format!("{name}.json")),
        );
        let command = command_for(&environment::agent()?, targets, how);
        Self::start(command, &file, &summary, how, more)
    }

    /// Like [`Self::attach`], with the names of both files.
    pub(crate) fn attach_with(
        file: &Path,
        summary: &Path,
        pid: u32,
        how: &Combination,
        more: &[&str],
    ) -> Result<Self> {
        let command = command(&environment::agent()?, pid, how);
        Self::start(command, file, summary, how, more)
    }

    /// Like [`Self::attach`], and the agent logs its verdicts on sockets.
    pub(crate) fn attach_talking(folder: &Path, pid: u32, how: &Combination) -> Result<Self> {
        let mut command = command(&environment::agent()?, pid, how);
        command.env("DNSTAP_AGENT_LOG", "debug");
        let (file, summary) = (folder.join("talking.fstrm"), folder.join("talking.json"));
        Self::start(command, &file, &summary, how, &[])
    }

    /// Attaches with a command of the caller. Files go to `folder`, with this name.
    pub(crate) fn attach_by(
        command: Command,
        folder: &Path,
        name: &str,
        how: &Combination,
        more: &[&str],
    ) -> Result<Self> {
        let at = |end: &str| folder.join(format!("{name}.{end}"));
        Self::start(command, &at("fstrm"), &at("json"), how, more)
    }

    /// Starts an agent and does not wait until it is attached; [`Self::attached`] does. `prepare` may change its
    /// command last.
    pub(crate) fn launch(
        folder: &Path,
        name: &str,
        pid: u32,
        how: &Combination,
        more: &[&str],
        prepare: impl FnOnce(&mut Command),
    ) -> Result<Self> {
        let at = |end: &str| folder.join(format!("{name}.{end}"));
        let mut command = command(&environment::agent()?, pid, how);
        prepare(&mut command);
        Self::begin(command, &at("fstrm"), &at("json"), how, more)
    }

    fn start(
        command: Command,
        file: &Path,
        summary: &Path,
        how: &Combination,
        more: &[&str],
    ) -> Result<Self> {
        let mut tap = Self::begin(command, file, summary, how, more)?;
        tap.attached()?;
        Ok(tap)
    }

    /// Waits until the agent reports that it is attached.
    pub(crate) fn attached(&mut self) -> Result<()> {
        self.said = self
            .process
            .wait_for("attached", |line| line.contains("attached"))?;
        let links = kernel::note_of_tap(self.pid(), &self.said)?;
        ensure!(!links.is_empty(), "attached without a link: {}", self.said);
        Ok(())
    }

    fn begin(
        mut command: Command,
        file: &Path,
        summary: &Path,
        how: &Combination,
        more: &[&str],
    ) -> Result<Self> {
        command
            .arg("-o")
            .arg(format!("file:{}", file.display()))
            .arg("--summary-json")
            .arg(summary)
            .args(more);
        let process = Running::start(&format!("dnstap-agent ({how})"), command, Watch::Stderr)?;
        Ok(Self {
            process,
            file: file.to_owned(),
            summary: summary.to_owned(),
            said: String::new(),
        })
    }

    /// Waits until the agent has told the kernel to skip this many more sockets.
    pub(crate) fn wait_for_verdicts(&mut self, sockets: usize) -> Result<()> {
        for _ in 0..sockets {
            self.process.wait_for("a verdict on a socket", |line| {
                line.contains("verdict on a socket")
            })?;
        }
        Ok(())
    }

    /// Returns the agent's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Returns the line with which it reported that it is attached, with the hook and the ring.
    pub(crate) fn said(&self) -> &str {
        &self.said
    }

    /// Returns the next line of its log for which `wanted` is true.
    pub(crate) fn wait_for(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> Result<String> {
        self.process.wait_for(what, wanted)
    }

    /// Returns the file that it writes.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Returns the file to which it writes its summary.
    pub(crate) fn summary(&self) -> &Path {
        &self.summary
    }

    /// Sends a signal to the agent.
    pub(crate) fn signal(&self, signal: i32) -> Result<()> {
        self.process.signal(signal)
    }

    /// Asks the agent to end (SIGINT) and waits until it has detached, drained its ring and closed its file. None of
    /// its links may be left then. Whether its programs and maps are gone is checked after the last test.
    pub(crate) fn stop(self) -> Result<Tapped> {
        let links = kernel::note_of_tap(self.pid(), &self.said)?;
        let Finished { status, lines } = self.process.stop(libc::SIGINT)?;
        ensure!(
            status.success(),
            "the agent ended with {status}\n{}",
            lines.join("\n")
        );
        kernel::expect_gone(&links).context("still attached after its end")?;
        let summary = Summary::read(&self.summary)?;
        summary.expect_accounted()?;
        Ok(Tapped {
            file: self.file,
            summary,
        })
    }

    /// Waits until the agent ends by itself.
    pub(crate) fn finish(self) -> Result<Finished> {
        self.process.finish(crate::process::PATIENCE)
    }
}

impl Tapped {
    /// Returns the records of its file.
    pub(crate) fn records(&self) -> Result<Vec<Record>> {
        record::read(&self.file)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl Summary {
    /// Reads the file that the agent wrote at its end.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        Ok(Self(
            serde_json::from_slice(&text).with_context(|| format!("{}", path.display()))?,
        ))
    }

    /// Makes a summary of a value that was read elsewhere.
    pub(crate) const fn of(summary: Value) -> Self {
        Self(summary)
    }

    /// Returns a counter of the kernel side, by its name in the ABI.
    pub(crate) fn kernel(&self, counter: &str) -> Result<u64> {
        self.0["kernel"][counter]
            .as_u64()
            .with_context(|| format!("no kernel.{counter} in {}", self.0))
    }

    /// Returns the number of messages that the kernel side dropped, all reasons together.
    pub(crate) fn kernel_drops(&self) -> Result<u64> {
        self.kernel_sum(Counter::is_drop)
    }

    /// Returns the number of messages that the kernel side left out on purpose, all reasons together.
    pub(crate) fn left_out(&self) -> Result<u64> {
        self.kernel_sum(Counter::is_skip)
    }

    fn kernel_sum(&self, which: fn(Counter) -> bool) -> Result<u64> {
        let counters = Counter::ALL.into_iter().filter(|counter| which(*counter));
        counters.map(|counter| self.kernel(counter.name())).sum()
    }

    /// Returns the counts of output number `at`.
    pub(crate) fn output(&self, at: usize) -> &Value {
        &self.0["outputs"][at]
    }

    /// Returns a counter of the pipeline.
    pub(crate) fn pipeline(&self, counter: &str) -> Result<u64> {
        self.0["pipeline"][counter]
            .as_u64()
            .with_context(|| format!("no pipeline.{counter} in {}", self.0))
    }

    /// Returns the largest number of messages that may have passed while the kernel did not run the tap's programs, by
    /// the kernel's own count. It is 0 on kernels that do not preempt in the kernel. Programs that follow processes and
    /// connections are not included: they see no messages.
    pub(crate) fn missed(&self) -> Result<u64> {
        let programs = self.0["programs"]
            .as_object()
            .with_context(|| format!("no programs in {}", self.0))?;
        let sees_messages =
            |name: &str| !name.starts_with("sched_process_") && name != "inet_sock_set_state";
        let of_messages = programs.iter().filter(|(name, _)| sees_messages(name));
        let missed = of_messages.map(|(_, program)| program["missed"].as_u64());
        Ok(missed.map(Option::unwrap_or_default).sum())
    }

    /// Returns the nanoseconds that the kernel spent in the tap's programs; 0 if it does not count them.
    pub(crate) fn program_time(&self) -> Result<u64> {
        let programs = self.0["programs"]
            .as_object()
            .with_context(|| format!("no programs in {}", self.0))?;
        let times = programs
            .values()
            .map(|program| program["run_time_ns"].as_u64());
        Ok(times.map(Option::unwrap_or_default).sum())
    }

    /// Returns the number of frames written to the only output.
    pub(crate) fn written(&self) -> Result<u64> {
        self.0["outputs"][0]["written"]
            .as_u64()
            .with_context(|| format!("no outputs[0].written in {}", self.0))
    }

    /// Returns the number of frames that the only output dropped, all reasons together.
    pub(crate) fn output_drops(&self) -> Result<u64> {
        let dropped = &self.0["outputs"][0]["dropped"];
        let reasons = dropped
            .as_object()
            .with_context(|| format!("no outputs[0].dropped in {}", self.0))?;
        Ok(reasons.values().filter_map(Value::as_u64).sum())
    }

    /// Checks that every message is accounted for at every hop: the agent's own check of the conservation laws, over
    /// the final counters.
    pub(crate) fn expect_accounted(&self) -> Result<()> {
        let hops = self.0["conservation"].as_array().map_or(0, Vec::len);
        ensure!(
            self.0["unaccounted"] == 0 && hops > 0,
            "unaccounted for (of {hops} hops)\n{}",
            self.0
        );
        Ok(())
    }

    /// Checks that nothing was lost anywhere.
    pub(crate) fn expect_nothing_dropped(&self) -> Result<()> {
        let drops = (self.kernel_drops()?, self.output_drops()?);
        ensure!(
            drops == (0, 0),
            "dropped (kernel, output): {drops:?}\n{}",
            self.0
        );
        self.expect_accounted()
    }

    /// Checks that the output has counted as many frames as its file has.
    pub(crate) fn expect_written(&self, frames: usize) -> Result<()> {
        ensure!(
            self.written()? == frames as u64,
            "{frames} frames in the file\n{}",
            self.0
        );
        Ok(())
    }
}

/// Returns the command `dnstap-agent attach` for a process, without outputs.
pub(crate) fn command(agent: &Path, pid: u32, how: &Combination) -> Command {
    command_for(agent, &["--pid", &pid.to_string()], how)
}

/// Returns the command `dnstap-agent attach` for the targets that `targets` select, without outputs.
pub(crate) fn command_for(agent: &Path, targets: &[&str], how: &Combination) -> Command {
    let mut command = Command::new(agent);
    command
        .arg("attach")
        .args(targets)
        .args(["--hook", &how.hook, "--ring", &how.ring]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

//! An agent of the soak: several lives, one after the other, and the sum of their counts.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    environment::{self, Combination},
    process::{PATIENCE, Running, Watch, descriptors, output, resident},
    record, tap,
};

use super::server;

/// A running agent that follows the server by name.
pub(super) struct Agent {
    process: Running,
    /// Its file of frames.
    pub(super) file: PathBuf,
    summary: PathBuf,
    socket: PathBuf,
}

/// Sum of its lives that have ended.
#[derive(Default)]
pub(super) struct Account {
    /// Number of lives that ended regularly, with a summary.
    pub(super) summaries: u64,
    /// Number of lives that were killed.
    pub(super) killed: u64,
    /// Number of frames in the files of the killed lives.
    pub(super) frames_of_killed: u64,
    /// Number of messages that the kernel side saw.
    pub(super) seen: u64,
    /// Number of messages that reached an output.
    pub(super) delivered: u64,
    /// Number of messages that may have been missed: the kernel's own count of programs that it did not run.
    pub(super) missed: u64,
    /// Number of messages that the kernel side dropped.
    pub(super) kernel_drops: u64,
    /// Numbers of written and dropped messages, by output; drops with their reason.
    pub(super) outputs: BTreeMap<String, u64>,
    /// Number of messages that no counter explains.
    pub(super) unaccounted: u64,
}

impl Agent {
    /// Attaches. Names of files begin with `name`. `outputs` are added to its file, which has the `options`.
    pub(super) fn attach(
        folder: &Path,
        name: &str,
        how: &Combination,
        options: &str,
        outputs: &[&str],
    ) -> Result<Self> {
        let at = |end: &str| folder.join(format!("{name}.{end}"));
        let (file, summary, socket) = (at("fstrm"), at("json"), at("sock"));
        let name = server::name();
        let targets = ["--name", &name, "--follow", "--profile", "named"];
        let mut command = tap::command_for(&environment::agent()?, &targets, how);
        command
            .arg("-o")
            .arg(format!("file:{}{options}", file.display()))
            .arg("--summary-json")
            .arg(&summary)
            .arg("--status-socket")
            .arg(&socket);
        for output in outputs {
            command.args(["-o", output]);
        }
        let mut process = Running::start(
            &format!("dnstap-agent {name} ({how})"),
            command,
            Watch::Stderr,
        )?;
        process.wait_for("attached", |line| line.contains("attached"))?;
        Ok(Self {
            process,
            file,
            summary,
            socket,
        })
    }

    /// Sends it a signal.
    pub(super) fn signal(&self, signal: i32) -> Result<()> {
        self.process.signal(signal)
    }

    /// Returns the output of `dnstap-agent status` for it.
    pub(super) fn status(&self) -> Result<Value> {
        let mut command = Command::new(environment::agent()?);
        command
            .args(["status", "--json", "--socket"])
            .arg(&self.socket);
        let (text, _) = output(command)?;
        serde_json::from_str(&text).with_context(|| text.clone())
    }

    /// Returns its resident memory in KiB, and the number of its open descriptors.
    pub(super) fn size(&self) -> Result<(u64, u64)> {
        let pid = self.process.pid();
        Ok((resident(pid)?, descriptors(pid)? as u64))
    }

    /// Ends it regularly and adds its counts.
    pub(super) fn stop(self, account: &mut Account) -> Result<()> {
        let finished = self.process.stop(libc::SIGINT)?;
        let said = finished.lines.join("\n");
        ensure!(
            finished.status.success(),
            "the agent ended with {}\n{said}",
            finished.status
        );
        let text = fs::read(&self.summary)?;
        account.add(&serde_json::from_slice(&text)?).context(said)
    }

    /// Kills it. Its file must be readable up to the cut.
    pub(super) fn kill(self, account: &mut Account) -> Result<()> {
        self.process.signal(libc::SIGKILL)?;
        self.process.finish(PATIENCE)?;
        let (records, _cut) = record::read_up_to_the_end(&self.file)?;
        account.killed += 1;
        account.frames_of_killed += records.len() as u64;
        fs::remove_file(&self.file)?;
        Ok(())
    }
}

impl Account {
    fn add(&mut self, summary: &Value) -> Result<()> {
        let count = |value: &Value| {
            value
                .as_u64()
                .with_context(|| format!("no count in {summary}"))
        };
        self.summaries += 1;
        self.seen += count(&summary["kernel"]["seen"])?;
        self.delivered += count(&summary["pipeline"]["messages"])?;
        let summary_of_tap = tap::Summary::of(summary.clone());
        self.kernel_drops += summary_of_tap.kernel_drops()?;
        self.missed += summary_of_tap.missed()?;
        self.unaccounted += count(&summary["unaccounted"])?;
        for output in summary["outputs"].as_array().context("no outputs")? {
            let name = output["output"].as_str().unwrap_or_default();
            let (scheme, _) = name.split_once(':').unwrap_or((name, ""));
            *self.outputs.entry(format!("{scheme} written")).or_default() +=
                count(&output["written"])?;
            for (reason, dropped) in output["dropped"].as_object().context("no drops")? {
                *self
                    .outputs
                    .entry(format!("{scheme} {reason}"))
                    .or_default() += count(dropped)?;
            }
        }
        Ok(())
    }
}

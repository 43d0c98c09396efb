//! The collector of the soak: `dnstap-agent receive`, which is stopped and started again and again.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    environment,
    process::{PATIENCE, Running, Watch},
};

/// A collector that may be down.
pub(super) struct Collector {
    folder: PathBuf,
    process: Option<Running>,
    /// Number of messages in the summaries of the lives that ended regularly.
    received: u64,
    unaccounted: u64,
}

/// Sum of the collectors that ended regularly.
#[derive(Default)]
pub(super) struct Collected {
    /// Number of messages received.
    pub(super) messages: u64,
    /// Number of messages that no counter explains.
    pub(super) unaccounted: u64,
}

impl Collector {
    /// Starts it.
    pub(super) fn start(folder: &Path) -> Result<Self> {
        let mut collector = Self {
            folder: folder.to_owned(),
            process: None,
            received: 0,
            unaccounted: 0,
        };
        collector.ensure_running()?;
        Ok(collector)
    }

    /// Returns the address on which it listens, in the form for `-o`.
    pub(super) fn output(&self) -> String {
        format!("unix:{}", self.folder.join("collector").display())
    }

    /// Starts it if it is down.
    pub(super) fn ensure_running(&mut self) -> Result<()> {
        if self.process.is_some() {
            return Ok(());
        }
        let mut command = Command::new(environment::agent()?);
        command
            .args(["receive", "--listen", &self.output(), "--summary-json"])
            .arg(self.summary())
            .arg("-o")
            .arg(format!(
                "file:{},rotate-size=2M,keep=2",
                self.folder.join("collected.fstrm").display()
            ))
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let mut process = Running::start("dnstap-agent receive", command, Watch::Stderr)?;
        process.wait_for("its socket", |line| line.contains("listen"))?;
        self.process = Some(process);
        Ok(())
    }

    /// Kills it. It stays down until it is started again.
    pub(super) fn kill(&mut self) -> Result<()> {
        if let Some(process) = self.process.take() {
            process.signal(libc::SIGKILL)?;
            process.finish(PATIENCE)?;
        }
        Ok(())
    }

    /// Ends it regularly, if it runs, and starts it.
    pub(super) fn restart(&mut self) -> Result<()> {
        self.end()?;
        self.ensure_running()
    }

    /// Ends it regularly.
    pub(super) fn stop(mut self) -> Result<Collected> {
        self.end()?;
        Ok(Collected {
            messages: self.received,
            unaccounted: self.unaccounted,
        })
    }

    fn end(&mut self) -> Result<()> {
        let Some(process) = self.process.take() else {
            return Ok(());
        };
        let finished = process.stop(libc::SIGINT)?;
        ensure!(
            finished.status.success(),
            "{}\n{}",
            finished.status,
            finished.lines.join("\n")
        );
        let summary: Value = serde_json::from_slice(&fs::read(self.summary())?)?;
        let count = |value: &Value| value.as_u64().with_context(|| format!("{summary}"));
        self.received += count(&summary["received"]["messages"])?;
        self.unaccounted += count(&summary["unaccounted"])?;
        Ok(())
    }

    fn summary(&self) -> PathBuf {
        self.folder.join("collector.json")
    }
}

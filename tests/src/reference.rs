//! The reference: a server's own dnstap, which `fstrm_capture` receives over a Unix socket and writes to a file.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    environment,
    process::{Running, Watch},
    record::{self, Record},
};

/// A running `fstrm_capture`.
pub(crate) struct Reference {
    capture: Running,
    file: PathBuf,
}

impl Reference {
    /// Listens on `socket` and writes to `reference.fstrm` in `folder`. Start it before the server, which then connects
    /// immediately.
    pub(crate) fn start(folder: &Path, socket: &Path) -> Result<Self> {
        let file = folder.join("reference.fstrm");
        let mut command = Command::new(environment::tool("fstrm_capture")?);
        command
            .args(["-ddd", "-t", "protobuf:dnstap.Dnstap", "-u"])
            .arg(socket)
            .arg("-w")
            .arg(&file);
        let mut capture = Running::start("fstrm_capture", command, Watch::Stderr)?;
        capture.wait_for("listening", |line| line.contains("opened output file"))?;
        Ok(Self { capture, file })
    }

    /// Waits until the server has connected. All records that it makes from then on arrive.
    pub(crate) fn connected(&mut self) -> Result<()> {
        self.capture
            .wait_for("a connection of the server", |line| {
                line.contains("accepted new connection")
            })?;
        Ok(())
    }

    /// Returns all records of the server. The server must have ended, and so sent everything that it had queued.
    pub(crate) fn finish(mut self) -> Result<Vec<Record>> {
        self.capture.wait_for("the end of the connection", |line| {
            line.contains(": closing (")
        })?;
        let finished = self.capture.stop(libc::SIGTERM)?;
        ensure!(
            finished.status.success(),
            "fstrm_capture: {}",
            finished.status
        );
        record::read(&self.file).context("reading the reference")
    }
}

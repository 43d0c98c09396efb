//! A folder for one run of a task. It is removed when the task ends, also when the task is interrupted or killed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result};

use crate::ui;

/// A folder that is removed with its guard.
pub(crate) struct Scratch {
    folder: PathBuf,
    /// Process that removes the folder at the end of its input. That is at the latest when this process ends.
    keeper: Child,
}

impl Scratch {
    /// Makes an empty folder.
    pub(crate) fn create(folder: PathBuf) -> Result<Self> {
        if folder.exists() {
            fs::remove_dir_all(&folder)
                .with_context(|| format!("cannot remove {}", folder.display()))?;
        }
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let keeper = Command::new("sh")
            .args(["-c", r#"trap '' HUP INT TERM; cat; rm -rf -- "$1""#, "sh"])
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot run sh")?;
        Ok(Self { folder, keeper })
    }

    /// Returns its path.
    pub(crate) fn path(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        if !self.keeper.wait().is_ok_and(|status| status.success()) {
            ui::warn(format_args!("cannot remove {}", self.folder.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_goes_with_its_guard() {
        let folder = std::env::temp_dir().join(format!("scratch-{}", std::process::id()));
        let scratch = Scratch::create(folder.clone()).expect("created");
        fs::write(folder.join("file"), "text").expect("written");
        assert_eq!(scratch.path(), folder);
        drop(scratch);
        assert!(!folder.exists());
    }
}

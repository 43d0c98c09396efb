//! Location of control groups.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};

/// Returns the root of the cgroup v2 hierarchy.
pub fn root() -> Result<PathBuf> {
    let mounts =
        fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    mounts
        .lines()
        .find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let path = fields.next()?;
            (fields.next()? == "cgroup2").then(|| path.into())
        })
        .context(
            "no cgroup2 file system is mounted (mount one: mount -t cgroup2 none /sys/fs/cgroup)",
        )
}

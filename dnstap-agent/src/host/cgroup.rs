//! Location of control groups.
//!
//! In a cgroup namespace, as containers have one, the top of a mount may be the container's own cgroup. Programs that
//! are attached there see nothing of other containers. The mount of the host's hierarchy is recognised by a file that
//! every cgroup has except the root: `cgroup.type` (Documentation/admin-guide/cgroup-v2.rst of the kernel).

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

/// Returns the root of the cgroup v2 hierarchy.
pub fn root() -> Result<PathBuf> {
    let mounts =
        fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    choose(&mounts, |mount| !mount.join("cgroup.type").exists())
}

/// Returns the first mount of cgroup v2 that is the root of the hierarchy.
fn choose(mounts: &str, is_root: impl Fn(&Path) -> bool) -> Result<PathBuf> {
    let mut found = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let path = fields.next()?;
            (fields.next()? == "cgroup2").then(|| PathBuf::from(path))
        })
        .peekable();
    let Some(first) = found.peek().cloned() else {
        bail!(
            "no cgroup2 file system is mounted (mount one: mount -t cgroup2 none /sys/fs/cgroup)"
        );
    };
    found.find(|mount| is_root(mount)).with_context(|| {
        format!(
            "{} is not the root of the cgroups, but the cgroup of this container (mount the host's /sys/fs/cgroup into it)",
            first.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 ro,nosuid 0 0\n\
                          cgroup2 /host/sys/fs/cgroup cgroup2 rw 0 0\n";

    #[test]
    fn the_first_mount_is_taken_if_it_is_the_root() {
        let root = choose(MOUNTS, |_| true).expect("there is one");
        assert_eq!(root, Path::new("/sys/fs/cgroup"));
    }

    #[test]
    fn a_container_takes_the_mount_of_the_host() {
        let root = choose(MOUNTS, |mount| mount.starts_with("/host")).expect("there is one");
        assert_eq!(root, Path::new("/host/sys/fs/cgroup"));
    }

    #[test]
    fn a_container_without_the_hosts_mount_is_told_what_to_mount() {
        let error = choose(MOUNTS, |_| false).expect_err("none is the root");
        assert!(
            error
                .to_string()
                .contains("mount the host's /sys/fs/cgroup"),
            "{error}"
        );
    }

    #[test]
    fn without_a_mount_one_is_asked_for() {
        let error = choose("proc /proc proc rw 0 0\n", |_| true).expect_err("there is none");
        assert!(error.to_string().contains("mount -t cgroup2"), "{error}");
    }
}

//! The agent in namespaces, as a container runtime makes them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::{privileges::root, trial};
use crate::{
    environment::{self, Skip, tool},
    lab,
    process::output,
};

/// Starts `check` as a container would: in a cgroup namespace that begins at the cgroup `$1`. `$2` is where cgroup v2 is
/// mounted, `$3` a place for the host's mount, `$4` the agent.
const IN_ITS_CGROUP: &str = r#"
echo $$ > "$1/cgroup.procs"
exec unshare --cgroup --mount sh -ec '
mount --bind "$1" "$2"
umount "$1"
mount -t cgroup2 none "$1"
test -e "$1/cgroup.type"
"$3" check
echo "without the mount of the host:"
umount "$2"
"$3" check
' sh "$2" "$3" "$4"
"#;

pub(super) fn trials() -> Vec<Trial> {
    vec![trial(
        "containers: hook socket takes the host's root of the cgroups, or asks for its mount"
            .into(),
        in_its_cgroup,
    )]
}

fn in_its_cgroup() -> Result<()> {
    root()?;
    let mounted = mounted()?;
    let group = Group::make(&mounted)?;
    let scratch = lab::scratch()?;
    let mut command = Command::new(tool("sh")?);
    command
        .args(["-ec", IN_ITS_CGROUP, "sh"])
        .arg(&group.0)
        .arg(&mounted)
        .arg(scratch.path())
        .arg(environment::agent()?);
    let (said, _) = output(command)?;
    let (with, without) = said
        .split_once("without the mount of the host:")
        .with_context(|| said.clone())?;
    if !with.contains("ok      hook socket: ") {
        return Err(Skip(format!("no hook socket here: {with}")).into());
    }
    ensure!(
        without.contains("missing hook socket: ")
            && without.contains("mount the host's /sys/fs/cgroup"),
        "{without}"
    );
    Ok(())
}

/// Returns where cgroup v2 is mounted. A [`Skip`] if it is not.
fn mounted() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let path = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let path = words.next()?;
        (words.next()? == "cgroup2").then(|| PathBuf::from(path))
    });
    path.ok_or_else(|| Skip("no cgroup2 file system is mounted".into()).into())
}

/// A cgroup of this test; it is removed when nobody is in it any more.
struct Group(PathBuf);

impl Group {
    fn make(mounted: &Path) -> Result<Self> {
        let path = mounted.join(format!("dnstap-container-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // If it fails, the folder stays, and a later run makes another one.
        let _stays = fs::remove_dir(&self.0);
    }
}

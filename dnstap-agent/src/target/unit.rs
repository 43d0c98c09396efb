//! A control group (cgroup v2) and the processes in it: that of a systemd unit, or one that is named by its path.

use std::{
    fs,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Context as _, Result};

/// Folders that are looked through for a unit below the root of the hierarchy: `a.slice/a-b.slice/user@1.service/app.slice/c.service`.
const DEPTH: usize = 8;

/// A control group, by a name that outlives it: a unit's is made anew when the unit is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A path, below the root of the hierarchy or as it is mounted: `/system.slice/named.service`.
    Path(PathBuf),
    /// The name of a folder somewhere in the hierarchy, as systemd names it by the unit: `named.service`.
    Name(String),
}

impl FromStr for Unit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with('/') {
            return Ok(Self::Path(text.into()));
        }
        if text.is_empty() || text.contains('/') || !text.contains('.') {
            return Err(
                "a unit has an ending, such as named.service; a control group's path begins with /"
                    .to_owned(),
            );
        }
        Ok(Self::Name(text.to_owned()))
    }
}

impl std::fmt::Display for Unit {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(formatter),
            Self::Name(name) => formatter.write_str(name),
        }
    }
}

impl Unit {
    /// Ids of the processes in the control group and the ones below it; none if there is no such group now.
    pub fn processes(&self) -> Result<Vec<u32>> {
        self.processes_below(&root()?)
    }

    fn processes_below(&self, root: &Path) -> Result<Vec<u32>> {
        let folder = match self {
            Self::Path(path) if path.starts_with(root) => Some(path.clone()),
            Self::Path(path) => path.strip_prefix("/").ok().map(|path| root.join(path)),
            Self::Name(name) => find(root, name, DEPTH),
        };
        let mut ids = Vec::new();
        if let Some(folder) = folder.filter(|folder| folder.is_dir()) {
            collect(&folder, &mut ids)?;
        }
        Ok(ids)
    }
}

/// The root of the cgroup v2 hierarchy.
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

/// The first folder of this name, the ones nearest to the root first.
fn find(folder: &Path, name: &str, depth: usize) -> Option<PathBuf> {
    let here = folder.join(name);
    if here.is_dir() {
        return Some(here);
    }
    let deeper = depth.checked_sub(1)?;
    below(folder).find_map(|folder| find(&folder, name, deeper))
}

fn collect(folder: &Path, ids: &mut Vec<u32>) -> Result<()> {
    match fs::read_to_string(folder.join("cgroup.procs")) {
        Ok(text) => ids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok())),
        // The group went while it was looked at, or is one of threads, which its processes' group lists as well.
        Err(error) if !folder.exists() || error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
        Err(error) => {
            return Err(error)
                .with_context(|| format!("cannot read the processes of {}", folder.display()));
        }
    }
    below(folder).try_for_each(|folder| collect(&folder, ids))
}

/// The folders in a folder; none in one that has gone.
fn below(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_is_found_by_name_and_by_path_with_what_is_below_it() {
        let root = std::env::temp_dir().join(format!("dnstap-unit-{}", std::process::id()));
        let service = root.join("system.slice/dns.slice/named.service");
        fs::create_dir_all(service.join("inner")).unwrap();
        fs::write(service.join("cgroup.procs"), "10\n11\n").unwrap();
        fs::write(service.join("inner/cgroup.procs"), "0\n12\n").unwrap();
        let found = |text: &str| {
            let unit: Unit = text.parse().unwrap();
            unit.processes_below(&root).unwrap()
        };
        let all = vec![10, 11, 0, 12];
        assert_eq!(found("named.service"), all);
        assert_eq!(found("/system.slice/dns.slice/named.service"), all);
        assert_eq!(found(service.to_str().unwrap()), all);
        assert_eq!(
            found("/system.slice/dns.slice/named.service/inner"),
            [0, 12]
        );
        assert_eq!(found("nsd.service"), [0; 0]);
        assert_eq!(found("/system.slice/nsd.service"), [0; 0]);
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn what_is_neither_a_unit_nor_a_path_is_refused() {
        for text in ["", "named", "a/b.service"] {
            assert!(text.parse::<Unit>().is_err(), "{text}");
        }
    }
}

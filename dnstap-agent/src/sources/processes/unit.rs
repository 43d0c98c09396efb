//! A cgroup (version 2) and its processes. The cgroup is that of a systemd unit, or is given by its
//! path.

use std::{
    fs, mem,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Context as _, Result};
use tracing::warn;

use crate::host::cgroup;

/// Levels below the cgroup root that are searched for a unit:
/// `a.slice/a-b.slice/a-b-c.slice/d.service`.
const DEPTH: usize = 8;

/// A cgroup, given by a name that stays valid when the cgroup is created again, as at each start of
/// a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A path, relative to the cgroup root or as it is mounted: `/system.slice/named.service`.
    Path(PathBuf),
    /// Name of a cgroup folder anywhere in the hierarchy. systemd names it after the unit:
    /// `named.service`.
    Name(String),
}

/// A unit, and the location of its cgroup at the last search.
#[derive(Debug)]
pub(super) struct Group {
    unit: Unit,
    /// Mount point of the hierarchy.
    root: PathBuf,
    /// Folder of the cgroup. Searching it means walking all cgroups of the host, so it is searched
    /// only when it does not exist any more.
    folder: Option<PathBuf>,
    /// Whether it was logged that several cgroups have this name.
    told: bool,
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

impl Group {
    pub(super) fn new(unit: Unit) -> Result<Self> {
        Ok(Self::below(unit, cgroup::root()?))
    }

    fn below(unit: Unit, root: PathBuf) -> Self {
        Self {
            unit,
            root,
            folder: None,
            told: false,
        }
    }

    /// Returns the ids of the processes in the cgroup and in those below it; none if the cgroup
    /// does not exist now.
    pub(super) fn processes(&mut self) -> Result<Vec<u32>> {
        if !self.folder.as_deref().is_some_and(Path::is_dir) {
            self.folder = self.find().filter(|folder| folder.is_dir());
        }
        let mut ids = Vec::new();
        if let Some(folder) = &self.folder {
            collect(folder, &mut ids)?;
        }
        Ok(ids)
    }

    fn find(&mut self) -> Option<PathBuf> {
        let name = match &self.unit {
            Unit::Path(path) if path.starts_with(&self.root) => return Some(path.clone()),
            Unit::Path(path) => return Some(self.root.join(path.strip_prefix("/").ok()?)),
            Unit::Name(name) => name,
        };
        let found = nearest(&self.root, name);
        if found.len() > 1 && !mem::replace(&mut self.told, true) {
            warn!(
                "{} control groups are named {name}; it is the first that is tapped: {found:?}; another one is to be named by its path",
                found.len()
            );
        }
        found.into_iter().next()
    }
}

/// Returns the folders with this name that are nearest to the root, ordered by path.
///
/// Only folders with the same owner as the root folder (root) are searched. A delegated cgroup
/// (`user@.service`, a container) belongs to another user, who can create a folder of any name in
/// it.
fn nearest(root: &Path, name: &str) -> Vec<PathBuf> {
    let owner = |folder: &Path| Some(fs::metadata(folder).ok()?.uid());
    let trusted = owner(root);
    let mut level = vec![root.to_owned()];
    for _ in 0..=DEPTH {
        let here = level.iter().map(|folder| folder.join(name));
        let mut found: Vec<_> = here.filter(|folder| folder.is_dir()).collect();
        if !found.is_empty() {
            found.sort();
            return found;
        }
        let next = level.iter().flat_map(|folder| below(folder));
        level = next.filter(|folder| owner(folder) == trusted).collect();
    }
    Vec::new()
}

fn collect(folder: &Path, ids: &mut Vec<u32>) -> Result<()> {
    match fs::read_to_string(folder.join("cgroup.procs")) {
        Ok(text) => ids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok())),
        // The cgroup was removed meanwhile, or is a threaded one, whose processes are listed in a
        // cgroup above it.
        Err(error) if !folder.exists() || error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
        Err(error) => {
            return Err(error)
                .with_context(|| format!("cannot read the processes of {}", folder.display()));
        }
    }
    below(folder).try_for_each(|folder| collect(&folder, ids))
}

/// Returns the folders in a folder; none if it does not exist any more.
fn below(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::chown;

    use tempfile::TempDir;

    use super::*;
    use crate::host::skip;

    /// User `nobody`.
    const NOBODY: u32 = 65_534;

    /// Creates a hierarchy with these cgroups, each with one process.
    fn hierarchy(groups: &[(&str, u32)]) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, pid) in groups {
            let folder = root.path().join(path);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("cgroup.procs"), format!("{pid}\n")).unwrap();
        }
        root
    }

    fn group(unit: &str, root: &TempDir) -> Group {
        Group::below(unit.parse().unwrap(), root.path().to_owned())
    }

    fn found(unit: &str, root: &TempDir) -> Vec<u32> {
        group(unit, root).processes().unwrap()
    }

    /// Gives a folder to another user. Returns whether that was possible.
    fn given_away(folder: &Path) -> bool {
        let given = chown(folder, Some(NOBODY), None);
        given
            .inspect_err(|error| skip(&format!("only root gives folders away: {error}")))
            .is_ok()
    }

    #[test]
    fn unit_is_found_by_name_and_by_path_with_what_is_below_it() {
        let inside = "system.slice/dns.slice/named.service";
        let inner = format!("{inside}/inner");
        let root = hierarchy(&[(inside, 10), (&inner, 0)]);
        let whole = root.path().join(inside);
        assert_eq!(found("named.service", &root), [10, 0]);
        assert_eq!(found(&format!("/{inside}"), &root), [10, 0]);
        assert_eq!(found(whole.to_str().unwrap(), &root), [10, 0]);
        assert_eq!(found(&format!("/{inner}"), &root), [0]);
        assert_eq!(found("nsd.service", &root), [0; 0]);
        assert_eq!(found("/system.slice/nsd.service", &root), [0; 0]);
    }

    /// Each folder is the right one once, so no order of reading the folders gives the right result
    /// by accident.
    #[test]
    fn the_one_nearest_to_the_root_is_the_unit() {
        let slices = ["user.slice", "docker", "system.slice", "a.slice"];
        for right in slices {
            let root = tempfile::tempdir().unwrap();
            for slice in slices {
                let (folder, pid) = if slice == right {
                    (root.path().join(slice), "20")
                } else {
                    (root.path().join(slice).join("a/b"), "10")
                };
                let folder = folder.join("named.service");
                fs::create_dir_all(&folder).unwrap();
                fs::write(folder.join("cgroup.procs"), pid).unwrap();
            }
            assert_eq!(found("named.service", &root), [20], "{right}");
        }
    }

    #[test]
    fn of_several_that_are_as_near_it_is_the_first_by_name() {
        let names = ["c", "a", "d", "b"].map(|name| format!("{name}/named.service"));
        let groups: Vec<_> = names.iter().map(String::as_str).zip(1..).collect();
        assert_eq!(found("named.service", &hierarchy(&groups)), [2]);
    }

    #[test]
    fn what_somebody_makes_in_his_own_folder_is_not_the_unit() {
        let root = hierarchy(&[
            ("user.slice/app.slice/named.service", 10),
            ("system.slice/a.slice/b.slice/named.service", 20),
        ]);
        let theirs = root.path().join("user.slice");
        if !given_away(&theirs) {
            return;
        }
        assert_eq!(found("named.service", &root), [20]);
        // The owner's folder is found if the user gives its path.
        assert_eq!(found("/user.slice/app.slice/named.service", &root), [10]);
    }

    /// systemd gives the cgroup of a unit with `User=` and `Delegate=` to that user.
    #[test]
    fn a_unit_that_was_given_away_is_found() {
        let root = hierarchy(&[("system.slice/named.service", 10)]);
        let given = root.path().join("system.slice/named.service");
        if !given_away(&given) {
            return;
        }
        assert_eq!(found("named.service", &root), [10]);
    }

    #[test]
    fn a_unit_is_not_looked_for_while_it_is_there() {
        let root = hierarchy(&[("system.slice/dns.slice/named.service", 10)]);
        let mut group = group("named.service", &root);
        assert_eq!(group.processes().unwrap(), [10]);
        let nearer = root.path().join("named.service");
        fs::create_dir(&nearer).unwrap();
        fs::write(nearer.join("cgroup.procs"), "11").unwrap();
        assert_eq!(group.processes().unwrap(), [10]);
        fs::remove_dir_all(root.path().join("system.slice/dns.slice")).unwrap();
        assert_eq!(group.processes().unwrap(), [11]);
        fs::remove_dir_all(nearer).unwrap();
        assert_eq!(group.processes().unwrap(), [0; 0]);
    }

    #[test]
    fn what_is_neither_a_unit_nor_a_path_is_refused() {
        for text in ["", "named", "a/b.service"] {
            assert!(text.parse::<Unit>().is_err(), "{text}");
        }
    }
}

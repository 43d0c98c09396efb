//! Which processes are meant: by id, by the name of the executable, by control group; and the ones that were forked from them
//! before anybody looked.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs,
    os::unix::fs::MetadataExt as _,
};

use anyhow::{Result, anyhow};
use dnstap_ebpf::image;
use procfs::process::{FDTarget, Process, all_processes};

use super::{Target, Unit};
use crate::{
    exit::{Exit, ExitWith},
    profile::executable_name,
};

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// These processes, and theirs with the same executable.
    pub pids: Vec<u32>,
    /// All processes with executables of these names.
    pub names: Vec<String>,
    /// All processes in these control groups.
    pub units: Vec<Unit>,
    /// Processes may be missing, and come and go.
    pub follow: bool,
}

/// A process that is meant.
#[derive(Debug)]
pub struct Found {
    /// The process, pinned.
    pub target: Target,
    /// Name of its executable.
    pub executable: String,
    /// What it runs: the same for processes that were forked from one another.
    pub image: u32,
}

/// A process as a look at all of them shows it.
struct Seen {
    parent: u32,
    start: u64,
    /// As the kernel keeps it, cut to 15 bytes.
    comm: String,
    /// File system and inode of the executable; none for a kernel thread.
    file: Option<(u64, u64)>,
}

impl Selection {
    /// The processes that are meant and are not among the `tapped`, which have images. That one of `pids` is not there is an
    /// error.
    pub fn find(&self, tapped: &BTreeMap<u32, u32>) -> Result<Vec<Found>> {
        let mut wanted = BTreeSet::new();
        let mut members = BTreeSet::new();
        let mut seen = BTreeMap::new();
        if !self.pids.is_empty() || !self.names.is_empty() {
            seen = look()?;
        }
        for &pid in &self.pids {
            if !tapped.contains_key(&pid) {
                // Says best what is wrong with it.
                Target::open(pid)?;
            }
            wanted.extend(kin(pid, &seen));
        }
        for name in &self.names {
            wanted.extend(named(name, &seen));
        }
        for unit in &self.units {
            members.extend(unit.processes()?);
        }
        let mut found: Vec<Found> = Vec::new();
        let mut images = tapped.clone();
        for pid in wanted.union(&members).copied() {
            // A process of another PID namespace shows as 0.
            if pid == 0 || tapped.contains_key(&pid) {
                continue;
            }
            if let Some(new) = pin(pid, &images)? {
                images.insert(pid, new.image);
                found.push(new);
            }
        }
        // What was read before a process was pinned may be another's that had the same id.
        let mut still = BTreeSet::new();
        for unit in &self.units {
            still.extend(unit.processes()?);
        }
        found.retain(|Found { target, .. }| {
            let same = |seen: &Seen| seen.start == target.start_time;
            (wanted.contains(&target.pid) && seen.get(&target.pid).is_some_and(same))
                || still.contains(&target.pid)
        });
        Ok(found)
    }

    /// As [`Self::find`], but that nothing is there is an error unless processes may be missing.
    pub fn find_first(&self) -> Result<Vec<Found>> {
        let found = self.find(&BTreeMap::new())?;
        if !found.is_empty() || self.follow {
            return Ok(found);
        }
        Err(anyhow!("start it first, or wait for it with --follow")).map_err(|error| {
            error.context(ExitWith(
                Exit::NoTarget,
                format!("there is no process {}", self.describe()),
            ))
        })
    }

    /// One word for it: the executable's name, if that is known.
    #[must_use]
    pub fn label<'a>(&'a self, found: &'a [Found]) -> &'a str {
        let executable = found.first().map(|process| process.executable.as_str());
        let name = self.names.first().map(String::as_str);
        executable.or(name).unwrap_or("attach")
    }

    /// For people: `named, unbound, in nsd.service`.
    #[must_use]
    pub fn describe(&self) -> String {
        let pids = self.pids.iter().map(u32::to_string);
        let units = self.units.iter().map(|unit| format!("in {unit}"));
        let parts: Vec<_> = pids
            .chain(self.names.iter().cloned())
            .chain(units)
            .collect();
        parts.join(", ")
    }
}

/// Pins a process; none if it has ended. Children of one that is tapped run what that runs.
fn pin(pid: u32, images: &BTreeMap<u32, u32>) -> Result<Option<Found>> {
    let target = match Target::open(pid) {
        Ok(target) => target,
        Err(error) if Exit::of(&error) == Exit::NoTarget => return Ok(None),
        Err(error) => return Err(error),
    };
    target.check_word_size()?;
    let executable = executable_name(pid, &target.name);
    let parent = see(pid).map(|seen| seen.parent);
    let same = parent.filter(|parent| same_file(*parent, pid));
    let inherited = same.and_then(|parent| images.get(&parent)).copied();
    Ok(Some(Found {
        image: inherited.unwrap_or_else(|| image(pid, target.start_time)),
        executable,
        target,
    }))
}

fn same_file(one: u32, other: u32) -> bool {
    let file = file(one);
    file.is_some() && file == self::file(other)
}

/// Processes whose executable has this name. What renames itself is known by its file, what was started through a link by
/// what the kernel kept of the link's name.
fn named(name: &str, seen: &BTreeMap<u32, Seen>) -> Vec<u32> {
    let cut = name.get(..15).unwrap_or(name);
    seen.iter()
        .filter(|(_, process)| process.file.is_some())
        .filter(|&(&pid, process)| {
            process.comm == cut || executable_name(pid, &process.comm) == name
        })
        .map(|(&pid, _)| pid)
        .collect()
}

/// `pid` and the processes of its family: those with the same executable that descend from one of the family through such
/// processes, or share an open socket with one. A server that forks its successor (NSD at a reload) has workers that descend
/// from none of the others any more.
fn kin(pid: u32, seen: &BTreeMap<u32, Seen>) -> BTreeSet<u32> {
    let mut family = BTreeSet::from([pid]);
    let Some(file) = seen.get(&pid).and_then(|process| process.file) else {
        return family;
    };
    let alike: Vec<u32> = seen
        .iter()
        .filter(|(_, process)| process.file == Some(file))
        .map(|(&pid, _)| pid)
        .collect();
    if alike.len() == 1 {
        return family;
    }
    let sockets: BTreeMap<u32, HashSet<u64>> =
        alike.iter().map(|&pid| (pid, sockets(pid))).collect();
    loop {
        let next = alike.iter().find(|pid| {
            let descends = || {
                let parent = seen.get(pid).map_or(0, |process| process.parent);
                family.contains(&parent)
            };
            let shares = || {
                family
                    .iter()
                    .any(|member| !sockets[*pid].is_disjoint(&sockets[member]))
            };
            !family.contains(pid) && (descends() || shares())
        });
        match next {
            Some(&pid) => family.insert(pid),
            None => return family,
        };
    }
}

/// Inode numbers of a process's sockets.
fn sockets(pid: u32) -> HashSet<u64> {
    i32::try_from(pid)
        .ok()
        .and_then(|pid| Process::new(pid).ok()?.fd().ok())
        .into_iter()
        .flatten()
        .filter_map(|descriptor| match descriptor.ok()?.target {
            FDTarget::Socket(inode) => Some(inode),
            _ => None,
        })
        .collect()
}

/// All processes.
fn look() -> Result<BTreeMap<u32, Seen>> {
    let mut seen = BTreeMap::new();
    for process in all_processes()? {
        // One that has ended meanwhile is left out.
        if let Some(pid) = process
            .ok()
            .and_then(|process| process.pid().try_into().ok())
            && let Some(process) = see(pid)
        {
            seen.insert(pid, process);
        }
    }
    Ok(seen)
}

fn see(pid: u32) -> Option<Seen> {
    let stat = Process::new(pid.try_into().ok()?).ok()?.stat().ok()?;
    Some(Seen {
        parent: stat.ppid.try_into().ok()?,
        start: stat.starttime,
        comm: stat.comm,
        file: file(pid),
    })
}

/// File system and inode of a process's executable.
fn file(pid: u32) -> Option<(u64, u64)> {
    let file = fs::metadata(format!("/proc/{pid}/exe")).ok()?;
    Some((file.dev(), file.ino()))
}

#[cfg(test)]
mod tests {
    use std::{
        net::UdpSocket,
        os::unix::process::CommandExt as _,
        process::{Command, Stdio},
    };

    use super::*;

    fn names(names: &[&str]) -> Selection {
        Selection {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Selection::default()
        }
    }

    #[test]
    fn all_processes_of_a_name_are_found_but_not_those_that_are_tapped() {
        let mut children: Vec<_> = (0..2)
            .map(|_| Command::new("sleep").arg("60").spawn().unwrap())
            .collect();
        let [first, second] = [children[0].id(), children[1].id()];
        let selection = names(&["sleep"]);
        let all = selection.find(&BTreeMap::new()).unwrap();
        for pid in [first, second] {
            let found = all.iter().find(|found| found.target.pid == pid).unwrap();
            assert_eq!(found.executable, "sleep");
        }
        let rest = selection.find(&BTreeMap::from([(first, 1)])).unwrap();
        assert!(rest.iter().all(|found| found.target.pid != first));
        assert!(rest.iter().any(|found| found.target.pid == second));
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    #[test]
    fn what_is_not_there_is_an_error_that_tells_of_follow() {
        let mut selection = names(&["no-such-server"]);
        let error = selection.find_first().unwrap_err();
        assert_eq!(Exit::of(&error), Exit::NoTarget);
        let text = format!("{error:#}");
        assert!(
            text.contains("no-such-server") && text.contains("--follow"),
            "{text}"
        );
        selection.follow = true;
        assert!(selection.find_first().unwrap().is_empty());
    }

    #[test]
    fn child_with_another_executable_is_not_of_the_family() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let family = kin(std::process::id(), &look().unwrap());
        assert!(family.contains(&std::process::id()));
        assert!(!family.contains(&child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Two shells with different parents that hold the same socket as their standard input.
    #[test]
    fn processes_that_share_a_socket_are_of_one_family() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let start = |with_socket: bool| {
            let mut command = Command::new("sleep");
            command.arg("60").process_group(0);
            if with_socket {
                command.stdin(Stdio::from(std::os::fd::OwnedFd::from(
                    socket.try_clone().unwrap(),
                )));
            } else {
                command.stdin(Stdio::null());
            }
            command.spawn().unwrap()
        };
        let mut children = [start(true), start(true), start(false)];
        let [one, other, stranger] = [0, 1, 2].map(|at: usize| children[at].id());
        let family = kin(one, &look().unwrap());
        assert!(family.contains(&other));
        assert!(!family.contains(&stranger));
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

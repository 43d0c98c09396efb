//! A snapshot of all processes from /proc, and relations between them: same name, same family.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs,
    os::unix::fs::MetadataExt as _,
};

use anyhow::Result;
use procfs::process::{FDTarget, Process, all_processes};

use crate::sources::processes::executable::executable_name;

/// A process in the snapshot.
pub(super) struct Seen {
    pub(super) parent: u32,
    /// Start time, like that of [`Target`](super::Target).
    pub(super) start: u64,
    /// Name as the kernel stores it, cut to 15 bytes.
    comm: String,
    /// File system and inode of the executable; `None` for a kernel thread.
    file: Option<(u64, u64)>,
}

/// Returns all processes.
pub(super) fn look() -> Result<BTreeMap<u32, Seen>> {
    let mut seen = BTreeMap::new();
    for process in all_processes()? {
        // A process that has ended meanwhile is left out.
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

/// Returns one process, if it exists.
pub(super) fn see(pid: u32) -> Option<Seen> {
    let stat = Process::new(pid.try_into().ok()?).ok()?.stat().ok()?;
    Some(Seen {
        parent: stat.ppid.try_into().ok()?,
        start: stat.starttime,
        comm: stat.comm,
        file: file(pid),
    })
}

/// Returns the processes whose executable has this name. A process that has renamed itself is
/// recognised by its file. One that was started through a link is recognised by the link's name, as
/// the kernel stores it.
pub(super) fn named(name: &str, seen: &BTreeMap<u32, Seen>) -> Vec<u32> {
    let cut = name.get(..15).unwrap_or(name);
    seen.iter()
        .filter(|(_, process)| process.file.is_some())
        .filter(|&(&pid, process)| {
            process.comm == cut || executable_name(pid, &process.comm) == name
        })
        .map(|(&pid, _)| pid)
        .collect()
}

/// Returns `pid` and the processes of its family. A process belongs to the family if it has the
/// same executable and either descends from a member through such processes, or shares an open
/// socket with a member. Sockets matter if a server forks its successor (NSD at a reload), because
/// its workers then no longer descend from each other.
pub(super) fn kin(pid: u32, seen: &BTreeMap<u32, Seen>) -> BTreeSet<u32> {
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

/// Returns whether two processes run the same executable.
pub(super) fn same_file(one: u32, other: u32) -> bool {
    let file = file(one);
    file.is_some() && file == self::file(other)
}

/// Returns the inode numbers of a process's sockets.
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

/// Returns file system and inode of a process's executable.
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

    #[test]
    fn child_with_another_executable_is_not_of_the_family() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let family = kin(std::process::id(), &look().unwrap());
        assert!(family.contains(&std::process::id()));
        assert!(!family.contains(&child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Two shells with different parents have the same socket as their standard input.
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

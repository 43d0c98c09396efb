//! Selection of processes by id, by the name of the executable, or by cgroup, including processes
//! that were forked from them before the first search.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use anyhow::{Result, anyhow};
use dnstap_ebpf::{PROGRAM_STAYS, program_id};
use tracing::warn;

use super::{
    Target, Unit,
    seen::{Seen, kin, look, named, same_file, see},
    unit::Group,
};
use crate::{
    host::exit::{Exit, ExitWith},
    sources::processes::executable::executable_name,
};

/// Processes that the user asked for.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Ids of processes; their children with the same executable are included.
    pub pids: Vec<u32>,
    /// Names of executables.
    pub names: Vec<String>,
    /// Cgroups whose processes are selected.
    pub units: Vec<Unit>,
    /// Whether processes may be missing, and may end and start.
    pub follow: bool,
}

/// A selected process.
#[derive(Debug)]
pub struct Found {
    /// The process, pinned.
    pub target: Target,
    /// Name of its executable.
    pub executable: String,
    /// Program id: the same for processes that were forked from one another.
    pub program_id: u32,
}

/// A selection, with the state of searching for its processes.
#[derive(Debug)]
pub struct Search {
    selection: Selection,
    groups: Vec<Group>,
    /// Ids and start times of the processes that the last search left out with a warning.
    left_out: BTreeSet<(u32, u64)>,
}

impl Search {
    /// Creates a search that has not looked for processes yet.
    pub fn new(selection: Selection) -> Result<Self> {
        let groups = selection.units.iter().cloned().map(Group::new);
        Ok(Self {
            groups: groups.collect::<Result<_>>()?,
            selection,
            left_out: BTreeSet::new(),
        })
    }

    /// Returns the selection.
    #[must_use]
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// Finds the selected processes that are not among the `tapped`, which are given with their
    /// program ids. Fails if one of `pids` does not exist.
    pub fn find(&mut self, tapped: &BTreeMap<u32, u32>) -> Result<Vec<Found>> {
        let Selection { pids, names, .. } = self.selection.clone();
        self.find_of(&pids, &names, tapped)
    }

    /// Like [`Self::find`], but only for processes that the kernel side does not add by itself:
    /// those that have joined the units and, if it has `missed` some, those with the names.
    pub fn find_later(&mut self, missed: bool, tapped: &BTreeMap<u32, u32>) -> Result<Vec<Found>> {
        let names = missed.then(|| self.selection.names.clone());
        self.find_of(&[], &names.unwrap_or_default(), tapped)
    }

    /// Like [`Self::find`], but fails if there are no processes, unless they may be missing.
    pub fn find_first(&mut self) -> Result<Vec<Found>> {
        let found = self.find(&BTreeMap::new())?;
        if !found.is_empty() || self.selection.follow {
            return Ok(found);
        }
        Err(anyhow!("start it first, or wait for it with --follow")).map_err(|error| {
            error.context(ExitWith(
                Exit::NoTarget,
                format!("there is no process {}", self.selection.describe()),
            ))
        })
    }

    fn find_of(
        &mut self,
        pids: &[u32],
        names: &[String],
        tapped: &BTreeMap<u32, u32>,
    ) -> Result<Vec<Found>> {
        let mut wanted = BTreeSet::new();
        let mut seen = BTreeMap::new();
        if !pids.is_empty() || !names.is_empty() {
            seen = look()?;
        }
        for &pid in pids {
            if !tapped.contains_key(&pid) {
                // Its error describes the problem best.
                Target::open(pid)?;
            }
            wanted.extend(kin(pid, &seen));
        }
        for name in names {
            wanted.extend(named(name, &seen));
        }
        let members = self.members()?;
        let told = mem::take(&mut self.left_out);
        let mut found: Vec<Found> = Vec::new();
        let mut images = tapped.clone();
        for pid in wanted.union(&members).copied() {
            // A process of another PID namespace has id 0 here.
            if pid == 0 || tapped.contains_key(&pid) {
                continue;
            }
            let Some(mut new) = pin(pid, &images)? else {
                continue;
            };
            if self.selection.follow && members.contains(&pid) {
                // Each program that the process executes belongs to the unit. The kernel side keeps
                // it, so that no message is missed until the next search.
                new.program_id |= PROGRAM_STAYS;
            }
            if let Err(error) = new.target.check_word_size() {
                // A process that was named by its id must be tapped. One that was found by its name
                // or unit may be left out.
                if pids.contains(&pid) {
                    return Err(error);
                }
                let process = (pid, new.target.start_time);
                if !told.contains(&process) {
                    warn!("left out: {error:#}");
                }
                self.left_out.insert(process);
                continue;
            }
            images.insert(pid, new.program_id);
            found.push(new);
        }
        if found.is_empty() {
            return Ok(found);
        }
        // Data read before a process was pinned may belong to an earlier process with the same id.
        let still = self.members()?;
        found.retain(|Found { target, .. }| {
            let same = |seen: &Seen| seen.start == target.start_time;
            (wanted.contains(&target.pid) && seen.get(&target.pid).is_some_and(same))
                || still.contains(&target.pid)
        });
        Ok(found)
    }

    /// Returns the processes of the units.
    fn members(&mut self) -> Result<BTreeSet<u32>> {
        let mut members = BTreeSet::new();
        for group in &mut self.groups {
            members.extend(group.processes()?);
        }
        Ok(members)
    }
}

impl Selection {
    /// Returns a one-word name: that of the executable, if it is known.
    #[must_use]
    pub fn label<'a>(&'a self, found: &'a [Found]) -> &'a str {
        let executable = found.first().map(|process| process.executable.as_str());
        let name = self.names.first().map(String::as_str);
        executable.or(name).unwrap_or("attach")
    }

    /// Describes the selection for people: `named, unbound, in nsd.service`.
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

/// Pins a process. Returns `None` if it has ended. A child of a tapped process has the same program
/// id.
fn pin(pid: u32, images: &BTreeMap<u32, u32>) -> Result<Option<Found>> {
    let target = match Target::open(pid) {
        Ok(target) => target,
        Err(error) if Exit::of(&error) == Exit::NoTarget => return Ok(None),
        Err(error) => return Err(error),
    };
    let executable = executable_name(pid, &target.name);
    let parent = see(pid).map(|seen| seen.parent);
    let same = parent.filter(|parent| same_file(*parent, pid));
    let inherited = same.and_then(|parent| images.get(&parent)).copied();
    Ok(Some(Found {
        program_id: inherited.unwrap_or_else(|| program_id(pid, target.start_time)),
        executable,
        target,
    }))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

    use super::*;

    fn names(names: &[&str]) -> Search {
        search(&[], names)
    }

    fn search(pids: &[u32], names: &[&str]) -> Search {
        let selection = Selection {
            pids: pids.to_vec(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Selection::default()
        };
        Search::new(selection).unwrap()
    }

    #[test]
    fn all_processes_of_a_name_are_found_but_not_those_that_are_tapped() {
        let mut children: Vec<_> = (0..2)
            .map(|_| Command::new("sleep").arg("60").spawn().unwrap())
            .collect();
        let [first, second] = [children[0].id(), children[1].id()];
        let mut search = names(&["sleep"]);
        let all = search.find(&BTreeMap::new()).unwrap();
        for pid in [first, second] {
            let found = all.iter().find(|found| found.target.pid == pid).unwrap();
            assert_eq!(found.executable, "sleep");
        }
        let rest = search.find(&BTreeMap::from([(first, 1)])).unwrap();
        assert!(rest.iter().all(|found| found.target.pid != first));
        assert!(rest.iter().any(|found| found.target.pid == second));
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    #[test]
    fn what_is_not_there_is_an_error_that_tells_of_follow() {
        let mut search = names(&["no-such-server"]);
        let error = search.find_first().unwrap_err();
        assert_eq!(Exit::of(&error), Exit::NoTarget);
        let text = format!("{error:#}");
        assert!(
            text.contains("no-such-server") && text.contains("--follow"),
            "{text}"
        );
        search.selection.follow = true;
        assert!(search.find_first().unwrap().is_empty());
    }

    /// Builds an executable for 32-bit x86 that waits for a minute: the file's header, that of its
    /// one segment, and `alarm(60); pause()`.
    fn program_of_32_bits() -> Vec<u8> {
        const CODE: [u8; 19] = *b"\xb8\x1b\0\0\0\xbb\x3c\0\0\0\xcd\x80\xb8\x1d\0\0\0\xcd\x80";
        const HEADERS: u32 = 52 + 32;
        const BASE: u32 = 0x0804_8000;
        let size = HEADERS + u32::try_from(CODE.len()).unwrap();
        let mut bytes = b"\x7fELF\x01\x01\x01".to_vec();
        bytes.resize(16, 0);
        // ET_EXEC, EM_386, and 32-bit words; then sizes and numbers of headers in 16 bits.
        bytes.extend([2, 0, 3, 0]);
        for word in [1, BASE + HEADERS, 52, 0, 0] {
            bytes.extend(u32::to_le_bytes(word));
        }
        for half in [52, 32, 1, 40, 0, 0] {
            bytes.extend(u16::to_le_bytes(half));
        }
        // PT_LOAD of the whole file, readable and executable.
        for word in [1, 0, BASE, BASE, size, size, 5, 4_096] {
            bytes.extend(u32::to_le_bytes(word));
        }
        bytes.extend(CODE);
        bytes
    }

    #[test]
    #[expect(clippy::print_stderr, reason = "tells why a test did not run")]
    fn a_32_bit_program_that_took_the_name_is_left_out_and_one_that_is_named_by_its_id_refused() {
        let folder = tempfile::tempdir().unwrap();
        let name = format!("twice-{}", std::process::id());
        let [foreign, server] = ["foreign", "server"].map(|name| folder.path().join(name));
        fs::write(folder.path().join("bytes"), program_of_32_bits()).unwrap();
        let start = |source: &Path, folder: &Path| {
            fs::create_dir(folder).unwrap();
            let program = folder.join(&name);
            // Another process copies the file. While other tests fork, a file written by this
            // process may be open in two processes and then cannot be executed.
            let copied = Command::new("cp").arg(source).arg(&program).status();
            assert!(copied.unwrap().success());
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
            Command::new(program).arg("60").spawn()
        };
        let mut server = start(Path::new("/bin/sleep"), &server).unwrap();
        match start(&folder.path().join("bytes"), &foreign) {
            Ok(mut foreign) => {
                let mut search = names(&[&name]);
                for _ in 0..2 {
                    let found = search.find(&BTreeMap::new()).unwrap();
                    let pids: Vec<_> = found.iter().map(|found| found.target.pid).collect();
                    assert_eq!(pids, [server.id()]);
                    let left_out: Vec<_> = search.left_out.iter().map(|(pid, _)| *pid).collect();
                    assert_eq!(left_out, [foreign.id()]);
                }
                let error = self::search(&[foreign.id()], &[]).find_first().unwrap_err();
                assert_eq!(Exit::of(&error), Exit::NoTarget);
                assert!(error.to_string().contains("32-bit"), "{error}");
                foreign.kill().unwrap();
                foreign.wait().unwrap();
            }
            Err(error) => eprintln!("skipped, this kernel runs no 32-bit programs: {error}"),
        }
        server.kill().unwrap();
        server.wait().unwrap();
    }
}

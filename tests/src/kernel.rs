//! Objects that the kernel holds for a tap: BPF programs, maps and links, by their ids.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::{process::PATIENCE, system};

/// Time that the objects of all taps may take to disappear after the last tap. The kernel frees a program when each
/// task has left its processor once, and a task of low priority may wait long for that on a busy machine: a minute has
/// been seen.
const PATIENCE_AT_THE_END: Duration = Duration::from_mins(5);

/// Sort of the objects that attach a program.
const LINK: &str = "link_id";

/// Sorts of objects: the name of the id in `fdinfo`, and the command of bpf(2) that lists all ids (linux/bpf.h).
const SORTS: [(&str, libc::c_long); 3] = [("prog_id", 11), ("map_id", 12), (LINK, 31)];

/// Objects, each with its sort and its id. The kernel does not reuse an id before it has counted to 2^31.
pub(crate) type Objects = BTreeSet<(&'static str, u32)>;

/// Objects that each tap of this run had in the kernel. The key is the line with which the tap reported that it is
/// attached.
static OF_TAPS: Mutex<BTreeMap<String, Objects>> = Mutex::new(BTreeMap::new());

/// Returns all objects in the kernel.
pub(crate) fn all() -> Result<Objects> {
    let mut objects = Objects::new();
    for (sort, command) in SORTS {
        let ids = system::bpf_ids(command).with_context(|| format!("listing by {sort}"))?;
        objects.extend(ids.into_iter().map(|id| (sort, id)));
    }
    Ok(objects)
}

/// Returns the objects that a process holds, from the information about its descriptors.
pub(crate) fn of_process(pid: u32) -> Result<Objects> {
    let mut objects = Objects::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // A descriptor may have been closed since the folder was listed.
        let Ok(text) = fs::read_to_string(entry?.path()) else {
            continue;
        };
        for (name, value) in text.lines().filter_map(|line| line.split_once(':')) {
            // A link also lists its program.
            if let Some((sort, _)) = SORTS.iter().find(|(sort, _)| *sort == name) {
                objects.insert((sort, value.trim().parse()?));
            }
        }
    }
    Ok(objects)
}

/// Stores the objects that an attached agent holds, for [`expect_nothing_of_taps`], and returns its links. It does not
/// store all objects of the kernel: other processes on the machine may have objects that appear and disappear.
pub(crate) fn note_of_tap(pid: u32, said: &str) -> Result<Objects> {
    let held = of_process(pid).with_context(|| format!("what {pid} has in the kernel"))?;
    let mut links = held.clone();
    links.retain(|(sort, _)| *sort == LINK);
    of_taps().entry(said.to_owned()).or_default().extend(held);
    Ok(links)
}

/// Returns whether any objects are stored.
pub(crate) fn had_taps() -> bool {
    !of_taps().is_empty()
}

/// Checks that no object of any tap of this run is left, however the tap ended. This runs after the last test, because
/// a grace period for each of several hundred taps would take longer than the tests. Only links disappear immediately.
pub(crate) fn expect_nothing_of_taps() -> Result<()> {
    let of_taps = of_taps();
    let ours = of_taps.values().flatten().copied().collect();
    let left = wait_until_gone(&ours, PATIENCE_AT_THE_END)?;
    let whose: Vec<_> = of_taps
        .iter()
        .filter(|(_, held)| !held.is_disjoint(&left))
        .map(|(said, _)| &said[..])
        .collect();
    ensure!(
        left.is_empty(),
        "left in the kernel: {left:?}, of those that said\n{}",
        whose.join("\n")
    );
    Ok(())
}

fn of_taps() -> MutexGuard<'static, BTreeMap<String, Objects>> {
    OF_TAPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Checks that none of these objects is left. The kernel frees them after grace periods; this function waits for that.
pub(crate) fn expect_gone(ours: &Objects) -> Result<()> {
    let left = wait_until_gone(ours, PATIENCE)?;
    ensure!(left.is_empty(), "left in the kernel: {left:?}");
    Ok(())
}

/// Waits until all of these objects are gone, up to `patience`. Returns those that are left.
fn wait_until_gone(ours: &Objects, patience: Duration) -> Result<Objects> {
    let deadline = Instant::now() + patience;
    loop {
        let left = &all()? & ours;
        if left.is_empty() || Instant::now() >= deadline {
            return Ok(left);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until a process that was sent SIGSTOP has stopped.
pub(crate) fn stopped(pid: u32) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let state = state(pid)?;
        if matches!(state, b'T' | b'Z') {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{pid} does not stop");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Returns whether a child of this process has ended. The child has not been waited for.
pub(crate) fn has_ended(pid: u32) -> Result<bool> {
    Ok(state(pid)? == b'Z')
}

/// Returns the letter of a process's state (`proc_pid_stat(5)`).
fn state(pid: u32) -> Result<u8> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    text.rsplit_once(") ")
        .and_then(|(_, rest)| rest.bytes().next())
        .with_context(|| format!("no state of {pid}: {text}"))
}

//! What the kernel holds for a tap: BPF programs, maps and links, by their ids.

use std::{
    collections::BTreeSet,
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::{process::PATIENCE, system};

/// Sorts of objects: how `fdinfo` names the id, and the command of bpf(2) that goes through all (linux/bpf.h).
const SORTS: [(&str, libc::c_long); 3] = [("prog_id", 11), ("map_id", 12), ("link_id", 31)];

/// Objects, each by its sort and its id.
pub(crate) type Objects = BTreeSet<(&'static str, u32)>;

/// All objects in the kernel.
pub(crate) fn all() -> Result<Objects> {
    let mut objects = Objects::new();
    for (sort, command) in SORTS {
        let ids = system::bpf_ids(command).with_context(|| format!("listing by {sort}"))?;
        objects.extend(ids.into_iter().map(|id| (sort, id)));
    }
    Ok(objects)
}

/// The objects that a process holds, from the descriptions of its descriptors.
pub(crate) fn of_process(pid: u32) -> Result<Objects> {
    let mut objects = Objects::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // A descriptor that was closed since the folder was listed is none.
        let Ok(text) = fs::read_to_string(entry?.path()) else {
            continue;
        };
        for (name, value) in text.lines().filter_map(|line| line.split_once(':')) {
            // A link tells its program, too.
            if let Some((sort, _)) = SORTS.iter().find(|(sort, _)| *sort == name) {
                objects.insert((sort, value.trim().parse()?));
            }
        }
    }
    Ok(objects)
}

/// None of these may stay. The kernel frees them after grace periods of its own, for which this waits.
pub(crate) fn expect_gone(ours: &Objects) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let all = all()?;
        let left: Vec<_> = all.intersection(ours).collect();
        if left.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "left in the kernel: {left:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A process that has been sent SIGSTOP does nothing any more when this returns.
pub(crate) fn stopped(pid: u32) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let state = text.rsplit_once(") ").map(|(_, rest)| rest.as_bytes()[0]);
        if matches!(state, Some(b'T' | b'Z')) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{pid} does not stop: {text}");
        thread::sleep(Duration::from_millis(1));
    }
}

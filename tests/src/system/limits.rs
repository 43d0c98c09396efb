//! Limits for processes: setrlimit(2), and cgroups for memory.
#![expect(unsafe_code, reason = "setrlimit(2) and prlimit(2)")]

use std::{
    fs, io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    ptr,
};

use super::check;

/// Limits a process that this one started to `most` descriptors.
pub(crate) fn limit_descriptors(pid: u32, most: u64) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let limit = libc::rlimit {
        rlim_cur: most,
        rlim_max: most,
    };
    // SAFETY: the pointer is to a whole `rlimit`, which the kernel reads during the call; null asks for no old limit.
    check(unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, &raw const limit, ptr::null_mut()) })
}

/// Limits a process that this one started to `most` descriptors, or, with `None`, to its hard limit.
pub(crate) fn limit_descriptors_for_now(pid: u32, most: Option<u64>) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer is to a whole `rlimit`, which the kernel writes during the call; null sets no new limit.
    check(unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, ptr::null(), &raw mut limit) })?;
    limit.rlim_cur = most.unwrap_or(limit.rlim_max);
    // SAFETY: the pointer is to a whole `rlimit`, which the kernel reads during the call; null asks for no old limit.
    check(unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, &raw const limit, ptr::null_mut()) })
}

/// Limits the descriptors of the command's process. The process may raise the `soft` limit to the `hard` one.
pub(crate) fn allow_descriptors_of(command: &mut Command, soft: u64, hard: u64) {
    set_before(command, libc::RLIMIT_NOFILE, soft, hard);
}

/// Limits the data of the command's process to this many bytes.
pub(crate) fn allow_data_of(command: &mut Command, bytes: u64) {
    set_before(command, libc::RLIMIT_DATA, bytes, bytes);
}

fn set_before(command: &mut Command, resource: libc::__rlimit_resource_t, soft: u64, hard: u64) {
    let limit = libc::rlimit {
        rlim_cur: soft,
        rlim_max: hard,
    };
    let set = move || {
        // SAFETY: the pointer is to a whole `rlimit`, which the kernel reads during the call.
        check(unsafe { libc::setrlimit(resource, &raw const limit) })
    };
    // SAFETY: the closure makes one async-signal-safe system call and does not allocate.
    unsafe { command.pre_exec(set) };
}

/// A cgroup that limits the memory of its processes, including the kernel's memory for them. It is removed when
/// dropped.
pub(crate) struct MemoryGroup {
    folder: PathBuf,
    limit: &'static str,
    usage: &'static str,
}

impl MemoryGroup {
    /// Makes a cgroup without a limit. It is an error if there is no memory controller, or none that may be used.
    pub(crate) fn new() -> io::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let mut tried = io::Error::other("no memory controller is mounted");
        for line in mounts.lines() {
            let words: Vec<_> = line.split(' ').collect();
            let (limit, usage) = match words[..] {
                [_, _, "cgroup2", ..] => ("memory.max", "memory.current"),
                [_, _, "cgroup", options, ..]
                    if options.split(',').any(|word| word == "memory") =>
                {
                    ("memory.limit_in_bytes", "memory.usage_in_bytes")
                }
                _ => continue,
            };
            let name = format!("dnstap-memory-{}", std::process::id());
            let folder = Path::new(words[1]).join(name);
            fs::create_dir(&folder)?;
            let group = Self {
                folder,
                limit,
                usage,
            };
            match fs::metadata(group.folder.join(limit)) {
                Ok(_) => return Ok(group),
                Err(error) => tried = error,
            }
        }
        Err(tried)
    }

    /// Moves a process into the cgroup.
    pub(crate) fn take(&self, pid: u32) -> io::Result<()> {
        fs::write(self.folder.join("cgroup.procs"), pid.to_string())
    }

    /// Limits the cgroup to this many bytes.
    pub(crate) fn limit(&self, bytes: u64) -> io::Result<()> {
        fs::write(self.folder.join(self.limit), bytes.to_string())
    }

    /// Returns the memory in use, in bytes.
    pub(crate) fn usage(&self) -> io::Result<u64> {
        let text = fs::read_to_string(self.folder.join(self.usage))?;
        text.trim().parse().map_err(io::Error::other)
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // This fails only if a failed test has left processes in it; the test's report tells about that.
        fs::remove_dir(&self.folder).ok();
    }
}

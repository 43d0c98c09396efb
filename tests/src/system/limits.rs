//! Limits on what a process may have: setrlimit(2), and control groups for memory.
#![expect(unsafe_code, reason = "setrlimit(2) and prlimit(2)")]

use std::{
    fs, io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    ptr,
};

use super::check;

/// Limits a process that this one started to so many descriptors.
pub(crate) fn limit_descriptors(pid: u32, most: u64) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let limit = libc::rlimit {
        rlim_cur: most,
        rlim_max: most,
    };
    // SAFETY: the pointer is to a whole `rlimit`, which the kernel reads during the call; null asks for no old limit.
    check(unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, &raw const limit, ptr::null_mut()) })
}

/// Limits a process that this one started to so many descriptors, or, with `None`, to as many as it may have.
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

/// Lets what the command starts have no more than this many descriptors; it may raise the `soft` limit to the `hard` one.
pub(crate) fn allow_descriptors_of(command: &mut Command, soft: u64, hard: u64) {
    set_before(command, libc::RLIMIT_NOFILE, soft, hard);
}

/// Lets what the command starts have no more than this many bytes of data.
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

/// A control group that limits the memory of its processes, the kernel's for them included. Removed when dropped.
pub(crate) struct MemoryGroup {
    folder: PathBuf,
    limit: &'static str,
    usage: &'static str,
}

impl MemoryGroup {
    /// Makes one without a limit. An error where there is no such controller, or none that may be used.
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

    /// Moves a process into it.
    pub(crate) fn take(&self, pid: u32) -> io::Result<()> {
        fs::write(self.folder.join("cgroup.procs"), pid.to_string())
    }

    /// Limits it to so many bytes.
    pub(crate) fn limit(&self, bytes: u64) -> io::Result<()> {
        fs::write(self.folder.join(self.limit), bytes.to_string())
    }

    /// Bytes in use.
    pub(crate) fn usage(&self) -> io::Result<u64> {
        let text = fs::read_to_string(self.folder.join(self.usage))?;
        text.trim().parse().map_err(io::Error::other)
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // Fails only when a failed test has left processes in it, which the report is about.
        fs::remove_dir(&self.folder).ok();
    }
}

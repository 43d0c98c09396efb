//! Functions for system calls that the standard library does not have: signals, a private mount namespace, a small
//! disk, the kernel's lists of BPF objects.
#![expect(
    unsafe_code,
    reason = "system calls for which the standard library has nothing: limits, mounts, bpf(2), signals"
)]

pub(crate) mod limits;
pub(crate) mod network;
pub(crate) mod packets;
pub(crate) mod processors;

use std::{
    collections::BTreeSet,
    ffi::{CStr, CString},
    fs, io,
    os::unix::{ffi::OsStrExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
    ptr, thread,
    time::{Duration, Instant},
};

/// Makes the kernel end the command's process when this one ends, however it ends.
pub(crate) fn die_with_this_process(command: &mut Command) {
    let set = || {
        // SAFETY: prctl(PR_SET_PDEATHSIG) takes an integer and touches no memory; it is async-signal-safe.
        match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: the closure makes one async-signal-safe system call and does not allocate.
    unsafe { command.pre_exec(set) };
}

/// Makes the kernel kill the process if it, or one of its descendants, calls a system call by which the kernel itself
/// handles probes of user code: `uretprobe` and `uprobe` (numbers 335 and 336 of x86-64). A filter such as systemd's
/// `SystemCallFilter=` that is older than these calls does the same.
pub(crate) fn confine(command: &mut Command) {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "operation codes have 16 bits"
    )]
    const fn op(code: u32, value: u32, if_true: u8, if_false: u8) -> libc::sock_filter {
        libc::sock_filter {
            code: code as u16,
            jt: if_true,
            jf: if_false,
            k: value,
        }
    }
    // The number is the first member of `struct seccomp_data`.
    const LENGTH: u16 = 5;
    static FILTER: [libc::sock_filter; LENGTH as usize] = [
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 335, 2, 0),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 336, 1, 0),
        op(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
        op(
            libc::BPF_RET | libc::BPF_K,
            libc::SECCOMP_RET_KILL_PROCESS,
            0,
            0,
        ),
    ];
    let set = || {
        let program = libc::sock_fprog {
            len: LENGTH,
            filter: FILTER.as_ptr().cast_mut(),
        };
        let mode = libc::SECCOMP_MODE_FILTER;
        // SAFETY: prctl reads the program, which lives until it returns; the kernel copies the filter and does not write to
        // it. The call is async-signal-safe.
        match unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: the closure makes one async-signal-safe system call and does not allocate.
    unsafe { command.pre_exec(set) };
}

/// Sends a signal to a process that this one started.
pub(crate) fn kill(pid: u32, signal: i32) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: kill takes two integers and touches no memory.
    check(unsafe { libc::kill(pid, signal) })
}

/// Returns whether this process runs as root.
pub(crate) fn is_root() -> bool {
    // SAFETY: geteuid has no arguments and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Returns the resolution of a clock.
pub(crate) fn resolution(clock: libc::clockid_t) -> io::Result<Duration> {
    // SAFETY: the pointer is to a `timespec`, and the call writes nothing else.
    duration(|step| unsafe { libc::clock_getres(clock, step) })
}

/// Returns the time of a clock.
pub(crate) fn time(clock: libc::clockid_t) -> io::Result<Duration> {
    // SAFETY: as above.
    duration(|time| unsafe { libc::clock_gettime(clock, time) })
}

/// Returns the time that a system call writes.
fn duration(call: impl FnOnce(&mut libc::timespec) -> libc::c_int) -> io::Result<Duration> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    check(call(&mut time))?;
    Ok(Duration::new(
        time.tv_sec.cast_unsigned(),
        u32::try_from(time.tv_nsec).map_err(io::Error::other)?,
    ))
}

/// Waits until no datagram waits in the UDP sockets at this port.
pub(crate) fn until_read(port: u16) -> io::Result<()> {
    /// Longest time that a busy machine may need.
    const PATIENCE: Duration = Duration::from_mins(1);
    let begun = Instant::now();
    while unread(port)? > 0 {
        if begun.elapsed() > PATIENCE {
            return Err(io::ErrorKind::TimedOut.into());
        }
        thread::yield_now();
    }
    Ok(())
}

/// Returns the memory in bytes of the datagrams that wait in the UDP sockets at this port. In a socket's line the
/// second word is its address and the fifth its queues, `tx:rx`, all in hexadecimal (`udp4_format_sock` in
/// net/ipv4/udp.c).
fn unread(port: u16) -> io::Result<u64> {
    let mut bytes = 0;
    for file in ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"] {
        for line in fs::read_to_string(file)?.lines().skip(1) {
            let mut words = line.split_whitespace();
            let behind_colon = |word: Option<&str>| {
                let (_, number) = word?.rsplit_once(':')?;
                u64::from_str_radix(number, 16).ok()
            };
            if behind_colon(words.nth(1)) == Some(port.into()) {
                bytes += behind_colon(words.nth(2)).unwrap_or_default();
            }
        }
    }
    Ok(bytes)
}

/// Sets the time of the day, since 1970, of the whole machine.
pub(crate) fn set_clock(time: Duration) -> io::Result<()> {
    let time = libc::timespec {
        tv_sec: libc::time_t::try_from(time.as_secs()).map_err(io::Error::other)?,
        tv_nsec: time.subsec_nanos().into(),
    };
    // SAFETY: `time` outlives the call, which reads it.
    check(unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &raw const time) })
}

/// Gives this process and its children their own mount table, so that the mounts of the tests disappear with them.
pub(crate) fn private_mounts() -> io::Result<()> {
    // SAFETY: unshare takes an integer and touches no memory.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    mount(None, Path::new("/"), libc::MS_REC | libc::MS_PRIVATE, None)
}

/// A tmpfs of a given size. It is unmounted when dropped.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts it on the existing folder `at`.
    pub(crate) fn mount(at: &Path, bytes: usize) -> io::Result<Self> {
        mount(Some("tmpfs"), at, 0, Some(&format!("size={bytes}")))?;
        Ok(Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Ok(path) = CString::new(self.0.as_os_str().as_bytes()) {
            // SAFETY: the path is a NUL-terminated string that outlives the call.
            unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
        }
    }
}

/// Makes a named pipe.
pub(crate) fn make_pipe(at: &CStr) -> io::Result<()> {
    // SAFETY: a NUL-terminated string that outlives the call.
    check(unsafe { libc::mkfifo(at.as_ptr(), 0o600) })
}

/// Allows this process and its children at least `wanted` descriptors. It is an error if the limit cannot be raised to
/// that.
pub(crate) fn allow_descriptors(wanted: u64) -> io::Result<()> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer is to a whole `rlimit`, which the kernel writes during the call.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    if limit.rlim_cur < wanted {
        limit.rlim_cur = wanted;
        limit.rlim_max = limit.rlim_max.max(wanted);
        // SAFETY: the pointer is to a whole `rlimit`, which the kernel reads during the call.
        check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    }
    Ok(())
}

/// Returns the largest memory use of a process so far, in bytes.
pub(crate) fn memory_peak(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let peak = status.lines().find_map(|line| {
        let size = line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?;
        size.parse::<u64>().ok()
    });
    peak.map(|kilobytes| kilobytes << 10)
        .ok_or_else(|| io::Error::other("no VmHWM"))
}

/// Returns the ids of all BPF objects of one sort in the kernel. `command` lists them: `BPF_*_GET_NEXT_ID` of
/// linux/bpf.h.
pub(crate) fn bpf_ids(command: libc::c_long) -> io::Result<BTreeSet<u32>> {
    /// `union bpf_attr` of `BPF_*_GET_NEXT_ID`, linux/bpf.h.
    #[repr(C)]
    struct NextId {
        start: u32,
        next: u32,
        flags: u32,
    }

    let mut ids = BTreeSet::new();
    let mut request = NextId {
        start: 0,
        next: 0,
        flags: 0,
    };
    loop {
        // SAFETY: the pointer and the size describe `request`, which the kernel reads and writes during the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                command,
                ptr::from_mut(&mut request),
                size_of::<NextId>(),
            )
        };
        if result != 0 {
            let error = io::Error::last_os_error();
            return if error.raw_os_error() == Some(libc::ENOENT) {
                Ok(ids)
            } else {
                Err(error)
            };
        }
        ids.insert(request.next);
        request.start = request.next;
    }
}

fn mount(
    kind: Option<&str>,
    at: &Path,
    flags: libc::c_ulong,
    data: Option<&str>,
) -> io::Result<()> {
    let at = CString::new(at.as_os_str().as_bytes())?;
    let kind = CString::new(kind.unwrap_or("none"))?;
    let data = data.map(CString::new).transpose()?;
    let data = data
        .as_ref()
        .map_or(ptr::null(), |data| data.as_ptr().cast());
    // SAFETY: all pointers are to NUL-terminated strings that outlive the call, or null where mount(2) allows it.
    check(unsafe { libc::mount(kind.as_ptr(), at.as_ptr(), kind.as_ptr(), flags, data) })
}

pub(crate) fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

//! Attaches a program to an instruction of a file for one process, by `perf_event_open(2)` and the
//! kernel's PMU `uprobe`.
//!
//! The kernel sets a breakpoint in the memory of that process only (`kernel/events/uprobes.c`,
//! `kernel/trace/trace_uprobe.c`). It removes the breakpoint when the descriptor is closed, which
//! also happens when the agent ends. tracefs is not needed.
#![expect(
    unsafe_code,
    reason = "perf_event_open(2) and its ioctl(2), which no crate offers for a program that is loaded elsewhere"
)]

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya_obj::generated::{PERF_FLAG_FD_CLOEXEC, perf_event_attr};

/// File with the number of the PMU in this kernel.
const UNIT: &str = "/sys/bus/event_source/devices/uprobe/type";

/// `PERF_EVENT_IOC_SET_BPF` and `PERF_EVENT_IOC_ENABLE` (`include/uapi/linux/perf_event.h`).
const SET_BPF: libc::Ioctl = 0x4004_2408;
const ENABLE: libc::Ioctl = 0x2400;

/// Reason for which a probe cannot be attached.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// The PMU cannot be found.
    #[error("cannot read {UNIT}: {0}")]
    Unit(io::Error),
    /// The kernel refuses the probe.
    #[error("{0}")]
    Kernel(#[from] io::Error),
}

/// Runs `program` whenever process `pid` reaches the instruction at `offset` of the file at `path`,
/// until the returned descriptor is closed.
pub(super) fn attach(
    program: BorrowedFd<'_>,
    path: &Path,
    offset: u64,
    pid: u32,
) -> Result<OwnedFd, Refusal> {
    let unit = fs::read_to_string(UNIT).map_err(Refusal::Unit)?;
    let unit = unit.trim().parse().map_err(io::Error::other);
    let unit: u32 = unit.map_err(Refusal::Unit)?;
    let path = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)?;
    // SAFETY: plain data for which zero is the default of every member.
    let mut attr: perf_event_attr = unsafe { std::mem::zeroed() };
    attr.size = u32::try_from(size_of::<perf_event_attr>()).map_err(io::Error::other)?;
    attr.type_ = unit;
    attr.__bindgen_anon_3.config1 = path.as_ptr() as u64;
    attr.__bindgen_anon_4.config2 = offset;
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: the attribute and the path live until the call returns.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attr,
            pid,
            -1,
            -1,
            libc::c_ulong::from(PERF_FLAG_FD_CLOEXEC),
        )
    };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error().into());
    }
    // SAFETY: the descriptor is new, and nothing else owns it.
    let event = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: the request takes a descriptor, and accesses no memory of this process.
    check(unsafe { libc::ioctl(event.as_raw_fd(), SET_BPF, program.as_raw_fd()) })?;
    // SAFETY: the request takes no argument.
    check(unsafe { libc::ioctl(event.as_raw_fd(), ENABLE, 0) })?;
    Ok(event)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

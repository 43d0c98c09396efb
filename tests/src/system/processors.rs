//! CPUs and scheduling policies of threads.
#![expect(unsafe_code, reason = "sched_setaffinity(2) and sched_setscheduler(2)")]

use std::{fs, io, mem};

use super::check;

/// Returns the CPUs that this thread may run on.
pub(crate) fn cpus() -> io::Result<Vec<usize>> {
    // SAFETY: plain data for which zero is a value.
    let mut set = unsafe { mem::zeroed::<libc::cpu_set_t>() };
    // SAFETY: the kernel writes at most the given size to `set`.
    check(unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) })?;
    let most = usize::try_from(libc::CPU_SETSIZE).map_err(io::Error::other)?;
    // SAFETY: below the number of CPUs that a set holds.
    Ok((0..most)
        .filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) })
        .collect())
}

/// Lets this thread run on only one CPU.
pub(crate) fn pin_to(cpu: usize) -> io::Result<()> {
    // SAFETY: plain data for which zero is a value.
    let mut set = unsafe { mem::zeroed::<libc::cpu_set_t>() };
    // SAFETY: one of `cpus`, and so within the set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the kernel reads the given size of `set`.
    check(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) })
}

/// Gives all threads of a process that this one started the idle policy: they run only when nothing else wants to.
pub(crate) fn make_idle(pid: u32) -> io::Result<()> {
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let name = entry?.file_name();
        let thread = name.to_string_lossy().parse().map_err(io::Error::other)?;
        let parameters = libc::sched_param { sched_priority: 0 };
        // SAFETY: the pointer is to a whole `sched_param`, which the kernel reads during the call.
        check(unsafe {
            libc::sched_setscheduler(thread, libc::SCHED_IDLE, &raw const parameters)
        })?;
    }
    Ok(())
}

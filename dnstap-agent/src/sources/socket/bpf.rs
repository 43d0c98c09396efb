//! Commands of `bpf(2)` for which aya has no function, or one that may open a file.
#![expect(
    unsafe_code,
    reason = "bpf(2): commands that aya does not wrap as they are needed"
)]

use std::{
    io, mem,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
};

use anyhow::{Result, anyhow, bail};
use aya::{
    maps::{Map, MapData},
    util::nr_cpus,
};
use aya_obj::generated::{
    bpf_attr,
    bpf_cmd::{self, BPF_MAP_LOOKUP_ELEM, BPF_MAP_UPDATE_ELEM, BPF_OBJ_GET_INFO_BY_FD},
    bpf_prog_info,
};

/// The kernel's statistics of a loaded program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgramStats {
    /// Runs while `kernel.bpf_stats_enabled` was 1.
    pub runs: u64,
    /// Total time of these runs in nanoseconds.
    pub run_time_ns: u64,
    /// Runs that did not happen because the program was already running on the same CPU. Kernels
    /// from 5.12 on.
    pub missed: u64,
}

/// Reads the statistics of a program.
pub(super) fn program_stats(program: BorrowedFd<'_>) -> io::Result<ProgramStats> {
    // SAFETY: plain data for which zero is the default of every member.
    let (mut info, mut attr) =
        unsafe { (mem::zeroed::<bpf_prog_info>(), mem::zeroed::<bpf_attr>()) };
    attr.info.bpf_fd = program.as_raw_fd().cast_unsigned();
    attr.info.info_len = u32::try_from(size_of::<bpf_prog_info>()).map_err(io::Error::other)?;
    attr.info.info = (&raw mut info) as u64;
    // SAFETY: the kernel writes at most `info_len` bytes to `info`, which outlives the call.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &attr)? };
    Ok(ProgramStats {
        runs: info.run_cnt,
        run_time_ns: info.run_time_ns,
        missed: info.recursion_misses,
    })
}

/// Registers the perf buffer of `cpu` in a perf event array. aya does this only for buffers that it
/// has opened itself.
pub(super) fn set_perf_buffer(
    map: BorrowedFd<'_>,
    cpu: u32,
    buffer: BorrowedFd<'_>,
) -> io::Result<()> {
    let fd = buffer.as_raw_fd();
    // SAFETY: plain data for which zero is the default of every member.
    let mut attr = unsafe { mem::zeroed::<bpf_attr>() };
    attr.__bindgen_anon_2.map_fd = map.as_raw_fd().cast_unsigned();
    attr.__bindgen_anon_2.key = (&raw const cpu) as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = (&raw const fd) as u64;
    // SAFETY: keys and values of this map are 4 bytes, and both outlive the call.
    unsafe { bpf(BPF_MAP_UPDATE_ELEM, &attr) }
}

/// A per-CPU array of `u64`. aya reads the number of CPUs from the file system, once in each
/// thread, which fails if no descriptors are left. Here it is read once.
pub(super) struct PerCpuCounters {
    map: MapData,
    /// Number of possible CPUs; each has its own value in each slot.
    cpus: usize,
}

impl PerCpuCounters {
    pub(super) fn new(map: Map) -> Result<Self> {
        let Map::PerCpuArray(map) = map else {
            bail!("the counters are no array for each CPU");
        };
        let cpus = possible_cpus()?;
        Ok(Self { map, cpus })
    }

    /// Returns the sum of a slot's values.
    pub(super) fn sum(&self, slot: u32) -> io::Result<u64> {
        let mut values = vec![0_u64; self.cpus];
        // SAFETY: plain data for which zero is the default of every member.
        let mut attr = unsafe { mem::zeroed::<bpf_attr>() };
        attr.__bindgen_anon_2.map_fd = self.map.fd().as_fd().as_raw_fd().cast_unsigned();
        attr.__bindgen_anon_2.key = (&raw const slot) as u64;
        attr.__bindgen_anon_2.__bindgen_anon_1.value = values.as_mut_ptr() as u64;
        // SAFETY: keys of this map are 4 bytes; the kernel writes 8 bytes for each possible CPU, for which there is room.
        unsafe { bpf(BPF_MAP_LOOKUP_ELEM, &attr)? };
        Ok(values.iter().sum())
    }
}

/// Returns the number of possible CPUs.
pub(super) fn possible_cpus() -> Result<usize> {
    nr_cpus().map_err(|(file, error)| anyhow!("{file}: {error}"))
}

/// Calls `bpf(2)`.
///
/// # Safety
///
/// The memory that `attr` points to must be as large as `command` requires.
unsafe fn bpf(command: bpf_cmd, attr: &bpf_attr) -> io::Result<()> {
    // SAFETY: the attribute outlives the call; the caller vouches for the rest.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_int,
            attr,
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

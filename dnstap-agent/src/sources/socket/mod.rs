//! The tap in the kernel: loads the programs, attaches a hook, reads the ring and the counters.
//!
//! Which hook and which ring work is found by trying, never from the kernel's version.

mod bpf;
pub mod btf;
mod filter;
mod hooks;
pub mod offsets;
mod perf;
mod preemption;
mod processes;
mod programs;
mod ring;

use std::{
    any::Any,
    collections::BTreeMap,
    mem,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use anyhow::{Context as _, Result, anyhow};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, Map, MapData, MapError, RingBuf},
    util::online_cpus,
};
use aya_log::EbpfLogger;
use dnstap_ebpf::{
    Config, Counter, Hook, Probed, SCRATCH_SLOTS, SocketState, TRANSPORT_BPF, TRANSPORT_PERF,
    WHOLE_SLOT, fault_key,
};
use rustix::process::{Resource, Rlimit, setrlimit};

pub use self::{
    bpf::ProgramStats,
    filter::KernelFilter,
    processes::{ProcessSet, Runs},
};
use self::{
    bpf::{PerCpuCounters, possible_cpus},
    filter::FilterMaps,
    hooks::{Attached, Copies},
    offsets::KernelTypes,
    perf::PerfRing,
    ring::{BpfRing, Ring},
};
use crate::{
    host::{
        exit::{Exit, ExitWith},
        memory,
    },
    sources::{
        Item, Source,
        probes::{self, ProbeMaps, Programs, Site},
    },
};

/// The eBPF object, empty in a build without it.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/dnstap-ebpf"));

/// Which hook to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum HookChoice {
    /// The first that works of the ones below.
    Auto,
    /// fexit on `inet_sendmsg`, `inet_recvmsg` and their IPv6 siblings: sees every call, costs least.
    Fentry,
    /// Raw tracepoints `sock_send_length` and `sock_recv_length` (Linux 6.3 and later).
    Socket,
    /// Raw tracepoint `sys_exit`: works everywhere, costs every process on the host a little.
    Syscall,
}

/// Which transport from the kernel to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum RingChoice {
    /// The BPF ring buffer.
    Auto,
    /// The perf ring buffer, one per CPU.
    Perf,
    /// The BPF ring buffer, one for all CPUs.
    Bpf,
}

/// Options for attaching.
#[derive(Clone, Debug)]
pub struct TapOptions {
    /// Which hook to use.
    pub hook: HookChoice,
    /// Which transport to use.
    pub ring: RingChoice,
    /// Bytes of the ring: of the one BPF ring buffer, or of each CPU's perf ring buffer. Rounded up
    /// to a power of two of pages.
    pub ring_bytes: usize,
    /// Whether the kernel side logs each drop through the agent's log, at debug level.
    pub kernel_log: bool,
    /// Messages that the kernel side leaves out.
    pub filter: KernelFilter,
    /// Whether the filter may change while the tap is attached.
    pub filter_changes: bool,
    /// Functions of servers to probe, and what they are to report.
    pub probes: probes::Wanted,
}

/// An attached tap.
pub struct Tap {
    ebpf: Ebpf,
    ring: Box<dyn Ring>,
    links: Vec<Box<dyn Any + Send>>,
    counters: PerCpuCounters,
    sockets: HashMap<MapData, u64, SocketState>,
    /// Tells the programs that the reader sleeps; `None` with perf ring buffers, whose wake-ups the
    /// kernel decides alone.
    asleep: Option<Array<MapData, u32>>,
    /// Filter maps; `None` if the filters were removed from the programs.
    filter: Option<FilterMaps>,
    hook: Hook,
    ring_name: &'static str,
    ring_bytes: u32,
    refused: Vec<(Hook, String)>,
    degraded: Vec<String>,
    flush_log: Option<Box<dyn FnMut() + Send>>,
    /// The programs of the probes, until they are taken.
    probes: Programs,
    /// Maps that the kernel would empty when their last descriptor is closed.
    _kept: Vec<Map>,
}

impl ProcessSet {
    fn of(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Self {
            targets: HashMap::try_from(take(ebpf, "TARGETS")?)?,
            names: HashMap::try_from(take(ebpf, "NAMES")?)?,
            possible: Array::try_from(take(ebpf, "POSSIBLE")?)?,
            changes: Array::try_from(take(ebpf, "CHANGES")?)?,
        })
    }
}

impl Tap {
    /// Loads the programs and attaches the chosen hook. A process is tapped once it is in the set.
    pub fn attach(options: &TapOptions) -> Result<(Self, ProcessSet, Runs)> {
        if OBJECT.is_empty() {
            return Err(anyhow!("build it with `cargo xtask build`")).context(ExitWith(
                Exit::Failure,
                "this build of dnstap-agent has no eBPF programs in it".into(),
            ));
        }
        let perf = options.ring == RingChoice::Perf;
        let ring_bytes = ring_bytes(options.ring_bytes)?;
        let filtered = options.filter_changes || options.filter != KernelFilter::default();
        let loader = loader();
        let types = KernelTypes::read()?;
        let btf = types.parse()?;
        let config = Config {
            transport: if perf { TRANSPORT_PERF } else { TRANSPORT_BPF },
            wakeup_bytes: ring_bytes / 4,
            filtered: filtered.into(),
            remarks: options.probes.remarks,
            encrypted: options.probes.encrypted.into(),
            ..types.config(&btf)?
        };
        let mut ebpf = load(
            loader,
            &config,
            &options.probes.sites,
            ring_bytes,
            options.kernel_log,
        )?;
        let mut filter = filtered.then(|| FilterMaps::of(&mut ebpf)).transpose()?;
        if let Some(maps) = &mut filter {
            maps.set(&options.filter)?;
        }
        let copies = Copies::needed();
        tracing::debug!(?copies, "programs for each message");
        let Attached {
            hook,
            mut links,
            refused,
            degraded,
        } = hooks::attach(&mut ebpf, &btf, options.hook, copies)?;
        links.extend(hooks::processes(&mut ebpf, copies).context(ExitWith(
            Exit::NoPermission,
            "the kernel does not tell which processes are forked".into(),
        ))?);
        links.extend(hooks::connections(&mut ebpf).context(ExitWith(
            Exit::NoPermission,
            "the kernel does not tell which connections end".into(),
        ))?);
        let probes = hooks::probes(&mut ebpf, &options.probes.sites);
        let flush_log: Option<Box<dyn FnMut() + Send>> = if options.kernel_log {
            let mut log =
                EbpfLogger::init(&mut ebpf).context("cannot read the kernel side's log")?;
            Some(Box::new(move || log.flush()))
        } else {
            None
        };
        let counters = PerCpuCounters::new(take(&mut ebpf, "COUNTERS")?)?;
        let processes = ProcessSet::of(&mut ebpf)?;
        let runs = Runs(HashMap::try_from(take(&mut ebpf, "RUNS")?)?);
        let sockets = HashMap::try_from(take(&mut ebpf, "SOCKETS")?)?;
        let asleep = if perf {
            None
        } else {
            Some(Array::try_from(take(&mut ebpf, "ASLEEP")?)?)
        };
        let mut kept = Vec::new();
        let ring: Box<dyn Ring> = if perf {
            let map = take(&mut ebpf, "EVENTS_PERF")?;
            let ring = open_perf(&map, ring_bytes)?;
            kept.push(map);
            Box::new(ring)
        } else {
            Box::new(
                BpfRing::new(
                    RingBuf::try_from(take(&mut ebpf, "EVENTS_RING")?)?,
                    ring_bytes,
                )
                .context("cannot map the ring's positions")?,
            )
        };
        let tap = Self {
            ebpf,
            ring,
            links,
            counters,
            sockets,
            asleep,
            filter,
            hook,
            ring_name: if perf { "perf" } else { "bpf" },
            ring_bytes,
            refused,
            degraded,
            flush_log,
            probes,
            _kept: kept,
        };
        drop(types);
        memory::give_back();
        Ok((tap, processes, runs))
    }

    /// Returns the hook in use.
    #[must_use]
    pub fn hook(&self) -> Hook {
        self.hook
    }

    /// Returns the ring in use, as on the command line.
    #[must_use]
    pub fn ring_name(&self) -> &'static str {
        self.ring_name
    }

    /// Returns the bytes of the ring: of the one BPF ring buffer, or of each CPU's perf ring
    /// buffer.
    #[must_use]
    pub fn ring_bytes(&self) -> u64 {
        self.ring_bytes.into()
    }

    /// Returns the bytes that wait in the ring; with perf ring buffers, those in the fullest.
    pub fn ring_used(&mut self) -> u64 {
        self.ring.used()
    }

    /// Returns the hooks that were tried before, and why the kernel refused them.
    #[must_use]
    pub fn refused(&self) -> &[(Hook, String)] {
        &self.refused
    }

    /// Returns the limits of the hook in use on this kernel.
    #[must_use]
    pub fn degraded(&self) -> &[String] {
        &self.degraded
    }

    /// Returns the access to the maps that the programs of probes and the probes share.
    pub fn take_probe_maps(&mut self) -> Result<ProbeMaps> {
        let remarks: HashMap<MapData, u32, u64> =
            HashMap::try_from(take(&mut self.ebpf, "PROBE_FAULTS")?)?;
        let notices: HashMap<MapData, u64, u64> =
            HashMap::try_from(take(&mut self.ebpf, "NOTICE_FAULTS")?)?;
        let mut probed: HashMap<MapData, u32, Probed> =
            HashMap::try_from(take(&mut self.ebpf, "PROBED")?)?;
        let faults = move |pid: u32, site| {
            let faults = match site {
                Site::DtSend => remarks.get(&pid, 0),
                Site::Notice(function) => notices.get(&fault_key(pid, function), 0),
            };
            faults.unwrap_or_default()
        };
        let tell = move |pid: u32, facts: Option<Probed>| {
            match facts {
                Some(facts) => probed.insert(pid, facts, 0),
                None => probed.remove(&pid),
            }
            .context("the kernel does not take what the probes need")
        };
        Ok(ProbeMaps {
            faults: Box::new(faults),
            tell: Box::new(tell),
        })
    }

    /// Returns the programs of the probes, once.
    pub fn take_probes(&mut self) -> Programs {
        mem::take(&mut self.probes)
    }

    /// Asks the kernel to wake the reader by the next record, once. Returns `false` if it cannot.
    /// Programs that run at this moment may not see the request: a caller looks at the ring once
    /// more, after its usual interval, before it relies on it.
    pub fn wake_by_next(&mut self) -> bool {
        let asleep = self.asleep.as_mut();
        asleep.is_some_and(|map| map.set(0, 1, 0).is_ok())
    }

    /// Passes the kernel side's log lines to the agent's log.
    pub fn flush_log(&mut self) {
        if let Some(flush) = &mut self.flush_log {
            flush();
        }
    }

    /// Stores a verdict about a socket in the kernel's map ([`SocketState::verdict`]).
    pub fn set_verdict(&mut self, socket: u64, verdict: u32) -> Result<(), MapError> {
        let known = self.sockets.get(&socket, 0).unwrap_or_default();
        self.sockets
            .insert(socket, SocketState { verdict, ..known }, 0)
    }

    /// Changes the filter. Works only with [`TapOptions::filter_changes`], or if there was a filter
    /// at the start.
    pub fn set_filter(&mut self, filter: &KernelFilter) -> Result<()> {
        let maps = self.filter.as_mut();
        maps.context("the programs have no filters")?.set(filter)
    }

    /// Returns the kernel side's counters, summed over all CPUs, by [`Counter`].
    pub fn counters(&self) -> Result<[u64; Counter::COUNT]> {
        let sum = |slot: u32| -> Result<u64> {
            let sum = self.counters.sum(slot);
            sum.with_context(|| format!("cannot read counter {slot}"))
        };
        let mut sums = [0; Counter::COUNT];
        for counter in Counter::ALL {
            sums[counter as usize] = sum(counter as u32)?;
        }
        let whole = sum(WHOLE_SLOT)?;
        for counter in [Counter::Seen, Counter::Emitted, Counter::Records] {
            sums[counter as usize] += whole;
        }
        Ok(sums)
    }

    /// Returns how often the kernel did not run the program of a probe because another program was running on the CPU.
    #[must_use]
    pub fn probes_missed(&self) -> u64 {
        let is_probe = |name: &str| Site::ALL.iter().any(|site| site.program() == name);
        self.ebpf
            .programs()
            .filter(|(name, _)| is_probe(name))
            .filter_map(|(_, program)| bpf::program_stats(program.fd().ok()?.as_fd()).ok())
            .map(|stats| stats.missed)
            .sum()
    }

    /// Returns the kernel's statistics of the programs in use, by name. The two programs that are
    /// attached for each message are combined: runs and times are added, and the smaller number of
    /// missed runs is taken, which bounds the messages for which neither program ran.
    #[must_use]
    pub fn program_stats(&self) -> BTreeMap<String, ProgramStats> {
        let mut merged: BTreeMap<String, ProgramStats> = BTreeMap::new();
        for (name, program) in self.ebpf.programs() {
            let Some(stats) = program
                .fd()
                .ok()
                .and_then(|fd| bpf::program_stats(fd.as_fd()).ok())
            else {
                continue;
            };
            let name = hooks::first_of(name);
            let is_probe = Site::ALL.iter().any(|site| site.program() == name);
            let stats = if is_probe || name == hooks::CONNECTIONS {
                // No message is missed if an end is, or what a server says about a message.
                ProgramStats { missed: 0, ..stats }
            } else {
                stats
            };
            match merged.get_mut(name) {
                None => drop(merged.insert(name.to_owned(), stats)),
                Some(sum) => {
                    sum.runs += stats.runs;
                    sum.run_time_ns += stats.run_time_ns;
                    sum.missed = sum.missed.min(stats.missed);
                }
            }
        }
        merged
    }
}

impl Source for Tap {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.ring.descriptors()
    }

    fn drain(&mut self, last: bool, take: &mut dyn FnMut(Item<'_>)) {
        self.ring
            .drain(last, &mut |record| take(Item::Record(record)));
    }

    /// Detaches the hook.
    fn stop(&mut self) {
        self.links.clear();
    }
}

/// Tries a hook: loads and attaches its programs, and detaches them at once. Returns the hook's
/// limits on this kernel. The error says why the kernel refuses it.
pub fn probe(hook: HookChoice) -> Result<Vec<String>> {
    let loader = loader();
    let types = KernelTypes::read()?;
    let btf = types.parse()?;
    let config = Config {
        transport: TRANSPORT_BPF,
        ..types.config(&btf)?
    };
    let mut ebpf = load(loader, &config, &[], page_size(), false)?;
    let copies = Copies::needed();
    let attached = hooks::attach(&mut ebpf, &btf, hook, copies)?;
    let _processes = hooks::processes(&mut ebpf, copies)?;
    let _connections = hooks::connections(&mut ebpf)?;
    Ok(attached.degraded)
}

/// Loads the program of the probes alone, for a try.
pub fn probe_program() -> Result<OwnedFd> {
    let loader = loader();
    let types = KernelTypes::read()?;
    let config = Config {
        transport: TRANSPORT_BPF,
        ..types.config(&types.parse()?)?
    };
    let mut ebpf = load(loader, &config, &[], page_size(), false)?;
    let mut programs = hooks::probes(&mut ebpf, &[Site::DtSend]);
    let program = programs.remove(&Site::DtSend);
    program
        .context("it was not loaded")?
        .map_err(|error| anyhow!(error))
}

/// Returns aya's loader without the kernel's BTF, which aya reads for relocations. The object needs
/// none. Parsing the whole BTF takes more memory than anything else in the agent, so it is freed
/// first.
fn loader() -> EbpfLoader<'static> {
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    memory::give_back();
    loader
}

/// Threads of probed servers that put records of the perf ring together: remarks, and whole
/// messages, which take 32 KiB each.
const REMARKS: u32 = 1024;
const COPIES: u32 = 128;
/// Threads of probed servers that put notices together.
const NOTICES: u32 = 512;

/// Loads the object with its read-only data and the sizes of its maps set.
fn load<'c>(
    mut loader: EbpfLoader<'c>,
    config: &'c Config,
    sites: &[Site],
    ring_bytes: u32,
    kernel_log: bool,
) -> Result<Ebpf> {
    raise_memlock();
    let cpus = u32::try_from(possible_cpus()?)?;
    let perf = config.transport == TRANSPORT_PERF;
    let sends_notices = sites.iter().any(|site| matches!(site, Site::Notice(_)));
    // aya-log's levels count from error = 1; below that, the verifier removes every log statement.
    let log_level: &'static u8 = if kernel_log { &u8::MAX } else { &0 };
    loader
        .override_global("CONFIG", config, true)
        .override_global("AYA_LOG_LEVEL", log_level, true)
        .map_max_entries("EVENTS_RING", if perf { page_size() } else { ring_bytes })
        .map_max_entries("SCRATCH", cpus * SCRATCH_SLOTS)
        .map_max_entries(
            "REMARKS",
            if perf && config.remarks != 0 {
                REMARKS
            } else {
                1
            },
        )
        .map_max_entries(
            "COPIES",
            if perf && config.encrypted != 0 {
                COPIES
            } else {
                1
            },
        )
        .map_max_entries("NOTICES", if sends_notices { NOTICES } else { 1 })
        .load(OBJECT)
        .context(ExitWith(
            Exit::NoPermission,
            "cannot load the eBPF object into the kernel".into(),
        ))
}

/// Returns the number of descriptors that the rings take.
pub fn perf_rings(ring: RingChoice) -> Result<usize> {
    match ring {
        RingChoice::Perf => possible_cpus(),
        RingChoice::Auto | RingChoice::Bpf => Ok(1),
    }
}

/// Takes a map out of the object by its name.
fn take(ebpf: &mut Ebpf, name: &str) -> Result<Map> {
    ebpf.take_map(name)
        .with_context(|| format!("the eBPF object has no map {name}"))
}

/// Opens the perf ring buffers of all CPUs and registers them in the kernel's map.
fn open_perf(map: &Map, ring_bytes: u32) -> Result<PerfRing> {
    let Map::PerfEventArray(map) = map else {
        return Err(anyhow!("EVENTS_PERF is not a perf event array"));
    };
    let cpus = online_cpus().map_err(|(file, error)| anyhow!("{file}: {error}"))?;
    PerfRing::open(&cpus, ring_bytes as usize, |cpu, fd| {
        bpf::set_perf_buffer(map.fd().as_fd(), cpu, fd.as_fd())
    })
    .with_context(|| {
        ExitWith(
            Exit::NoPermission,
            format!(
                "cannot open perf ring buffers of {ring_bytes} bytes on {} CPUs",
                cpus.len()
            ),
        )
    })
}

/// Returns a size that both kinds of ring accept: a power of two of pages.
fn ring_bytes(wanted: usize) -> Result<u32> {
    let bytes = wanted.max(page_size() as usize).checked_next_power_of_two();
    bytes
        .and_then(|bytes| u32::try_from(bytes).ok())
        .filter(|&bytes| bytes <= 1 << 30)
        .ok_or_else(|| anyhow!("a ring of {wanted} bytes is larger than 1 GiB"))
        .context(ExitWith(Exit::Usage, "--ring-size is out of range".into()))
}

fn page_size() -> u32 {
    u32::try_from(rustix::param::page_size()).unwrap_or(4096)
}

/// Raises the memory-lock limit, to which kernels before 5.11 charge maps. If that is not allowed,
/// loading reports the failure.
fn raise_memlock() {
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    if let Err(error) = setrlimit(Resource::Memlock, unlimited) {
        tracing::debug!(%error, "the memory-lock limit stays as it is");
    }
}

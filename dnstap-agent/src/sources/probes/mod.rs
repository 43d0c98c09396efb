//! Probes: programs that run when a tapped server calls a certain function of its own. They report
//! facts about messages that no socket shows.
//!
//! A probe is attached to one process, near the start of an exported function: at an instruction
//! that the kernel can emulate, if there is one. The only change to the process is the breakpoint
//! that the kernel sets and later removes. A process that cannot be probed is tapped nevertheless.
//! The log says why once, and the status says it as long as it holds.

mod library;
mod place;
mod uprobe;

use std::{
    collections::BTreeMap,
    fmt, io,
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use dnstap_ebpf::{
    SERVER_AUTH_QUERY, SERVER_CLIENT_QUERY, SERVER_WITH_ZONE, TRANSPORT_IS_BOOL,
    TRANSPORT_IS_NUMBER,
};
use serde::Serialize;
use tracing::{info, warn};

use self::{
    library::{Function, Missing, Transports},
    uprobe::Refusal,
};

/// Information that a probe gets from a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Probe {
    /// The zone that the server has in mind, as dnstap's `query_zone`: BIND (`named`) with its own libdns, built with dnstap, as all
    /// distributions have it.
    Zone,
    /// The messages over TLS and HTTPS in the clear: BIND 9.18 and later, built with dnstap.
    Encrypted,
}

impl Probe {
    /// Returns the name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Zone => "zone",
            Self::Encrypted => "encrypted",
        }
    }
}

/// Returns the names of these probes.
fn names(probes: &[Probe]) -> &'static str {
    let [zone, encrypted] = [Probe::Zone, Probe::Encrypted].map(|probe| probes.contains(&probe));
    match (zone, encrypted) {
        (true, true) => "zone,encrypted",
        (false, true) => Probe::Encrypted.name(),
        _ => Probe::Zone.name(),
    }
}

/// Returns the types of the messages about which these probes need remarks, as `SERVER_*` bits.
/// `names_queries`: the server decides the type of client queries, so remarks about these are
/// needed, too.
#[must_use]
pub fn remarks(probes: &[Probe], names_queries: bool) -> u32 {
    if !probes.contains(&Probe::Zone) {
        return 0;
    }
    if names_queries {
        SERVER_WITH_ZONE | SERVER_AUTH_QUERY | SERVER_CLIENT_QUERY
    } else {
        SERVER_WITH_ZONE
    }
}

/// Function that the probes are attached to. The eBPF program has the same name.
pub const DNS_DT_SEND: &str = "dns_dt_send";

/// Time that a new process has for loading its libraries.
const LOADING: Duration = Duration::from_secs(5);

/// State of a probe in a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProbeState {
    /// Name of the probe.
    pub probe: &'static str,
    /// The process.
    pub pid: u32,
    /// Whether the probe is attached.
    pub attached: bool,
    /// Place of the probe: function, distance from the function's start in bytes, and library.
    pub place: Option<String>,
    /// Whether the process has to step over an instruction each time, which takes some ten microseconds.
    pub single_stepped: bool,
    /// Part of the probe that is missing although it is attached.
    pub limit: Option<&'static str>,
    /// Reason for which the probe is not attached; `None` if it is, or if the library may still be
    /// loaded.
    pub reason: Option<String>,
}

impl fmt::Display for ProbeState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { probe, pid, .. } = self;
        write!(formatter, "probe {probe} of process {pid}: ")?;
        match (&self.place, &self.reason) {
            (_, Some(reason)) => write!(formatter, "off, {reason}"),
            (Some(place), None) => write!(formatter, "on, at {place}"),
            (None, None) => write!(formatter, "waits for the library"),
        }?;
        if self.single_stepped {
            write!(formatter, ", single-stepped")?;
        }
        if let Some(limit) = self.limit {
            write!(formatter, ", {limit}")?;
        }
        Ok(())
    }
}

/// States of all probes, shared with the parts of the agent that report them.
#[derive(Clone, Debug, Default)]
pub struct ProbeStates(Arc<Mutex<States>>);

#[derive(Debug, Default)]
struct States {
    of: BTreeMap<u32, ProbeState>,
    calls: u64,
    faults: u64,
    /// Whether all probes are removed and no other will be attached.
    ended: bool,
}

/// Number of unreadable calls that are tolerated: one in [`CALLS_OF_A_FAULT`], and always
/// [`FAULTS`].
const FAULTS: u64 = 16;
const CALLS_OF_A_FAULT: u64 = 1_000;

/// Returns whether too many calls of a probe were unreadable. Then the server's structures are not
/// those that the probe expects.
fn are_too_many(faults: u64, calls: u64) -> bool {
    faults > (calls / CALLS_OF_A_FAULT).max(FAULTS)
}

impl ProbeStates {
    /// Returns the states for all processes that are tapped now.
    #[must_use]
    pub fn list(&self) -> Vec<ProbeState> {
        self.with(|states| states.of.values().cloned().collect())
    }

    /// Stores the counts of the kernel side: calls of all probes, and those that could not be read.
    pub fn count(&self, calls: u64, faults: u64) {
        self.with(|states| (states.calls, states.faults) = (calls, faults));
    }

    /// Returns whether all probes are removed and no other will be attached.
    #[must_use]
    pub fn have_ended(&self) -> bool {
        self.with(|states| states.ended)
    }

    fn with<T>(&self, look: impl FnOnce(&mut States) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, state: ProbeState) {
        self.with(|states| drop(states.of.insert(state.pid, state)));
    }
}

/// Function that returns how many calls of a process could not be read.
pub struct FaultsOf(Box<dyn Fn(u32) -> u64>);

impl FaultsOf {
    /// Wraps the function.
    pub fn new(count: impl Fn(u32) -> u64 + 'static) -> Self {
        Self(Box::new(count))
    }
}

impl fmt::Debug for FaultsOf {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("FaultsOf")
    }
}

/// Function that tells the kernel side how a process says its transports (`TRANSPORT_IS_*`), or,
/// with `None`, that its messages are not copied any more.
pub struct SetTransport(Box<dyn FnMut(u32, Option<u32>) -> anyhow::Result<()>>);

impl SetTransport {
    /// Wraps the function.
    pub fn new(set: impl FnMut(u32, Option<u32>) -> anyhow::Result<()> + 'static) -> Self {
        Self(Box::new(set))
    }
}

impl fmt::Debug for SetTransport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SetTransport")
    }
}

/// Limit of BIND 9.16, and the reason alone.
const NOT_ENCRYPTED: &str = "without encrypted messages: this BIND has neither TLS nor HTTPS";
const NO_TLS: &str = "this BIND has neither TLS nor HTTPS";

/// The probes of the tapped processes.
#[derive(Debug)]
pub struct Probes {
    /// Program in the kernel; `None` if nothing is to be probed. The error says why the program
    /// could not be loaded.
    program: Option<Result<OwnedFd, String>>,
    attached: BTreeMap<u32, Attached>,
    /// Processes that may not have loaded their libraries yet: program id, and time of the first
    /// attempt.
    loading: BTreeMap<u32, (u32, Instant)>,
    faults_of: FaultsOf,
    /// Probes that were asked for.
    asked: Vec<Probe>,
    /// For [`Probe::Encrypted`].
    set_transport: Option<SetTransport>,
    states: ProbeStates,
}

#[derive(Debug)]
struct Attached {
    program_id: u32,
    event: OwnedFd,
    /// Unreadable calls that were counted for this process id before the probe was attached. An
    /// earlier process may have had the same id.
    faults_before: u64,
}

impl Probes {
    /// Creates an empty set of probes with the program in the kernel, if there is one.
    #[must_use]
    pub fn new(program: Option<Result<OwnedFd, String>>, faults_of: FaultsOf) -> Self {
        let states = ProbeStates::default();
        states.with(|states| states.ended = program.is_none());
        Self {
            program,
            attached: BTreeMap::new(),
            loading: BTreeMap::new(),
            faults_of,
            asked: vec![Probe::Zone],
            set_transport: None,
            states,
        }
    }

    /// Sets the probes that were asked for; `set_transport`: for [`Probe::Encrypted`].
    #[must_use]
    pub fn asking(self, asked: &[Probe], set_transport: Option<SetTransport>) -> Self {
        Self {
            asked: asked.to_vec(),
            set_transport,
            ..self
        }
    }

    /// Returns whether probed servers make remarks about messages.
    #[must_use]
    pub fn make_remarks(&self) -> bool {
        self.asked.contains(&Probe::Zone)
    }

    /// Returns whether probes can be attached with the current privileges. Without a program it
    /// returns true.
    #[must_use]
    pub fn work(&self) -> bool {
        match &self.program {
            Some(Ok(program)) => check(program).is_ok(),
            _ => true,
        }
    }

    /// Returns the states of the probes. They change as the probes do.
    #[must_use]
    pub fn states(&self) -> ProbeStates {
        self.states.clone()
    }

    /// Returns the program ids of the probed processes.
    pub fn program_ids(&self) -> impl Iterator<Item = u32> + '_ {
        self.attached.values().map(|attached| attached.program_id)
    }

    /// Probes process `pid`, which runs `program_id`. Returns whether it is probed now. `is_new`:
    /// the process may not have loaded its libraries yet, and [`Self::again`] will try again.
    pub fn add(&mut self, pid: u32, program_id: u32, is_new: bool) -> bool {
        if self.program.is_none() || self.is_attached(pid, program_id) {
            return self.program.is_some();
        }
        self.take_out(pid);
        let reason = match self.try_add(pid, program_id) {
            Ok(()) => return true,
            Err(Missing::Library) if is_new => {
                self.loading
                    .entry(pid)
                    .or_insert((program_id, Instant::now()));
                self.states.set(self.off(pid, None));
                return false;
            }
            Err(missing) => missing.to_string(),
        };
        let state = self.off(pid, Some(reason));
        warn!(
            "{state}; it is tapped without. `--probe` is for BIND (`named`) that was built with dnstap"
        );
        self.states.set(state);
        false
    }

    /// Tries again to probe the processes that had not loaded their libraries. Returns the program
    /// ids of those that are probed now.
    pub fn again(&mut self) -> Vec<u32> {
        let mut added = Vec::new();
        for (pid, (program_id, since)) in self.loading.clone() {
            let is_new = since.elapsed() < LOADING;
            if self.add(pid, program_id, is_new) {
                added.push(program_id);
            }
            if !is_new {
                self.loading.remove(&pid);
            }
        }
        added
    }

    /// Removes the probe and the state of a process. Returns its program id if it was probed.
    pub fn remove(&mut self, pid: u32) -> Option<u32> {
        self.loading.remove(&pid);
        self.states.with(|states| drop(states.of.remove(&pid)));
        self.take_out(pid)
    }

    /// Removes the probe of a process, if it has one. Returns the program id.
    fn take_out(&mut self, pid: u32) -> Option<u32> {
        let gone = self.attached.remove(&pid)?;
        if let Some(SetTransport(set)) = &mut self.set_transport {
            // If it fails, the entry stays until another process has the id.
            let _kept = set(pid, None);
        }
        // The kernel takes about 0.1 s to remove a probe. A thread does it, so that nothing waits
        // for it. If no thread can be started, it is done here.
        let _removed = thread::Builder::new()
            .name("probe".to_owned())
            .spawn(move || drop(gone.event));
        Some(gone.program_id)
    }

    /// Removes all probes, because the tap ends. The states stay as they were.
    pub fn end(&mut self) {
        self.attached.clear();
        self.loading.clear();
        self.program = None;
        self.states.with(|states| states.ended = true);
    }

    /// Removes the probes of servers that have other structures than the probe expects. They are
    /// not attached again. Returns the program ids of these servers.
    pub fn judge(&mut self) -> Vec<u32> {
        let (calls, faults) = self.states.with(|states| (states.calls, states.faults));
        if faults <= FAULTS {
            return Vec::new();
        }
        let of = |(pid, attached): (&u32, &Attached)| {
            let faults = (self.faults_of.0)(*pid).saturating_sub(attached.faults_before);
            are_too_many(faults, calls).then_some((*pid, faults))
        };
        let shut: Vec<_> = self.attached.iter().filter_map(of).collect();
        let mut programs = Vec::new();
        for (pid, faults) in shut {
            programs.extend(self.take_out(pid));
            let reason = format!(
                "{faults} of its calls could not be read: this build has other structures than those of BIND 9.16 to 9.20"
            );
            let state = self.off(pid, Some(reason));
            warn!("{state}; it is tapped without from now on");
            self.states.set(state);
        }
        programs
    }

    fn is_attached(&self, pid: u32, program_id: u32) -> bool {
        let known = self.attached.get(&pid);
        known.is_some_and(|known| known.program_id == program_id)
    }

    fn try_add(&mut self, pid: u32, program_id: u32) -> Result<(), Missing> {
        let refused = |error: String| Missing::Other(anyhow::anyhow!(error));
        let program = match &self.program {
            Some(Ok(program)) => program,
            Some(Err(error)) => return Err(refused(error.clone())),
            None => return Err(refused("not asked for".to_owned())),
        };
        let function = library::find(pid, DNS_DT_SEND)?;
        let place = place::find(&function.code, true);
        let Function {
            path,
            library,
            offset,
            transports,
            ..
        } = function;
        let transport = match transports {
            Transports::Plain => None,
            Transports::Flag => Some(TRANSPORT_IS_BOOL),
            Transports::Number => Some(TRANSPORT_IS_NUMBER),
        };
        let mut limit = None;
        if let Some(SetTransport(set)) = &mut self.set_transport {
            if transport.is_none() {
                limit = Some(NOT_ENCRYPTED);
            }
            set(pid, transport).map_err(Missing::Other)?;
        }
        if limit.is_some() && !self.make_remarks() {
            return Err(refused(NO_TLS.to_owned()));
        }
        let at = offset.checked_add(place.offset);
        let at = at.ok_or_else(|| refused("the function is in no part of the file".to_owned()))?;
        let event = uprobe::attach(program.as_fd(), &path, at, pid);
        let event = event.map_err(|error| refused(remedy(&error)))?;
        let at = format!("{DNS_DT_SEND}+{} in {library}", place.offset);
        let state = ProbeState {
            probe: names(&self.asked),
            pid,
            attached: true,
            place: Some(at),
            single_stepped: !place.is_emulated,
            limit,
            reason: None,
        };
        if state.single_stepped {
            warn!("{state}: each message costs the server some ten microseconds");
        } else {
            info!("{state}");
        }
        self.states.set(state);
        self.loading.remove(&pid);
        self.attached.insert(
            pid,
            Attached {
                program_id,
                event,
                faults_before: (self.faults_of.0)(pid),
            },
        );
        Ok(())
    }
}

impl Probes {
    /// Returns the state of a process that is not probed.
    fn off(&self, pid: u32, reason: Option<String>) -> ProbeState {
        ProbeState {
            probe: names(&self.asked),
            pid,
            attached: false,
            place: None,
            single_stepped: false,
            limit: None,
            reason,
        }
    }
}

/// Describes why a probe cannot be attached, and what helps.
fn remedy(refusal: &Refusal) -> String {
    let error = match refusal {
        Refusal::Unit(error) if error.kind() == io::ErrorKind::NotFound => {
            return format!(
                "this kernel has no uprobes ({refusal}): one with CONFIG_UPROBE_EVENTS=y has"
            );
        }
        Refusal::Unit(_) => return refusal.to_string(),
        Refusal::Kernel(error) => error,
    };
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ESRCH) => {
            format!("the process has ended, or does not use the library any more ({error})")
        }
        Some(libc::EMFILE | libc::ENFILE) => format!(
            "{error}: each probed process takes one; raise the limit (`ulimit -n`, or LimitNOFILE= of a systemd unit)"
        ),
        _ if error.kind() == io::ErrorKind::PermissionDenied => format!(
            "the kernel refuses the probe ({error}): it takes CAP_SYS_ADMIN, or, on some kernels, CAP_PERFMON and CAP_CHECKPOINT_RESTORE; without --follow, the agent gives them up after attaching"
        ),
        _ => format!("the kernel refuses the probe ({error})"),
    }
}

/// Attaches a probe to this process and removes it again. Fails if the kernel or the privileges do
/// not allow it. `program`: the program of the probes.
pub fn check(program: &OwnedFd) -> anyhow::Result<()> {
    let (path, offset) = library::own_entry()?;
    uprobe::attach(program.as_fd(), &path, offset, std::process::id())
        .map(drop)
        .map_err(|error| anyhow::anyhow!(remedy(&error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_probed_without_being_asked_for() {
        let mut probes = Probes::new(None, FaultsOf::new(|_| 0));
        assert!(!probes.add(std::process::id(), 1, false));
        assert_eq!((probes.states().list(), probes.again()), (vec![], vec![]));
        assert!(probes.states().have_ended());
        let mut probes = Probes::new(Some(Err("none".to_owned())), FaultsOf::new(|_| 0));
        assert!(!probes.states().have_ended());
        probes.end();
        assert!(probes.states().have_ended());
        assert_eq!(remarks(&[], true), 0);
        assert_eq!(remarks(&[Probe::Encrypted], true), 0);
        assert_eq!(remarks(&[Probe::Zone], false) & SERVER_CLIENT_QUERY, 0);
        assert_ne!(remarks(&[Probe::Zone], true) & SERVER_CLIENT_QUERY, 0);
    }

    #[test]
    fn a_process_that_is_new_is_tried_again_and_one_that_is_not_is_told_why() {
        let Ok(program) = std::fs::File::open("/dev/null") else {
            panic!("there is none");
        };
        let mut probes = Probes::new(Some(Ok(program.into())), FaultsOf::new(|_| 0));
        let pid = std::process::id();
        assert!(!probes.add(pid, 1, true));
        let states = probes.states();
        assert_eq!(states.list()[0].reason, None, "it may come");
        assert_eq!(probes.again(), [0; 0]);
        assert!(!probes.add(pid, 1, false));
        let state = states.list().remove(0);
        assert!(
            state.to_string().contains("off, it has not loaded"),
            "{state}"
        );
        assert_eq!(probes.remove(pid), None);
        assert_eq!(states.list(), []);
    }

    #[test]
    fn a_program_that_the_kernel_refuses_is_the_reason() {
        let mut probes = Probes::new(Some(Err("no such thing".to_owned())), FaultsOf::new(|_| 0));
        assert!(!probes.add(std::process::id(), 1, false));
        let state = probes.states().list().remove(0);
        assert_eq!(state.reason.as_deref(), Some("no such thing"));
        probes.states().count(100, 100);
        assert_eq!(probes.judge(), [0; 0], "nothing was attached");
    }

    #[test]
    fn the_reason_of_a_refusal_says_what_helps() {
        let kernel = |code| remedy(&Refusal::Kernel(io::Error::from_raw_os_error(code)));
        for (reason, expected) in [
            (
                remedy(&Refusal::Unit(io::ErrorKind::NotFound.into())),
                "CONFIG_UPROBE_EVENTS=y",
            ),
            (kernel(libc::ENOENT), "the process has ended"),
            (kernel(libc::EMFILE), "ulimit -n"),
            (kernel(libc::EACCES), "CAP_SYS_ADMIN"),
            (kernel(libc::EINVAL), "the kernel refuses the probe"),
        ] {
            assert!(reason.contains(expected), "{reason}");
        }
        assert!(!kernel(libc::ENOENT).contains("CONFIG_"));
    }

    #[test]
    fn a_probe_is_given_up_when_more_than_one_call_of_a_thousand_is_unreadable() {
        assert!(!are_too_many(16, 16), "they may be the first");
        assert!(are_too_many(17, 17));
        assert!(!are_too_many(100, 100_000));
        assert!(are_too_many(101, 100_000));
        let Ok(event) = std::fs::File::open("/dev/null") else {
            panic!("there is none");
        };
        let other = event.try_clone().expect("a descriptor");
        let faults_of = FaultsOf::new(|pid| if pid == 1 { 20 } else { 3 });
        let mut probes = Probes::new(Some(Err("none".to_owned())), faults_of);
        for (pid, event) in [(1, event), (2, other)] {
            let attached = Attached {
                program_id: pid + 6,
                event: event.into(),
                faults_before: 3,
            };
            probes.attached.insert(pid, attached);
        }
        probes.states().count(1_000, 16);
        assert_eq!(probes.judge(), [0; 0]);
        probes.states().count(1_000, 23);
        assert_eq!(probes.judge(), [7], "one of the two");
        let state = probes.states().list().remove(0);
        assert!(
            state.to_string().contains("off, 17 of its calls"),
            "{state}"
        );
        assert_eq!(probes.judge(), [0; 0], "once");
        assert_eq!(probes.program_ids().collect::<Vec<_>>(), [8]);
    }
}

//! Probes: programs that run when a tapped server calls a certain function of its own. They report
//! facts about messages that no socket shows.
//!
//! A probe is attached to one process, near the start of an exported function: at an instruction
//! that the kernel can emulate, if there is one. The only change to the process is the breakpoint
//! that the kernel sets and later removes. A process that cannot be probed is tapped nevertheless.
//! The log says why once, and the status says it as long as it holds.

mod library;
mod place;
mod site;
mod uprobe;

use std::{
    collections::BTreeMap,
    fmt, io, mem,
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use dnstap_ebpf::{Function, NAMES_UNKNOWN, Probed};
use serde::Serialize;
use tracing::{info, warn};

pub use self::site::{Site, Wanted};
use self::{library::Missing, uprobe::Refusal};

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
    of: BTreeMap<(u32, Site), ProbeState>,
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

    fn set(&self, site: Site, state: ProbeState) {
        self.with(|states| drop(states.of.insert((state.pid, site), state)));
    }
}

/// Access to what the kernel side and the probes tell each other.
pub struct ProbeMaps {
    /// Returns how many calls of a function in a process could not be read.
    pub faults: Box<dyn Fn(u32, Site) -> u64>,
    /// Stores the facts about a process that its probes need; `None` removes them.
    pub tell: Box<dyn FnMut(u32, Option<Probed>) -> anyhow::Result<()>>,
}

impl fmt::Debug for ProbeMaps {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ProbeMaps")
    }
}

/// Programs of the probes by function. An error says why a program could not be loaded.
pub type Programs = BTreeMap<Site, Result<OwnedFd, String>>;

/// The probes of the tapped processes.
#[derive(Debug)]
pub struct Probes {
    /// Programs in the kernel; empty if nothing is to be probed.
    programs: Programs,
    /// Categories of the log that are wanted, as `LOG_*` bits.
    wanted: Wanted,
    attached: BTreeMap<u32, Process>,
    /// Processes that may not have loaded their libraries yet: program id, and time of the first
    /// attempt.
    loading: BTreeMap<u32, (u32, Instant)>,
    maps: ProbeMaps,
    states: ProbeStates,
}

/// Probes of one process.
#[derive(Debug)]
struct Process {
    program_id: u32,
    facts: Probed,
    sites: BTreeMap<Site, Attached>,
}

#[derive(Debug)]
struct Attached {
    event: OwnedFd,
    /// Unreadable calls that were counted for this process id before the probe was attached. An
    /// earlier process may have had the same id.
    faults_before: u64,
}

/// Limit of BIND 9.16, and the reason alone.
const NOT_ENCRYPTED: &str = "without encrypted messages: this BIND has neither TLS nor HTTPS";
const NO_TLS: &str = "this BIND has neither TLS nor HTTPS";

/// Reason for which the program of a probe cannot be used.
const NOT_ASKED: &str = "not asked for";

impl Probes {
    /// Creates an empty set of probes with the programs in the kernel, and what they are to report.
    #[must_use]
    pub fn new(programs: Programs, wanted: Wanted, maps: ProbeMaps) -> Self {
        let states = ProbeStates::default();
        states.with(|states| states.ended = programs.is_empty());
        Self {
            programs,
            wanted,
            attached: BTreeMap::new(),
            loading: BTreeMap::new(),
            maps,
            states,
        }
    }

    /// Returns whether probes can be attached with the current privileges. Without a program it
    /// returns true.
    #[must_use]
    pub fn work(&self) -> bool {
        let mut loaded = self.programs.values().flatten();
        loaded.next().is_none_or(|program| check(program).is_ok())
    }

    /// Returns the states of the probes. They change as the probes do.
    #[must_use]
    pub fn states(&self) -> ProbeStates {
        self.states.clone()
    }

    /// Returns whether probed servers make remarks about messages.
    #[must_use]
    pub const fn make_remarks(&self) -> bool {
        self.wanted.remarks != 0
    }

    /// Returns the program ids of the processes that say something about their messages.
    pub fn program_ids(&self) -> impl Iterator<Item = u32> + '_ {
        let remarking =
            |process: &&Process| self.make_remarks() && process.sites.contains_key(&Site::DtSend);
        self.attached
            .values()
            .filter(remarking)
            .map(|process| process.program_id)
    }

    /// Probes process `pid`, which runs `program_id`. Returns whether it says something about its messages from now on.
    /// `is_new`: the process may not have loaded its libraries yet, and [`Self::again`] will try again.
    pub fn add(&mut self, pid: u32, program_id: u32, is_new: bool) -> bool {
        if self.programs.is_empty() {
            return false;
        }
        let known = self.attached.get(&pid);
        if known.is_none_or(|known| known.program_id != program_id) {
            self.take_out(pid);
        }
        let mut process = self.attached.remove(&pid).unwrap_or_else(|| Process {
            program_id,
            facts: Probed {
                log_categories: self.wanted.log_categories,
                ..Probed::default()
            },
            sites: BTreeMap::new(),
        });
        let mut is_loading = false;
        let sites: Vec<Site> = self.programs.keys().copied().collect();
        for site in sites {
            if process.sites.contains_key(&site) {
                continue;
            }
            let reason = match self.attach(pid, site, &mut process) {
                Ok(()) => continue,
                Err(Missing::Library(_)) if is_new => {
                    is_loading = true;
                    self.states.set(site, self.wanted.off(site, pid, None));
                    continue;
                }
                Err(missing) => missing.to_string(),
            };
            let state = self.wanted.off(site, pid, Some(reason));
            warn!("{state}; {}", site.consequence());
            self.states.set(site, state);
        }
        if is_loading {
            self.loading
                .entry(pid)
                .or_insert((program_id, Instant::now()));
        } else {
            self.loading.remove(&pid);
        }
        let says = self.make_remarks() && process.sites.contains_key(&Site::DtSend);
        if process.sites.is_empty() {
            // An attempt that failed may have left facts.
            let _told = (self.maps.tell)(pid, None);
        } else {
            self.attached.insert(pid, process);
        }
        says
    }

    /// Tries again to probe the processes that had not loaded their libraries. Returns the program
    /// ids of those that say something about their messages now.
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

    /// Removes the probes and the states of a process. Returns its program id if it was probed.
    pub fn remove(&mut self, pid: u32) -> Option<u32> {
        self.loading.remove(&pid);
        self.states
            .with(|states| states.of.retain(|(known, _), _| *known != pid));
        self.take_out(pid)
    }

    /// Removes the probes of a process, if it has any. Returns the program id.
    fn take_out(&mut self, pid: u32) -> Option<u32> {
        let gone = self.attached.remove(&pid)?;
        // The probes that still run find no facts, and leave.
        let _told = (self.maps.tell)(pid, None);
        let events = gone.sites.into_values().map(|attached| attached.event);
        detach(events.collect());
        Some(gone.program_id)
    }

    /// Removes all probes, because the tap ends. The states stay as they were.
    pub fn end(&mut self) {
        let events = mem::take(&mut self.attached)
            .into_values()
            .flat_map(|process| {
                let sites = process.sites.into_values();
                sites.map(|attached| attached.event)
            });
        // The kernel takes about 0.1 s to remove each of them, so all are removed at once.
        thread::scope(|scope| {
            for event in events {
                let _removed = thread::Builder::new().spawn_scoped(scope, move || drop(event));
            }
        });
        self.loading.clear();
        self.programs.clear();
        self.states.with(|states| states.ended = true);
    }

    /// Removes the probes of functions that have other structures than the probe expects. They are
    /// not attached again. Returns the program ids of the servers that say nothing about their messages any more.
    pub fn judge(&mut self) -> Vec<u32> {
        let (calls, faults) = self.states.with(|states| (states.calls, states.faults));
        if faults <= FAULTS {
            return Vec::new();
        }
        let mut programs = Vec::new();
        for (&pid, process) in &mut self.attached {
            let shut: Vec<(Site, u64)> = process
                .sites
                .iter()
                .filter_map(|(site, attached)| {
                    let faults =
                        (self.maps.faults)(pid, *site).saturating_sub(attached.faults_before);
                    are_too_many(faults, calls).then_some((*site, faults))
                })
                .collect();
            for (site, faults) in shut {
                if let Some(gone) = process.sites.remove(&site) {
                    detach(vec![gone.event]);
                }
                if site == Site::DtSend {
                    programs.push(process.program_id);
                }
                let reason = format!(
                    "{faults} of its calls could not be read: this build has other structures than those of BIND 9.16 to 9.20"
                );
                let state = self.wanted.off(site, pid, Some(reason));
                warn!("{state}; {}", site.consequence());
                self.states.set(site, state);
            }
        }
        programs
    }

    fn attach(&mut self, pid: u32, site: Site, process: &mut Process) -> Result<(), Missing> {
        let refused = |error: String| Missing::Other(anyhow::anyhow!(error));
        let function = library::find(pid, site.wanted())?;
        let place = place::find(&function.code, site.has_stack_arguments());
        if site == Site::Notice(Function::LogWrite) {
            process.facts.log_stack = place.grown;
        }
        if function.names != NAMES_UNKNOWN {
            process.facts.names = function.names;
        } else if site.needs_names() {
            return Err(refused(
                "its names have another layout than BIND's".to_owned(),
            ));
        }
        let mut limit = None;
        if site == Site::DtSend && self.wanted.encrypted {
            process.facts.transport = function.transport;
            limit = (function.transport == 0).then_some(NOT_ENCRYPTED);
            if limit.is_some() && !self.make_remarks() {
                return Err(refused(NO_TLS.to_owned()));
            }
        }
        if matches!(site, Site::Notice(_)) || self.wanted.encrypted {
            (self.maps.tell)(pid, Some(process.facts)).map_err(Missing::Other)?;
        }
        let program = match self.programs.get(&site) {
            Some(Ok(program)) => program,
            Some(Err(error)) => return Err(refused(error.clone())),
            None => return Err(refused(NOT_ASKED.to_owned())),
        };
        let at = function.offset.checked_add(place.offset);
        let at = at.ok_or_else(|| refused("the function is in no part of the file".to_owned()))?;
        let event = uprobe::attach(program.as_fd(), &function.path, at, pid);
        let event = event.map_err(|error| refused(remedy(&error)))?;
        let at = format!("{}+{} in {}", function.name, place.offset, function.library);
        let state = ProbeState {
            probe: self.wanted.name(site),
            pid,
            attached: true,
            place: Some(at),
            single_stepped: !place.is_emulated,
            limit,
            reason: None,
        };
        if state.single_stepped {
            warn!("{state}: each call costs the server some ten microseconds");
        } else {
            info!("{state}");
        }
        self.states.set(site, state);
        let attached = Attached {
            event,
            faults_before: (self.maps.faults)(pid, site),
        };
        process.sites.insert(site, attached);
        Ok(())
    }
}

/// Removes probes. The kernel takes about 0.1 s for each. A thread does it, so that nothing waits
/// for it. If no thread can be started, it is done here.
fn detach(events: Vec<OwnedFd>) {
    let _removed = thread::Builder::new()
        .name("probe".to_owned())
        .spawn(move || drop(events));
}

impl Wanted {
    /// Returns the name of a function's probe in the log and in the status.
    fn name(&self, site: Site) -> &'static str {
        match (site, self.remarks != 0, self.encrypted) {
            (Site::Notice(function), ..) => function.name(),
            (Site::DtSend, true, true) => "zone,encrypted",
            (Site::DtSend, false, true) => Probe::Encrypted.name(),
            (Site::DtSend, _, false) => Probe::Zone.name(),
        }
    }

    /// Returns the state of a process that is not probed.
    fn off(&self, site: Site, pid: u32, reason: Option<String>) -> ProbeState {
        ProbeState {
            probe: self.name(site),
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
            "{error}: each probe takes one; raise the limit (`ulimit -n`, or LimitNOFILE= of a systemd unit)"
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
    use dnstap_core::events::EventKinds;

    use super::*;

    fn maps(faults: impl Fn(u32, Site) -> u64 + 'static) -> ProbeMaps {
        ProbeMaps {
            faults: Box::new(faults),
            tell: Box::new(|_, _| Ok(())),
        }
    }

    fn probes(programs: Programs) -> Probes {
        Probes::new(programs, of_zones(), maps(|_, _| 0))
    }

    fn of_zones() -> Wanted {
        Wanted::of(&[Probe::Zone], false, EventKinds::default())
    }

    fn of_zone(program: Result<OwnedFd, String>) -> Programs {
        Programs::from([(Site::DtSend, program)])
    }

    fn descriptor() -> OwnedFd {
        std::fs::File::open("/dev/null")
            .expect("there is one")
            .into()
    }

    #[test]
    fn nothing_is_probed_without_being_asked_for() {
        let mut none = probes(Programs::new());
        assert!(!none.add(std::process::id(), 1, false));
        assert_eq!((none.states().list(), none.again()), (vec![], vec![]));
        assert!(none.states().have_ended());
        let mut some = probes(of_zone(Err("none".to_owned())));
        assert!(!some.states().have_ended());
        some.end();
        assert!(some.states().have_ended());
    }

    #[test]
    fn a_process_that_is_new_is_tried_again_and_one_that_is_not_is_told_why() {
        let log = Site::Notice(Function::LogWrite);
        let mut probes = probes(Programs::from([
            (Site::DtSend, Ok(descriptor())),
            (log, Ok(descriptor())),
        ]));
        let pid = std::process::id();
        assert!(!probes.add(pid, 1, true));
        let states = probes.states();
        let reasons: Vec<_> = states
            .list()
            .into_iter()
            .map(|state| state.reason)
            .collect();
        assert_eq!(reasons, [None, None], "they may come");
        assert_eq!(probes.again(), [0; 0]);
        assert!(!probes.add(pid, 1, false));
        let states_now = states.list();
        for (state, library) in states_now.iter().zip(["libdns", "libisc"]) {
            let expected = format!("off, it has not loaded BIND's {library}");
            assert!(state.to_string().contains(&expected), "{state}");
        }
        assert_eq!(probes.remove(pid), None);
        assert_eq!(states.list(), []);
    }

    #[test]
    fn a_probe_is_given_up_when_more_than_one_call_of_a_thousand_is_unreadable() {
        assert!(!are_too_many(16, 16), "they may be the first");
        assert!(are_too_many(17, 17));
        assert!(!are_too_many(100, 100_000));
        assert!(are_too_many(101, 100_000));
        let log = Site::Notice(Function::LogWrite);
        let faults_of = move |pid, site| {
            if (pid, site) == (1, Site::DtSend) {
                20
            } else {
                3
            }
        };
        let mut probes = Probes::new(of_zone(Err("none".to_owned())), of_zones(), maps(faults_of));
        for pid in [1, 2] {
            let attached = || Attached {
                event: descriptor(),
                faults_before: 3,
            };
            let process = Process {
                program_id: pid + 6,
                facts: Probed::default(),
                sites: BTreeMap::from([(Site::DtSend, attached()), (log, attached())]),
            };
            probes.attached.insert(pid, process);
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
        assert_eq!(
            probes.attached[&1].sites.len(),
            1,
            "the other function stays probed"
        );
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
}

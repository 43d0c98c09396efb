//! `dnstap-agent attach`: check, attach, give up privileges, open the outputs, run until something
//! ends it, drain, and print the account.
//!
//! ```text
//! main thread: signals, end of the process, --duration ─── stop ──►
//! reader thread: ring ─► pipeline ─► outputs' queues               ─► detach, drain, finish
//! ```

mod buffers;
mod config;
mod members;
mod outputs;
mod reader;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use dnstap_core::pipeline::{Batch, Pipeline, PipelineConfig, Server};
use tokio::{
    sync::oneshot,
    time::{MissedTickBehavior, interval, sleep},
};
use tracing::{info, warn};

use crate::{
    cli::{self, Attach, Filters, Messages, Tapping},
    commands::{
        attach::{
            config::{find_ended_server, find_server, kernel_filter, pipeline_config},
            members::Members,
            outputs::Outputs,
            reader::{Drained, FindServer, Reader},
        },
        reload::Reloading,
        report,
    },
    config::Origin,
    host::{
        exit::{Exit, ExitWith},
        preflight,
        sandbox::{self, NeededPrivileges},
        shutdown::{self, Shutdown},
    },
    observe::{
        self, Newest, Observe, Observer, Publisher,
        summary::{Snapshot, conclude},
    },
    sinks::{OutputSpec, SinkOptions},
    sources::{
        probes::{self, Probes},
        processes::{Found, OpenSocket, Search, Selection, describe_listeners, open_sockets},
        socket::{HookChoice, Tap, TapOptions, perf_rings},
    },
};

/// Interval at which the set of tapped processes is checked if processes may join by a cgroup.
const LOOK_FOR_JOINED: Duration = Duration::from_millis(100);

/// Interval of the same check if no cgroup is tapped. The kernel adds new processes itself.
const LOOK: Duration = Duration::from_millis(400);

/// Processes that may be probed later with `--follow`. Descriptors are kept free for them.
const PROBED_LATER: usize = 64;

/// Messages that may wait for the reader, which takes them each time that it reads the ring.
const JOINED: usize = 64;

/// Settings of a tap.
pub(crate) struct Job<'a> {
    pub(crate) origin: &'a Origin,
    pub(crate) target: &'a cli::Target,
    pub(crate) tapping: &'a Tapping,
    pub(crate) messages: &'a Messages,
    pub(crate) events: &'a cli::Events,
    pub(crate) observe: &'a Observe,
    /// The dnstap identity; the host's name if `None`.
    pub(crate) identity: Option<&'a str>,
    /// Time that a message may wait in the ring.
    pub(crate) interval: Duration,
    /// Options of the outputs' queues.
    pub(crate) queues: SinkOptions,
    pub(crate) duration: Option<Duration>,
    /// Whether files are opened after the outputs.
    pub(crate) paths: bool,
    /// Whether the options can change when they are read again.
    pub(crate) reloadable: bool,
}

impl Job<'_> {
    /// Returns the outputs that do not take messages. They stay as they are for the whole run.
    fn fixed_outputs(&self) -> Vec<OutputSpec> {
        let notices = self.messages.unanswered_events.as_slice();
        [notices, &self.events.outputs()].concat()
    }

    /// Returns whether the kernel side must not leave out a role: later servers are not known, and
    /// events are about exchanges of both roles.
    fn wants_all_roles(&self) -> bool {
        self.target.follow || !self.events.kinds().is_empty()
    }
}

/// Runs `attach`. The summary goes to standard error.
pub(super) fn run(options: &Attach, origin: &Origin) -> Result<Exit> {
    options.place.take()?;
    let job = Job {
        origin,
        target: &options.target,
        tapping: &options.tapping,
        messages: &options.messages,
        events: &options.events,
        observe: &options.observe,
        identity: options.identity.as_deref(),
        interval: options.interval,
        queues: SinkOptions {
            queue_bytes: options.queue_size,
        },
        duration: options.duration,
        paths: options.summary_json.is_some() || options.configuration.config.is_some(),
        reloadable: options.configuration.config.is_some(),
    };
    let summary = tap(&job, &options.outputs, |_, _| Ok(std::future::pending()))?;
    conclude(&summary, options.summary_json.as_deref())
}

/// Taps until the job's end, or until the future from `begin` returns a reason to end. Returns the
/// final account. `begin` is called on a runtime as soon as the tap is attached, with a description
/// of the tapped processes and the counters.
pub(crate) fn tap<E: Future<Output = String>>(
    job: &Job<'_>,
    outputs: &[OutputSpec],
    begin: impl FnOnce(&str, Newest) -> Result<E>,
) -> Result<Snapshot> {
    preflight::check_privileges(job.tapping.hook == HookChoice::Socket)?;
    preflight::check_pid_namespace()?;
    check_descriptors(job, outputs, 0)?;
    let selection = job.target.selection();
    let mut search = Search::new(selection.clone())?;
    let found = search.find_first()?;
    check_descriptors(job, outputs, probes_of(job, found.len()))?;
    if !job.tapping.allow_no_sockets && !selection.follow {
        check_sockets(&selection, &found)?;
    }
    let processes = describe_processes(&found);
    let subject = if found.is_empty() {
        format!("waits for {}", selection.describe())
    } else {
        format!("taps {processes}")
    };
    let observer = Observer::bind(job.observe, selection.label(&found), subject.clone())?;
    let mut config = pipeline_config(job)?;
    // This reads the servers' executables, which may take a while, so it is done before the hooks
    // fill the ring.
    let servers = known_servers(&found, |pid| find_server(job.messages, pid));
    let options = tap_options(job, &servers.values());
    let (mut tap, set, runs) = Tap::attach(&options)?;
    report_hooks(&tap);
    let (joined, theirs) = mpsc::sync_channel(JOINED);
    let probes = Probes::new(
        tap.take_probes(),
        options.probes.clone(),
        tap.take_probe_maps()?,
    );
    let probe_states = probes.states();
    let mut members = Members::start(set, search, probes, joined)?;
    let started = Instant::now();
    let (hook, ring) = (tap.hook().name(), tap.ring_name());
    // Listed only after attaching. Otherwise a connection opened between this listing and attaching
    // would seem to be seen from its start.
    let sockets: Vec<OpenSocket> = members
        .pids()
        .flat_map(|pid| open_sockets(pid).unwrap_or_default())
        .collect();
    config.existing_sockets = sockets.iter().map(|socket| socket.inode).collect();
    let privileges = give_up_privileges(job, outputs, &tap, &members)?;
    let (outputs, reloading) = Outputs::open(job, outputs, privileges)?;
    let pipeline = new_pipeline(config, servers, &members);

    let stop = Arc::new(AtomicBool::new(false));
    let (publisher, newest) = Publisher::new();
    let messages = job.messages.clone();
    let find_server: FindServer = Box::new(move |origin| {
        let ended = || Some(find_ended_server(&messages, &runs.name(origin.program_id)?));
        find_server(&messages, origin.tgid).or_else(ended)
    });
    let reader = Reader::new(
        (tap, probe_states),
        pipeline,
        outputs,
        Arc::clone(&stop),
        publisher,
        job.interval,
        (find_server, theirs, job.wants_all_roles()),
    );
    let (reader, reader_over) = start(reader)?;
    let (what, listeners) = if found.is_empty() {
        (
            format!("and waiting for {}", selection.describe()),
            "nothing yet".to_owned(),
        )
    } else {
        (format!("to {processes}"), describe_listeners(&sockets))
    };
    let attached = format!("attached {what}, hook {hook}, ring {ring}; listening on {listeners}");
    let watched = (observer, newest);
    let reason = wait_for_end(
        &mut members,
        job.duration,
        reader_over,
        &reloading,
        watched,
        &attached,
        |newest| begin(&subject, newest),
    )?;
    info!("detaching: {reason}");
    observe::stopping(&reason);
    let deadline = shutdown::deadline();
    stop.store(true, Ordering::Release);
    // The reader detaches the hooks at the same time. It waits for the end of the probes before it
    // reads the ring for the last time.
    members.unprobe();
    let drained = reader
        .join()
        .map_err(|_payload| anyhow!("the ring's reader panicked"))??;

    let elapsed = started.elapsed();
    let mut summary = Snapshot {
        elapsed,
        at_rest: true,
        source: Arc::new(drained.tapped),
        outputs: drained.outputs.health().sinks,
    };
    let facts = report::live(&subject, job.origin, &Filters::NAMES, &summary.losses());
    drained.outputs.tell(&facts);
    summary.outputs = drained.outputs.finish(deadline);
    reloading.stop(deadline);
    Ok(summary)
}

fn tap_options<'s>(
    job: &Job<'_>,
    servers: &(impl Iterator<Item = &'s Server> + Clone),
) -> TapOptions {
    TapOptions {
        hook: job.tapping.hook,
        ring: job.tapping.ring,
        ring_bytes: job.tapping.ring_size,
        kernel_log: job.tapping.kernel_log,
        filter: kernel_filter(&job.messages.filters, job.wants_all_roles(), servers),
        filter_changes: job.reloadable,
        probes: wanted_probes(job),
    }
}

/// Returns the functions of servers that the options need.
fn wanted_probes(job: &Job<'_>) -> probes::Wanted {
    let names_queries = job.messages.mimic.is_some();
    probes::Wanted::of(&job.tapping.probes, names_queries, job.events.kinds())
}

/// Returns the number of probes in `found` processes, and in those that may come later.
fn probes_of(job: &Job<'_>, found: usize) -> usize {
    let later = if job.target.follow { PROBED_LATER } else { 0 };
    (found + later) * wanted_probes(job).sites.len()
}

/// Logs which hooks cannot be used, and what those in use do not see.
fn report_hooks(tap: &Tap) {
    for (hook, reason) in tap.refused() {
        info!("the kernel refused hook {}: {reason}", hook.name());
    }
    for missing in tap.degraded() {
        warn!("{missing}");
    }
}

/// Fails if there are too few descriptors for the whole run. `probes`: number of probes, each of which takes one.
fn check_descriptors(job: &Job<'_>, outputs: &[OutputSpec], probes: usize) -> Result<()> {
    let all = outputs.len() + job.fixed_outputs().len();
    preflight::check_descriptors(all, perf_rings(job.tapping.ring)?, probes)
}

/// Starts the reader's thread. The receiver gets the reason if the thread ends by itself.
fn start(reader: Reader) -> Result<(JoinHandle<Result<Drained>>, oneshot::Receiver<&'static str>)> {
    let (over, reader_over) = oneshot::channel();
    let thread = thread::Builder::new()
        .name("ring-reader".into())
        .spawn(move || {
            let done = reader.run();
            let reason = match &done {
                Ok(_) => "no output is left to write to",
                Err(_) => "the ring's reader has failed",
            };
            // The receiver is gone if the main thread has asked for the end.
            let _unheard = over.send(reason);
            done
        })
        .context("the system gives no thread for the ring's reader")?;
    Ok((thread, reader_over))
}

/// Returns the facts about the running servers, by program id.
fn known_servers(
    found: &[Found],
    find_server: impl Fn(u32) -> Option<Server>,
) -> BTreeMap<u32, Server> {
    let mut servers = BTreeMap::new();
    for process in found {
        if let Entry::Vacant(server) = servers.entry(process.program_id)
            && let Some(known) = find_server(process.target.pid)
        {
            server.insert(known);
        }
    }
    servers
}

/// Creates a pipeline with the servers that are running, and the knowledge which of them are
/// probed.
fn new_pipeline(
    config: PipelineConfig,
    servers: BTreeMap<u32, Server>,
    members: &Members,
) -> Pipeline {
    let mut pipeline = Pipeline::new(config);
    for (program_id, server) in servers {
        pipeline.register_server(program_id, server);
    }
    for program_id in members.probed() {
        pipeline.probe(program_id, true, &mut Batch::default());
    }
    pipeline
}

/// Gives up privileges that the rest of the run does not need. Returns those that are kept; `None`:
/// all.
fn give_up_privileges(
    job: &Job<'_>,
    outputs: &[OutputSpec],
    tap: &Tap,
    members: &Members,
) -> Result<Option<NeededPrivileges>> {
    if job.tapping.no_sandbox {
        return Ok(None);
    }
    let mut privileges = OutputSpec::privileges(&[outputs, &job.fixed_outputs()].concat());
    privileges.paths |= job.paths;
    privileges.processes = job.target.follow;
    privileges.probes = job.target.follow && !wanted_probes(job).sites.is_empty();
    sandbox::enter(
        privileges,
        || tap.counters().is_ok(),
        || members.can_probe(),
    )?;
    Ok(Some(privileges))
}

/// Fails if no process has a socket that can be tapped.
fn check_sockets(selection: &Selection, found: &[Found]) -> Result<()> {
    for process in found {
        match process.target.sockets() {
            Ok(sockets) if !sockets.is_empty() => return Ok(()),
            Ok(_) => {}
            // A worker that has ended since it was found says nothing about the others.
            Err(_) if process.target.has_ended()? => {}
            Err(error) => return Err(error),
        }
    }
    Err(anyhow!(
        "name the DNS server's process (`ss -ltunp` shows who listens), or use --allow-no-sockets"
    ))
    .context(ExitWith(
        Exit::NoTarget,
        format!(
            "process {} has no IPv4 or IPv6 sockets",
            selection.describe()
        ),
    ))
}

/// Describes processes: `named (pid 12), nsd (pids 20, 21, 22)`.
fn describe_processes(found: &[Found]) -> String {
    let mut pids: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for process in found {
        let executable = pids.entry(&process.executable).or_default();
        executable.push(process.target.pid.to_string());
    }
    let parts: Vec<_> = pids
        .iter()
        .map(|(executable, pids)| {
            let plural = if pids.len() == 1 { "" } else { "s" };
            format!("{executable} (pid{plural} {})", pids.join(", "))
        })
        .collect();
    parts.join(", ")
}

/// Reports that the tap is `attached` as soon as it can be ended in an orderly way. Then waits for
/// the end and returns the reason.
fn wait_for_end<E: Future<Output = String>>(
    members: &mut Members,
    duration: Option<Duration>,
    reader: oneshot::Receiver<&'static str>,
    reloading: &Reloading,
    (observer, newest): (Observer, Newest),
    attached: &str,
    begin: impl FnOnce(Newest) -> Result<E>,
) -> Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut shutdown = Shutdown::listen()?;
        let hangups = reloading.on_hangup()?;
        let _watching = observer.serve(&newest)?;
        let counted = newest.clone();
        info!("{attached}");
        let enough = begin(newest)?;
        let timer = async {
            match duration {
                Some(duration) => sleep(duration).await,
                None => std::future::pending().await,
            }
        };
        let ended = async {
            let mut ticks = interval(if members.has_units() {
                LOOK_FOR_JOINED
            } else {
                LOOK
            });
            // After a slow check, missed ticks are not made up for.
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while !members.are_over() {
                ticks.tick().await;
                members.look(unfollowed(&counted));
            }
        };
        Ok(tokio::select! {
            signal = shutdown.asked() => signal.to_owned(),
            () = ended => "all that was tapped has ended".to_owned(),
            never = hangups => match never {},
            reason = enough => reason,
            () = timer => "the time given by --duration is over".to_owned(),
            // The channel closes without a reason if the reader panics.
            reason = reader => reason.unwrap_or("the ring's reader is gone").to_owned(),
        })
    })
}

/// Returns the number of processes that found no room in the set, as the reader last counted them.
fn unfollowed(newest: &Newest) -> u64 {
    let counted = newest.borrow();
    counted
        .as_ref()
        .map_or(0, |counted| counted.now.source.unfollowed())
}

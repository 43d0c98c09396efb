//! `receive`: accepts dnstap from any sender over sockets and writes it to the same outputs as a
//! tap does.
//!
//! It runs on one thread. Frames from a connection (`Senders`) are handed to the outputs at once,
//! which drop and count what they cannot accept. With `--wait` they are handed on only when all
//! outputs have room, so the sender waits (or drops and counts messages itself).
//!
//! This equation holds: `received = malformed + sent to each output`. Each output accounts for
//! `sent`.

use std::{cell::RefCell, pin::pin, rc::Rc, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use tokio::{
    task::LocalSet,
    time::{Instant, interval},
};
use tracing::info;

use crate::{
    cli::{Connections, Receive},
    commands::{
        reload::{self, Inbox, Reloading, Start},
        report,
    },
    config::Origin,
    host::{
        exit::{Exit, ExitWith},
        memory::MemoryTrimmer,
        net::Address,
        sandbox::{self, NeededPrivileges},
        shutdown::{self, Shutdown},
    },
    observe::{
        self, Newest, Observe, Observer, Publisher,
        summary::{Snapshot, conclude},
    },
    sinks::{Batch, OutputSpec, SinkOptions, SinkReport, SinkSet},
    sources::{
        Item, Source as _,
        dnstap::{self, Bound, HasRoom, Limits, Received, Senders},
    },
};

/// Interval at which the outputs are checked.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// Settings of receiving and of observation.
pub(crate) struct Job<'a> {
    pub(crate) origin: &'a Origin,
    pub(crate) listen: &'a [Address],
    pub(crate) connections: &'a Connections,
    pub(crate) observe: &'a Observe,
    pub(crate) no_sandbox: bool,
    /// Whether files are opened later than the outputs.
    pub(crate) paths: bool,
}

/// Runs `receive` until SIGINT, SIGTERM, or until no output is left. The summary goes to standard
/// error.
pub(super) fn run(args: &Receive, origin: &Origin) -> Result<Exit> {
    let job = Job {
        origin,
        listen: &args.listen,
        connections: &args.connections,
        observe: &args.observe,
        no_sandbox: args.no_sandbox,
        paths: args.configuration.config.is_some() || args.summary_json.is_some(),
    };
    let summary = take(&job, &args.outputs, |_, _| Ok(std::future::pending()))?;
    conclude(&summary, args.summary_json.as_deref())
}

/// Receives until a signal, or until the future from `begin` returns a reason to end. Returns the
/// final account. `begin` is called on a runtime as soon as connections are accepted, with a
/// description of the sockets and the counters.
pub(crate) fn take<E: Future<Output = String>>(
    job: &Job<'_>,
    outputs: &[OutputSpec],
    begin: impl FnOnce(&str, Newest) -> Result<E>,
) -> Result<Snapshot> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the system gives no descriptor to wait on")?;
    LocalSet::new().block_on(&runtime, serve(job, outputs, begin))
}

async fn serve<E: Future<Output = String>>(
    job: &Job<'_>,
    outputs: &[OutputSpec],
    begin: impl FnOnce(&str, Newest) -> Result<E>,
) -> Result<Snapshot> {
    // Listen to signals before creating anything that must be cleaned up.
    let mut shutdown = Shutdown::listen()?;
    let bound = dnstap::bind(job.listen, job.connections.socket_mode)
        .map_err(|problems| anyhow!(ExitWith(Exit::NoInput, problems)))?;
    let subject = subject(&bound);
    let observer = Observer::bind(job.observe, "receive", subject.clone())?;
    let privileges = give_up_privileges(job, outputs)?;
    let (sinks, mut inbox, reloading) = open_outputs(job, outputs, privileges)?;
    let mut hangups = Box::pin(reloading.on_hangup()?);
    let sinks = Rc::new(RefCell::new(sinks));
    let mut senders = accept(job.connections, bound, &sinks);
    let mut hand_over = |item: Item<'_>| match item {
        Item::Frames(frames) => {
            let mut sinks = sinks.borrow_mut();
            let mut batch = Batch::new(frames.bytes, frames.count);
            if sinks.wants_views() {
                batch = batch.with_views();
            }
            sinks.send(&batch);
        }
        _ => unreachable!("senders have frames only"),
    };
    let started = Instant::now();
    let (publisher, newest) = Publisher::new();
    let watching = observer.serve(&newest)?;
    let mut enough = pin!(begin(&subject, newest)?);
    let mut look = interval(HOUSEKEEPING);
    let mut trimmer = MemoryTrimmer::default();
    let reason = loop {
        tokio::select! {
            signal = shutdown.asked() => break signal.to_owned(),
            never = &mut hangups => match never {},
            reason = &mut enough => break reason,
            () = inbox.due() => {}
            _ = look.tick() => {
                let health = sinks.borrow().health();
                if health.all_over() {
                    break "no output is left to write to".to_owned();
                }
                trimmer.look(SinkReport::queued_in(&health.sinks));
                publisher.publish(Snapshot {
                    elapsed: started.elapsed(),
                    at_rest: false,
                    source: Arc::new(senders.received()),
                    outputs: health.sinks,
                });
            }
            ready = senders.ready() => ready?,
        }
        // Checked in every round: while messages keep coming, the timer branch might never run.
        drop(inbox.apply(&mut sinks.borrow_mut()));
        // Checked in every round, because an output that has ended does not notify.
        senders.drain(false, &mut hand_over);
    };
    info!("ending: {reason}");
    observe::stopping(&reason);
    let deadline = shutdown::deadline();
    drop(watching);
    senders.stop();
    senders.finish(&mut hand_over).await?;
    inbox.close(&mut sinks.borrow_mut());
    drop(hangups);
    let received = senders.received();
    drop(senders);
    let sinks = Rc::into_inner(sinks).context("the outputs are still in use")?;
    let elapsed = started.elapsed();
    let summary = conclusion(
        job,
        &subject,
        elapsed,
        received,
        sinks.into_inner(),
        deadline,
    );
    reloading.stop(deadline);
    Ok(summary)
}

/// Starts to accept connections.
fn accept(connections: &Connections, bound: Vec<Bound>, sinks: &Rc<RefCell<SinkSet>>) -> Senders {
    let limits = Limits {
        connections: connections.max_connections as usize,
        frame: connections.frames.over_sockets(),
        idle: connections.idle_timeout,
    };
    let room = sinks.borrow().room();
    let has_room: HasRoom = if connections.wait {
        let sinks = Rc::clone(sinks);
        Box::new(move |frames| {
            let sinks = sinks.borrow();
            let with_views = sinks.wants_views();
            sinks.has_room(Batch::size_of(frames.bytes.len(), frames.count, with_views))
        })
    } else {
        Box::new(|_frames| true)
    };
    Senders::accept(bound, limits, has_room, room)
}

/// Passes the losses so far to pages, and ends all outputs.
fn conclusion(
    job: &Job<'_>,
    subject: &str,
    elapsed: Duration,
    received: Received,
    sinks: SinkSet,
    deadline: std::time::Instant,
) -> Snapshot {
    let mut summary = Snapshot {
        elapsed,
        at_rest: true,
        source: Arc::new(received),
        outputs: sinks.health().sinks,
    };
    sinks.tell(&report::live(
        subject,
        job.origin,
        &[report::LIMIT],
        &summary.losses(),
    ));
    summary.outputs = sinks.finish(deadline);
    summary
}

/// Describes the sockets in words.
fn subject(bound: &[Bound]) -> String {
    let names: Vec<_> = bound.iter().map(|socket| socket.name.as_str()).collect();
    format!("listens on {}", names.join(", "))
}

/// Opens the outputs, with their reloader and the inbox for its changes.
fn open_outputs(
    job: &Job<'_>,
    outputs: &[OutputSpec],
    privileges: Option<NeededPrivileges>,
) -> Result<(SinkSet, Inbox, Reloading)> {
    let options = SinkOptions {
        queue_bytes: job.connections.queue_size,
    };
    let sinks = SinkSet::open(outputs, options)
        .map_err(|error| anyhow!(ExitWith(Exit::CannotCreate, error.to_string())))?;
    let start = Start {
        origin: job.origin,
        outputs,
        fixed: &[],
        options,
        privileges,
    };
    let (reloader, inbox) = reload::reloader(&start, &sinks);
    let reloading = reloader
        .start()
        .context("the system gives no thread for reloading")?;
    Ok((sinks, inbox, reloading))
}

/// Gives up privileges that are not needed once all sockets are bound. Returns those that are kept;
/// `None`: all.
fn give_up_privileges(job: &Job<'_>, outputs: &[OutputSpec]) -> Result<Option<NeededPrivileges>> {
    if job.no_sandbox {
        return Ok(None);
    }
    // Socket files are removed at the end.
    let file = |address: &Address| matches!(address, Address::Unix(_));
    let mut privileges = OutputSpec::privileges(outputs);
    privileges.paths |= job.paths || job.listen.iter().any(file);
    sandbox::enter(privileges, || true)?;
    Ok(Some(privileges))
}

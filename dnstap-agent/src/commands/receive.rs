//! `receive`: takes dnstap from any sender over sockets and writes it to the same outputs as a tap does.
//!
//! ```text
//! listener ─► connection: handshake, whole frames, checked ─┐
//! listener ─► connection                                    ├─► SinkSet ─► outputs
//!             ...  (at most --max-connections)             ─┘
//! ```
//!
//! One thread; each connection is a task that owns at most one unfinished frame and one piece read. What it has read it hands to the
//! outputs at once, which drop and count what they cannot take, or with `--wait` reads on only when all outputs have
//! room, so that the sender waits (or drops, and counts, itself).
//!
//! The law: `received = malformed + sent to each output`, where `sent` is accounted for by the output.

mod bind;
mod connection;

use std::{pin::pin, rc::Rc, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use tokio::{
    sync::{mpsc, watch},
    task::{JoinSet, LocalSet},
    time::{Instant, interval},
};
use tracing::{info, warn};

use self::{bind::Bound, connection::Hub};
use crate::cli::Connections;
use crate::cli::Receive;
use crate::{
    commands::{
        reload::{self, Inbox, Reloading, Start},
        report,
    },
    config::Origin,
    host::{
        exit::{Exit, ExitWith},
        memory::Ebb,
        net::{Address, Arrival, Listener},
        sandbox::{self, Duties},
        shutdown::{self, Shutdown},
    },
    observe::{
        self, Newest, Observe, Observer, Publisher,
        summary::{Snapshot, Source, conclude},
    },
    sinks::{OutputSpec, SinkOptions, SinkReport, SinkSet},
};

/// How long connections may take to hand over what has arrived when the end has come.
const DRAIN: Duration = Duration::from_secs(2);

/// How often the outputs are looked at.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// What is received, and who watches.
pub(crate) struct Job<'a> {
    pub(crate) origin: &'a Origin,
    pub(crate) listen: &'a [Address],
    pub(crate) connections: &'a Connections,
    pub(crate) observe: &'a Observe,
    pub(crate) no_sandbox: bool,
    /// Files are opened later than the outputs.
    pub(crate) paths: bool,
}

/// Runs `receive` until SIGINT, SIGTERM, or no output is left. The summary goes to standard error.
pub fn run(args: &Receive, origin: &Origin) -> Result<Exit> {
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

/// Receives until a signal, or the end of the future that `begin` gives, which says why; gives the final account. `begin` is
/// called as soon as connections are taken, on a runtime, with what is listened on and the counters.
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
    // Before anything that a signal should not leave behind.
    let mut shutdown = Shutdown::listen()?;
    let bound = bind::all(job.listen, job.connections.socket_mode)
        .map_err(|problems| anyhow!(ExitWith(Exit::NoInput, problems)))?;
    let subject = subject(&bound);
    let observer = Observer::bind(job.observe, "receive", subject.clone())?;
    let duties = give_up_privileges(job, outputs)?;
    let (sinks, mut inbox, reloading) = open_outputs(job, outputs, duties)?;
    let mut hangups = Box::pin(reloading.on_hangup()?);
    let hub = Rc::new(Hub::new(sinks, job.connections));
    let started = Instant::now();
    for socket in &bound {
        info!("listening on {}", socket.name);
    }

    let (stop, stopped) = watch::channel(None);
    let (arrive, mut arrived) = mpsc::channel(1);
    let mut listeners = JoinSet::new();
    let mut files = Vec::new();
    for Bound {
        name,
        listener,
        file,
    } in bound
    {
        files.push(file);
        listeners.spawn_local(accept(name, listener, arrive.clone()));
    }

    let (publisher, newest) = Publisher::new();
    let watching = observer.serve(&newest)?;
    let mut enough = pin!(begin(&subject, newest)?);
    let mut connections = JoinSet::new();
    let mut look = interval(HOUSEKEEPING);
    let mut ebb = Ebb::default();
    let mut number = 0_u64;
    let reason = loop {
        tokio::select! {
            signal = shutdown.asked() => break signal.to_owned(),
            never = &mut hangups => match never {},
            reason = &mut enough => break reason,
            () = inbox.due() => drop(inbox.apply(&mut hub.sinks.borrow_mut())),
            _ = look.tick() => {
                let health = hub.sinks.borrow().health();
                if health.all_over() {
                    break "no output is left to write to".to_owned();
                }
                ebb.look(SinkReport::queued_in(&health.sinks));
                publisher.publish(Snapshot {
                    elapsed: started.elapsed(),
                    at_rest: false,
                    source: Source::Received(*hub.received.borrow()),
                    outputs: health.sinks,
                });
            }
            Some(ended) = connections.join_next() => check(ended)?,
            Some((arrival, peer)) = arrived.recv() => {
                number += 1;
                if connections.len() >= job.connections.max_connections as usize {
                    hub.count(|received| received.refused += 1);
                    warn!(peer, "closed at once: there are --max-connections {} already", job.connections.max_connections);
                    continue;
                }
                let hub = Rc::clone(&hub);
                connections.spawn_local(connection::take(number, arrival, peer, hub, stopped.clone()));
            }
        }
    };
    info!("ending: {reason}");
    observe::stopping(&reason);
    let deadline = shutdown::deadline();
    drop(watching);
    listeners.shutdown().await;
    drop(files); // the sockets' files: nobody can come any more
    while let Ok((arrival, peer)) = arrived.try_recv() {
        let hub = Rc::clone(&hub);
        connections.spawn_local(connection::take(
            number + 1,
            arrival,
            peer,
            hub,
            stopped.clone(),
        ));
    }
    stop.send_replace(Some(deadline.min(Instant::now().into_std() + DRAIN).into()));
    while let Some(ended) = connections.join_next().await {
        check(ended)?;
    }
    inbox.close(&mut hub.sinks.borrow_mut());
    drop(hangups);
    let hub = Rc::into_inner(hub).context("a connection outlived its task")?;
    let summary = conclusion(job, &subject, started.elapsed(), hub, deadline);
    reloading.stop(deadline);
    Ok(summary)
}

/// Tells pages what was lost up to here, and lets all outputs end.
fn conclusion(
    job: &Job<'_>,
    subject: &str,
    elapsed: Duration,
    hub: Hub,
    deadline: std::time::Instant,
) -> Snapshot {
    let sinks = hub.sinks.into_inner();
    let mut summary = Snapshot {
        elapsed,
        at_rest: true,
        source: Source::Received(hub.received.into_inner()),
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

/// What is listened on, in words.
fn subject(bound: &[Bound]) -> String {
    let names: Vec<_> = bound.iter().map(|socket| socket.name.as_str()).collect();
    format!("listens on {}", names.join(", "))
}

/// Opens the outputs; with them come what changes them and where the changes arrive.
fn open_outputs(
    job: &Job<'_>,
    outputs: &[OutputSpec],
    duties: Option<Duties>,
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
        duties,
    };
    let (reloader, inbox) = reload::reloader(&start, &sinks);
    let reloading = reloader
        .start()
        .context("the system gives no thread for reloading")?;
    Ok((sinks, inbox, reloading))
}

/// Gives up what is not needed once all sockets are listened on, and tells what that is; `None`: everything is kept.
fn give_up_privileges(job: &Job<'_>, outputs: &[OutputSpec]) -> Result<Option<Duties>> {
    if job.no_sandbox {
        return Ok(None);
    }
    // Files of sockets are removed at the end.
    let file = |address: &Address| matches!(address, Address::Unix(_));
    let mut duties = OutputSpec::duties(outputs);
    duties.paths |= job.paths || job.listen.iter().any(file);
    sandbox::enter(duties, || true)?;
    Ok(Some(duties))
}

/// Hands on each connection that comes, until nobody takes them any more.
async fn accept(name: String, listener: Listener, arrive: mpsc::Sender<(Arrival, String)>) {
    loop {
        match listener.accept().await {
            Ok(connection) => {
                if arrive.send(connection).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                // Most likely no descriptors are left; one that is closed elsewhere makes room.
                warn!(socket = name, %error, "cannot take a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// A panic in a task is one of the whole.
fn check(ended: Result<(), tokio::task::JoinError>) -> Result<()> {
    ended.context("a connection's task failed")
}

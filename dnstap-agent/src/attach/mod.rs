//! `dnstap-agent attach`: check, attach, give up privileges, open the outputs, run until something ends it, drain, account.
//!
//! ```text
//! main thread: signals, end of the process, --duration ─── stop ──►
//! reader thread: ring ─► pipeline ─► outputs' queues               ─► detach, drain, finish
//! ```

mod buffers;
mod config;
mod reader;

use std::{
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use tokio::{
    io::unix::AsyncFd,
    signal::unix::{SignalKind, signal},
    sync::oneshot,
    time::sleep,
};
use tracing::{info, warn};

use crate::{
    attach::{
        config::{kernel_filter, pipeline_config},
        reader::Reader,
    },
    cli::Attach,
    exit::{Exit, ExitWith},
    observe::{self, Newest, Observer, Publisher},
    pipeline::Pipeline,
    preflight, sandbox,
    sink::{OutputSpec, Reopener, SinkOptions, SinkSet},
    summary::{Snapshot, Source, conclude},
    tap::{Tap, TapOptions, hook_name},
    target::{Target, describe_listeners},
};

/// How long the outputs may take to write what is queued when the tap ends.
const GRACE: Duration = Duration::from_secs(10);

/// Runs `attach`. The summary goes to standard error.
pub fn run(options: &Attach) -> Result<Exit> {
    preflight::check_privileges()?;
    let target = Target::open(options.pid)?;
    target.check_word_size()?;
    let sockets = target.sockets()?;
    if sockets.is_empty() && !options.allow_no_sockets {
        return Err(anyhow!("name the DNS server's process (`ss -ltunp` shows who listens), or use --allow-no-sockets"))
            .context(ExitWith(
                Exit::NoTarget,
                format!("process {} ({}) has no IPv4 or IPv6 sockets", target.pid, target.name),
            ));
    }
    let subject = format!("taps {} (pid {})", target.name, target.pid);
    let observer = Observer::bind(&options.observe, &target.name, subject)?;
    // Looks into the server's executable, which may take a while: before the hooks fill the ring.
    let mut config = pipeline_config(options, &target, &sockets)?;
    let mut tap = Tap::attach(&TapOptions {
        hook: options.hook,
        ring: options.ring,
        ring_bytes: options.ring_size,
        kernel_log: options.kernel_log,
        filter: kernel_filter(&options.messages, &config),
    })?;
    for (hook, reason) in tap.refused() {
        info!("the kernel refused hook {}: {reason}", hook_name(*hook));
    }
    for missing in tap.degraded() {
        warn!("{missing}");
    }
    tap.add_target(target.pid)?;
    let started = Instant::now();
    let (hook, ring) = (hook_name(tap.hook()), tap.ring_name());
    // Only now: a connection that came between this look and the hooks would be taken for a new one, seen from its start.
    let sockets = target.sockets()?;
    config.existing_sockets = sockets.iter().map(|socket| socket.inode).collect();
    let mut outputs = options.outputs.clone();
    outputs.extend(options.messages.unanswered_events.clone());
    if !options.no_sandbox {
        let mut duties = OutputSpec::duties(&outputs);
        duties.paths |= options.summary_json.is_some();
        sandbox::enter(duties, || tap.counters().is_ok())?;
    }
    let mut sinks = SinkSet::open(&outputs, SinkOptions::default())
        .map_err(|error| anyhow!(ExitWith(Exit::CannotCreate, error.to_string())))?;
    let reopener = sinks.reopener();
    let events = options
        .messages
        .unanswered_events
        .is_some()
        .then(|| sinks.split_last());
    let pipeline = Pipeline::new(config);

    let stop = Arc::new(AtomicBool::new(false));
    let (publisher, newest) = Publisher::new();
    let (over, reader_over) = oneshot::channel();
    let reader = Reader::new(
        tap,
        pipeline,
        sinks,
        events,
        Arc::clone(&stop),
        publisher,
        Duration::from_millis(options.interval.into()),
    );
    let reader = thread::Builder::new()
        .name("ring-reader".into())
        .spawn(move || {
            let done = reader.run();
            // Nobody listens if the main thread has asked for the end.
            let _unheard = over.send(());
            done
        })
        .context("the system gives no thread for the ring's reader")?;
    let attached = format!(
        "attached to {} (pid {}), hook {hook}, ring {ring}; it listens on {}",
        target.name,
        target.pid,
        describe_listeners(&sockets)
    );
    let watched = (observer, newest);
    let reason = wait_for_end(
        &target,
        options.duration,
        reader_over,
        reopener,
        watched,
        &attached,
    )?;
    info!("detaching: {reason}");
    observe::stopping(&reason);
    stop.store(true, Ordering::Release);
    let mut drained = reader
        .join()
        .map_err(|_payload| anyhow!("the ring's reader panicked"))??;

    let elapsed = started.elapsed();
    let outputs = drained.sinks.finish(GRACE);
    drained.tapped.events = drained.events.and_then(|events| events.finish(GRACE).pop());
    let summary = Snapshot {
        elapsed,
        at_rest: true,
        source: Source::Tap(Box::new(drained.tapped)),
        outputs,
    };
    conclude(&summary, options.summary_json.as_deref())
}

/// Says that the tap is `attached` as soon as it can be ended in order; waits until it is to end, and says why.
fn wait_for_end(
    target: &Target,
    duration: Option<Duration>,
    reader: oneshot::Receiver<()>,
    reopener: Reopener,
    (observer, newest): (Observer, Newest),
    attached: &str,
) -> Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let reopening = reopener.on_hangup()?;
        // SAFETY: the descriptor is the `AsyncFd`'s own and stays open until that is dropped.
        let process = unsafe { AsyncFd::register(target.as_fd().try_clone_to_owned()?) }?;
        let _watching = observer.serve(&newest)?;
        info!("{attached}");
        let timer = async {
            match duration {
                Some(duration) => sleep(duration).await,
                None => std::future::pending().await,
            }
        };
        Ok(tokio::select! {
            _ = interrupt.recv() => "interrupted (SIGINT)".to_owned(),
            _ = terminate.recv() => "terminated (SIGTERM)".to_owned(),
            ended = process.readable() => {
                let _ready = ended?;
                format!("process {} ({}) has ended", target.pid, target.name)
            }
            never = reopening => match never {},
            () = timer => "the time given by --duration is over".to_owned(),
            _ = reader => "no output is left to write to".to_owned(),
        })
    })
}

//! The reaction to SIGHUP: renamed files are reopened, and the configuration is read again.
//! Settings that can change without detaching are changed, and no message is lost by that.
//!
//! ```text
//! main: SIGHUP ─► reloader (a thread): reopen, read, compare, open what is new
//!                     │ Change                           ▲ all that was taken out is gone
//!                     ▼                                  │
//!                 Inbox (the owner of the outputs): between two batches
//! ```
//!
//! If there is one mistake, in the file or in opening an output, nothing changes. New outputs are
//! open before any message is handed to them, and removed outputs write everything that they have
//! got. A second signal waits until the first one has been handled; further signals count as one.

use std::{
    convert::Infallible,
    io,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError, SyncSender},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Notify, mpsc as channel},
};
use tracing::{error, info, warn};

use crate::{
    cli::{Command, Filters},
    config::{Origin, Refused, Resolved},
    host::{sandbox::NeededPrivileges, shutdown::GRACE},
    observe,
    sinks::{OutputSpec, Reopener, SinkOptions, SinkSet},
};

/// Interval at which to look whether removed outputs have ended.
const PARTING: Duration = Duration::from_millis(20);

/// Name of the option that, like those in [`Filters::NAMES`], changes without detaching.
const OUTPUT: &str = "output";

/// Changes to make.
#[derive(Debug)]
struct Change {
    added: SinkSet,
    removed: Vec<OutputSpec>,
    /// Filters from now on; `None`: no change.
    filters: Option<Filters>,
    /// Dropped when all removed outputs have ended and the filters are in force.
    gone: mpsc::Sender<Infallible>,
}

/// Receives changes for the owner of the outputs.
#[derive(Debug)]
pub(super) struct Inbox {
    changes: channel::Receiver<Change>,
    /// A change that was received while waiting.
    next: Option<Change>,
    parting: Option<mpsc::Sender<Infallible>>,
}

impl Inbox {
    /// Makes the changes that have arrived. Returns new filters, if there are any; the caller must
    /// put them into force before the next call. Call this between two batches, at least every
    /// second. Never blocks.
    pub(super) fn apply(&mut self, sinks: &mut SinkSet) -> Option<Filters> {
        if self.parting.is_some() && sinks.are_parted() {
            self.parting = None;
        }
        let mut filters = None;
        while let Some(change) = self.next.take().or_else(|| self.changes.try_recv().ok()) {
            sinks.part(&change.removed, GRACE);
            sinks.join(change.added);
            filters = change.filters.or(filters);
            self.parting = Some(change.gone);
        }
        filters
    }

    /// Waits until [`Self::apply`] has something to do. Dropping the future loses nothing.
    pub(super) async fn due(&mut self) {
        if self.parting.is_some() {
            tokio::time::sleep(PARTING).await;
        } else if self.next.is_none() {
            match self.changes.recv().await {
                Some(change) => self.next = Some(change),
                None => std::future::pending().await,
            }
        }
    }

    /// Accepts no more changes, and makes those that have arrived.
    pub(super) fn close(&mut self, sinks: &mut SinkSet) {
        self.changes.close();
        // No message comes any more, so filters do not matter.
        let _filters = self.apply(sinks);
        self.parting = None;
    }
}

/// Reads the configuration again on request.
#[derive(Debug)]
pub(super) struct Reloader {
    origin: Origin,
    outputs: Vec<OutputSpec>,
    /// Outputs that cannot change.
    fixed: Vec<OutputSpec>,
    options: SinkOptions,
    /// Privileges that new outputs may need; `None`: any.
    privileges: Option<NeededPrivileges>,
    room: Arc<Notify>,
    reopener: Reopener,
    changes: channel::Sender<Change>,
}

/// A running reloader.
#[derive(Debug)]
pub(super) struct Reloading {
    wake: SyncSender<()>,
    /// Closes when the thread ends; nothing is ever sent.
    ended: mpsc::Receiver<Infallible>,
}

/// Arguments of [`reloader`].
#[derive(Debug)]
pub(super) struct Start<'a> {
    /// Origin of the options.
    pub origin: &'a Origin,
    /// Outputs that may be added and removed: those of `sinks`.
    pub outputs: &'a [OutputSpec],
    /// Other outputs, whose places must not be shared.
    pub fixed: &'a [OutputSpec],
    /// Options of every output.
    pub options: SinkOptions,
    /// Privileges that new outputs may need; `None`: any.
    pub privileges: Option<NeededPrivileges>,
}

/// Creates a reloader for the outputs of `sinks`, and the inbox for its changes.
#[must_use]
pub(super) fn reloader(start: &Start<'_>, sinks: &SinkSet) -> (Reloader, Inbox) {
    let (changes, arriving) = channel::channel(1);
    let reloader = Reloader {
        origin: start.origin.clone(),
        outputs: start.outputs.to_vec(),
        fixed: start.fixed.to_vec(),
        options: start.options,
        privileges: start.privileges,
        room: sinks.room(),
        reopener: sinks.reopener(),
        changes,
    };
    let inbox = Inbox {
        changes: arriving,
        next: None,
        parting: None,
    };
    (reloader, inbox)
}

/// Time that an idle reloader may take to end.
const IDLE: Duration = Duration::from_millis(100);

impl Reloading {
    /// Reloads at each SIGHUP from now on; never ends. Fails if the system accepts no handler.
    pub(super) fn on_hangup(&self) -> io::Result<impl Future<Output = Infallible> + use<>> {
        let mut hangup = signal(SignalKind::hangup())?;
        let wake = self.wake.clone();
        Ok(async move {
            while hangup.recv().await.is_some() {
                // If the channel is full, a reload that has not begun yet covers this signal, too.
                let _one_is_left = wake.try_send(());
            }
            std::future::pending().await
        })
    }

    /// Ends when the current reload is done, or at `deadline`. Call this when the owner of the
    /// outputs accepts no more changes.
    pub(super) fn stop(self, deadline: Instant) {
        drop(self.wake);
        let left = deadline.saturating_duration_since(Instant::now()).max(IDLE);
        // The reload may be waiting for the reader of a named pipe.
        if self.ended.recv_timeout(left) == Err(RecvTimeoutError::Timeout) {
            warn!("a new output is still not open; it is given up");
        }
    }
}

impl Reloader {
    /// Starts to wait for signals. Fails if the system creates no thread.
    pub(super) fn start(mut self) -> io::Result<Reloading> {
        let (wake, woken) = mpsc::sync_channel(1);
        let (alive, ended) = mpsc::channel();
        thread::Builder::new()
            .name("reloader".to_owned())
            .spawn(move || {
                let _alive = alive;
                while let Ok(()) = woken.recv() {
                    observe::reloading();
                    self.reopener.reopen();
                    if let Err(mistakes) = self.reload() {
                        for mistake in mistakes {
                            error!("{mistake}");
                        }
                        error!("not reloaded: everything stays as it was");
                    }
                    observe::reloaded();
                }
            })?;
        Ok(Reloading { wake, ended })
    }

    /// Puts the current options into force, or returns all mistakes in them.
    fn reload(&mut self) -> Result<(), Vec<String>> {
        let Resolved { cli, origin, .. } =
            self.origin.again().map_err(|refused| match refused {
                Refused::Asked(_) => Vec::new(),
                Refused::Mistakes(mistakes) => mistakes.iter().map(ToString::to_string).collect(),
            })?;
        let (outputs, filters) = match cli.command {
            Command::Attach(options) => (options.outputs, Some(options.messages.filters)),
            Command::Receive(options) => (options.outputs, None),
            _ => return Ok(()),
        };
        let differing: Vec<_> = self.origin.differing(&origin).collect();
        let is_filter = |name: &&str| filters.is_some() && Filters::NAMES.contains(name);
        let (live, fixed): (Vec<_>, Vec<_>) = differing
            .into_iter()
            .partition(|name| *name == OUTPUT || is_filter(name));
        let filtered = live.iter().any(is_filter);
        let only_in = |one: &[OutputSpec], other: &[OutputSpec]| -> Vec<_> {
            let mut specs = one.to_vec();
            specs.retain(|spec| !other.contains(spec));
            specs
        };
        let added = only_in(&outputs, &self.outputs);
        let removed = only_in(&self.outputs, &outputs);
        let mistakes = self.mistakes(&added);
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        for name in fixed {
            warn!("--{name} has changed; it needs a restart to take effect");
        }
        if !live.is_empty() {
            info!(
                added = names(&added),
                removed = names(&removed),
                filters = filtered,
                "the configuration has changed"
            );
            self.change(&added, removed, filters.filter(|_| filtered))?;
        }
        let live: Vec<_> = live.into_iter().map(str::to_owned).collect();
        let live: Vec<_> = live.iter().map(String::as_str).collect();
        self.origin.adopt(&origin, &live);
        self.outputs = outputs;
        Ok(())
    }

    /// Returns why outputs cannot be added, as far as this is known without opening them.
    fn mistakes(&self, added: &[OutputSpec]) -> Vec<String> {
        let mut mistakes = Vec::new();
        for spec in added {
            let name = spec.to_string();
            let mut open = self.outputs.iter().chain(&self.fixed);
            if open.any(|open| open.shares_place(spec)) {
                mistakes.push(format!(
                    "cannot change output {name} while it is open: it needs a restart, or another place"
                ));
            }
            let needed = OutputSpec::privileges(std::slice::from_ref(spec));
            if self.privileges.is_some_and(|kept| !kept.cover(needed)) {
                mistakes.push(format!(
                    "cannot open output {name} with privileges that were given up at the start: it needs a restart"
                ));
            }
        }
        mistakes
    }

    /// Opens new outputs, has the change made, and waits until removed outputs have ended.
    fn change(
        &self,
        added: &[OutputSpec],
        removed: Vec<OutputSpec>,
        filters: Option<Filters>,
    ) -> Result<(), Vec<String>> {
        let added = SinkSet::open_with(added, self.options, &self.room).map_err(|error| {
            error
                .to_string()
                .lines()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })?;
        let (gone, waiting) = mpsc::channel();
        let change = Change {
            added,
            removed,
            filters,
            gone,
        };
        match self.changes.blocking_send(change) {
            // `recv` returns an error when the sender is dropped, because nothing is ever sent.
            Ok(()) => drop(waiting.recv()),
            Err(channel::error::SendError(change)) => {
                drop(change.added.finish(Instant::now() + GRACE));
            }
        }
        Ok(())
    }
}

fn names(specs: &[OutputSpec]) -> String {
    let names: Vec<_> = specs.iter().map(ToString::to_string).collect();
    names.join(" ")
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsString, fs, path::Path};

    use super::*;
    use crate::{
        config,
        sinks::{Batch, SinkReport, SinkState},
    };

    #[test]
    fn outputs_come_and_go_and_every_message_is_accounted_for() {
        let mut lab = Lab::new(&["kept", "goes"]);
        lab.send(3);
        lab.reload(&["kept", "comes"]).expect("changed");
        lab.send(4);
        let reports = lab.finish();
        let told: Vec<_> = reports
            .iter()
            .map(|report| (report.written, report.absent, &report.state))
            .collect();
        let end = &SinkState::Finished;
        assert_eq!(told, [(7, 0, end), (4, 3, end), (3, 4, end)]);
    }

    #[test]
    fn an_output_that_comes_back_goes_on_with_its_account() {
        let mut lab = Lab::new(&["kept", "flickers"]);
        for _ in 0..10 {
            lab.send(1);
            lab.reload(&["kept"]).expect("changed");
            lab.send(2);
            lab.reload(&["kept", "flickers"]).expect("changed");
            lab.send(4);
        }
        let reports = lab.finish();
        assert_eq!(reports.len(), 2, "{reports:?}");
        let flickers = &reports[1];
        assert_eq!((flickers.sent, flickers.absent), (50, 20), "{flickers:?}");
        assert!(flickers.is_balanced(), "{flickers:?}");
    }

    #[test]
    fn with_any_mistake_everything_stays_as_it_was() {
        let mut lab = Lab::new(&["kept", "old"]);
        let broken = lab.reload_text("[attach]\npid = 1\nring-size = 'x'\noutptu = []\n");
        let mistakes = broken.expect_err("two mistakes");
        assert_eq!(mistakes.len(), 2, "{mistakes:?}");
        assert!(mistakes[0].contains(".toml:3:"), "{mistakes:?}");
        for (outputs, told) in [
            (&["kept", "no/such"][..], "does not exist"),
            (&["kept", "old,rotate-size=1M"], "needs a restart"),
            (&["kept", "new,rotate-time=1h,exec=true"], "privileges"),
            (&["new", "fixed"], "needs a restart"),
        ] {
            let mistakes = lab.reload(outputs).expect_err("a mistake");
            assert!(
                mistakes.iter().any(|one| one.contains(told)),
                "{mistakes:?}"
            );
        }
        lab.send(1);
        assert!(!lab.path("new").exists(), "nothing was opened");
        let reports = lab.finish();
        let written: Vec<_> = reports.iter().map(|report| report.written).collect();
        assert_eq!(written, [1, 1]);
    }

    #[test]
    fn what_needs_a_restart_is_said_again_until_it_comes() {
        let mut lab = Lab::new(&["kept"]);
        for _ in 0..2 {
            let text = lab.text(&["kept", "new"]) + "ring-size = '1M'\n";
            lab.reload_text(&text).expect("changed");
            let now = lab.reloader.origin.again().expect("valid").origin;
            let differing: Vec<_> = lab.reloader.origin.differing(&now).collect();
            assert_eq!(differing, ["ring-size"]);
        }
    }

    #[test]
    fn a_change_that_comes_too_late_keeps_nobody_waiting() {
        let mut lab = Lab::new(&["kept"]);
        let Lab {
            folder,
            reloader,
            owner,
            ..
        } = &mut lab;
        let (mut sinks, mut inbox) = owner.take().expect("there");
        inbox.close(&mut sinks);
        let path = folder.path().join("late");
        let late = format!("file:{}", path.display()).parse().expect("valid");
        reloader.change(&[late], Vec::new(), None).expect("opened");
        assert_eq!(
            sinks.finish(Instant::now() + Duration::from_mins(1)).len(),
            1
        );
    }

    /// A reloader with its folder and outputs.
    struct Lab {
        folder: tempfile::TempDir,
        reloader: Reloader,
        owner: Option<(SinkSet, Inbox)>,
    }

    impl Lab {
        fn new(outputs: &[&str]) -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let specs: Vec<OutputSpec> = specs(folder.path(), outputs);
            let path = folder.path().join("agent.toml");
            fs::write(&path, text(folder.path(), outputs)).expect("written");
            let line = [
                "dnstap-agent".into(),
                "attach".into(),
                "--config".into(),
                path.into(),
            ];
            let origin = config::resolve(&line.map(|word: OsString| word))
                .expect("valid")
                .origin;
            let sinks = SinkSet::open(&specs, SinkOptions::default()).expect("opened");
            let start = Start {
                origin: &origin,
                outputs: &specs,
                fixed: &self::specs(folder.path(), &["fixed"]),
                options: SinkOptions::default(),
                privileges: Some(NeededPrivileges {
                    paths: true,
                    ..NeededPrivileges::default()
                }),
            };
            let (reloader, inbox) = reloader(&start, &sinks);
            Self {
                folder,
                reloader,
                owner: Some((sinks, inbox)),
            }
        }

        fn path(&self, name: &str) -> std::path::PathBuf {
            self.folder.path().join(name)
        }

        fn text(&self, outputs: &[&str]) -> String {
            text(self.folder.path(), outputs)
        }

        fn reload(&mut self, outputs: &[&str]) -> Result<(), Vec<String>> {
            self.reload_text(&self.text(outputs))
        }

        /// Reloads while the owner of the outputs reads its inbox.
        fn reload_text(&mut self, text: &str) -> Result<(), Vec<String>> {
            fs::write(self.path("agent.toml"), text).expect("written");
            let (mut sinks, mut inbox) = self.owner.take().expect("there");
            let reloader = &mut self.reloader;
            let done = thread::scope(|scope| {
                let reload = scope.spawn(move || reloader.reload());
                while !reload.is_finished() {
                    inbox.apply(&mut sinks);
                    thread::yield_now();
                }
                reload.join().expect("no panic")
            });
            self.owner = Some((sinks, inbox));
            done
        }

        fn send(&mut self, messages: u64) {
            let (sinks, _) = self.owner.as_mut().expect("there");
            for _ in 0..messages {
                sinks.send(&Batch::new(vec![0, 0, 0, 1, 7], 1));
            }
        }

        fn finish(self) -> Vec<SinkReport> {
            let (sinks, _) = self.owner.expect("there");
            sinks.finish(Instant::now() + Duration::from_mins(1))
        }
    }

    fn specs(folder: &Path, outputs: &[&str]) -> Vec<OutputSpec> {
        let spec = |name: &&str| format!("file:{}/{name}", folder.display()).parse();
        outputs
            .iter()
            .map(spec)
            .collect::<Result<_, _>>()
            .expect("valid")
    }

    fn text(folder: &Path, outputs: &[&str]) -> String {
        let outputs: Vec<_> = outputs
            .iter()
            .map(|name| format!("'file:{}/{name}'", folder.display()))
            .collect();
        format!("[attach]\npid = 1\noutput = [{}]\n", outputs.join(", "))
    }
}

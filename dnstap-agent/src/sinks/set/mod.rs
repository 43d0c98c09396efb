//! All outputs of a command. They are opened together, may be added and removed while messages
//! pass, and end together.

mod open;
mod output;

use std::{
    iter,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

pub use self::open::OpenError;
use self::output::{ActiveOutput, ClosedOutput, ClosingOutput};
use super::{
    batch::Batch,
    forms::OutputSpec,
    queue::sink_thread::SinkThread,
    report::{Health, SinkReport, Takes},
    sink::About,
};
use crate::report::Facts;

/// Options of every sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SinkOptions {
    /// Bytes that may wait for each sink before messages are dropped: those of frames, and some
    /// more for each batch.
    pub queue_bytes: usize,
}

impl Default for SinkOptions {
    /// Returns a queue of 64 MiB, which holds some seconds of a busy server.
    fn default() -> Self {
        Self {
            queue_bytes: 64 << 20,
        }
    }
}

/// All outputs of one tap. They can change while messages pass: see [`Self::join`] and
/// [`Self::part`].
#[derive(Debug)]
pub struct SinkSet {
    outputs: Vec<ActiveOutput>,
    closing: Vec<ClosingOutput>,
    closed: Vec<ClosedOutput>,
    /// Messages handed to the set.
    handed: u64,
    room: Arc<Notify>,
    reopener: Reopener,
    /// One entry for the pages of each [`Self::open`].
    about: Vec<About>,
}

/// Makes outputs reopen files that were renamed or removed; usable from any thread.
#[derive(Debug, Clone, Default)]
pub struct Reopener(Arc<Mutex<Vec<Arc<Notify>>>>);

impl Reopener {
    /// Notifies all files of the set. Never blocks.
    pub fn reopen(&self) {
        for sink_thread in self.sink_threads().iter() {
            sink_thread.notify_one();
        }
    }

    fn sink_threads(&self) -> MutexGuard<'_, Vec<Arc<Notify>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SinkSet {
    /// Opens all outputs, or returns everything that is wrong with them.
    ///
    /// Once all outputs are open, existing regular files are overwritten, or moved aside by outputs
    /// that rotate. Standard output and each path can be named only once. Opening a named pipe
    /// waits until a program reads from it.
    pub fn open(specs: &[OutputSpec], options: SinkOptions) -> Result<Self, OpenError> {
        Self::open_with(specs, options, &Arc::default())
    }

    /// Opens outputs that will [`join`](Self::join) the set with this [`room`](Self::room).
    pub fn open_with(
        specs: &[OutputSpec],
        options: SinkOptions,
        room: &Arc<Notify>,
    ) -> Result<Self, OpenError> {
        Self::open_all(&[(specs, Takes::Messages)], options, room)
    }

    /// Opens outputs of several kinds of content, like [`Self::open`].
    pub fn open_groups(
        groups: &[(&[OutputSpec], Takes)],
        options: SinkOptions,
    ) -> Result<Self, OpenError> {
        Self::open_all(groups, options, &Arc::default())
    }

    fn open_all(
        groups: &[(&[OutputSpec], Takes)],
        options: SinkOptions,
        room: &Arc<Notify>,
    ) -> Result<Self, OpenError> {
        let about = About::default();
        let each = groups
            .iter()
            .flat_map(|(specs, takes)| specs.iter().zip(iter::repeat(*takes)));
        let specs: Vec<_> = each.clone().collect();
        let opened = open::open_all(&specs, &about)?;
        let mut outputs = Vec::new();
        for ((spec, takes), (work, account)) in each.zip(opened) {
            let queue = (options.queue_bytes, spec.0.policy(), Arc::clone(room));
            let sink_thread = SinkThread::start(spec.to_string(), work, queue, account);
            let sink_thread = sink_thread.map_err(|error| {
                let problem = format!("the system gives no thread for it: {error}");
                OpenError(vec![OpenError::line(spec, &problem)])
            })?;
            outputs.push(ActiveOutput::new(spec.clone(), takes, sink_thread));
        }
        let set = Self {
            outputs,
            closing: Vec::new(),
            closed: Vec::new(),
            handed: 0,
            room: Arc::clone(room),
            reopener: Reopener::default(),
            about: vec![about],
        };
        set.list_files();
        Ok(set)
    }

    /// Adds outputs that were opened for this set; they get all messages from now on. An earlier
    /// output of the same name passes its account on.
    pub fn join(&mut self, newcomers: Self) {
        for mut output in newcomers.outputs {
            let name = output.report().output;
            let before = self.closed.iter().position(|closed| closed.name() == name);
            let before = before.map(|place| self.closed.remove(place));
            output.come(self.handed, before);
            self.outputs.push(output);
        }
        self.about.extend(newcomers.about);
        self.list_files();
    }

    /// Stores the facts that pages show in their heads when they end.
    pub(crate) fn tell(&self, facts: &Facts) {
        for about in &self.about {
            about.tell(facts.clone());
        }
    }

    /// Removes these outputs. They get no more messages, and have `grace` to write what is queued.
    /// Their accounts stay. Never blocks; [`Self::are_parted`] returns true when they are closed.
    pub fn part(&mut self, specs: &[OutputSpec], grace: Duration) {
        let handed = self.handed;
        let closing = self
            .outputs
            .extract_if(.., |output| specs.contains(&output.spec))
            .map(|output| output.leave(handed, grace));
        self.closing.extend(closing);
        self.list_files();
    }

    /// Returns whether all removed outputs are closed. Never blocks.
    pub fn are_parted(&mut self) -> bool {
        let closed = self.closing.extract_if(.., |closing| closing.is_over());
        let now = Instant::now();
        self.closed
            .extend(closed.map(|closing| closing.finish(now)));
        self.closing.is_empty()
    }

    /// Hands the batch to every sink of messages. Never blocks; a sink that cannot accept it counts
    /// it as dropped.
    pub fn send(&mut self, batch: &Batch) {
        self.handed += batch.messages;
        self.send_to(Takes::Messages, batch);
    }

    /// Hands notices or events to every sink that accepts them, in the same way.
    pub fn send_to(&mut self, takes: Takes, batch: &Batch) {
        if batch.messages == 0 && batch.frames.is_empty() {
            return;
        }
        for output in &mut self.outputs {
            if output.takes == takes {
                output.send(batch);
            }
        }
    }

    /// Returns whether a sink reads messages, so that batches should have parsed views if the
    /// source has them.
    #[must_use]
    pub fn wants_views(&self) -> bool {
        self.outputs
            .iter()
            .any(|output| output.spec.0.wants_views())
    }

    /// Returns whether every sink that still works would accept a batch of this size without
    /// dropping anything.
    #[must_use]
    pub fn has_room(&self, bytes: usize) -> bool {
        self.outputs
            .iter()
            .all(|output| output.sink_thread.has_room(bytes))
    }

    /// Returns the notifier that fires whenever there may be more room.
    #[must_use]
    pub fn room(&self) -> Arc<Notify> {
        Arc::clone(&self.room)
    }

    /// Returns the handle that notifies all files of the set, also later ones, that they may have
    /// been renamed.
    #[must_use]
    pub fn reopener(&self) -> Reopener {
        self.reopener.clone()
    }

    fn list_files(&self) {
        *self.reopener.sink_threads() = self
            .outputs
            .iter()
            .map(|output| output.sink_thread.reopen())
            .collect();
    }

    /// Returns the current account of every sink, including those that were removed.
    #[must_use]
    pub fn health(&self) -> Health {
        let outputs = self.outputs.iter().map(ActiveOutput::report);
        let closing = self.closing.iter();
        let closing = closing.map(|closing| closing.report(self.handed));
        let closed = self.closed.iter().map(|closed| closed.report(self.handed));
        Health {
            sinks: outputs.chain(closing).chain(closed).collect(),
        }
    }

    /// Writes what is queued, ends each output, and returns the final accounts in the order of the
    /// outputs.
    ///
    /// All sinks together have until `deadline`. What a sink has not written by then counts as
    /// dropped, and its thread is left behind.
    #[must_use]
    pub fn finish(self, deadline: Instant) -> Vec<SinkReport> {
        self.close(deadline);
        let outputs = self.outputs.into_iter();
        let mut reports: Vec<_> = outputs.map(|output| output.finish(deadline)).collect();
        let left = self.closing.into_iter();
        let closed = self.closed.into_iter();
        let closed = closed.chain(left.map(|closing| closing.finish(deadline)));
        reports.extend(closed.map(|closed| closed.report(self.handed)));
        reports
    }

    /// Tells all outputs that no more messages come and that they have to end by `deadline`. They
    /// end at the same time, so that an output that needs the whole time leaves the others as much.
    /// Never blocks.
    pub fn close(&self, deadline: Instant) {
        for output in &self.outputs {
            output.sink_thread.close(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        sync::atomic::{AtomicU64, Ordering::Relaxed},
    };

    use dnstap_proto::{DnstapRef, MessageRef, message::Type};

    use super::*;
    use crate::sinks::{SinkState, queue};

    #[test]
    fn all_outputs_get_the_same_messages() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let spec = |form: &str, name: &str| {
            format!("{form}:{}", path(name).display())
                .parse()
                .expect("valid")
        };
        let specs = [
            spec("file", "a.fstrm"),
            spec("text", "a.txt"),
            spec("json", "a.json"),
            "text:/dev/full".parse().expect("valid"),
            spec("pcap", "a.pcap"),
        ];
        let mut sinks = SinkSet::open(&specs, SinkOptions::default()).expect("opened");
        for _ in 0..10 {
            sinks.send(&batch(7));
            sinks.send(&Batch::default());
        }
        let reports = sinks.finish(Instant::now() + Duration::from_mins(1));
        for report in &reports[..3] {
            assert_eq!(
                (report.sent, report.written, &report.state),
                (70, 70, &SinkState::Finished),
                "{report:?}"
            );
        }
        let packets = &reports[4];
        assert_eq!(
            (
                packets.written,
                packets.dropped.unfit,
                packets.is_balanced()
            ),
            (0, 70, true),
            "no DNS in them"
        );
        assert_eq!(
            fs::read(path("a.pcap")).expect("read"),
            crate::formats::pcap::FILE_HEADER
        );
        let full = &reports[3];
        assert_eq!(
            (full.written, full.dropped.io_error, full.is_balanced()),
            (0, 70, true),
            "{full:?}"
        );
        assert!(
            matches!(&full.state, SinkState::Failed(error) if error.contains("text:/dev/full: No space left")),
            "{full:?}"
        );

        let file = fs::read(path("a.fstrm")).expect("read");
        assert_eq!(reports[0].written_bytes + 42 + 12, file.len() as u64);
        for (name, report) in [("a.txt", &reports[1]), ("a.json", &reports[2])] {
            let lines = fs::read_to_string(path(name)).expect("read");
            assert_eq!(
                (lines.lines().count(), lines.len() as u64),
                (70, report.written_bytes)
            );
        }
    }

    #[test]
    fn a_slow_consumer_makes_nobody_wait_and_what_it_misses_is_counted() {
        let (go, gate) = std::sync::mpsc::channel::<()>();
        let (told, mut seen) = (Arc::new(AtomicU64::new(0)), 0);
        let seen_so_far = Arc::clone(&told);
        let consumer = Box::new(move |batch: &Batch| {
            gate.recv().ok();
            seen += batch.messages;
            seen_so_far.store(seen, Relaxed);
        });
        let room = SinkOptions {
            queue_bytes: 3 * (batch(7).frames.len() + queue::OVERHEAD),
        };
        let view = OutputSpec::function("view", consumer);
        let mut sinks = SinkSet::open(&[view], room).expect("a thread");
        for _ in 0..10 {
            sinks.send(&batch(7));
        }
        drop(go);
        let [report] = &sinks.finish(Instant::now() + Duration::from_mins(1))[..] else {
            panic!("one output")
        };
        assert_eq!(
            (
                report.written,
                report.dropped.queue_full,
                told.load(Relaxed)
            ),
            (21, 49, 21),
            "{report:?}"
        );
    }

    #[test]
    fn health_tells_when_nobody_is_left() {
        let full = "text:/dev/full".parse().expect("valid");
        let mut sinks = SinkSet::open(&[full], SinkOptions::default()).expect("opened");
        assert!(!sinks.health().all_over());
        sinks.send(&batch(1));
        while !sinks.health().all_over() {
            std::thread::yield_now();
        }
    }

    fn batch(messages: u64) -> Batch {
        let mut frames = Vec::new();
        for _ in 0..messages {
            let message = MessageRef::new(Type::ClientQuery);
            DnstapRef {
                identity: None,
                version: None,
                extra: None,
                message,
            }
            .append_frame(&mut frames);
        }
        Batch::new(frames, messages)
    }
}

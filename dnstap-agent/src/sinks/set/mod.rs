//! Owns all outputs of a command at one time: they are opened together, may come and go while messages pass, and end together.

mod member;
mod open;

use std::{
    iter,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use self::member::{Gone, Leaving, Member};
pub use self::open::OpenError;
use super::{
    batch::Batch,
    forms::OutputSpec,
    queue::lane::Lane,
    report::{Health, SinkReport, Takes},
    sink::About,
};
use crate::report::Facts;

/// What applies to every sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SinkOptions {
    /// Bytes that each sink may have waiting before messages are dropped: of frames, and some more for each batch.
    pub queue_bytes: usize,
}

impl Default for SinkOptions {
    /// 64 MiB: some seconds of a busy server.
    fn default() -> Self {
        Self {
            queue_bytes: 64 << 20,
        }
    }
}

/// All outputs of one tap. They may change while messages pass: see [`Self::join`] and [`Self::part`].
#[derive(Debug)]
pub struct SinkSet {
    members: Vec<Member>,
    leaving: Vec<Leaving>,
    gone: Vec<Gone>,
    /// Messages handed to the set.
    handed: u64,
    room: Arc<Notify>,
    reopener: Reopener,
    /// One for the pages of each [`Self::open`].
    about: Vec<About>,
}

/// Has files that were renamed or removed begin anew; from any thread.
#[derive(Debug, Clone, Default)]
pub struct Reopener(Arc<Mutex<Vec<Arc<Notify>>>>);

impl Reopener {
    /// Tells all files of the set. Never blocks.
    pub fn reopen(&self) {
        for lane in self.lanes().iter() {
            lane.notify_one();
        }
    }

    fn lanes(&self) -> MutexGuard<'_, Vec<Arc<Notify>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SinkSet {
    /// Opens all outputs, or tells everything that is wrong with them.
    ///
    /// Existing regular files are overwritten, or moved aside by outputs that rotate, once all outputs are open. Standard output and each path can be named once.
    /// A named pipe is waited for until somebody reads it, like any program does.
    pub fn open(specs: &[OutputSpec], options: SinkOptions) -> Result<Self, OpenError> {
        Self::open_with(specs, options, &Arc::default())
    }

    /// Opens outputs that are to [`join`](Self::join) the set with this [`room`](Self::room).
    pub fn open_with(
        specs: &[OutputSpec],
        options: SinkOptions,
        room: &Arc<Notify>,
    ) -> Result<Self, OpenError> {
        Self::open_all([(specs, Takes::Messages)], options, room)
    }

    /// Opens the outputs of messages and those of notices, as [`Self::open`] does.
    pub fn open_both(
        messages: &[OutputSpec],
        notices: &[OutputSpec],
        options: SinkOptions,
    ) -> Result<Self, OpenError> {
        let both = [(messages, Takes::Messages), (notices, Takes::Notices)];
        Self::open_all(both, options, &Arc::default())
    }

    fn open_all<const N: usize>(
        groups: [(&[OutputSpec], Takes); N],
        options: SinkOptions,
        room: &Arc<Notify>,
    ) -> Result<Self, OpenError> {
        let about = About::default();
        let each = groups
            .iter()
            .flat_map(|(specs, takes)| specs.iter().zip(iter::repeat(*takes)));
        let specs: Vec<_> = each.clone().map(|(spec, _)| spec).collect();
        let opened = open::open_all(&specs, &about)?;
        let mut members = Vec::new();
        for ((spec, takes), (work, account)) in each.zip(opened) {
            let queue = (options.queue_bytes, spec.0.policy(), Arc::clone(room));
            let lane = Lane::start(spec.to_string(), work, queue, account);
            let lane = lane.map_err(|error| {
                let problem = format!("the system gives no thread for it: {error}");
                OpenError(vec![OpenError::line(spec, &problem)])
            })?;
            members.push(Member::new(spec.clone(), takes, lane));
        }
        let set = Self {
            members,
            leaving: Vec::new(),
            gone: Vec::new(),
            handed: 0,
            room: Arc::clone(room),
            reopener: Reopener::default(),
            about: vec![about],
        };
        set.list_files();
        Ok(set)
    }

    /// Takes in outputs that have been opened for it; they get all messages from now on. An output that was there before, under the
    /// same name, goes on with its account.
    pub fn join(&mut self, newcomers: Self) {
        for mut member in newcomers.members {
            let name = member.report().output;
            let before = self.gone.iter().position(|gone| gone.name() == name);
            let before = before.map(|place| self.gone.remove(place));
            member.come(self.handed, before);
            self.members.push(member);
        }
        self.about.extend(newcomers.about);
        self.list_files();
    }

    /// What pages are to state of the messages when they end.
    pub(crate) fn tell(&self, facts: &Facts) {
        for about in &self.about {
            about.tell(facts.clone());
        }
    }

    /// Lets these outputs go: they get no more messages, and have `grace` to write what is queued for them. Their accounts stay.
    /// Never blocks; [`Self::are_parted`] tells when they are gone.
    pub fn part(&mut self, specs: &[OutputSpec], grace: Duration) {
        let handed = self.handed;
        let leaving = self
            .members
            .extract_if(.., |member| specs.contains(&member.spec))
            .map(|member| member.leave(handed, grace));
        self.leaving.extend(leaving);
        self.list_files();
    }

    /// Whether all outputs that were let go are gone. Never blocks.
    pub fn are_parted(&mut self) -> bool {
        let gone = self.leaving.extract_if(.., |leaving| leaving.is_over());
        let now = Instant::now();
        self.gone.extend(gone.map(|leaving| leaving.finish(now)));
        self.leaving.is_empty()
    }

    /// Hands the batch to every sink of messages. Never blocks; a sink that cannot take it counts it as dropped.
    pub fn send(&mut self, batch: &Batch) {
        self.handed += batch.messages;
        self.send_to(Takes::Messages, batch);
    }

    /// Hands notices to every sink that takes them, in the same way.
    pub fn notify(&mut self, notices: &Batch) {
        self.send_to(Takes::Notices, notices);
    }

    fn send_to(&mut self, takes: Takes, batch: &Batch) {
        if batch.messages == 0 && batch.frames.is_empty() {
            return;
        }
        for member in &mut self.members {
            if member.takes == takes {
                member.send(batch);
            }
        }
    }

    /// Whether a sink looks at messages: their parsed views are welcome in batches, if the source has them.
    #[must_use]
    pub fn wants_views(&self) -> bool {
        self.members
            .iter()
            .any(|member| member.spec.0.wants_views())
    }

    /// Whether a batch of so many bytes would be taken by every sink that still works, with nothing dropped for it.
    #[must_use]
    pub fn has_room(&self, bytes: usize) -> bool {
        self.members
            .iter()
            .all(|member| member.lane.has_room(bytes))
    }

    /// Tells all who wait each time when there may be more room.
    #[must_use]
    pub fn room(&self) -> Arc<Notify> {
        Arc::clone(&self.room)
    }

    /// What tells all files of the set, also of those that come later, that they may have been renamed.
    #[must_use]
    pub fn reopener(&self) -> Reopener {
        self.reopener.clone()
    }

    fn list_files(&self) {
        *self.reopener.lanes() = self
            .members
            .iter()
            .map(|member| member.lane.reopen())
            .collect();
    }

    /// Every sink's account now, also of those that are not there any more.
    #[must_use]
    pub fn health(&self) -> Health {
        let members = self.members.iter().map(Member::report);
        let leaving = self.leaving.iter();
        let leaving = leaving.map(|leaving| leaving.report(self.handed));
        let gone = self.gone.iter().map(|gone| gone.report(self.handed));
        Health {
            sinks: members.chain(leaving).chain(gone).collect(),
        }
    }

    /// Writes what is queued, ends each output, and gives the final accounts, in the order of the outputs.
    ///
    /// All sinks together have up to `deadline`; what one has not written by then is counted as dropped, and its thread is left behind.
    #[must_use]
    pub fn finish(self, deadline: Instant) -> Vec<SinkReport> {
        self.close(deadline);
        let members = self.members.into_iter();
        let mut reports: Vec<_> = members.map(|member| member.finish(deadline)).collect();
        let left = self.leaving.into_iter();
        let gone = self.gone.into_iter();
        let gone = gone.chain(left.map(|leaving| leaving.finish(deadline)));
        reports.extend(gone.map(|gone| gone.report(self.handed)));
        reports
    }

    /// Nothing more is to come, and all outputs are to end by `deadline`: all at once, for one that takes the whole time takes it from
    /// nobody. Never blocks.
    pub fn close(&self, deadline: Instant) {
        for member in &self.members {
            member.lane.close(deadline);
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

//! Owns the outputs: files of several forms, collectors behind sockets; several at once, none able to harm another or the tap.
//!
//! ```text
//!                      /-> queue (bytes-bounded) -> thread -> output (file, stdout)
//! ring's reader: send -+-> queue                 -> thread -> output
//!                      |-> backlog (the same)    -> task   -> socket
//!                      \-> full: dropped and counted, for that sink only
//! ```
//!
//! A file that is too slow drops the newest messages, a socket the oldest (`backlog` says why). The tasks of all sockets share
//! one thread.
//!
//! [`SinkSet::send`] never blocks. Each sink accounts for every message it was sent ([`SinkReport`]):
//! `sent = written + dropped (by reason) + still queued`.
//!
//! It refuses to guess: an output that cannot be opened is an error before the tap starts, with the cause and the fix.
//! An output that fails later ends for good, says why in its report, and counts what it misses; but a full disk may get
//! room again. A collector need not be there at the start, and may go and come back.
//!
//! A file is made of a head, pieces and a foot (`volume`); a piece is a batch turned into content (`file`); `series` has the files of
//! one output after each other, `names` what they are called.

mod access;
mod backlog;
mod command;
mod consumer;
mod delay;
mod device;
mod file;
mod lane;
mod member;
mod names;
mod open;
mod options;
mod output;
mod page;
mod piece;
mod queue;
mod report;
mod series;
mod socket;
mod spec;
mod volume;

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::Notify;

use self::{
    consumer::ConsumerOutput,
    lane::Lane,
    member::{Gone, Leaving, Member, Way},
    page::About,
    queue::Depth,
    report::Account,
    socket::SocketLane,
};
pub use self::{
    consumer::{Consumer, Destination},
    delay::Delay,
    open::{OpenError, Problem},
    options::Place,
    options::{FileOptions, OptionError},
    report::{Dropped, Files, Health, SinkReport, SinkState, Takes},
    spec::{FORMS, FileSpec, OutputSpec, SpecError},
};
pub use crate::formats::Content;
use crate::report::Facts;

/// Encoded messages on their way out: whole Frame Streams data frames, back to back. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// For each message a big-endian `u32` length and the dnstap protobuf.
    pub frames: Bytes,
    /// How many these are.
    pub messages: u64,
}

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
    /// One for the sockets of each [`Self::open`].
    sockets: Vec<socket::Runtime>,
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
        Self::open_with(specs, options, Arc::default())
    }

    /// Opens outputs that are to [`join`](Self::join) the set with this [`room`](Self::room).
    pub fn open_with(
        specs: &[OutputSpec],
        options: SinkOptions,
        room: Arc<Notify>,
    ) -> Result<Self, OpenError> {
        let mut members = Vec::new();
        let mut couriers = Vec::new();
        let accounts: Vec<_> = specs
            .iter()
            .map(|_| Arc::new(Account::new(Arc::new(Depth::new(Arc::clone(&room))))))
            .collect();
        let counters: Vec<_> = accounts
            .iter()
            .map(|account| Arc::clone(&account.files))
            .collect();
        let about = About::default();
        let outputs = open::open_all(specs, &counters, &about)?;
        for ((spec, output), account) in specs.iter().zip(outputs).zip(accounts) {
            let name = spec.to_string();
            let way = match (spec, output) {
                (OutputSpec::Socket(address), _) => {
                    let (lane, courier) =
                        SocketLane::new(name, address.clone(), options.queue_bytes, account);
                    couriers.push(courier);
                    Way::Socket(lane)
                }
                (_, Some(output)) => Way::Thread(
                    Lane::start(name, output, options.queue_bytes, account)
                        .map_err(|error| no_thread(spec, error))?,
                ),
                (_, None) => continue,
            };
            members.push(Member::new(Some(spec.clone()), way));
        }
        let sockets = match specs
            .iter()
            .find(|spec| matches!(spec, OutputSpec::Socket(_)))
        {
            Some(spec) => {
                vec![socket::Runtime::start(couriers).map_err(|error| no_thread(spec, error))?]
            }
            None => Vec::new(),
        };
        let set = Self {
            members,
            leaving: Vec::new(),
            gone: Vec::new(),
            handed: 0,
            sockets,
            room,
            reopener: Reopener::default(),
            about: vec![about],
        };
        set.list_files();
        Ok(set)
    }

    /// Opens what `destination` names for messages, and the outputs of `notices`, or tells everything that is wrong with them.
    pub fn open_to(
        destination: Destination<'_>,
        notices: &[OutputSpec],
        options: SinkOptions,
    ) -> Result<Self, OpenError> {
        let specs = [destination.specs(), notices].concat();
        let mut set = Self::open(&specs, options)?;
        for member in set.members.iter_mut().rev().take(notices.len()) {
            member.takes = Takes::Notices;
        }
        if let Destination::Consumer(name, consumer) = destination {
            let account = Arc::new(Account::new(Arc::new(Depth::new(set.room()))));
            let output = Box::new(ConsumerOutput(consumer));
            let lane = Lane::start(name.to_owned(), output, options.queue_bytes, account)
                .map_err(|error| no_thread(&name, error))?;
            set.members.insert(0, Member::new(None, Way::Thread(lane)));
        }
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
        self.sockets.retain(|runtime| !runtime.has_ended());
        self.sockets.extend(newcomers.sockets);
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
            .extract_if(.., |member| {
                member
                    .spec
                    .as_ref()
                    .is_some_and(|spec| specs.contains(spec))
            })
            .map(|member| member.leave(handed, grace));
        self.leaving.extend(leaving);
        self.list_files();
    }

    /// Whether all outputs that were let go are gone. Never blocks.
    pub fn are_parted(&mut self) -> bool {
        let gone = self.leaving.extract_if(.., |leaving| leaving.is_over());
        self.gone.extend(gone.map(Leaving::finish));
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

    /// Whether a batch of so many bytes would be taken by every sink that still works, with nothing dropped for it.
    #[must_use]
    pub fn has_room(&self, bytes: usize) -> bool {
        self.members.iter().all(|member| member.has_room(bytes))
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
        *self.reopener.lanes() = self.members.iter().filter_map(Member::reopen).collect();
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
    /// All sinks together have `grace`; what one has not written by then is counted as dropped, and its thread is left behind.
    #[must_use]
    pub fn finish(mut self, grace: Duration) -> Vec<SinkReport> {
        let deadline = Instant::now() + grace;
        // All at once: one that takes the whole time takes it from nobody.
        for member in &mut self.members {
            member.close(deadline);
        }
        let members = self.members.into_iter();
        let mut reports: Vec<_> = members.map(|member| member.finish(deadline)).collect();
        let gone = self.leaving.into_iter().map(Leaving::finish);
        let gone: Vec<_> = self.gone.into_iter().chain(gone).collect();
        reports.extend(gone.iter().map(|gone| gone.report(self.handed)));
        for sockets in self.sockets {
            sockets.join();
        }
        reports
    }
}

fn no_thread(output: &impl ToString, error: io::Error) -> OpenError {
    OpenError {
        problems: vec![Problem {
            output: output.to_string(),
            message: format!("the system gives no thread for it: {error}"),
            error: Some(error),
        }],
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
        let reports = sinks.finish(Duration::from_mins(1));
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
    fn notices_go_to_the_outputs_that_take_them_and_messages_to_the_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let specs = ["messages", "notices"].map(|name| {
            let path = folder.path().join(name);
            format!("file:{}", path.display()).parse().expect("valid")
        });
        let (messages, notices) = specs.split_at(1);
        let options = SinkOptions::default();
        let mut sinks =
            SinkSet::open_to(Destination::Outputs(messages), notices, options).expect("opened");
        sinks.send(&batch(3));
        sinks.notify(&batch(2));
        let reports = sinks.finish(Duration::from_mins(1));
        let told: Vec<_> = reports
            .iter()
            .map(|report| (report.takes, report.written))
            .collect();
        assert_eq!(told, [(Takes::Messages, 3), (Takes::Notices, 2)]);
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
        let mut sinks =
            SinkSet::open_to(Destination::Consumer("view", consumer), &[], room).expect("a thread");
        for _ in 0..10 {
            sinks.send(&batch(7));
        }
        drop(go);
        let [report] = &sinks.finish(Duration::from_mins(1))[..] else {
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
        Batch {
            frames: frames.into(),
            messages,
        }
    }
}

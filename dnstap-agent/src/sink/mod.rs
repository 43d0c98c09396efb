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
mod delay;
mod device;
mod file;
mod lane;
mod names;
mod open;
mod options;
mod output;
mod piece;
mod queue;
mod report;
mod series;
mod socket;
mod spec;
mod volume;

use std::{
    convert::Infallible,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Notify,
};

pub use self::{
    delay::Delay,
    open::{OpenError, Problem},
    options::{FileOptions, OptionError},
    report::{Dropped, Files, Health, SinkReport, SinkState},
    spec::{FORMS, FileSpec, OutputSpec, Place, SpecError},
};
use self::{lane::Lane, queue::Depth, report::Account, socket::SocketLane};
pub use crate::content::Content;

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
    /// Bytes of frames that each sink may have waiting before new ones are dropped.
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

/// All outputs of one tap.
#[derive(Debug)]
pub struct SinkSet {
    sinks: Vec<Sink>,
    sockets: Option<socket::Runtime>,
    room: Arc<Notify>,
}

/// Has files that were renamed or removed begin anew; from any thread.
#[derive(Debug, Clone)]
pub struct Reopener(Vec<Arc<Notify>>);

impl Reopener {
    /// Tells all files of the set. Never blocks.
    pub fn reopen(&self) {
        for lane in &self.0 {
            lane.notify_one();
        }
    }

    /// Tells them at each SIGHUP from now on; never ends. Fails if the system takes no handler.
    pub fn on_hangup(self) -> io::Result<impl Future<Output = Infallible>> {
        let mut hangup = signal(SignalKind::hangup())?;
        Ok(async move {
            while hangup.recv().await.is_some() {
                self.reopen();
            }
            std::future::pending().await
        })
    }
}

#[derive(Debug)]
enum Sink {
    Thread(Lane),
    Socket(SocketLane),
}

impl SinkSet {
    /// Opens all outputs, or tells everything that is wrong with them.
    ///
    /// Existing regular files are overwritten, or moved aside by outputs that rotate, once all outputs are open. Standard output and each path can be named once.
    /// A named pipe is waited for until somebody reads it, like any program does.
    pub fn open(specs: &[OutputSpec], options: SinkOptions) -> Result<Self, OpenError> {
        let room = Arc::<Notify>::default();
        let mut sinks = Vec::new();
        let mut couriers = Vec::new();
        let accounts: Vec<_> = specs
            .iter()
            .map(|_| Arc::new(Account::new(Arc::new(Depth::new(Arc::clone(&room))))))
            .collect();
        let counters: Vec<_> = accounts
            .iter()
            .map(|account| Arc::clone(&account.files))
            .collect();
        let outputs = open::open_all(specs, &counters)?;
        for ((spec, output), account) in specs.iter().zip(outputs).zip(accounts) {
            let name = spec.to_string();
            sinks.push(match (spec, output) {
                (OutputSpec::Socket(address), _) => {
                    let (lane, courier) =
                        SocketLane::new(name, address.clone(), options.queue_bytes, account);
                    couriers.push(courier);
                    Sink::Socket(lane)
                }
                (_, Some(output)) => Sink::Thread(
                    Lane::start(name, output, options.queue_bytes, account)
                        .map_err(|error| no_thread(spec, error))?,
                ),
                (_, None) => continue,
            });
        }
        let sockets = match specs
            .iter()
            .find(|spec| matches!(spec, OutputSpec::Socket(_)))
        {
            Some(spec) => {
                Some(socket::Runtime::start(couriers).map_err(|error| no_thread(spec, error))?)
            }
            None => None,
        };
        Ok(Self {
            sinks,
            sockets,
            room,
        })
    }

    /// Takes the last output out of the set, as a set of its own, for batches of its own. It must not be a socket.
    #[must_use]
    pub fn split_last(&mut self) -> Self {
        Self {
            sinks: self.sinks.pop().into_iter().collect(),
            sockets: None,
            room: Arc::clone(&self.room),
        }
    }

    /// Hands the batch to every sink. Never blocks; a sink that cannot take it counts it as dropped.
    pub fn send(&mut self, batch: &Batch) {
        if batch.messages == 0 && batch.frames.is_empty() {
            return;
        }
        for sink in &mut self.sinks {
            match sink {
                Sink::Thread(lane) => lane.send(batch),
                Sink::Socket(lane) => lane.send(batch),
            }
        }
    }

    /// Whether a batch of so many bytes would be taken by every sink that still works, with nothing dropped for it.
    #[must_use]
    pub fn has_room(&self, bytes: usize) -> bool {
        self.sinks.iter().all(|sink| match sink {
            Sink::Thread(lane) => lane.has_room(bytes),
            Sink::Socket(lane) => lane.has_room(bytes),
        })
    }

    /// Tells all who wait each time when there may be more room.
    #[must_use]
    pub fn room(&self) -> Arc<Notify> {
        Arc::clone(&self.room)
    }

    /// What tells all files that they may have been renamed.
    #[must_use]
    pub fn reopener(&self) -> Reopener {
        let lanes = self.sinks.iter().filter_map(|sink| match sink {
            Sink::Thread(lane) => Some(lane.reopen()),
            Sink::Socket(_) => None,
        });
        Reopener(lanes.collect())
    }

    /// Every sink's account now.
    #[must_use]
    pub fn health(&self) -> Health {
        Health {
            sinks: self
                .sinks
                .iter()
                .map(|sink| match sink {
                    Sink::Thread(lane) => lane.report(),
                    Sink::Socket(lane) => lane.report(),
                })
                .collect(),
        }
    }

    /// Writes what is queued, ends each output, and gives the final accounts, in the order of the outputs.
    ///
    /// All sinks together have `grace`; what one has not written by then is counted as dropped, and its thread is left behind.
    #[must_use]
    pub fn finish(mut self, grace: Duration) -> Vec<SinkReport> {
        let deadline = Instant::now() + grace;
        // All at once: one that takes the whole time takes it from nobody.
        for sink in &mut self.sinks {
            match sink {
                Sink::Thread(lane) => lane.close(),
                Sink::Socket(lane) => lane.close(deadline),
            }
        }
        if let Some(sockets) = self.sockets {
            sockets.join();
        }
        self.sinks
            .into_iter()
            .map(|sink| match sink {
                Sink::Thread(lane) => lane.finish(deadline),
                Sink::Socket(lane) => lane.report(),
            })
            .collect()
    }
}

fn no_thread(spec: &OutputSpec, error: io::Error) -> OpenError {
    OpenError {
        problems: vec![Problem {
            output: spec.to_string(),
            message: format!("the system gives no thread for it: {error}"),
            error: Some(error),
        }],
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

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
            crate::pcap::FILE_HEADER
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

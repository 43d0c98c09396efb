//! Owns the outputs: text and JSON lines, Frame Streams files, collectors behind sockets; several at once, none able to
//! harm another or the tap.
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
//! An output that fails later ends for good, says why in its report, and counts what it misses. A collector need not be there
//! at the start, and may go and come back.

mod backlog;
mod delay;
mod device;
mod frame_file;
mod lane;
mod line_file;
mod open;
mod output;
mod queue;
mod report;
mod socket;
mod spec;

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::Notify;

pub use self::{
    delay::Delay,
    open::{OpenError, Problem},
    report::{Dropped, Health, SinkReport, SinkState},
    spec::{FORMS, OutputSpec, Place, SpecError},
};
use self::{lane::Lane, queue::Depth, socket::SocketLane};

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

#[derive(Debug)]
enum Sink {
    Thread(Lane),
    Socket(SocketLane),
}

impl SinkSet {
    /// Opens all outputs, or tells everything that is wrong with them.
    ///
    /// Existing regular files are overwritten, once all outputs are open. Standard output and each path can be named once.
    /// A named pipe is waited for until somebody reads it, like any program does.
    pub fn open(specs: &[OutputSpec], options: SinkOptions) -> Result<Self, OpenError> {
        let room = Arc::<Notify>::default();
        let mut sinks = Vec::new();
        let mut couriers = Vec::new();
        for (spec, output) in specs.iter().zip(open::open_all(specs)?) {
            let name = spec.to_string();
            let depth = Arc::new(Depth::new(Arc::clone(&room)));
            sinks.push(match (spec, output) {
                (OutputSpec::Socket(address), _) => {
                    let (lane, courier) =
                        SocketLane::new(name, address.clone(), options.queue_bytes, depth);
                    couriers.push(courier);
                    Sink::Socket(lane)
                }
                (_, Some(output)) => Sink::Thread(
                    Lane::start(name, output, options.queue_bytes, depth)
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
        let specs = [
            OutputSpec::File(Place::Path(path("a.fstrm"))),
            OutputSpec::Text(Place::Path(path("a.txt"))),
            OutputSpec::Json(Place::Path(path("a.json"))),
            OutputSpec::Text(Place::Path("/dev/full".into())),
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
        let full = OutputSpec::Text(Place::Path("/dev/full".into()));
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

//! Sinks with collectors that come late, die, stop reading or never answer.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use dnstap_proto::frame_streams::{DNSTAP_CONTENT_TYPE, Server, ServerState};
use socket2::SockRef;

use crate::sinks::{Batch, OutputSpec, SinkOptions, SinkReport, SinkSet, SinkState};

#[test]
fn everything_arrives_in_order_and_is_confirmed() {
    let lab = Lab::new();
    let collector = Collector::start(lab.listen(), usize::MAX);
    let mut sinks = lab.sinks(1 << 20);
    for number in 0..100 {
        sinks.send(&numbered(number * 10, 10));
    }
    let report = finish(sinks);
    assert_eq!(collector.received(), (0..1000).collect::<Vec<_>>());
    assert_eq!((report.sent, report.written), (1000, 1000), "{report:?}");
    assert_eq!((report.connections, report.unconfirmed), (1, 0));
    assert_eq!(report.state, SinkState::Finished);
}

#[test]
fn what_fits_the_queue_waits_for_a_collector_that_comes_late_and_the_oldest_go() {
    let lab = Lab::new();
    let one = numbered(0, 10).frames.len();
    let mut sinks = lab.sinks(5 * one);
    for number in 0..20 {
        sinks.send(&numbered(number * 10, 10));
    }
    let now = &sinks.health().sinks[0];
    assert!(matches!(now.state, SinkState::Waiting(_)), "{now:?}");
    assert!(now.queued > 0 && now.is_balanced(), "{now:?}");
    let gone = now.dropped.disconnected;
    assert!(gone >= 150, "{now:?}");
    let collector = Collector::start(lab.listen(), usize::MAX);
    let report = finish(sinks);
    assert_eq!(collector.received(), (gone..200).collect::<Vec<_>>());
    assert_eq!(report.dropped.total(), gone);
    assert!(report.is_balanced());
}

/// Each collector stops in the middle of the load, after reading all that it was given. Every loss
/// must be counted, no message may come twice, and no connection may begin with a part of a
/// message.
#[test]
fn a_collector_restarted_under_load_gets_every_message_or_it_is_counted() {
    let lab = Lab::new();
    let path = lab.path.clone();
    let (done, over) = mpsc::channel::<()>();
    let collectors = thread::spawn(move || {
        let mut received = Vec::new();
        let mut cut = 0;
        for life in 0.. {
            let last = over.try_recv() != Err(mpsc::TryRecvError::Empty);
            let limit = if last {
                usize::MAX
            } else {
                40_000 + life * 777
            };
            let (numbers, partial) = Collector::start(listen(&path), limit).ended();
            received.extend(numbers);
            cut += usize::from(partial);
            if last {
                return (received, cut, life);
            }
        }
        unreachable!("lives go on")
    });
    // Batches are larger than a socket's buffer, so that a connection breaks within one.
    let mut sinks = lab.sinks(2_000_000);
    let mut sent = 0;
    while sinks.health().sinks[0].connections < 5 {
        sinks.send(&numbered(sent, 4000));
        sent += 4000;
        thread::sleep(Duration::from_millis(1)); // limits the rate
    }
    drop(done);
    // The current collector may stop soon. The last one comes after it.
    for _ in 0..100 {
        sinks.send(&numbered(sent, 20));
        sent += 20;
    }
    while sinks.health().sinks[0].queued > 0 {
        thread::yield_now();
    }
    let report = finish(sinks);
    let (received, cut, lives) = collectors.join().expect("no panic");
    assert!(received.is_sorted_by(|a, b| a < b), "nothing comes twice");
    assert_eq!(report.sent, sent);
    assert_eq!(
        received.len() as u64 + report.dropped.total(),
        sent,
        "{report:?}, {lives} lives"
    );
    assert_eq!(received.len() as u64, report.written);
    assert!(cut > 0, "some collector was left within a message");
}

#[test]
fn what_a_dying_collector_leaves_unread_is_counted_as_unconfirmed() {
    let lab = Lab::new();
    let listener = lab.listen();
    let mut sinks = lab.sinks(1 << 20);
    let (mut stream, _) = listener.accept().expect("a sink");
    greet(&mut stream);
    sinks.send(&numbered(0, 50));
    read_exactly(&mut stream, numbered(0, 50).frames.len());
    // The messages are read and known to be read, because the system is asked before the next
    // batch.
    sinks.send(&numbered(50, 10));
    while sinks.health().sinks[0].written < 60 {
        thread::yield_now();
    }
    drop((stream, listener));
    while !matches!(sinks.health().sinks[0].state, SinkState::Waiting(_)) {
        thread::yield_now();
    }
    let report = sinks.health().sinks[0].clone();
    assert_eq!((report.written, report.unconfirmed), (60, 10), "{report:?}");
    drop(finish(sinks));
}

#[test]
fn a_collector_that_never_reads_harms_nobody_else_and_is_left_at_the_deadline() {
    let lab = Lab::new();
    let listener = lab.listen();
    let file = lab.folder.path().join("a.fstrm");
    let specs = [
        lab.spec(),
        format!("file:{}", file.display()).parse().expect("valid"),
    ];
    let options = SinkOptions {
        queue_bytes: 100_000,
    };
    let mut sinks = SinkSet::open(&specs, options).expect("opened");
    let (mut stream, _) = listener.accept().expect("a sink");
    greet(&mut stream);
    for number in 0..2_000 {
        sinks.send(&numbered(number * 10, 10));
        while sinks.health().sinks[1].queued > 500 {
            thread::yield_now();
        }
    }
    let since = Instant::now();
    let reports = sinks.finish(since + Duration::from_millis(300));
    assert!(since.elapsed() < Duration::from_secs(5));
    let [stuck, file] = &reports[..] else {
        panic!("{reports:?}")
    };
    assert_eq!((file.written, &file.state), (20_000, &SinkState::Finished));
    assert!(stuck.dropped.queue_full > 0 && stuck.dropped.shutdown > 0);
    assert!(stuck.is_balanced() && stuck.written == stuck.unconfirmed);
    assert!(matches!(&stuck.state, SinkState::Failed(_)), "{stuck:?}");
}

#[test]
fn whoever_does_not_speak_frame_streams_gets_nothing_and_is_named() {
    let lab = Lab::new();
    let listener = lab.listen();
    let mut sinks = lab.sinks(100_000);
    sinks.send(&numbered(0, 5));
    let (mut stream, _) = listener.accept().expect("a sink");
    stream.write_all(b"220 mail.example").expect("room");
    drop((listener, stream));
    let report = finish(sinks);
    assert_eq!((report.written, report.dropped.shutdown), (0, 5));
    assert!(report.connections == 0 && report.is_balanced());
    assert!(matches!(report.state, SinkState::Failed(_)), "{report:?}");
}

#[test]
fn an_absent_collector_and_nothing_to_send_is_no_failure() {
    let lab = Lab::new();
    let report = finish(lab.sinks(1000));
    assert_eq!(report.state, SinkState::Finished);
}

struct Lab {
    folder: tempfile::TempDir,
    path: PathBuf,
}

impl Lab {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        Self { folder, path }
    }

    fn spec(&self) -> OutputSpec {
        let spec = format!("unix:{}", self.path.display());
        spec.parse().expect("valid")
    }

    fn sinks(&self, queue_bytes: usize) -> SinkSet {
        SinkSet::open(&[self.spec()], SinkOptions { queue_bytes }).expect("opened")
    }

    fn listen(&self) -> UnixListener {
        listen(&self.path)
    }
}

fn finish(sinks: SinkSet) -> SinkReport {
    sinks
        .finish(Instant::now() + Duration::from_secs(30))
        .pop()
        .expect("one sink")
}

fn listen(path: &Path) -> UnixListener {
    // The file may be left by the previous collector, or not exist yet.
    let _absent = std::fs::remove_file(path);
    UnixListener::bind(path).expect("a socket")
}

/// Accepts one connection. After `limit` bytes it refuses more, reads what has arrived and ends.
struct Collector(thread::JoinHandle<(Vec<u64>, bool)>);

impl Collector {
    fn start(listener: UnixListener, limit: usize) -> Self {
        Self(thread::spawn(move || collect(&listener, limit)))
    }

    fn received(self) -> Vec<u64> {
        let (numbers, partial) = self.ended();
        assert!(!partial);
        numbers
    }

    /// Returns the numbers received, and whether the last message was cut.
    fn ended(self) -> (Vec<u64>, bool) {
        self.0.join().expect("no panic")
    }
}

fn collect(listener: &UnixListener, limit: usize) -> (Vec<u64>, bool) {
    let (mut stream, _) = listener.accept().expect("a sink");
    let mut server = Server::new(DNSTAP_CONTENT_TYPE).expect("short");
    let (mut input, mut total) = (BytesMut::new(), 0);
    let mut numbers = Vec::new();
    loop {
        let mut answer = Vec::new();
        while let Some(frames) = server.decode(&mut input, &mut answer).expect("sound") {
            let mut rest = &frames.bytes[..];
            for _ in 0..frames.count {
                let (len, tail) = rest.split_first_chunk::<4>().expect("whole");
                let (frame, tail) = tail.split_at(u32::from_be_bytes(*len) as usize);
                let number = u64::from_be_bytes(*frame.first_chunk().expect("whole"));
                assert!(frame[8..].iter().all(|byte| *byte == frame[7]));
                numbers.push(number);
                rest = tail;
            }
        }
        if !answer.is_empty() {
            stream.write_all(&answer).expect("it listens");
        }
        if server.state() == ServerState::Stopped {
            return (numbers, false);
        }
        if total >= limit {
            SockRef::from(&stream)
                .shutdown(std::net::Shutdown::Read)
                .expect("connected");
        }
        let mut space = [0; 10_000];
        let read = stream.read(&mut space).expect("readable");
        if read == 0 {
            return (numbers, !input.is_empty());
        }
        total += read;
        input.extend_from_slice(&space[..read]);
    }
}

/// Does the collector's part of the handshake, up to START.
fn greet(stream: &mut UnixStream) {
    let mut server = Server::new(DNSTAP_CONTENT_TYPE).expect("short");
    let mut answer = Vec::new();
    let mut input = BytesMut::zeroed(42);
    stream.read_exact(&mut input).expect("READY");
    server.decode(&mut input, &mut answer).expect("sound");
    stream.write_all(&answer).expect("it listens");
    read_exactly(stream, 42);
}

fn read_exactly(stream: &mut UnixStream, bytes: usize) {
    stream.read_exact(&mut vec![0; bytes]).expect("so many");
}

/// Builds messages with these numbers and different sizes.
fn numbered(from: u64, messages: u64) -> Batch {
    let mut frames = Vec::new();
    for number in from..from + messages {
        let bytes = number.to_be_bytes();
        let fill = vec![bytes[7]; usize::from(bytes[7])];
        let len = u32::try_from(8 + fill.len()).expect("small");
        frames.extend_from_slice(&len.to_be_bytes());
        frames.extend_from_slice(&bytes);
        frames.extend_from_slice(&fill);
    }
    Batch::new(frames, messages)
}

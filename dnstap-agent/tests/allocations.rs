//! In steady state nothing is allocated per message: the pipeline allocates nothing at all, and
//! writing to a file allocates a few times per batch. This is a test program of its own, because
//! its allocator counts.

#[path = "../benches/recorded/mod.rs"]
#[expect(dead_code, reason = "the benchmarks use the rest")]
mod recorded;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    array,
    cell::Cell,
    path::Path,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use dnstap_agent::sinks::{self, OutputSpec, SinkOptions, SinkSet};
use dnstap_core::{
    pipeline::{Batch, Pipeline, PipelineConfig},
    record::fixture,
};
use dnstap_ebpf::{DIRECTION_RECEIVED, DIRECTION_SENT, IPPROTO_TCP};

use recorded::{MESSAGES, Recorded};

/// Number of connections that share the messages of one pass.
const CONNECTIONS: usize = 100;

/// The system's allocator with a counter.
struct Counting;

impl Counting {
    fn count() {
        ALL.fetch_add(1, Relaxed);
        HERE.with(|here| here.set(here.get() + 1));
    }
}

/// Allocations of all threads.
static ALL: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Allocations of this thread. The counter itself allocates nothing: it is initialised at
    /// compile time and needs no destructor.
    static HERE: Cell<u64> = const { Cell::new(0) };
}

/// Held by each test, because one test counts the allocations of all threads.
static ALONE: Mutex<()> = Mutex::new(());

#[expect(unsafe_code, reason = "an allocator that counts")]
// SAFETY: all calls are passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count();
        // SAFETY: the caller vouches for the layout.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller vouches for both.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::count();
        // SAFETY: the caller vouches for all three.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn in_steady_state_no_message_is_allocated_for() {
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a folder");
    let recorded = Recorded::new(folder.path());
    let passes = array::from_fn(|_| recorded.records.clone());
    expect_nothing_allocated(&passes);
}

#[test]
fn in_steady_state_no_message_of_a_stream_is_allocated_for() {
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a folder");
    let recorded = Recorded::new(folder.path());
    let mut connections = array::from_fn(Connection::new);
    let passes = array::from_fn(|_| in_streams(&recorded, &mut connections));
    expect_nothing_allocated(&passes);
}

#[test]
fn to_a_file_nothing_is_allocated_for_a_message() {
    const FEW: u64 = 20;
    const MANY: u64 = 100;
    /// Allocations per batch, for example of the queue. A batch has some hundred messages.
    const AT_MOST: u64 = 8;
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a folder");
    let recorded = Recorded::new(folder.path());
    let mut batches = Vec::new();
    recorded::pipeline(&recorded.records, &mut |batch| {
        let messages = &mut batch.messages;
        let frames = std::mem::take(&mut messages.bytes);
        batches.push(sinks::Batch::new(frames, messages.count));
    });
    let batch = batches.first().expect("a full one");
    assert!(batch.messages > 100 * AT_MOST, "{}", batch.messages);
    // Both numbers include opening and closing.
    let [few, many] = [FEW, MANY].map(|times| write(batch, times, folder.path()));
    assert!(
        many - few <= AT_MOST * (MANY - FEW),
        "{few} allocations for {FEW} batches of {} messages, {many} for {MANY}",
        batch.messages
    );
}

/// Runs three passes through a pipeline, each with all messages. Only the first pass may allocate.
fn expect_nothing_allocated(passes: &[Vec<Vec<u8>>; 3]) {
    let mut pipeline = Pipeline::new(PipelineConfig::default());
    let mut batch = Batch::default();
    let allocated = passes.each_ref().map(|records| {
        let before = HERE.get();
        for record in records {
            pipeline.push(record, &mut batch);
            if batch.messages.bytes.len() >= 256 * 1024 {
                batch.clear();
            }
        }
        batch.clear();
        HERE.get() - before
    });
    assert_eq!(
        pipeline.counters().deliver.messages,
        3 * MESSAGES as u64,
        "all were delivered"
    );
    assert_eq!(
        allocated[1..],
        [0, 0],
        "the first pass took {}",
        allocated[0]
    );
}

/// A client's connection, which lasts longer than a pass.
struct Connection {
    socket: u64,
    port: u16,
    /// Bytes received and sent so far.
    passed: [u32; 2],
}

impl Connection {
    fn new(number: usize) -> Self {
        Self {
            socket: 1_000 + number as u64,
            port: 20_000 + u16::try_from(number).expect("few"),
            passed: [0; 2],
        }
    }
}

/// Converts the messages to streams: on each connection two queries at once and then both answers,
/// cut in all the ways in which servers read.
fn in_streams(recorded: &Recorded, connections: &mut [Connection; CONNECTIONS]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    for (turn, messages) in recorded.messages.chunks_exact(4).enumerate() {
        let connection = &mut connections[turn % CONNECTIONS];
        for (way, direction) in [DIRECTION_RECEIVED, DIRECTION_SENT].into_iter().enumerate() {
            let mut stream = Vec::new();
            for (_, message) in [&messages[way], &messages[way + 2]] {
                let length = u16::try_from(message.len()).expect("short");
                stream.extend(length.to_be_bytes());
                stream.extend(message);
            }
            // Cut nowhere, within a length, behind it, within the first message, within the second.
            let cuts = [0, 1, 2, 20, stream.len() - 20];
            let (first, second) = stream.split_at(cuts[turn / CONNECTIONS % cuts.len()]);
            for piece in [first, second]
                .into_iter()
                .filter(|piece| !piece.is_empty())
            {
                let mut header = fixture::header();
                header.ktime_ns += 10_000 * turn as u64 + way as u64;
                header.socket = connection.socket;
                header.peer_port = connection.port;
                header.protocol = IPPROTO_TCP;
                header.direction = direction;
                header.tcp_seq = connection.passed[way];
                connection.passed[way] += u32::try_from(piece.len()).expect("short");
                records.push(fixture::whole(header, piece));
            }
        }
    }
    records
}

/// Writes the batch to a file this many times. Returns the allocations of all threads.
fn write(batch: &sinks::Batch, times: u64, folder: &Path) -> u64 {
    let spec = format!("file:{}", folder.join("file.fstrm").display());
    let spec: OutputSpec = spec.parse().expect("a path");
    let before = ALL.load(Relaxed);
    let mut sinks = SinkSet::open(&[spec], SinkOptions::default()).expect("a place to write");
    for _ in 0..times {
        sinks.send(batch);
    }
    for report in sinks.finish(Instant::now() + Duration::from_secs(10)) {
        assert_eq!(report.written, times * batch.messages, "{report}");
    }
    ALL.load(Relaxed) - before
}

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

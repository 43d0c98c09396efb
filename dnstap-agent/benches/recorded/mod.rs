//! Data and stages of the benchmarks. The data are ring records as a busy server produces them:
//! queries of 44 bytes, each followed by its answer of 108 bytes, from clients that take turns. So
//! the stages can be measured without a kernel. The same messages exist over IPv6 and over TCP.

use std::{
    hint::black_box,
    path::Path,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use dnstap_agent::{
    formats::{Content, Encoder},
    select::Select,
    sinks::{self, OutputSpec, SinkOptions, SinkSet},
};
use dnstap_core::{
    encode,
    model::{Envelope, Finding, Kind, Role},
    pair::PairLimits,
    pipeline::{Batch, Pipeline, PipelineConfig, Server},
    reassemble::tcp::{Proxies, StreamLimits, Streams},
    record::{Record, fixture},
};
use dnstap_ebpf::{
    AF_INET6, DIRECTION_RECEIVED, DIRECTION_SENT, EVENT_UNCONNECTED, EventHeader, IPPROTO_TCP,
};
use dnstap_proto::{
    Dnstap, View,
    frame_streams::{DNSTAP_CONTENT_TYPE, Decoder, Frame, Writer},
};
use prost::Message as _;

const IDENTITY: &[u8] = b"ns1.example.com";
const VERSION: &[u8] = b"BIND 9.18.49-1~deb12u3-Debian";

/// Number of messages in one pass.
pub(crate) const MESSAGES: usize = 20_000;

/// Bytes that are collected before a batch is passed on.
const FULL: usize = 256 * 1024;

/// Number of clients; each has a TCP connection that stays open.
const CLIENTS: usize = 16;

/// Program id of the server ([`EventHeader::program_id`]).
const PROGRAM: u32 = 4_711;

/// Most queries that wait. One would be enough, and a small table is cleared quickly at the start.
const WAITING: usize = 1_024;

/// A stage, run for one pass.
type Stage = fn(&Recorded);

/// Stages by name; each handles the messages of one pass. `classify`, `pair` and `encode` convert a
/// message to a frame, and the last alone converts an event when the results of the others are
/// given. `read` converts a frame to a view, to a selection with `--qtype` and `--suffix`, or to
/// text.
pub(crate) const STAGES: [(&str, Stage); 13] = [
    ("record to event", |recorded| {
        for record in &recorded.records {
            black_box(Record::parse(black_box(record)).is_ok());
        }
    }),
    ("TCP record to message", |recorded| {
        let mut streams = Streams::new(StreamLimits::default(), [], Proxies::default());
        let mut messages = 0;
        for record in &recorded.tcp_records {
            let event = fixture::parsed(record);
            streams.push(&event, true, &mut |envelope, message| {
                black_box((envelope, message));
                messages += 1;
            });
        }
        assert_eq!(messages, MESSAGES);
    }),
    ("message to frame", |recorded| {
        let mut pipeline = new_pipeline();
        let mut batch = Batch::default();
        for (envelope, message) in &recorded.messages {
            pipeline.message(black_box(envelope), message, &mut batch);
            if batch.messages.bytes.len() >= FULL {
                batch.clear();
            }
        }
        assert_eq!(
            pipeline.counters().pair.responses_paired,
            MESSAGES as u64 / 2
        );
    }),
    ("event to frame", |recorded| {
        let finding = Finding {
            role: Role::Responder,
            kind: Kind::Client,
            response: true,
            query_time_ns: Some(1_790_000_000_000_000_000),
            response_time_ns: Some(1_790_000_000_000_100_000),
        };
        let mut frames = Vec::with_capacity(1 << 19);
        let mut encoder = encode::Encoder::new(IDENTITY, VERSION);
        for (envelope, message) in &recorded.messages {
            if frames.len() > FULL {
                frames.clear();
            }
            encoder.append(&[], black_box(envelope), &finding, message, &mut frames);
        }
        black_box(frames.len());
    }),
    ("record to frame", |recorded| {
        pipeline(&recorded.records, &mut |_batch| {});
    }),
    ("IPv6 record to frame", |recorded| {
        pipeline(&recorded.inet6_records, &mut |_batch| {});
    }),
    ("TCP record to frame", |recorded| {
        pipeline(&recorded.tcp_records, &mut |_batch| {});
    }),
    ("record to file", |recorded| {
        to_file(recorded, &recorded.folder.join("file.fstrm"), 1);
    }),
    ("frame to payload", |recorded| {
        decode(recorded, &mut |_payload| {});
    }),
    ("frame to message", |recorded| {
        decode(recorded, &mut |payload| {
            black_box(Dnstap::decode(payload).is_ok());
        });
    }),
    ("frame to view", |recorded| {
        decode(recorded, &mut |payload| {
            black_box(View::parse(&payload));
        });
    }),
    ("frame to choice", |recorded| {
        let select = Select {
            qtype: vec![1],
            suffix: vec!["example.com".parse().expect("a name")],
            ..Select::default()
        };
        let (filter, mut chosen) = (select.compile(), 0);
        decode(recorded, &mut |payload| {
            let view = View::parse(&payload).expect("a sound frame");
            chosen += usize::from(filter.matches(&view));
        });
        assert_eq!(chosen, MESSAGES);
    }),
    ("frame to text", |recorded| {
        let mut encoder = Encoder::new(Content::Text, false);
        let mut text = Vec::with_capacity(2 * FULL);
        decode(recorded, &mut |payload| {
            if text.len() >= FULL {
                text.clear();
            }
            encoder.frame(&payload, &mut text);
        });
        black_box(text.len());
    }),
];

/// Records, the DNS messages in them, and a file of their frames.
pub(crate) struct Recorded {
    pub(crate) records: Vec<Vec<u8>>,
    /// The same messages over IPv6.
    pub(crate) inet6_records: Vec<Vec<u8>>,
    /// The same messages, each with its length in one call on a TCP socket.
    pub(crate) tcp_records: Vec<Vec<u8>>,
    pub(crate) messages: Vec<(Envelope, Vec<u8>)>,
    pub(crate) file: BytesMut,
    pub(crate) folder: std::path::PathBuf,
}

impl Recorded {
    /// Builds the data; `folder` is for files that the stages write.
    pub(crate) fn new(folder: &Path) -> Self {
        let (mut records, mut messages) = (Vec::new(), Vec::new());
        let (mut inet6_records, mut tcp_records) = (Vec::new(), Vec::new());
        let mut sequences = [[0; 2]; CLIENTS];
        for number in 0..MESSAGES / 2 {
            let id = u16::try_from(number % 60_000).unwrap_or(0);
            let client = number % CLIENTS;
            let mut header = fixture::header();
            header.program_id = PROGRAM;
            header.flags = EVENT_UNCONNECTED;
            header.peer_addr[3] = u8::try_from(client).expect("few clients");
            header.peer_port = 1_024 + id;
            for (answer, direction) in [(false, DIRECTION_RECEIVED), (true, DIRECTION_SENT)] {
                header.ktime_ns += 10_000 * number as u64 + u64::from(answer);
                header.direction = direction;
                let message = message(id, number, answer);
                let record = fixture::whole(header, &message);
                let envelope = fixture::parsed(&record).envelope;
                records.push(record);
                inet6_records.push(fixture::whole(over_inet6(header), &message));
                let sequence = &mut sequences[client][usize::from(answer)];
                let (record, next) = tcp_record(header, client, *sequence, &message);
                tcp_records.push(record);
                *sequence = next;
                messages.push((envelope, message));
            }
        }
        let mut recorded = Self {
            records,
            inet6_records,
            tcp_records,
            messages,
            file: BytesMut::new(),
            folder: folder.to_owned(),
        };
        let mut frames = Vec::new();
        pipeline(&recorded.records, &mut |batch| {
            frames.append(&mut batch.messages.bytes);
        });
        let file = Writer::new(Vec::new(), DNSTAP_CONTENT_TYPE).expect("memory takes it");
        let mut file = file.finish().expect("memory takes it");
        let stop = file.split_off(file.len() - 12);
        file.extend(frames);
        file.extend(stop);
        recorded.file = file[..].into();
        recorded
    }
}

/// Changes a header's addresses to IPv6.
fn over_inet6(mut header: EventHeader) -> EventHeader {
    header.family = AF_INET6;
    for address in [&mut header.local_addr, &mut header.peer_addr] {
        // Put 2001:db8:: in front, and the four bytes at the end.
        address.rotate_left(4);
        address[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    }
    header
}

/// Builds the record of a message with its length, at position `sequence` of the stream. Also
/// returns the next position.
fn tcp_record(
    mut header: EventHeader,
    client: usize,
    sequence: u32,
    message: &[u8],
) -> (Vec<u8>, u32) {
    let length = u16::try_from(message.len()).expect("a DNS message");
    header.protocol = IPPROTO_TCP;
    header.flags = 0;
    header.socket = 100 + client as u64;
    header.peer_port = 2_000 + u16::try_from(client).expect("few clients");
    header.tcp_seq = sequence;
    let piece = [&length.to_be_bytes(), message].concat();
    let next = sequence + 2 + u32::from(length);
    (fixture::whole(header, &piece), next)
}

/// Builds a query for `wwwNNNNN.customer.example.com`, or its answer with four addresses.
fn message(id: u16, number: usize, answer: bool) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend(if answer { [0x81, 0x80] } else { [0x01, 0x00] });
    bytes.extend([0, 1, 0, if answer { 4 } else { 0 }, 0, 0, 0, 0]);
    for label in [&format!("www{number:05}")[..], "customer", "example", "com"] {
        bytes.push(u8::try_from(label.len()).unwrap_or(0));
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    for host in 0..if answer { 4 } else { 0 } {
        bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 192, 0, 2, host]);
    }
    bytes
}

/// Runs all records through the pipeline; `full` gets each batch of 256 KiB, and the last one.
pub(crate) fn pipeline(records: &[Vec<u8>], full: &mut dyn FnMut(&mut Batch)) {
    let mut pipeline = new_pipeline();
    push(&mut pipeline, records, &mut Batch::default(), full);
    assert_eq!(
        pipeline.counters().deliver.messages,
        records.len() as u64,
        "a message for each record"
    );
}

fn new_pipeline() -> Pipeline {
    let server = Server {
        version: VERSION.to_vec(),
        ..Server::default()
    };
    let mut pipeline = Pipeline::new(PipelineConfig {
        identity: IDENTITY.to_vec(),
        pair_limits: PairLimits {
            entries: WAITING,
            ..PairLimits::default()
        },
        ..PipelineConfig::default()
    });
    pipeline.register_server(PROGRAM, server);
    pipeline
}

/// Runs all records through an existing pipeline.
pub(crate) fn push(
    pipeline: &mut Pipeline,
    records: &[Vec<u8>],
    batch: &mut Batch,
    full: &mut dyn FnMut(&mut Batch),
) {
    for record in records {
        pipeline.push(record, batch);
        if batch.messages.bytes.len() >= FULL {
            full(batch);
            batch.clear();
        }
    }
    full(batch);
    batch.clear();
}

/// Runs all records through the pipeline and into a file, `times` times.
pub(crate) fn to_file(recorded: &Recorded, path: &Path, times: usize) {
    let spec: OutputSpec = format!("file:{}", path.display()).parse().expect("a path");
    let mut sinks = SinkSet::open(&[spec], SinkOptions::default()).expect("a place to write");
    for _ in 0..times {
        pipeline(&recorded.records, &mut |batch| {
            let frames = std::mem::take(&mut batch.messages.bytes);
            sinks.send(&sinks::Batch::new(frames, batch.messages.count));
        });
    }
    for report in sinks.finish(Instant::now() + Duration::from_secs(10)) {
        assert_eq!(report.written, (times * MESSAGES) as u64, "{report}");
    }
}

/// Passes each payload of the file to `take`.
fn decode(recorded: &Recorded, take: &mut dyn FnMut(bytes::Bytes)) {
    let mut input = recorded.file.clone();
    let mut decoder = Decoder::new(DNSTAP_CONTENT_TYPE);
    while let Some(frame) = decoder.decode(&mut input).expect("it is sound") {
        if let Frame::Data(payload) = frame {
            take(payload);
        }
    }
}

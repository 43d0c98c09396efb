//! Records of the kernel's ring, passed through the whole pipeline: the laws of the counters hold after every record,
//! every frame is a whole dnstap message, and the memory of the stages stays within its bounds.
//!
//! The input is a byte of choices (see [`config`]) and then steps: a byte that selects the step, and the step's input.
//! Most records are built here, so that their lengths stay right when the fuzzer changes the payload; `RAW` records are
//! used as they are.

use dnstap_core::{
    classify::{Naming, bind::BindRules, profile::ProfileChoice},
    encode::{Extra, ExtraField},
    events::EventKinds,
    model::Subject,
    pair::PairLimits,
    pipeline::{Batch, Filter, Pipeline, PipelineConfig, Server},
    privacy::{Method, Prefixes, Privacy},
    reassemble::tcp::StreamLimits,
    record::fixture::{chunk, header, remark, whole},
};
use dnstap_ebpf::{AF_INET6, EVENT_UNCONNECTED, EventHeader, IPPROTO_TCP, RecordKind};

use crate::{
    frames,
    input::{Input, bit},
    laws,
};

/// Number of steps. The step is the remainder of a byte divided by this.
pub const STEPS: u8 = 8;
/// Choice: addresses are hidden.
pub const PRIVACY: u8 = 1 << 7;
/// Step: a record as it is, with a length in two bytes before it.
pub const RAW: u8 = 4;
/// Step: time passes.
pub const TICK: u8 = 5;
/// Step: the caller takes the output, and sets the clock.
pub const TAKE: u8 = 6;
/// Step: the last payload again, as a response to it.
pub const ANSWER: u8 = 7;

/// Kinds of records beside chunks, and one that there is not.
const OTHERS: [u8; 5] = [
    RecordKind::Message as u8,
    RecordKind::Notice as u8,
    RecordKind::ConnectionEnd as u8,
    RecordKind::Remark as u8,
    u8::MAX,
];

/// What runs in the process that may be probed.
const PROBED: u32 = 1;

/// Bytes that the streams may hold in these tests.
const STREAM_BYTES: usize = 128 << 10;
/// Bytes that one connection may hold in addition, both directions together: pieces that wait and one message.
const ONE_CONNECTION: u64 = 2 * (2 * 128 * 1024 + 65_537 + 1_048_704);

/// Runs the target.
///
/// # Panics
///
/// If a check fails.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let choices = input.byte();
    let mut pipeline = Pipeline::new(config(choices));
    if bit(choices, 5) {
        pipeline.register_server(PROBED, config(choices).server);
        pipeline.probe(PROBED, true, &mut Batch::default());
    }
    let mut kernel = Kernel::default();
    let mut seen = Seen::default();
    let mut batch = Batch::default();
    while !input.is_empty() {
        match input.byte() % STEPS {
            RAW => pipeline.push(input.string(), &mut batch),
            TICK => {
                kernel.now = kernel.now.saturating_add(u64::from(input.word()) << 20);
                pipeline.tick(kernel.now, &mut batch);
            }
            TAKE => {
                let _ = pipeline.verdicts().count();
                pipeline.set_clock_offset(i64::from(input.byte()) << 56);
                seen.take(&mut batch);
            }
            step => {
                for record in kernel.records(step, &mut input) {
                    pipeline.push(&record, &mut batch);
                }
            }
        }
        laws::check(&pipeline);
        assert!(pipeline.pending().bytes <= STREAM_BYTES as u64 + ONE_CONNECTION);
    }
    pipeline.finish(&mut batch);
    laws::check(&pipeline);
    laws::nothing_pending(&pipeline);
    seen.take(&mut batch);
    seen.compare(&pipeline);
}

/// Returns the configuration of a pipeline with small tables.
#[must_use]
pub fn config(choices: u8) -> PipelineConfig {
    let profiles = ["generic", "recursive", "unbound", "stub"];
    let naming = if bit(choices, 0) {
        let version = if bit(choices, 1) { "9.18.1" } else { "9.20.20" };
        Naming::Bind(BindRules::of_version(version))
    } else {
        let choice: Result<ProfileChoice, _> = profiles[usize::from(choices >> 1 & 3)].parse();
        Naming::Profile(choice.unwrap_or_default().choose("dig", true).profile())
    };
    let filter = if bit(choices, 3) {
        Filter {
            only: "client".parse().unwrap_or_default(),
            exclude: vec![Subject::Transfer, Subject::Notify],
            sampled: true,
        }
    } else {
        Filter::default()
    };
    let fields = if bit(choices, 4) {
        vec![ExtraField::Pid, ExtraField::Hook, ExtraField::Netns]
    } else {
        Vec::new()
    };
    // Lengths do not change, so the laws still hold.
    let privacy = Privacy {
        addresses: (choices & PRIVACY != 0)
            .then_some(Method::Truncate(Prefixes { v4: 24, v6: 48 })),
        no_names: false,
    };
    PipelineConfig {
        privacy,
        identity: if bit(choices, 6) {
            b"ns1".to_vec()
        } else {
            Vec::new()
        },
        existing_sockets: vec![1],
        extra: Extra { fields },
        server: Server {
            naming,
            netns: bit(choices, 5).then_some(1),
            ..Server::default()
        },
        filter,
        unsolicited: bit(choices, 2),
        pair_limits: PairLimits {
            entries: 8,
            ..PairLimits::default()
        },
        stream_limits: StreamLimits {
            connections: 4,
            bytes: STREAM_BYTES,
            ..StreamLimits::default()
        },
        udp_sockets: 2,
        events: if bit(choices, 4) {
            EventKinds::ALL
        } else {
            EventKinds::default()
        },
        ..PipelineConfig::default()
    }
}

/// The kernel side, which numbers the bytes of its streams and knows the time.
#[derive(Debug, Default)]
struct Kernel {
    now: u64,
    next: [[u32; 2]; 8],
    lost: [u32; 8],
    last: Option<(EventHeader, Vec<u8>)>,
}

impl Kernel {
    /// Makes the records of one call.
    fn records(&mut self, step: u8, input: &mut Input<'_>) -> Vec<Vec<u8>> {
        let shape = input.byte();
        let place = input.byte();
        self.now = self.now.saturating_add(u64::from(input.byte()) << 18);
        let before = self.last.clone();
        let (mut fields, payload) = match self.last.take() {
            Some((fields, payload)) if step == ANSWER => answer(fields, payload),
            _ => (fields(shape, place), payload(shape, input)),
        };
        fields.ktime_ns = self.now;
        let socket = usize::from(place & 7);
        if fields.protocol == IPPROTO_TCP {
            let next = &mut self.next[socket][usize::from(fields.direction)];
            match step {
                1 => *next = next.wrapping_add(input.word().into()), // bytes that never arrive
                2 => *next = next.wrapping_sub(input.byte().into()), // bytes that are repeated
                3 => self.lost[socket] += 1,
                _ => {}
            }
            fields.tcp_seq = *next;
            *next = next.wrapping_add(u32::try_from(payload.len()).unwrap_or_default());
        }
        fields.lost = self.lost[socket];
        if bit(shape, 6) {
            fields.kind = OTHERS[payload.len() % OTHERS.len()];
            if fields.kind == RecordKind::Remark as u8
                && let Some((about, message)) = before
            {
                let said = about_message(&about, &message, place, self.now);
                self.last = Some((about, message));
                return vec![said];
            }
        }
        let records = if bit(shape, 4) && payload.len() > 1 {
            chunks(fields, &payload, input.byte())
        } else {
            vec![whole(fields, &payload)]
        };
        self.last = Some((fields, payload));
        records
    }
}

/// What the server says about a message; in one of eight cases, nothing that makes sense.
fn about_message(about: &EventHeader, message: &[u8], place: u8, now: u64) -> Vec<u8> {
    let fields = EventHeader {
        kind: RecordKind::Remark as u8,
        ktime_ns: now,
        ..*about
    };
    let zone: &[u8] = if place & 7 == 7 {
        b"?"
    } else {
        b"\x04test\x00"
    };
    whole(fields, &remark(4 << (place >> 3 & 7), message, zone))
}

fn fields(shape: u8, place: u8) -> EventHeader {
    let mut fields = header();
    fields.program_id = PROBED * u32::from(bit(place, 0));
    fields.socket = u64::from(place & 7);
    fields.local_port = [53, 5_300, 853, 40_000][usize::from(place >> 3 & 3)];
    fields.peer_port = [40_000, 53, 0, 5_300][usize::from(place >> 5 & 3)];
    if bit(shape, 0) {
        fields.protocol = IPPROTO_TCP;
    }
    fields.direction = shape >> 1 & 1;
    if bit(shape, 2) {
        fields.family = AF_INET6;
        fields.peer_addr = [0x20; 16];
    }
    // This depends only on the socket's number, so it is always the same for a socket.
    fields.flags = u8::from(bit(place, 1)) * EVENT_UNCONNECTED;
    if bit(place, 7) {
        fields.local_addr = [0; 16];
        if bit(shape, 7) {
            fields.peer_addr = [0; 16];
        }
    }
    fields
}

/// Makes the payload, with its length before it if the shape says so.
fn payload(shape: u8, input: &mut Input<'_>) -> Vec<u8> {
    let bytes = input.string();
    let mut payload = Vec::new();
    if bit(shape, 3) {
        payload.extend(u16::try_from(bytes.len()).unwrap_or_default().to_be_bytes());
    }
    payload.extend_from_slice(bytes);
    if bit(shape, 5) {
        payload.resize(payload.len() + usize::from(input.word()), 0xff);
    }
    payload.truncate(65_535);
    payload
}

fn answer(mut fields: EventHeader, mut payload: Vec<u8>) -> (EventHeader, Vec<u8>) {
    fields.direction ^= 1;
    let flags = if fields.protocol == IPPROTO_TCP { 4 } else { 2 };
    if let Some(byte) = payload.get_mut(flags) {
        *byte ^= 0x80;
    }
    (fields, payload)
}

/// Makes two or three chunks; `choices` may leave one of them out.
fn chunks(mut fields: EventHeader, payload: &[u8], choices: u8) -> Vec<Vec<u8>> {
    fields.message_len = u32::try_from(payload.len()).unwrap_or_default();
    let size = payload.len().div_ceil(2 + usize::from(choices & 1));
    let missing = usize::from(choices >> 1 & 7);
    let mut records = Vec::new();
    for (number, part) in payload.chunks(size).enumerate() {
        fields.chunk_offset = u32::try_from(number * size).unwrap_or_default();
        if number + 1 != missing {
            records.push(chunk(fields, part));
        }
    }
    records
}

/// Output of the pipeline so far.
#[derive(Debug, Default)]
struct Seen {
    by_type: [u64; 14],
    message_bytes: u64,
    frame_bytes: u64,
}

impl Seen {
    fn take(&mut self, batch: &mut Batch) {
        self.frame_bytes += batch.messages.bytes.len() as u64;
        for message in frames::decoded(batch) {
            self.message_bytes += frames::dns(&message).len() as u64;
            self.by_type[usize::try_from(message.r#type - 1).unwrap_or_default()] += 1;
        }
        batch.clear();
    }

    fn compare(&self, pipeline: &Pipeline) {
        let counters = pipeline.counters();
        assert_eq!(counters.by_type, self.by_type);
        assert_eq!(counters.deliver.message_bytes, self.message_bytes);
        assert_eq!(counters.deliver.frame_bytes, self.frame_bytes);
    }
}

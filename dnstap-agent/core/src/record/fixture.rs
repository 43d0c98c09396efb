//! Records as the kernel side writes them, for tests, benchmarks and fuzzing of this and the later stages.

use std::mem::offset_of;

use dnstap_ebpf::{
    AF_INET, DIRECTION_RECEIVED, EventHeader, IPPROTO_UDP, REMARK_HEAD, REMARK_PREFIX, RecordKind,
};

use super::{Chunk, Record};

/// Builds a header for a UDP datagram received by 127.0.0.1:53 from 127.0.0.1:40000.
#[must_use]
pub fn header() -> EventHeader {
    let mut loopback = [0; 16];
    loopback[..4].copy_from_slice(&[127, 0, 0, 1]);
    EventHeader {
        ktime_ns: 1_000,
        socket: 7,
        tgid: 10,
        tid: 11,
        message_len: 0,
        chunk_offset: 0,
        chunk_len: 0,
        tcp_seq: 0,
        lost: 0,
        local_port: 53,
        peer_port: 40_000,
        local_addr: loopback,
        peer_addr: loopback,
        family: AF_INET,
        protocol: IPPROTO_UDP,
        direction: DIRECTION_RECEIVED,
        hook: 2,
        program_id: 0,
        flags: 0,
        kind: RecordKind::Chunk as u8,
        segment: 0,
        arrived_len: 0,
    }
}

/// Builds the record of a message that fits into one chunk.
///
/// # Panics
///
/// Panics if the payload is longer than the header's field allows (4 GiB).
#[must_use]
pub fn whole(mut header: EventHeader, payload: &[u8]) -> Vec<u8> {
    header.message_len = length(payload);
    header.chunk_offset = 0;
    chunk(header, payload)
}

/// Builds the record of a chunk; `header` has the message's length and the chunk's offset.
///
/// # Panics
///
/// Panics if the payload is longer than the header's field allows (4 GiB).
#[must_use]
pub fn chunk(mut header: EventHeader, payload: &[u8]) -> Vec<u8> {
    header.chunk_len = length(payload);
    let mut record = vec![0; super::HEADER];
    let mut put = |at: usize, bytes: &[u8]| record[at..at + bytes.len()].copy_from_slice(bytes);
    put(
        offset_of!(EventHeader, ktime_ns),
        &header.ktime_ns.to_ne_bytes(),
    );
    put(
        offset_of!(EventHeader, socket),
        &header.socket.to_ne_bytes(),
    );
    put(offset_of!(EventHeader, tgid), &header.tgid.to_ne_bytes());
    put(offset_of!(EventHeader, tid), &header.tid.to_ne_bytes());
    put(
        offset_of!(EventHeader, message_len),
        &header.message_len.to_ne_bytes(),
    );
    put(
        offset_of!(EventHeader, chunk_offset),
        &header.chunk_offset.to_ne_bytes(),
    );
    put(
        offset_of!(EventHeader, chunk_len),
        &header.chunk_len.to_ne_bytes(),
    );
    put(
        offset_of!(EventHeader, tcp_seq),
        &header.tcp_seq.to_ne_bytes(),
    );
    put(offset_of!(EventHeader, lost), &header.lost.to_ne_bytes());
    put(
        offset_of!(EventHeader, local_port),
        &header.local_port.to_ne_bytes(),
    );
    put(
        offset_of!(EventHeader, peer_port),
        &header.peer_port.to_ne_bytes(),
    );
    put(offset_of!(EventHeader, local_addr), &header.local_addr);
    put(offset_of!(EventHeader, peer_addr), &header.peer_addr);
    put(offset_of!(EventHeader, family), &[header.family]);
    put(offset_of!(EventHeader, protocol), &[header.protocol]);
    put(offset_of!(EventHeader, direction), &[header.direction]);
    put(offset_of!(EventHeader, hook), &[header.hook]);
    put(
        offset_of!(EventHeader, program_id),
        &header.program_id.to_ne_bytes(),
    );
    put(offset_of!(EventHeader, flags), &[header.flags]);
    put(offset_of!(EventHeader, kind), &[header.kind]);
    put(
        offset_of!(EventHeader, segment),
        &header.segment.to_ne_bytes(),
    );
    put(
        offset_of!(EventHeader, arrived_len),
        &header.arrived_len.to_ne_bytes(),
    );
    record.extend_from_slice(payload);
    record
}

/// The payload of a remark about `message` ([`dnstap_ebpf::Remark`]).
///
/// # Panics
///
/// If a length is more than its field holds.
#[must_use]
pub fn remark(message_type: u32, message: &[u8], zone: &[u8]) -> Vec<u8> {
    let short = |length: usize| u16::try_from(length).expect("it is short").to_ne_bytes();
    let prefix = &message[..message.len().min(REMARK_PREFIX)];
    let mut payload = message_type.to_ne_bytes().to_vec();
    payload.extend(length(message).to_ne_bytes());
    payload.extend(0_u32.to_ne_bytes());
    payload.extend(short(prefix.len()));
    payload.extend(short(zone.len()));
    payload.extend(prefix);
    // What has no meaning.
    payload.resize(REMARK_HEAD, 0xee);
    payload.extend(zone);
    payload
}

/// Parses a record as a chunk.
///
/// # Panics
///
/// Panics if the record is no chunk.
#[must_use]
pub fn parsed(record: &[u8]) -> Chunk<'_> {
    match Record::parse(record) {
        Ok(Record::Chunk(chunk)) => chunk,
        other => panic!("not a chunk: {other:?}"),
    }
}

fn length(payload: &[u8]) -> u32 {
    u32::try_from(payload.len()).expect("a record is below 4 GiB")
}

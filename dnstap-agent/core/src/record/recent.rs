//! A fast path that decodes only what differs from the previous record.
//!
//! Most records are whole datagrams of one server. Fields that repeat those of the last datagram
//! with the same direction and family are compared in one step; they were decoded and checked then.
//! All other records, and all unusual ones, go to [`Record::parse`]. Both ways give the same
//! result. A socket that has lost a message is unusual for the rest of its life.

use std::mem::offset_of;

use dnstap_ebpf::{
    AF_INET6, EVENT_COALESCED, EVENT_FILLED, EVENT_UNCONNECTED, EventHeader, MAX_DNS_MESSAGE,
};

use super::{Chunk, HEADER, field, u32_at};
use crate::model::{Endpoint, Envelope, Protocol};

/// Last datagrams, by direction, family and whether the socket is connected.
#[derive(Debug, Default)]
pub(crate) struct Recent([Option<Last>; 8]);

#[derive(Debug)]
struct Last {
    shared: Shared,
    envelope: Envelope,
}

/// Fields that must be equal for the fast path. Time, thread, socket, ports, peer and length may
/// differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shared {
    local_address: u128,
    /// Fields `tcp_seq` and `lost`, which are 0.
    zeroes: u64,
    /// Fields from `family` to `program_id`.
    kind_of_socket: u64,
    /// Fields `flags`, `kind` and `segment`.
    kind_of_record: u32,
}

impl Shared {
    #[inline]
    fn of(header: &[u8; HEADER]) -> Self {
        Self {
            local_address: u128::from_ne_bytes(field(header, offset_of!(EventHeader, local_addr))),
            zeroes: u64::from_ne_bytes(field(header, offset_of!(EventHeader, tcp_seq))),
            kind_of_socket: u64::from_ne_bytes(field(header, offset_of!(EventHeader, family))),
            kind_of_record: u32_at(header, offset_of!(EventHeader, flags)),
        }
    }
}

impl Recent {
    /// Returns the envelope and the bytes of a single whole datagram, if it resembles the last one.
    #[inline]
    pub(crate) fn datagram<'a>(&mut self, record: &'a [u8]) -> Option<(&Envelope, &'a [u8])> {
        let (header, rest) = record.split_first_chunk::<HEADER>()?;
        let Last { shared, envelope } = self.0[place(header)].as_mut()?;
        let length = u32_at(header, offset_of!(EventHeader, chunk_len)) as usize;
        let arrived = u32_at(header, offset_of!(EventHeader, arrived_len)) as usize;
        let is_whole = u32_at(header, offset_of!(EventHeader, message_len)) as usize == length
            && u32_at(header, offset_of!(EventHeader, chunk_offset)) == 0
            && (arrived == 0 || arrived == length);
        if *shared != Shared::of(header) || !is_whole || length > MAX_DNS_MESSAGE {
            return None;
        }
        let peer = Endpoint::from_abi(
            header[offset_of!(EventHeader, family)],
            field(header, offset_of!(EventHeader, peer_addr)),
            u16::from_ne_bytes(field(header, offset_of!(EventHeader, peer_port))),
        );
        if peer.length != envelope.peer.length {
            return None;
        }
        let bytes = rest.get(..length)?;
        envelope.ktime_ns = u64::from_ne_bytes(field(header, offset_of!(EventHeader, ktime_ns)));
        envelope.socket = u64::from_ne_bytes(field(header, offset_of!(EventHeader, socket)));
        envelope.origin.tgid = u32_at(header, offset_of!(EventHeader, tgid));
        envelope.origin.tid = u32_at(header, offset_of!(EventHeader, tid));
        envelope.local.port =
            u16::from_ne_bytes(field(header, offset_of!(EventHeader, local_port)));
        envelope.peer = peer;
        Some((envelope, bytes))
    }

    /// Stores a record and what was decoded from it.
    pub(crate) fn note(&mut self, record: &[u8], chunk: &Chunk<'_>) {
        let is_plain = chunk.envelope.protocol == Protocol::Udp
            && chunk.segment == 0
            && chunk.flags & (EVENT_COALESCED | EVENT_FILLED) == 0;
        if let Some(header) = record.first_chunk()
            && is_plain
        {
            let shared = Shared::of(header);
            if shared.zeroes == 0 {
                let envelope = chunk.envelope;
                self.0[place(header)] = Some(Last { shared, envelope });
            }
        }
    }
}

/// Returns the index for records with this direction and family. A resolver's clients (unconnected
/// sockets) and its servers have different ones.
#[inline]
fn place(header: &[u8; HEADER]) -> usize {
    let direction = header[offset_of!(EventHeader, direction)] & 1;
    let is_inet6 = header[offset_of!(EventHeader, family)] == AF_INET6;
    let is_unconnected = header[offset_of!(EventHeader, flags)] & EVENT_UNCONNECTED != 0;
    usize::from(direction) + 2 * usize::from(is_inet6) + 4 * usize::from(is_unconnected)
}

const _: () = assert!(
    offset_of!(EventHeader, tcp_seq) + 4 == offset_of!(EventHeader, lost)
        && offset_of!(EventHeader, family) + 4 == offset_of!(EventHeader, program_id)
        && offset_of!(EventHeader, flags) + 1 == offset_of!(EventHeader, kind)
        && offset_of!(EventHeader, flags) + 2 == offset_of!(EventHeader, segment)
);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{Record, fixture},
        *,
    };

    /// Records that differ from one another in a few fields; some peers are unknown or have a
    /// mapped address.
    fn records() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let field = (
            any::<prop::sample::Index>(),
            prop_oneof![0..4_u8, any::<u8>()],
        );
        let changes = proptest::collection::vec(field, 0..3);
        let length = prop_oneof![0..60_usize, 0..600_usize];
        proptest::collection::vec((changes, length, any::<[bool; 3]>(), 0..4_u8), 1..20).prop_map(
            |records| {
                let record = |(changes, length, [sent, inet6, cut], peer): (
                    Vec<_>,
                    usize,
                    [bool; 3],
                    u8,
                )| {
                    let mut header = fixture::header();
                    header.direction = sent.into();
                    if inet6 {
                        header.family = AF_INET6;
                        (header.local_addr[15], header.peer_addr[15]) = (1, 2);
                    }
                    match peer {
                        0 => header.peer_addr = [0; 16],
                        1 => {
                            header.peer_addr[..10].fill(0);
                            header.peer_addr[10..12].fill(0xff);
                        }
                        _ => {}
                    }
                    let mut record = fixture::whole(header, &vec![7; length]);
                    for (at, byte) in changes {
                        let at: prop::sample::Index = at;
                        record[at.index(HEADER)] = byte;
                    }
                    if cut {
                        record.pop();
                    }
                    record
                };
                records.into_iter().map(record).collect()
            },
        )
    }

    proptest! {
        #[test]
        fn what_resembles_the_last_one_is_decoded_to_the_same(records in records()) {
            let mut recent = Recent::default();
            for record in &records {
                let decoded = Record::parse(record);
                if let Some((envelope, bytes)) = recent.datagram(record) {
                    let Ok(Record::Chunk(chunk)) = decoded else {
                        panic!("{decoded:?}");
                    };
                    prop_assert_eq!((envelope, bytes), (&chunk.envelope, chunk.payload));
                    prop_assert!(chunk.is_whole() && chunk.lost == 0 && chunk.segment == 0);
                    prop_assert!(chunk.arrived_len == 0 || chunk.arrived_len == chunk.message_len);
                } else if let Ok(Record::Chunk(chunk)) = decoded {
                    recent.note(record, &chunk);
                }
            }
        }
    }

    #[test]
    fn a_datagram_of_another_client_resembles_the_last_one() {
        let mut recent = Recent::default();
        let mut header = fixture::header();
        let first = fixture::whole(header, b"one");
        assert!(recent.datagram(&first).is_none());
        recent.note(&first, &fixture::parsed(&first));
        (header.peer_port, header.peer_addr[3], header.ktime_ns) = (7, 9, 5);
        let second = fixture::whole(header, b"second");
        let (envelope, bytes) = recent.datagram(&second).unwrap();
        assert_eq!((envelope.ktime_ns, bytes), (5, &b"second"[..]));
        assert_eq!(*envelope, fixture::parsed(&second).envelope);
    }
}

//! What the operator wants left out, before the copy: by port, subnet, role and sample.
//!
//! Every filter judges by what the two directions of an exchange have in common, so that a query and its response are kept or
//! left out together: the two ports, the peer's address, the process's role, the DNS id. Over TCP all but the role and the id
//! belong to the connection, so a connection is kept or left out as a whole, and its stream has no gaps. The role is judged
//! on datagrams only: pieces of a stream need not show a header.
//!
//! The local address plays no part: a wildcard socket has none, or has it for received datagrams only. In front of the
//! message there may be what a proxy says about the client (PROXY protocol, version 2); peer and ports are the proxy's.
//!
//! The agent changes them while messages pass (SIGHUP). What is asked for before and after a change is delivered throughout;
//! a connection that a change lets in is marked by then, so that the agent does not take its middle for its beginning. Where
//! nothing is to be left out, and never will be, the verifier removes all this.

use core::ptr;

use aya_ebpf::{
    macros::map,
    maps::{
        Array,
        lpm_trie::{Key, LpmTrie},
    },
};
use dnstap_ebpf::{
    AF_INET, Counter, DIRECTION_RECEIVED, EventHeader, FILTER_INITIATOR, FILTER_NETS, FILTER_PORTS,
    FILTER_RESPONDER, Filter, IPPROTO_TCP, IPPROTO_UDP, MAX_NETS, PORT_WORDS,
};

use crate::{
    kernel::{config::config, memory, sockets},
    message::payload::{Payload, Vectors},
};

/// What is in force.
#[map]
static FILTER: Array<Filter> = Array::with_max_entries(1, 0);

/// A bit for each port.
#[map]
static PORTS: Array<u64> = Array::with_max_entries(PORT_WORDS, 0);

/// Network -> 1 if it is wanted, 0 if not; IPv4 in the IPv4-mapped form.
#[map]
static NETS: LpmTrie<[u8; 16], u32> = LpmTrie::with_max_entries(2 * (MAX_NETS + 1), 0);

/// How the PROXY protocol, version 2, begins; its first four bytes, and the rest of the signature.
const PREFACE: [u8; 4] = *b"\r\n\r\n";
const SIGNATURE: [u8; 8] = *b"\0\r\nQUIT\n";

/// Where in a preface the length of what follows its fixed part lies, and the size of the fixed part.
const PREFACE_LENGTH: usize = 14;
const PREFACE_FIXED: usize = 16;

/// The first bytes of a DNS message: the id, and the byte with the QR bit.
type Start = [u8; 4];

/// Highest bit of the third byte (RFC 1035 section 4.1.1).
const QR: u8 = 0x80;

/// Multiplier of the hash: 2^64 divided by the golden ratio, made odd.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Why a message is left out, if it is. `header` is complete but for the chunk.
#[inline(always)]
pub(crate) fn reason(header: &EventHeader, payload: &Payload, vectors: Vectors) -> Option<Counter> {
    if config!(filtered) == 0 {
        return None;
    }
    let reason = judge(in_force()?, header, payload, vectors);
    // The next that gets through, if there will be one, tells that something is missing before it.
    if reason.is_some() && header.protocol == IPPROTO_TCP && header.lost == 0 {
        sockets::note_loss(header.socket);
    }
    reason
}

/// A copy of what is in force, each member as the agent has written it last.
#[inline(always)]
fn in_force() -> Option<Filter> {
    let filter = FILTER.get_ptr(0)?;
    // SAFETY: the entry lives as long as the map; its members are integers, which are read and written whole.
    unsafe {
        Some(Filter {
            kinds: ptr::read_volatile(&raw const (*filter).kinds),
            sample_below: ptr::read_volatile(&raw const (*filter).sample_below),
            sample_seed: ptr::read_volatile(&raw const (*filter).sample_seed),
        })
    }
}

#[inline(always)]
fn judge(
    filter: Filter,
    header: &EventHeader,
    payload: &Payload,
    vectors: Vectors,
) -> Option<Counter> {
    if filter.kinds & FILTER_PORTS != 0
        && !is_wanted_port(header.local_port)
        && !is_wanted_port(header.peer_port)
    {
        return Some(Counter::FilteredPort);
    }
    if filter.kinds & FILTER_NETS != 0 && !is_wanted_peer(header) {
        return Some(Counter::FilteredNet);
    }
    let sampled = filter.sample_below != 0;
    let mut id = [0; 2];
    if header.protocol == IPPROTO_UDP
        && (sampled || filter.kinds & (FILTER_RESPONDER | FILTER_INITIATOR) != 0)
    {
        // A message whose first segment does not hold the start is kept: it is no query, or the server writes as no known one does.
        let [first, second, flags, _] = start(payload, vectors)?;
        let response = flags & QR != 0;
        let responds = (header.direction == DIRECTION_RECEIVED) != response;
        let unwanted = if responds {
            FILTER_RESPONDER
        } else {
            FILTER_INITIATOR
        };
        if filter.kinds & unwanted != 0 {
            return Some(Counter::FilteredRole);
        }
        id = [first, second];
    }
    (sampled && hash(filter.sample_seed, header, id) >= filter.sample_below)
        .then_some(Counter::SampledOut)
}

#[inline(always)]
fn is_wanted_port(port: u16) -> bool {
    PORTS
        .get(u32::from(port / 64))
        .is_some_and(|word| word & (1 << (port % 64)) != 0)
}

/// Whether the peer is in a wanted network. One that is not known is in none.
#[inline(always)]
fn is_wanted_peer(header: &EventHeader) -> bool {
    if header.peer_port == 0 {
        return false;
    }
    let mut address = header.peer_addr;
    if header.family == AF_INET {
        let [a, b, c, d, ..] = header.peer_addr;
        address = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d];
    }
    NETS.get(Key::new(128, address)) == Some(&1)
}

/// The start of the DNS message, behind a preface if there is one.
#[inline(always)]
fn start(payload: &Payload, vectors: Vectors) -> Option<Start> {
    let (base, length) = payload.first_segment(vectors).ok()?;
    if length < size_of::<Start>() as u64 {
        return None;
    }
    // SAFETY: bytes.
    let start: Start = unsafe { memory::user(base, 0) }.ok()?;
    if start != PREFACE {
        return Some(start);
    }
    // SAFETY: bytes, and an integer.
    let (signature, extent): ([u8; 8], u16) = unsafe {
        (
            memory::user(base, PREFACE.len() as u64).ok()?,
            memory::user(base, PREFACE_LENGTH as u64).ok()?,
        )
    };
    if signature != SIGNATURE {
        return Some(start);
    }
    let behind = (PREFACE_FIXED + usize::from(u16::from_be(extent))) as u64;
    if length < behind + size_of::<Start>() as u64 {
        return None;
    }
    // SAFETY: bytes.
    unsafe { memory::user(base, behind) }.ok()
}

/// A number that all messages of an exchange have in common, and over TCP all of a connection.
#[inline(always)]
fn hash(seed: u32, header: &EventHeader, [first, second]: [u8; 2]) -> u32 {
    // SAFETY: sixteen bytes are two integers.
    let [high, low] = unsafe { core::mem::transmute::<[u8; 16], [u64; 2]>(header.peer_addr) };
    let ends = u64::from(header.peer_port) << 48
        | u64::from(header.local_port) << 32
        | u64::from(first) << 24
        | u64::from(second) << 16
        | u64::from(header.protocol);
    let hash = mix(mix(mix(u64::from(seed), high), low), ends);
    (mix(hash, ends) >> 32) as u32
}

#[inline(always)]
fn mix(hash: u64, word: u64) -> u64 {
    let product = (hash ^ word).wrapping_mul(MULTIPLIER);
    product ^ (product >> 32)
}

//! Leaves out messages that the operator does not want, before they are copied: by port, subnet, role and sample.
//!
//! Every filter judges by properties that both directions of an exchange share, so that a query and its response are
//! kept or left out together: the two ports, the peer's address, the process's role, the DNS id. Over TCP all of these
//! except the role and the id belong to the connection. So a connection is kept or left out as a whole, and its stream
//! has no gaps. The role filter applies to datagrams only, because a piece of a stream may not contain a DNS header.
//!
//! The local address is not used: a wildcard socket has none, or has it for received datagrams only. A PROXY header
//! (version 2) may come before the DNS message; peer and ports are then those of the proxy.
//!
//! The agent changes the filters while messages pass (SIGHUP). A message that is wanted both before and after a change
//! is delivered at all times. If a change lets a connection in, the connection has a mark by then, so that the agent
//! does not take the middle of the stream for its beginning. If no message is to be left out, neither now nor later,
//! the verifier removes all this code.

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

/// The current filter.
#[map]
static FILTER: Array<Filter> = Array::with_max_entries(1, 0);

/// A bit for each port.
#[map]
static PORTS: Array<u64> = Array::with_max_entries(PORT_WORDS, 0);

/// Network -> 1 if it is wanted, 0 if not; IPv4 in the IPv4-mapped form.
#[map]
static NETS: LpmTrie<[u8; 16], u32> = LpmTrie::with_max_entries(2 * (MAX_NETS + 1), 0);

/// Signature of a PROXY header, version 2: the first four bytes, and the rest.
const HEADER_START: [u8; 4] = *b"\r\n\r\n";
const SIGNATURE: [u8; 8] = *b"\0\r\nQUIT\n";

/// Offset of the length field in a PROXY header, and size of the header's fixed part. The length field counts the bytes
/// after the fixed part.
const HEADER_EXTENT: usize = 14;
const HEADER_FIXED: usize = 16;

/// The first bytes of a DNS message: the id, and the byte with the QR bit.
type Start = [u8; 4];

/// Highest bit of the third byte (RFC 1035 section 4.1.1).
const QR: u8 = 0x80;

/// Multiplier of the hash: 2^64 divided by the golden ratio, made odd.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Returns the reason to leave a message out, or `None` to keep it. `header` is complete except for the chunk.
#[inline(always)]
pub(crate) fn reason(header: &EventHeader, payload: &Payload, vectors: Vectors) -> Option<Counter> {
    if config!(filtered) == 0 {
        return None;
    }
    let reason = judge(in_force()?, header, payload, vectors);
    // The next message of this connection that is delivered, if any, reports that a message is missing before it.
    if reason.is_some() && header.protocol == IPPROTO_TCP && header.lost == 0 {
        sockets::note_loss(header.socket);
    }
    reason
}

/// Returns whether a message that a server has received or sent over a connection is left out, together with the pieces
/// of this connection. `header` has the ends and the protocol TCP.
#[inline(always)]
pub(crate) fn leaves_out(header: &EventHeader) -> bool {
    if config!(filtered) == 0 {
        return false;
    }
    in_force().is_some_and(|filter| {
        judge_ends(filter, header).is_some() || is_sampled_out(filter, header, [0; 2])
    })
}

/// Returns a copy of the current filter. Each member has the value that the agent has written last.
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
    let reason = judge_ends(filter, header);
    if reason.is_some() {
        return reason;
    }
    let sampled = filter.sample_below != 0;
    let mut id = [0; 2];
    if header.protocol == IPPROTO_UDP
        && (sampled || filter.kinds & (FILTER_RESPONDER | FILTER_INITIATOR) != 0)
    {
        // A message whose first segment does not contain the start of the DNS message is kept. Either it is not a
        // query, or the server writes it in a way that no known server does.
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
    is_sampled_out(filter, header, id).then_some(Counter::SampledOut)
}

/// Judges by ports and subnets.
#[inline(always)]
fn judge_ends(filter: Filter, header: &EventHeader) -> Option<Counter> {
    if filter.kinds & FILTER_PORTS != 0
        && !is_wanted_port(header.local_port)
        && !is_wanted_port(header.peer_port)
    {
        return Some(Counter::FilteredPort);
    }
    if filter.kinds & FILTER_NETS != 0 && !is_wanted_peer(header) {
        return Some(Counter::FilteredNet);
    }
    None
}

#[inline(always)]
fn is_sampled_out(filter: Filter, header: &EventHeader, id: [u8; 2]) -> bool {
    filter.sample_below != 0 && hash(filter.sample_seed, header, id) >= filter.sample_below
}

#[inline(always)]
fn is_wanted_port(port: u16) -> bool {
    PORTS
        .get(u32::from(port / 64))
        .is_some_and(|word| word & (1 << (port % 64)) != 0)
}

/// Returns whether the peer is in a wanted network. An unknown peer is in no network.
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

/// Reads the start of the DNS message, which is behind the PROXY header if there is one.
#[inline(always)]
fn start(payload: &Payload, vectors: Vectors) -> Option<Start> {
    let (base, length) = payload.first_segment(vectors).ok()?;
    if length < size_of::<Start>() as u64 {
        return None;
    }
    // SAFETY: bytes.
    let start: Start = unsafe { memory::user(base, 0) }.ok()?;
    if start != HEADER_START {
        return Some(start);
    }
    // SAFETY: bytes, and an integer.
    let (signature, extent): ([u8; 8], u16) = unsafe {
        (
            memory::user(base, HEADER_START.len() as u64).ok()?,
            memory::user(base, HEADER_EXTENT as u64).ok()?,
        )
    };
    if signature != SIGNATURE {
        return Some(start);
    }
    let behind = (HEADER_FIXED + usize::from(u16::from_be(extent))) as u64;
    if length < behind + size_of::<Start>() as u64 {
        return None;
    }
    // SAFETY: bytes.
    unsafe { memory::user(base, behind) }.ok()
}

/// Returns a number that is the same for all messages of an exchange, and over TCP for all messages of a connection.
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

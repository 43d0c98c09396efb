//! Function `dns_dt_send` of BIND's libdns. For each message it gets the zone (dnstap's
//! `query_zone`), the server's own type, the transport, and the whole message in clear.
//!
//! ```c
//! void dns_dt_send(dns_view_t *view, dns_dtmsgtype_t msgtype, isc_sockaddr_t *qaddr, isc_sockaddr_t *raddr,
//!                  bool tcp, isc_region_t *zone, isc_time_t *qtime, isc_time_t *rtime, isc_buffer_t *buf);
//! ```
//!
//! BIND 9.16 to 9.20 have this function; 9.20 has `dns_transport_type_t` instead of `bool tcp`.
//! Which one it is, the agent tells for each process. If BIND was built with dnstap, it calls the function for each message, even if dnstap is not
//! configured (lib/dns/dnstap.c). The last argument is on the stack.
//!
//! The order in one thread: a query to another server is sent before the call, its response is
//! received before the call, and a response to a client is sent after the call.
//!
//! The server does not know the local address of its own queries: `qaddr` has `0.0.0.0` then, and
//! over TCP no port either.
//!
//! View and buffer are used only if their magic numbers are right (`ISC_MAGIC` in
//! lib/isc/include/isc/magic.h). Nothing is written to the server.

use aya_ebpf::{
    helpers::bpf_ktime_get_ns,
    macros::{map, uprobe},
    maps::LruHashMap,
    programs::ProbeContext,
};
use dnstap_ebpf::{
    AF_INET, AF_INET6, Counter, DIRECTION_RECEIVED, DIRECTION_SENT, EVENT_UNSURE, EventHeader,
    IPPROTO_TCP, IPPROTO_UDP, MAX_DNS_MESSAGE, MAX_NAME, PROTOCOL_DOH, PROTOCOL_DOT, REMARK_HEAD,
    REMARK_PREFIX, RecordKind, SERVER_ASKS, SERVER_SENT, TRANSPORT_IS_BOOL, TRANSPORT_IS_NUMBER,
};

use super::call::{self, PROBED};
use crate::{
    kernel::{
        config::config,
        counters::count,
        memory,
        target::{self, Thread},
    },
    message::{
        emit::{self, Said},
        filter,
    },
    thread::threads,
};

/// Magic number at the start of `dns_view_t`: `View`.
const VIEW: u32 = 0x5669_6577;
/// Magic number at the start of `isc_buffer_t`: `Buf!`.
const BUFFER: u32 = 0x4275_6621;

/// Start of `isc_buffer_t` (lib/isc/include/isc/buffer.h).
#[derive(Clone, Copy)]
#[repr(C)]
struct Buffer {
    magic: u32,
    _pad: u32,
    base: u64,
    length: u32,
    used: u32,
}

/// `isc_region_t` (lib/isc/include/isc/region.h).
#[derive(Clone, Copy)]
#[repr(C)]
struct Region {
    base: u64,
    length: u32,
    _pad: u32,
}

/// Start of `isc_sockaddr_t`: a `struct sockaddr_in` or `struct sockaddr_in6`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Address {
    family: u16,
    port_be: [u8; 2],
    inet: [u8; 4],
    inet6: [u8; 16],
}

/// Unreadable calls by process id. Each process has its own count, so that one process cannot stop
/// the probes of others.
#[map]
static PROBE_FAULTS: LruHashMap<u32, u64> = LruHashMap::with_max_entries(256, 0);

/// Transports of 9.20 (`dns_transport_type_t` in lib/dns/include/dns/transport.h).
const TLS: u32 = 3;
const HTTP: u32 = 4;

/// Sends a remark about the message that the server passes to its dnstap, or the message itself, or
/// both.
#[uprobe]
fn dns_dt_send(ctx: ProbeContext) -> u32 {
    let Some(key) = threads::possible() else {
        return 0;
    };
    let tgid = (key >> 32) as u32;
    let Some(program_id) = target::program_id(tgid) else {
        return 0;
    };
    let thread = Thread {
        tgid,
        tid: key as u32,
        program_id,
    };
    count(Counter::ProbeCalls);
    conclude(tgid, try_send(&ctx, thread));
    0
}

/// Counts a record that was not sent.
#[inline(always)]
fn conclude(tgid: u32, sent: Result<(), Counter>) {
    if let Err(reason) = sent {
        count(reason);
        if matches!(reason, Counter::ProbeFault) {
            count_fault(tgid);
        }
    }
}

/// Counts an unreadable call of the process.
#[inline(always)]
fn count_fault(tgid: u32) {
    if let Some(faults) = PROBE_FAULTS.get_ptr_mut(tgid) {
        // SAFETY: the pointer is to a live, aligned value of the map. If two threads count at the
        // same time, one count may be lost.
        unsafe { faults.write_volatile(faults.read_volatile() + 1) };
    } else {
        // If the insertion fails, only the sum over all processes counts the call.
        let _ = PROBE_FAULTS.insert(tgid, 1, 0);
    }
}

#[inline(always)]
fn try_send(ctx: &ProbeContext, thread: Thread) -> Result<(), Counter> {
    let argument = |n| ctx.arg::<u64>(n).ok_or(Counter::ProbeFault);
    let message_type = argument(1)? as u32;
    let transport = argument(4)? as u32 & 0xff;
    let is_remarked = message_type & config!(remarks) as u32 != 0;
    let protocol = protocol(thread.tgid, message_type, transport);
    if !is_remarked && protocol == 0 {
        return Err(Counter::ProbeUnwanted);
    }
    // SAFETY: the type is an integer. All other types that are read here have integers only.
    let view: u32 = unsafe { read(argument(0)?)? };
    // SAFETY: as above.
    let buffer: Buffer = unsafe { read(call::argument(ctx, 8, 0)?)? };
    if view != VIEW
        || buffer.magic != BUFFER
        || buffer.used > buffer.length
        || buffer.used as usize > MAX_DNS_MESSAGE
        || !message_type.is_power_of_two()
    {
        return Err(Counter::ProbeFault);
    }
    let zone = zone(argument(5)?)?;
    let (query_end, response_end) = (argument(2)?, argument(3)?);
    let (local, peer) = if message_type & SERVER_ASKS != 0 {
        (query_end, response_end)
    } else {
        (response_end, query_end)
    };
    // SAFETY: as above.
    let peer: Address = unsafe { read(peer)? };
    // SAFETY: integers, for which zero is a value.
    let mut own: Address = unsafe { core::mem::zeroed() };
    if local != 0 {
        // SAFETY: as above.
        own = unsafe { read(local)? };
    }
    let mut header = EventHeader {
        // SAFETY: takes no arguments.
        ktime_ns: unsafe { bpf_ktime_get_ns() },
        tgid: thread.tgid,
        tid: thread.tid,
        program_id: thread.program_id,
        message_len: REMARK_HEAD as u32 + zone.length,
        chunk_len: REMARK_HEAD as u32 + zone.length,
        local_port: u16::from_be_bytes(own.port_be),
        peer_port: u16::from_be_bytes(peer.port_be),
        protocol: IPPROTO_UDP,
        direction: if message_type & SERVER_SENT != 0 {
            DIRECTION_SENT
        } else {
            DIRECTION_RECEIVED
        },
        kind: RecordKind::Remark as u8,
        // SAFETY: integers, for which zero is a value.
        ..unsafe { core::mem::zeroed() }
    };
    set_addresses(&mut header, &peer, &own)?;
    header.protocol = IPPROTO_TCP;
    let is_copied = protocol != 0 && !filter::leaves_out(&header);
    header.protocol = IPPROTO_UDP;
    if is_remarked {
        if is_copied {
            count(Counter::ProbeTwice);
        }
        let prefix_len = if (buffer.used as usize) < REMARK_PREFIX {
            buffer.used as u16
        } else {
            REMARK_PREFIX as u16
        };
        let sent = emit::remark(
            ctx,
            &header,
            &Said {
                message_type,
                message_len: buffer.used,
                transport,
                prefix: buffer.base,
                prefix_len,
                zone: zone.base,
                zone_len: zone.length as u16,
            },
        );
        if !is_copied {
            return sent;
        }
        conclude(thread.tgid, sent);
    } else if !is_copied {
        return Err(Counter::ProbeUnwanted);
    }
    header.kind = RecordKind::Message as u8;
    header.protocol = protocol;
    header.flags = if protocol == IPPROTO_TCP {
        EVENT_UNSURE
    } else {
        0
    };
    header.message_len = buffer.used;
    header.chunk_len = buffer.used;
    emit::whole(ctx, &header, buffer.base)
}

/// Returns the place of the zone's name; zero if the server passes no zone.
#[inline(always)]
fn zone(address: u64) -> Result<Region, Counter> {
    if address == 0 {
        // SAFETY: integers, for which zero is a value.
        return Ok(unsafe { core::mem::zeroed() });
    }
    // SAFETY: the type has integers only.
    let zone: Region = unsafe { read(address)? };
    if zone.length as usize > MAX_NAME {
        return Err(Counter::ProbeFault);
    }
    Ok(zone)
}

/// Sets the family and the addresses of a header. `own` counts if it has the family of `peer`.
#[inline(always)]
fn set_addresses(header: &mut EventHeader, peer: &Address, own: &Address) -> Result<(), Counter> {
    if peer.family == AF_INET as u16 {
        header.family = AF_INET;
        header.peer_addr[..4].copy_from_slice(&peer.inet);
        if own.family == peer.family {
            header.local_addr[..4].copy_from_slice(&own.inet);
        }
    } else if peer.family == AF_INET6 as u16 {
        header.family = AF_INET6;
        header.peer_addr = peer.inet6;
        if own.family == peer.family {
            header.local_addr = own.inet6;
        }
    } else {
        return Err(Counter::ProbeFault);
    }
    Ok(())
}

/// Returns the protocol of a message that is to be copied, as in the header of its record; 0 if it is
/// not to be copied.
#[inline(always)]
fn protocol(tgid: u32, message_type: u32, transport: u32) -> u8 {
    // Neither over UDP in any version.
    if config!(encrypted) == 0 || transport == 0 {
        return 0;
    }
    // SAFETY: the agent writes the value before it attaches the probe of the process. If it is removed, nothing is copied.
    let told = unsafe { PROBED.get(tgid) }.map(|probed| probed.transport);
    match (told, transport) {
        (Some(TRANSPORT_IS_NUMBER), TLS) => PROTOCOL_DOT,
        (Some(TRANSPORT_IS_NUMBER), HTTP) => PROTOCOL_DOH,
        // BIND 9.18 asks other servers over UDP and TCP only.
        (Some(TRANSPORT_IS_BOOL), _) if message_type & SERVER_ASKS == 0 => IPPROTO_TCP,
        _ => 0,
    }
}

/// Reads a `T` from the server's memory.
///
/// # Safety
///
/// Any bytes must be a valid `T`.
#[inline(always)]
unsafe fn read<T>(address: u64) -> Result<T, Counter> {
    // SAFETY: the caller vouches for `T`.
    unsafe { memory::user(address, 0) }.map_err(|_| Counter::ProbeFault)
}

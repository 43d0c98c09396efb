//! The kernel/user ABI of the tap: the one file that the eBPF programs and the agent share.
//!
//! Everything here is plain old data in the byte order of the host: fixed-size integers, explicit padding, no
//! `bool` and no data-carrying enum, because the other side of each type is raw memory. Sizes and the offsets of hot
//! fields are checked at compile time on both sides; a mismatch does not build.
//!
//! ```text
//! kernel ── EVENTS_RING | EVENTS_PERF ──► EventHeader + payload      (RecordKind)
//!        ── COUNTERS ───────────────────► [u64; COUNTER_SLOTS] per CPU
//!        ◄► TARGETS ───────────────────── tgid -> EventHeader::program_id
//!        ◄► POSSIBLE ──────────────────── slot of a tgid -> whether any such may be in TARGETS
//!        ◄► CHANGES ───────────────────── CHANGED_BY_* -> how often TARGETS was changed
//!        ◄─ NAMES ─────────────────────── name of an executable -> NAME_* flags
//!        ── RUNS ──────────────────────► EventHeader::program_id -> name of an executable
//!        ◄► SOCKETS ───────────────────── socket inode -> SocketState
//!        ◄─ FILTER, PORTS, NETS ──────── Filter, port / 64 -> bits, prefix -> wanted
//!        ◄─ PROBED ──────────────────── tgid -> Probed
//!        ── NOTICE_FAULTS ────────────► fault_key(tgid, Function) -> calls that could not be read
//!        ◄─ CONFIG (read-only data) ───── Config { .., offsets: KernelOffsets }
//! ```
#![no_std]

pub mod syscall;

use core::mem::{align_of, offset_of, size_of};

/// Largest DNS message over UDP or TCP (RFC 1035 section 4.2.2: a 16-bit length).
pub const MAX_DNS_MESSAGE: usize = 65_535;

/// Payload sizes of the records of the BPF ring buffer, in bytes, smallest first. A chunk uses the smallest record that
/// holds it. The unused end of the record is wasted until the record is consumed. The last size holds a whole DNS
/// message over TCP: 65,535 bytes and the 2-byte length, rounded up to a multiple of 8.
pub const RING_CLASSES: [usize; 8] = [64, 128, 256, 512, 1_280, 4_096, 16_384, 65_544];

/// Largest payload of one record of the BPF ring buffer.
pub const MAX_RING_CHUNK: usize = RING_CLASSES[RING_CLASSES.len() - 1];

/// Largest payload of one record of the perf ring buffer. The kernel limits a perf record to 64 KiB with its headers
/// (`perf_event_header.size` is 16 bits wide), so larger messages travel in several records there.
pub const MAX_PERF_CHUNK: usize = 32_768;

/// Largest number of records for a message in one buffer. The bytes of such a message are read straight into the
/// records. A larger message is gathered.
pub const MAX_CHUNKS: usize = 4;

/// Largest number of segments (buffers of one call) that are gathered in one record.
pub const GATHERED_SEGMENTS: usize = 16;

/// Largest number of records for a message whose segments are gathered. Each record is at least half full or holds
/// [`GATHERED_SEGMENTS`]. A call that moves more is counted as [`Counter::TooManyChunks`].
pub const GATHERED_CHUNKS: usize = 17;

/// Largest number of segments of one message, with hooks `fentry` and `socket`. Hook `syscall` takes at least as many.
/// A message with more segments is counted as [`Counter::TooManyChunks`].
pub const MAX_SEGMENTS: usize = GATHERED_CHUNKS * GATHERED_SEGMENTS;

/// Scratch slots for each possible CPU in the map `SCRATCH`, where perf records are put together: one for each program
/// that can be in use at once on a CPU.
pub const SCRATCH_SLOTS: u32 = 8;

/// Slots of the map `POSSIBLE`; a power of two. See [`possible_slot`].
pub const POSSIBLE_SLOTS: u32 = 16_384;

/// Returns the slot of a process in the map `POSSIBLE`. If the value in the slot is not 0, a process whose `tgid` has
/// this slot may be in `TARGETS`. If it is 0, no such process is there. For nearly all processes of a host the value is
/// 0, and one load gives the answer.
#[must_use]
pub const fn possible_slot(tgid: u32) -> u32 {
    tgid % POSSIBLE_SLOTS
}

/// Slot of the map `CHANGES` in which the agent counts its changes of `TARGETS`.
pub const CHANGED_BY_AGENT: u32 = 0;
/// Slot of the map `CHANGES` in which the programs count their changes of `TARGETS`.
pub const CHANGED_BY_PROGRAMS: u32 = 1;

/// Kind of a record ([`EventHeader::kind`]). 0 is not a kind, so memory that was never written is not taken for a
/// record.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// A chunk of the message that one socket call (or one element of `sendmmsg`/`recvmmsg`) transferred: a datagram
    /// for UDP, a piece of the byte stream for TCP. All chunks of one message carry the same `ktime_ns`, `tid` and
    /// `message_len`.
    Chunk = 1,
    /// The TCP connection of `socket` has ended. The process may still read data that arrived before. `tgid` is 0. Of
    /// the other members, only the time, the family and the protocol are set.
    ConnectionEnd = 2,
    /// A whole DNS message that a probe in the server itself saw. On TCP, the length field before the message is left
    /// out. The protocol may also be [`PROTOCOL_DOT`] or [`PROTOCOL_DOH`]. `socket` is 0. See [`EVENT_UNSURE`].
    Message = 3,
    /// Call of a server's function that a probe saw. The payload begins with a [`NoticeHead`]. Of the header, the time,
    /// the process and the thread are set.
    Notice = 4,
    /// Remark: what the server itself says about a message that it receives or sends. The payload
    /// is a [`Remark`] that ends with the last byte of the zone. The header has the direction, the
    /// peer, the thread, and the local port if the server knows it. The protocol is not known, so
    /// it is always `IPPROTO_UDP`.
    Remark = 5,
}

impl RecordKind {
    /// Returns the kind with this number.
    #[must_use]
    pub const fn of(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Chunk,
            2 => Self::ConnectionEnd,
            3 => Self::Message,
            4 => Self::Notice,
            5 => Self::Remark,
            _ => return None,
        })
    }
}

/// Number of bytes from the start of a message by which its [`Remark`] is found: id, flags, and
/// most or all of the question.
pub const REMARK_PREFIX: usize = 64;

/// Longest domain name on the wire (RFC 1035 section 2.3.4).
pub const MAX_NAME: usize = 255;

/// Number of bytes of a [`Remark`] in front of the zone.
pub const REMARK_HEAD: usize = 80;

/// Remark: what a server says about a message. The values are arguments of the function by which
/// the server logs to its own dnstap.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remark {
    /// Server's own type of the message: one of the bits `SERVER_*`.
    pub message_type: u32,
    /// Length of the message in bytes.
    pub message_len: u32,
    /// Transport as the server has it: `bool` TCP (BIND 9.16 and 9.18), or 1 UDP, 2 TCP, 3 TLS, 4
    /// HTTP (9.20).
    pub transport: u32,
    /// Number of bytes of [`Self::prefix`] that are used.
    pub prefix_len: u16,
    /// Number of bytes of [`Self::zone`] that are used; 0 if the server names no zone.
    pub zone_len: u16,
    /// First bytes of the message; the unused bytes have no meaning.
    pub prefix: [u8; REMARK_PREFIX],
    /// Name of the zone in wire format.
    pub zone: [u8; MAX_NAME + 1],
}

const _: () = assert!(offset_of!(Remark, zone) == REMARK_HEAD);
const _: () = assert!(size_of::<Remark>() == REMARK_HEAD + 256 && align_of::<Remark>() == 4);

/// Value of [`Remark::message_type`], as in BIND's `dns_dtmsgtype_t` (lib/dns/include/dns/dnstap.h,
/// the same in 9.16 to 9.20).
pub const SERVER_CLIENT_QUERY: u32 = 0x4;
/// See [`SERVER_CLIENT_QUERY`].
pub const SERVER_CLIENT_RESPONSE: u32 = 0x8;
/// See [`SERVER_CLIENT_QUERY`].
pub const SERVER_AUTH_QUERY: u32 = 0x10;
/// See [`SERVER_CLIENT_QUERY`].
pub const SERVER_AUTH_RESPONSE: u32 = 0x20;
/// See [`SERVER_CLIENT_QUERY`].
pub const SERVER_RESOLVER_QUERY: u32 = 0x40;
/// See [`SERVER_CLIENT_QUERY`].
pub const SERVER_RESOLVER_RESPONSE: u32 = 0x80;
/// See [`SERVER_CLIENT_QUERY`].
pub const SERVER_FORWARDER_QUERY: u32 = 0x100;
/// See [`SERVER_CLIENT_QUERY`].
pub const SERVER_FORWARDER_RESPONSE: u32 = 0x200;

/// Types of the server's own queries and of the responses to them.
pub const SERVER_ASKS: u32 = SERVER_RESOLVER_QUERY
    | SERVER_RESOLVER_RESPONSE
    | SERVER_FORWARDER_QUERY
    | SERVER_FORWARDER_RESPONSE;

/// Types that may have a zone in dnstap.
pub const SERVER_WITH_ZONE: u32 = SERVER_ASKS | SERVER_AUTH_RESPONSE;

/// Response to an UPDATE.
pub const SERVER_UPDATE_RESPONSE: u32 = 0x2000;

/// Types of messages that the server has sent.
pub const SERVER_SENT: u32 = SERVER_CLIENT_RESPONSE
    | SERVER_AUTH_RESPONSE
    | SERVER_RESOLVER_QUERY
    | SERVER_FORWARDER_QUERY
    | SERVER_UPDATE_RESPONSE;

/// First bytes of the payload of each [`RecordKind::Notice`]: the probed function.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoticeHead {
    /// A [`Function`].
    pub function: u32,
    /// Bytes of the payload, with this head.
    pub length: u32,
}

const _: () = assert!(size_of::<NoticeHead>() == 8 && align_of::<NoticeHead>() == 4);

/// Function of a server that is probed for notices.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Function {
    /// `isc_log_write` of BIND's libisc.
    LogWrite = 1,
    /// `dns_view_flushcache` of BIND's libdns.
    FlushCache = 2,
    /// `dns_view_flushnode` of BIND's libdns.
    FlushNode = 3,
    /// `dns_db_addrdataset` (9.20: `dns__db_addrdataset`) of BIND's libdns.
    AddRdataset = 4,
}

impl Function {
    /// All functions.
    pub const ALL: [Self; 4] = [
        Self::LogWrite,
        Self::FlushCache,
        Self::FlushNode,
        Self::AddRdataset,
    ];

    /// Returns the function with this number.
    #[must_use]
    pub const fn of(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::LogWrite,
            2 => Self::FlushCache,
            3 => Self::FlushNode,
            4 => Self::AddRdataset,
            _ => return None,
        })
    }

    /// Returns the name of the function, which its eBPF program has, too.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::LogWrite => "isc_log_write",
            Self::FlushCache => "dns_view_flushcache",
            Self::FlushNode => "dns_view_flushnode",
            Self::AddRdataset => "dns_db_addrdataset",
        }
    }
}

/// Returns the key of a process and a function in the map `NOTICE_FAULTS`.
#[must_use]
pub const fn fault_key(tgid: u32, function: Function) -> u64 {
    (tgid as u64) << 32 | function as u64
}

/// Facts about a probed process that its probes need; value of the map `PROBED`, whose key is the thread group id. The
/// agent writes it before it attaches the probes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probed {
    /// Number of bytes by which the stack has grown between the start of `isc_log_write` and its probe.
    pub log_stack: u32,
    /// Categories of the log that are wanted: [`LOG_RATE_LIMIT`], [`LOG_TRANSFER`], [`LOG_QUERY_ERRORS`].
    pub log_categories: u32,
    /// Layout of `dns_name_t` and `dns_rdata_t`: [`NAMES_WIDE`] or [`NAMES_NARROW`].
    pub names: u32,
    /// Meaning of the transport that the process passes to `dns_dt_send`: [`TRANSPORT_IS_BOOL`] or
    /// [`TRANSPORT_IS_NUMBER`]; 0: its messages are not copied.
    pub transport: u32,
}

/// Bit of [`Probed::log_categories`]: lines about rate limits.
pub const LOG_RATE_LIMIT: u32 = 1;
/// Bit of [`Probed::log_categories`]: lines about zone transfers.
pub const LOG_TRANSFER: u32 = 2;

/// Bit of [`Probed::log_categories`]: lines about failed queries. BIND 9.20 has lines about single limited responses
/// there.
pub const LOG_QUERY_ERRORS: u32 = 4;

/// [`Probed::names`]: not known; no name can be read.
pub const NAMES_UNKNOWN: u32 = 0;
/// [`Probed::names`]: lengths have 32 bits, as in BIND 9.16, 9.18 and 9.20.0 to 9.20.4.
pub const NAMES_WIDE: u32 = 1;
/// [`Probed::names`]: lengths have 8 and 16 bits, as in BIND 9.20.5 and later.
pub const NAMES_NARROW: u32 = 2;

/// Arguments of a format that a [`LogNotice`] has at most.
pub const LOG_ARGUMENTS: usize = 10;

/// Notice of [`Function::LogWrite`]. Behind it are the format and the arguments that can be read as strings, one after
/// the other, each with its zero byte.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogNotice {
    /// The function, and the length of everything.
    pub head: NoticeHead,
    /// A bit of [`Probed::log_categories`].
    pub category: u32,
    /// Level as BIND has it: -1 (info) to -5 (critical).
    pub level: i32,
    /// Arguments of the format, as they were passed. There may be fewer; the others have no meaning then.
    pub arguments: [u64; LOG_ARGUMENTS],
    /// Bytes of the format and of each argument, with the zero byte; 0: it could not be read as a string.
    pub lengths: [u16; LOG_ARGUMENTS + 2],
}

const _: () = assert!(size_of::<LogNotice>() == 120 && align_of::<LogNotice>() == 8);
const _: () = assert!(offset_of!(LogNotice, lengths) == 96);

/// Notice of [`Function::FlushCache`] and [`Function::FlushNode`]. Behind it are the name of the view, with its zero
/// byte, and, if one name is flushed, this name in wire format.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushNotice {
    /// The function, and the length of everything.
    pub head: NoticeHead,
    /// Whether the names below the name are flushed, too.
    pub tree: u32,
    /// Bytes of the view's name, with the zero byte.
    pub view_len: u16,
    /// Bytes of the name.
    pub name_len: u16,
    /// Pointers of the view, one of which is to its cache. The place depends on the version.
    pub databases: [u64; 2],
}

const _: () = assert!(size_of::<FlushNotice>() == 32 && align_of::<FlushNotice>() == 8);

/// Notice of [`Function::AddRdataset`]. Behind it are the owner's name in wire format, and the data of the records: for
/// each record its length as [`u16`], and its bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheNotice {
    /// The function, and the length of everything.
    pub head: NoticeHead,
    /// Address of the cache; it identifies the cache while it exists.
    pub database: u64,
    /// `DNS_DBADD_*` bits.
    pub options: u32,
    /// TTL in seconds.
    pub ttl: u32,
    /// `DNS_RDATASETATTR_*` bits.
    pub attributes: u32,
    /// Class of the records.
    pub class: u16,
    /// Type of the records; 0 if they do not exist.
    pub record_type: u16,
    /// Type that signatures cover; the type that does not exist, if [`Self::record_type`] is 0.
    pub covers: u16,
    /// `dns_trust_t`.
    pub trust: u16,
    /// Bytes of the owner's name.
    pub owner_len: u16,
    /// Number of records whose data follows.
    pub records: u16,
    /// Number of further records.
    pub omitted: u16,
    /// No meaning.
    pub unused: [u16; 3],
}

const _: () = assert!(size_of::<CacheNotice>() == 48 && align_of::<CacheNotice>() == 8);

/// Bit of [`CacheNotice::options`]: the data replaces data of higher trust, too.
pub const ADD_FORCE: u32 = 2;
/// Bit of [`CacheNotice::attributes`]: the name does not exist.
pub const RDATASET_NXDOMAIN: u32 = 0x2000;
/// Bit of [`CacheNotice::attributes`]: the records do not exist.
pub const RDATASET_NEGATIVE: u32 = 0x20_0000;

/// Most records of an RRset whose data is in a notice.
pub const NOTICE_RECORDS: usize = 32;
/// Most records of an RRset that are counted.
pub const NOTICE_COUNTED: usize = 128;
/// Most bytes of a notice: a part of it begins only below this limit, and ends there.
pub const NOTICE_BYTES: usize = 4_096;

/// Header of every record of the tap. `chunk_len` bytes of payload follow it; [`Self::kind`] tells what they are.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventHeader {
    /// Time when the hook ran: `CLOCK_MONOTONIC` in nanoseconds (`bpf_ktime_get_ns`).
    pub ktime_ns: u64,
    /// Inode number of the socket in sockfs, as in `/proc/PID/fd` and `/proc/net/udp`. It identifies a socket for its
    /// lifetime.
    pub socket: u64,
    /// Process (thread group) id in the initial PID namespace.
    pub tgid: u32,
    /// Thread id in the initial PID namespace.
    pub tid: u32,
    /// Bytes of the whole message.
    pub message_len: u32,
    /// Where this chunk starts in the message.
    pub chunk_offset: u32,
    /// Payload bytes that follow this header.
    pub chunk_len: u32,
    /// TCP: sequence number of the message's first byte (from `copied_seq` or `write_seq`); it wraps. Multipath TCP: a
    /// count of bytes, which wraps, too. UDP: 0.
    pub tcp_seq: u32,
    /// Number of messages of this socket that the tap has dropped in the kernel, both directions together; it wraps.
    pub lost: u32,
    /// Local port in host byte order.
    pub local_port: u16,
    /// Peer's port in host byte order; 0 if unknown.
    pub peer_port: u16,
    /// Local address: 4 bytes then zeroes for `AF_INET`, 16 bytes for `AF_INET6`; all zero on a wildcard socket.
    pub local_addr: [u8; 16],
    /// Peer's address in the same form; all zero if unknown.
    pub peer_addr: [u8; 16],
    /// `AF_INET` (2) or `AF_INET6` (10).
    pub family: u8,
    /// `IPPROTO_TCP` (6) or `IPPROTO_UDP` (17).
    pub protocol: u8,
    /// [`DIRECTION_RECEIVED`] or [`DIRECTION_SENT`].
    pub direction: u8,
    /// [`Hook`] that saw the message.
    pub hook: u8,
    /// Number of the program that the process runs ([`program_id`]). Forks inherit it; an exec gives a new one.
    pub program_id: u32,
    /// `EVENT_*` bits.
    pub flags: u8,
    /// [`RecordKind`].
    pub kind: u8,
    /// Size of each datagram except the last, in bytes, if the kernel cut one send into several datagrams
    /// (`UDP_SEGMENT`) or returned several in one receive (`UDP_GRO`); else 0.
    pub segment: u16,
    /// Received UDP: size in bytes of the datagram as it arrived, including bytes that did not fit into the buffers of
    /// the process. It is a lower bound. 0 if the hook cannot learn it.
    pub arrived_len: u32,
}

/// Bit of [`EventHeader::flags`]: any host can send such a message. The UDP socket is not connected, or the sender of
/// the datagram is not the connected peer because the datagram arrived before the socket was connected.
pub const EVENT_UNCONNECTED: u8 = 1;
/// Bit of [`EventHeader::flags`]: the TCP stream was shut down in this direction, and no message follows this one. The
/// shutdown has a sequence number of its own, which may be counted in [`EventHeader::tcp_seq`].
pub const EVENT_SHUT_DOWN: u8 = 2;
/// Bit of [`EventHeader::flags`]: an urgent byte of the peer (`MSG_OOB`) is right before this piece, and the process
/// has not set `SO_OOBINLINE`. The urgent byte has a sequence number then, but a normal read does not return it.
pub const EVENT_URGENT: u8 = 4;
/// Bit of [`EventHeader::flags`]: a received datagram filled the buffers of the process to the last byte, so it may have been cut.
pub const EVENT_FILLED: u8 = 8;
/// Bit of [`EventHeader::flags`]: the process allows the kernel to return several datagrams of one sender in one call
/// (`UDP_GRO`), and the hook cannot learn whether this message is one datagram or several.
pub const EVENT_COALESCED: u8 = 16;
/// Bit of [`EventHeader::flags`]: like [`EVENT_URGENT`], but the last urgent byte is behind this piece. Other urgent
/// bytes may have come before it.
pub const EVENT_URGENT_NEXT: u8 = 32;

/// Bit of [`EventHeader::flags`], for [`RecordKind::Message`] over TCP: the server does not tell whether the connection
/// is encrypted. If it is not, the hooks see the message, too.
pub const EVENT_UNSURE: u8 = 64;

const _: () = assert!(size_of::<EventHeader>() == 96 && align_of::<EventHeader>() == 8);
const _: () = assert!(offset_of!(EventHeader, message_len) == 24);
const _: () = assert!(offset_of!(EventHeader, local_port) == 44);
const _: () = assert!(offset_of!(EventHeader, local_addr) == 48);
const _: () = assert!(offset_of!(EventHeader, family) == 80);
const _: () = assert!(offset_of!(EventHeader, kind) == 89);

/// [`EventHeader::direction`]: the process received the message.
pub const DIRECTION_RECEIVED: u8 = 0;
/// [`EventHeader::direction`]: the process sent the message.
pub const DIRECTION_SENT: u8 = 1;

/// `AF_INET` of Linux.
pub const AF_INET: u8 = 2;
/// `AF_INET6` of Linux.
pub const AF_INET6: u8 = 10;
/// `IPPROTO_TCP`.
pub const IPPROTO_TCP: u8 = 6;
/// `IPPROTO_MPTCP`. It does not fit into a byte. Its low byte equals [`IPPROTO_TCP`], so Multipath TCP messages are
/// recorded as TCP.
pub const IPPROTO_MPTCP: u16 = 262;
/// `IPPROTO_UDP`.
pub const IPPROTO_UDP: u8 = 17;
/// DNS over TLS, for [`RecordKind::Message`]. No protocol of IP has this number (RFC 3692).
pub const PROTOCOL_DOT: u8 = 253;
/// DNS over HTTPS, for [`RecordKind::Message`]. No protocol of IP has this number (RFC 3692).
pub const PROTOCOL_DOH: u8 = 254;

/// [`Probed::transport`]: the server says `bool` TCP (BIND 9.18).
pub const TRANSPORT_IS_BOOL: u32 = 1;
/// [`Probed::transport`]: the server says 1 UDP, 2 TCP, 3 TLS, 4 HTTP (BIND 9.20).
pub const TRANSPORT_IS_NUMBER: u32 = 2;

/// Family of hooks that saw an event ([`EventHeader::hook`]).
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// fexit on `inet_sendmsg` and its three siblings.
    Fentry = 1,
    /// Raw tracepoints `sock_send_length` and `sock_recv_length`.
    Socket = 2,
    /// Raw tracepoint `sys_exit`.
    Syscall = 3,
}

impl Hook {
    /// All hooks, in the order in which they are tried.
    pub const ALL: [Self; 3] = [Self::Fentry, Self::Socket, Self::Syscall];

    /// Returns the hook with this number.
    #[must_use]
    pub const fn of(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Fentry,
            2 => Self::Socket,
            3 => Self::Syscall,
            _ => return None,
        })
    }

    /// Returns the hook's name on the command line, in `extra`, summaries and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fentry => "fentry",
            Self::Socket => "socket",
            Self::Syscall => "syscall",
        }
    }
}

/// Counters of what happened to the messages that the hooks saw. Each names a slot of the per-CPU array `COUNTERS`.
///
/// Conservation: `Seen` = `Emitted` + the counters for which [`Counter::is_drop`] holds + those for which
/// [`Counter::is_skip`] holds.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Messages of at least one byte on a target's IPv4 or IPv6 UDP or TCP sockets, without peeks.
    Seen = 0,
    /// Messages that went into the ring completely.
    Emitted = 1,
    /// Records (chunks) that went into the ring.
    Records = 2,
    /// Payload bytes that went into the ring.
    Bytes = 3,
    /// Dropped: the ring had no room.
    RingFull = 4,
    /// Dropped: user memory could not be read (`bpf_probe_read_user` failed).
    UserFault = 5,
    /// Dropped: the hook cannot find the buffer from the call's arguments (`splice`, `io_uring` and other calls), or
    /// the call transfers only a part of a datagram (`MSG_MORE`, `UDP_CORK`).
    UnsupportedCall = 6,
    /// Dropped: more segments or bytes in one call than [`GATHERED_CHUNKS`] records hold.
    TooManyChunks = 7,
    /// Dropped: elements at the end of a batch that is too long for the hook to process in one system call.
    BatchTooLong = 8,
    /// Dropped: the datagram was longer than the buffers of the process, so the process did not get all of it.
    Truncated = 9,
    /// Dropped: an iterator of a kind that the hook cannot read (kernel memory, pages).
    UnsupportedIterator = 10,
    /// Dropped: a kernel structure could not be read.
    KernelFault = 11,
    /// Skipped: the agent's verdict on the socket is [`VERDICT_NOT_DNS`].
    NotDns = 12,
    /// Not a message: peeks at the receive queue (`MSG_PEEK`), reads of the error queue (`MSG_ERRQUEUE`), and urgent
    /// bytes of TCP (`MSG_OOB`), which are not part of the stream. Not included in `Seen`.
    Peek = 13,
    /// Messages received on an unconnected socket for which the hook could not learn the peer. They are emitted without
    /// a peer.
    NoPeer = 14,
    /// Dropped: the CPU has no perf ring buffer, because it came online after the start.
    NoRing = 15,
    /// Skipped: neither port is wanted ([`FILTER_PORTS`]).
    FilteredPort = 16,
    /// Skipped: the peer's address is in no wanted subnet ([`FILTER_NETS`]).
    FilteredNet = 17,
    /// Skipped: the process's role in the exchange is not wanted ([`FILTER_RESPONDER`], [`FILTER_INITIATOR`]).
    FilteredRole = 18,
    /// Skipped: the exchange (over TCP, the connection) is not in the sample ([`Filter::sample_below`]).
    SampledOut = 19,
    /// Processes that a target forked while `TARGETS` was full: they are not tapped. Not messages.
    Unfollowed = 20,
    /// Calls of `io_uring_enter` with hook `syscall`. No other counter includes the messages that they moved. Not
    /// messages.
    IoUringCalls = 21,
    /// Calls of probed functions in tapped processes. Not messages. `ProbeCalls` + `ProbeTwice` = records of the kinds
    /// [`RecordKind::Remark`], [`RecordKind::Message`] and [`RecordKind::Notice`] + the other `Probe*` counters.
    ProbeCalls = 22,
    /// Calls of probed functions that are of no interest: for messages about which no remark is wanted
    /// ([`Config::remarks`]) and which are not to be copied ([`Config::encrypted`]), lines of the log about other things
    /// than [`Probed::log_categories`], data of zones. Not messages.
    ProbeUnwanted = 23,
    /// Calls of a probed function whose record found no room in the ring. Not messages.
    ProbeRingFull = 24,
    /// Calls of a probed function whose arguments could not be read, or are not valid. Not
    /// messages.
    ProbeFault = 25,
    /// Calls of a probed function for which two records are due: a remark and the whole message. Not messages.
    ProbeTwice = 26,
}

impl Counter {
    /// Number of counters.
    pub const COUNT: usize = 27;

    /// All counters in the order of their slots.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Seen,
        Self::Emitted,
        Self::Records,
        Self::Bytes,
        Self::RingFull,
        Self::UserFault,
        Self::UnsupportedCall,
        Self::TooManyChunks,
        Self::BatchTooLong,
        Self::Truncated,
        Self::UnsupportedIterator,
        Self::KernelFault,
        Self::NotDns,
        Self::Peek,
        Self::NoPeer,
        Self::NoRing,
        Self::FilteredPort,
        Self::FilteredNet,
        Self::FilteredRole,
        Self::SampledOut,
        Self::Unfollowed,
        Self::IoUringCalls,
        Self::ProbeCalls,
        Self::ProbeUnwanted,
        Self::ProbeRingFull,
        Self::ProbeFault,
        Self::ProbeTwice,
    ];

    /// Returns the counter's name in summaries and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Seen => "seen",
            Self::Emitted => "emitted",
            Self::Records => "records",
            Self::Bytes => "bytes",
            Self::RingFull => "ring_full",
            Self::UserFault => "user_fault",
            Self::UnsupportedCall => "unsupported_call",
            Self::TooManyChunks => "too_many_chunks",
            Self::BatchTooLong => "batch_too_long",
            Self::Truncated => "truncated",
            Self::UnsupportedIterator => "unsupported_iterator",
            Self::KernelFault => "kernel_fault",
            Self::NotDns => "not_dns",
            Self::Peek => "peek",
            Self::NoPeer => "no_peer",
            Self::NoRing => "no_ring",
            Self::FilteredPort => "filtered_port",
            Self::FilteredNet => "filtered_net",
            Self::FilteredRole => "filtered_role",
            Self::SampledOut => "sampled_out",
            Self::Unfollowed => "unfollowed",
            Self::IoUringCalls => "io_uring_calls",
            Self::ProbeCalls => "probe_calls",
            Self::ProbeUnwanted => "probe_unwanted",
            Self::ProbeRingFull => "probe_ring_full",
            Self::ProbeFault => "probe_fault",
            Self::ProbeTwice => "probe_twice",
        }
    }

    /// Returns whether this counter counts messages that were seen and lost.
    #[must_use]
    pub const fn is_drop(self) -> bool {
        matches!(
            self,
            Self::RingFull
                | Self::UserFault
                | Self::UnsupportedCall
                | Self::TooManyChunks
                | Self::BatchTooLong
                | Self::Truncated
                | Self::UnsupportedIterator
                | Self::KernelFault
                | Self::NoRing
        )
    }

    /// Returns whether this counter counts messages that were seen and left out on purpose.
    #[must_use]
    pub const fn is_skip(self) -> bool {
        matches!(
            self,
            Self::NotDns
                | Self::FilteredPort
                | Self::FilteredNet
                | Self::FilteredRole
                | Self::SampledOut
        )
    }
}

/// Slot of `COUNTERS` for messages that went into the ring in one record. Each counts as one [`Counter::Seen`], one
/// [`Counter::Emitted`] and one [`Counter::Records`], in addition to the values of those slots.
#[expect(clippy::cast_possible_truncation, reason = "there are few counters")]
pub const WHOLE_SLOT: u32 = Counter::COUNT as u32;

/// Number of slots of `COUNTERS`.
pub const COUNTER_SLOTS: u32 = WHOLE_SLOT + 1;

const _: () = {
    let mut slot = 0;
    while slot < Counter::COUNT {
        assert!(Counter::ALL[slot] as usize == slot);
        slot += 1;
    }
};

/// State of a socket that both sides share; value of the map `SOCKETS`, whose key is [`EventHeader::socket`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketState {
    /// [`VERDICT_UNKNOWN`], [`VERDICT_DNS`] or [`VERDICT_NOT_DNS`]; written by the agent.
    pub verdict: u32,
    /// Number of messages of this socket that were dropped in the kernel; written by the kernel.
    pub lost: u32,
    /// 1 if the last send of this UDP socket began or continued a datagram (`MSG_MORE`) that the next send ends;
    /// written by the kernel.
    pub unfinished: u32,
}

const _: () = assert!(size_of::<SocketState>() == 12 && align_of::<SocketState>() == 4);

/// [`SocketState::verdict`]: not known yet; messages are delivered.
pub const VERDICT_UNKNOWN: u32 = 0;
/// [`SocketState::verdict`]: the socket carries DNS; messages are delivered.
pub const VERDICT_DNS: u32 = 1;
/// [`SocketState::verdict`]: the socket carries something else; messages are skipped.
pub const VERDICT_NOT_DNS: u32 = 2;

/// Length of a key of `NAMES` and of a value of `RUNS`: the file name of an executable without its path, cut to 15
/// bytes and padded with zeroes (`TASK_COMM_LEN`).
pub const NAME_LEN: usize = 16;
/// Value in `NAMES`: a tapped process stays tapped when it executes a file of this name.
pub const NAME_STAYS: u32 = 0;
/// Value in `NAMES`: every process that executes a file of this name is tapped from then on.
pub const NAME_JOINS: u32 = 1;

/// Returns the id of the program that process `tgid` runs since `start` ([`EventHeader::program_id`]). `start` may have
/// any unit. The ids are spread so that two that are in use at once are hardly ever equal; if they were, a message
/// would get a wrong dnstap version. [`PROGRAM_STAYS`] is not set.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "both halves are mixed in")]
pub const fn program_id(tgid: u32, start: u64) -> u32 {
    (start as u32 ^ (start >> 32) as u32).wrapping_add(tgid.wrapping_mul(0x9e37_79b1))
        & !PROGRAM_STAYS
}

/// Bit of [`EventHeader::program_id`]: the process and its forks stay tapped whatever program they execute, because
/// they belong to a unit that is followed.
pub const PROGRAM_STAYS: u32 = 1;

/// [`Config::transport`]: records go through the BPF ring buffer.
pub const TRANSPORT_BPF: u32 = 0;
/// [`Config::transport`]: records go through the perf ring buffers.
pub const TRANSPORT_PERF: u32 = 1;

/// Bit of [`Filter::kinds`]: messages whose ports are not in the map `PORTS` are left out.
pub const FILTER_PORTS: u32 = 1;
/// Bit of [`Filter::kinds`]: messages whose peer is in no wanted network of the map `NETS` are left out.
pub const FILTER_NETS: u32 = 2;
/// Bit of [`Filter::kinds`]: datagrams of exchanges in which the process responds are left out.
pub const FILTER_RESPONDER: u32 = 4;
/// Bit of [`Filter::kinds`]: datagrams of exchanges in which the process sends the query are left out.
pub const FILTER_INITIATOR: u32 = 8;

/// Entries of the map `PORTS`: a bit for each port, in words of 64.
pub const PORT_WORDS: u32 = 1_024;

/// Largest number of wanted subnets. The map `NETS` has room for twice as many: those from before a change and those
/// from after it.
pub const MAX_NETS: u32 = 1_023;

/// Messages to leave out: the only entry of the map `FILTER`. The agent may change it while the programs run, one
/// member at a time.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// [`FILTER_PORTS`], [`FILTER_NETS`], [`FILTER_RESPONDER`], [`FILTER_INITIATOR`].
    pub kinds: u32,
    /// Exchanges with a hash below this number are delivered; 0: all are.
    pub sample_below: u32,
    /// Seed of the hash. It is secret, so that no client can know which exchanges are in the sample.
    pub sample_seed: u32,
}

const _: () = assert!(size_of::<Filter>() == 12 && align_of::<Filter>() == 4);

/// Prefix length of IPv4-mapped addresses (`::ffff:0:0/96`), the form in which the map `NETS` holds IPv4.
pub const MAPPED_PREFIX: u32 = 96;

/// Value of an offset or enumerator that this kernel does not have.
pub const MISSING: u32 = u32::MAX;

/// Configuration that the agent sets before load: read-only data of the eBPF object. The verifier knows the values and
/// removes the code that they exclude.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// [`TRANSPORT_BPF`] or [`TRANSPORT_PERF`].
    pub transport: u32,
    /// BPF ring buffer: the reader is woken when this many bytes wait, and again at each multiple; a power of two. The
    /// perf ring has its own watermark.
    pub wakeup_bytes: u32,
    /// Enumerator `ITER_IOVEC` of `enum iter_type`.
    pub iter_iovec: u32,
    /// Enumerator `ITER_UBUF`; [`MISSING`] before 6.0.
    pub iter_ubuf: u32,
    /// Mask of the type in the byte at [`KernelOffsets::iter_type`]. Before 5.14 the lowest bit is the direction.
    pub iter_type_mask: u32,
    /// Whether the programs apply the map `FILTER`. 0: they leave nothing out, and the verifier removes the filters.
    pub filtered: u32,
    /// Offset in `struct udp_sock` of a window of [`UDP_WINDOW`] bytes that contains the members below; a multiple of
    /// 8. [`MISSING`] if a kernel has those members elsewhere.
    pub udp_window: u32,
    /// Offset of `pending` in the window: not 0 while several sends together build one datagram.
    pub udp_pending: u32,
    /// Offset of `gso_size` in the window: the value of the socket option `UDP_SEGMENT`.
    pub udp_gso_size: u32,
    /// Byte of the window in which the socket option `UDP_CORK` sets the bits of [`Self::udp_cork_mask`].
    pub udp_cork: u32,
    /// See [`Self::udp_cork`].
    pub udp_cork_mask: u32,
    /// Byte of the window in which the socket option `UDP_GRO` sets the bits of [`Self::udp_gro_mask`].
    pub udp_gro: u32,
    /// See [`Self::udp_gro`].
    pub udp_gro_mask: u32,
    /// Enumerator `SKB_GSO_UDP_L4`: bit that is set for a packet that holds several datagrams.
    pub udp_gso_type: u32,
    /// Types of the messages about which remarks are wanted: bits `SERVER_*`.
    pub remarks: u32,
    /// Whether probed servers' messages over TLS and HTTPS are copied.
    pub encrypted: u32,
    /// Offsets of this kernel's structures.
    pub offsets: KernelOffsets,
}

const _: () = assert!(offset_of!(Config, offsets) == 64);

/// Number of bytes that the programs read from `struct udp_sock` at [`Config::udp_window`].
pub const UDP_WINDOW: usize = 48;

/// Place of a slot of [`KernelOffsets`] in a kernel's BTF.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// Name of the structure.
    pub structure: &'static str,
    /// Paths of members through nested structures. The first path that the kernel has is used.
    pub paths: &'static [&'static [&'static str]],
    /// Whether a kernel may have none of the paths. The slot is [`MISSING`] then.
    pub optional: bool,
}

/// Defines [`KernelOffsets`] together with the table of what each slot means, so that the two cannot drift apart.
macro_rules! kernel_offsets {
    ($($(#[doc = $doc:literal])*
       $slot:ident = $structure:literal $(. $member:literal)+ $(| $alternative:literal)* $(, $optional:ident)? ;)+) => {
        /// Byte offsets of the members of the running kernel's structures, read from its BTF by the agent.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct KernelOffsets {
            $($(#[doc = $doc])* pub $slot: u32,)+
        }

        impl KernelOffsets {
            /// Place of each slot in BTF, in the order of the slots.
            pub const TABLE: &'static [Slot] = &[$(Slot {
                structure: $structure,
                paths: &[&[$($member),+] $(, &[$alternative])*],
                optional: false $(|| stringify!($optional).len() == 8)?,
            },)+];

            /// Builds the offsets from one value for each entry of [`Self::TABLE`].
            #[must_use]
            pub fn from_slots(slots: &[u32; Self::TABLE.len()]) -> Self {
                let [$($slot),+] = *slots;
                Self { $($slot),+ }
            }
        }

        const _: () = assert!(size_of::<KernelOffsets>() == 4 * KernelOffsets::TABLE.len());
    };
}

kernel_offsets! {
    /// Socket's address family.
    sock_family = "sock"."__sk_common"."skc_family";
    /// IPv4 peer address, 0 if unconnected.
    sock_daddr = "sock"."__sk_common"."skc_daddr";
    /// IPv4 local address.
    sock_rcv_saddr = "sock"."__sk_common"."skc_rcv_saddr";
    /// Peer's port, big-endian.
    sock_dport = "sock"."__sk_common"."skc_dport";
    /// Local port of a UDP socket.
    sock_num = "sock"."__sk_common"."skc_num";
    /// Local port of a TCP socket, big-endian.
    inet_sport = "inet_sock"."inet_sport";
    /// IPv6 peer address.
    sock_v6_daddr = "sock"."__sk_common"."skc_v6_daddr";
    /// IPv6 local address.
    sock_v6_rcv_saddr = "sock"."__sk_common"."skc_v6_rcv_saddr";
    /// Transport protocol.
    sock_protocol = "sock"."sk_protocol";
    /// Directions that were shut down: bit 0 is receiving, bit 1 is sending.
    sock_shutdown = "sock"."sk_shutdown";
    /// Bits of `enum sock_flags`.
    sock_flags = "sock"."__sk_common"."skc_flags";
    /// Back pointer to `struct socket`.
    sock_socket = "sock"."sk_socket";
    /// `struct sock` of a `struct socket`.
    socket_sk = "socket"."sk";
    /// Open file of a `struct socket`.
    socket_file = "socket"."file";
    /// Inode number.
    inode_ino = "inode"."i_ino";
    /// Inode's type and mode.
    inode_mode = "inode"."i_mode";
    /// Sequence number of the next byte that the process reads.
    tcp_copied_seq = "tcp_sock"."copied_seq";
    /// Sequence number of the next byte that the kernel expects from the peer.
    tcp_rcv_nxt = "tcp_sock"."rcv_nxt";
    /// Sequence number of the last urgent byte that the peer announced.
    tcp_urg_seq = "tcp_sock"."urg_seq";
    /// Sequence number of the next byte that the process writes.
    tcp_write_seq = "tcp_sock"."write_seq";
    /// Thread group id of a task.
    task_tgid = "task_struct"."tgid";
    /// `struct signal_struct` of a task, which the threads of its process share.
    task_signal = "task_struct"."signal";
    /// Threads of the process that are still running.
    signal_live = "signal_struct"."live";
    /// `PF_*` flags of a task.
    task_flags = "task_struct"."flags";
    /// `io_uring` state of a task: null if the task has never used `io_uring`. Kernels without `io_uring` do not have
    /// this member.
    task_io_uring = "task_struct"."io_uring", optional;
    /// Descriptor table of a task.
    task_files = "task_struct"."files";
    /// Descriptor table's current array.
    files_fdt = "files_struct"."fdt";
    /// Array of files.
    fdtable_fd = "fdtable"."fd";
    /// Number of descriptors.
    fdtable_max_fds = "fdtable"."max_fds";
    /// Inode of an open file.
    file_inode = "file"."f_inode";
    /// `struct socket` of a socket's file.
    file_private_data = "file"."private_data";
    /// Address of the peer's name in kernel memory; null if the caller neither gave nor asked for a name.
    msghdr_name = "msghdr"."msg_name";
    /// Length of the name; 0 if there is none.
    msghdr_namelen = "msghdr"."msg_namelen";
    /// Control messages of a send, in kernel memory.
    msghdr_control = "msghdr"."msg_control";
    /// Bytes of the control messages.
    msghdr_controllen = "msghdr"."msg_controllen";
    /// `MSG_*` flags; after a receive, the flags that the kernel returns.
    msghdr_flags = "msghdr"."msg_flags";
    /// The iterator over the caller's buffers.
    msghdr_iter = "msghdr"."msg_iter";
    /// Kind of memory that the iterator runs over. Before 5.14 it shares its byte with the direction.
    iter_type = "iov_iter"."iter_type" | "type";
    /// Offset in the current segment, in bytes.
    iter_iov_offset = "iov_iter"."iov_offset";
    /// Bytes left.
    iter_count = "iov_iter"."count";
    /// The current segment of an `ITER_IOVEC`.
    iter_iov = "iov_iter"."__iov" | "iov";
    /// The buffer of an `ITER_UBUF`, which exists from 6.0 on.
    iter_ubuf = "iov_iter"."ubuf", optional;
    /// Bytes of a packet.
    skb_len = "sk_buff"."len";
    /// Offset of `struct skb_shared_info` in a packet's memory.
    skb_end = "sk_buff"."end";
    /// Size of each datagram except the last, in bytes, if a packet holds several.
    shared_gso_size = "skb_shared_info"."gso_size";
    /// `SKB_GSO_*` bits of a packet that holds several datagrams.
    shared_gso_type = "skb_shared_info"."gso_type";
    /// Start of a packet's memory.
    skb_head = "sk_buff"."head";
    /// Offset of the network header in a packet's memory.
    skb_network_header = "sk_buff"."network_header";
    /// `ETH_P_IP` or `ETH_P_IPV6`, big-endian.
    skb_protocol = "sk_buff"."protocol";
}

/// `aya::Pod`: these types may be copied to and from maps and read-only data.
#[cfg(feature = "user")]
#[expect(
    unsafe_code,
    reason = "a promise about the layout, which the size assertions above check"
)]
mod pod {
    // SAFETY: `repr(C)`, only integers, no padding (checked by the size assertions above).
    unsafe impl aya::Pod for super::SocketState {}
    // SAFETY: as above; every member is a `u32`.
    unsafe impl aya::Pod for super::Config {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Filter {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Probed {}
}

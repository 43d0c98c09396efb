//! `struct sock`: is it ours to tap, which socket is it, and what are its addresses.

use aya_ebpf::helpers::bpf_get_current_task;
use dnstap_ebpf::{
    AF_INET, AF_INET6, Counter, DIRECTION_RECEIVED, DIRECTION_SENT, EventHeader, Hook, IPPROTO_TCP,
    IPPROTO_UDP,
};

use crate::{config::config, memory, target::Thread};

/// `S_IFMT` and `S_IFSOCK` (include/uapi/linux/stat.h).
const S_IFMT: u16 = 0o170_000;
const S_IFSOCK: u16 = 0o140_000;

/// Direction of a message, from the process's point of view.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Direction {
    Received,
    Sent,
}

/// Address of a `struct sock` in kernel memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sock(*const u8);

impl Sock {
    /// Takes a kernel address as that of a `struct sock`. A wrong one gives errors or nonsense, nothing worse.
    #[inline(always)]
    pub(crate) fn at(address: *const u8) -> Self {
        Self(address)
    }

    /// The socket behind an inode's `struct socket`.
    #[inline(always)]
    pub(crate) fn of_socket(socket: *const u8) -> Result<Self, Counter> {
        // SAFETY: a pointer is valid for any bytes; it is only used as an address to probe.
        unsafe { memory::kernel(socket, config!(offsets.socket_sk)) }.map(Self)
    }

    /// The socket behind a descriptor of the current process; `None` if it is something else.
    #[inline(always)]
    pub(crate) fn of_descriptor(descriptor: u64) -> Option<Self> {
        // SAFETY: takes no arguments.
        let task = unsafe { bpf_get_current_task() } as *const u8;
        // SAFETY: pointers and integers. The descriptor was valid when the call began; if another thread has closed it since,
        // the walk ends at null or at another file, which the checks below refuse or which is a socket of the process as well.
        unsafe {
            let files: *const u8 = memory::kernel(task, config!(offsets.task_files)).ok()?;
            let fdt: *const u8 = memory::kernel(files, config!(offsets.files_fdt)).ok()?;
            let max_fds: u32 = memory::kernel(fdt, config!(offsets.fdtable_max_fds)).ok()?;
            if descriptor >= u64::from(max_fds) {
                return None;
            }
            let array: *const u8 = memory::kernel(fdt, config!(offsets.fdtable_fd)).ok()?;
            let file: *const u8 = memory::kernel(array, descriptor as usize * 8).ok()?;
            if file.is_null() {
                return None;
            }
            let inode: *const u8 = memory::kernel(file, config!(offsets.file_inode)).ok()?;
            let mode: u16 = memory::kernel(inode, config!(offsets.inode_mode)).ok()?;
            if mode & S_IFMT != S_IFSOCK {
                return None;
            }
            Self::of_socket(memory::kernel(file, config!(offsets.file_private_data)).ok()?).ok()
        }
    }

    /// Family and protocol, if this is an IPv4 or IPv6 socket of UDP or TCP.
    #[inline(always)]
    pub(crate) fn kind(self) -> Result<Option<(u8, u8)>, Counter> {
        // SAFETY: integers.
        let family: u16 = unsafe { memory::kernel(self.0, config!(offsets.sock_family))? };
        if family != u16::from(AF_INET) && family != u16::from(AF_INET6) {
            return Ok(None);
        }
        // SAFETY: integers. Two bytes since 5.6; in the bit-field before, the low byte of it.
        let protocol: u16 = unsafe { memory::kernel(self.0, config!(offsets.sock_protocol))? };
        if protocol != u16::from(IPPROTO_UDP) && protocol != u16::from(IPPROTO_TCP) {
            return Ok(None);
        }
        Ok(Some((family as u8, protocol as u8)))
    }

    /// Whether the socket is bound to no address in particular.
    #[inline(always)]
    pub(crate) fn is_wildcard(self) -> Result<bool, Counter> {
        // SAFETY: integers and byte arrays.
        unsafe {
            let family: u16 = memory::kernel(self.0, config!(offsets.sock_family))?;
            if family == u16::from(AF_INET) {
                let local: u32 = memory::kernel(self.0, config!(offsets.sock_rcv_saddr))?;
                Ok(local == 0)
            } else {
                let local: [u64; 2] = memory::kernel(self.0, config!(offsets.sock_v6_rcv_saddr))?;
                Ok(local[0] | local[1] == 0)
            }
        }
    }

    /// Inode number of the socket: its name for as long as it lives.
    #[inline(always)]
    pub(crate) fn inode(self) -> Result<u64, Counter> {
        // SAFETY: pointers and integers; `struct socket` lies in a `struct socket_alloc` together with its inode.
        unsafe {
            let socket: *const u8 = memory::kernel(self.0, config!(offsets.sock_socket))?;
            let inode = socket
                .wrapping_sub(config!(offsets.socket_alloc_socket))
                .wrapping_add(config!(offsets.socket_alloc_vfs_inode));
            memory::kernel(inode, config!(offsets.inode_ino))
        }
    }

    /// Fills a header with what the socket tells: addresses as far as it is bound and connected, and for TCP where in the
    /// stream the `length` bytes of this message began.
    #[inline(always)]
    pub(crate) fn describe(
        self,
        header: &mut EventHeader,
        (family, protocol): (u8, u8),
        direction: Direction,
        length: u32,
    ) -> Result<(), Counter> {
        header.family = family;
        header.protocol = protocol;
        header.direction = match direction {
            Direction::Received => DIRECTION_RECEIVED,
            Direction::Sent => DIRECTION_SENT,
        };
        header.message_len = length;
        // SAFETY: integers and byte arrays.
        unsafe {
            header.local_port = u16::from_be(memory::kernel(self.0, config!(offsets.inet_sport))?);
            header.peer_port = u16::from_be(memory::kernel(self.0, config!(offsets.sock_dport))?);
            if family == AF_INET {
                let local: [u8; 4] = memory::kernel(self.0, config!(offsets.sock_rcv_saddr))?;
                let peer: [u8; 4] = memory::kernel(self.0, config!(offsets.sock_daddr))?;
                set_ipv4(&mut header.local_addr, local);
                set_ipv4(&mut header.peer_addr, peer);
            } else {
                header.local_addr = memory::kernel(self.0, config!(offsets.sock_v6_rcv_saddr))?;
                header.peer_addr = memory::kernel(self.0, config!(offsets.sock_v6_daddr))?;
            }
            if protocol == IPPROTO_TCP {
                let offset = match direction {
                    Direction::Received => config!(offsets.tcp_copied_seq),
                    Direction::Sent => config!(offsets.tcp_write_seq),
                };
                // Both have advanced past this message by the time the hooks run.
                let end: u32 = memory::kernel(self.0, offset)?;
                header.tcp_seq = end.wrapping_sub(length);
            }
        }
        Ok(())
    }
}

/// An empty header for a message that `thread` transferred and `hook` saw.
#[inline(always)]
pub(crate) fn header(thread: Thread, hook: Hook, ktime_ns: u64) -> EventHeader {
    EventHeader {
        ktime_ns,
        socket: 0,
        tgid: thread.tgid,
        tid: thread.tid,
        message_len: 0,
        chunk_offset: 0,
        chunk_len: 0,
        tcp_seq: 0,
        lost: 0,
        local_port: 0,
        peer_port: 0,
        local_addr: [0; 16],
        peer_addr: [0; 16],
        family: 0,
        protocol: 0,
        direction: 0,
        hook: hook as u8,
        image: thread.image,
    }
}

/// Writes an IPv4 address in the header's form.
#[inline(always)]
pub(crate) fn set_ipv4(address: &mut [u8; 16], ipv4: [u8; 4]) {
    address[0] = ipv4[0];
    address[1] = ipv4[1];
    address[2] = ipv4[2];
    address[3] = ipv4[3];
}

/// Writes an IPv4 address in the IPv4-mapped IPv6 form (RFC 4291 section 2.5.5.2).
#[inline(always)]
pub(crate) fn map_ipv4(address: &mut [u8; 16], ipv4: [u8; 4]) {
    *address = [0; 16];
    address[10] = 0xff;
    address[11] = 0xff;
    address[12] = ipv4[0];
    address[13] = ipv4[1];
    address[14] = ipv4[2];
    address[15] = ipv4[3];
}

/// Sets the header's peer from a socket address: `family`, port in network order, and the address's bytes as they lie in
/// `sockaddr_in` or `sockaddr_in6`. An IPv4 name on an IPv6 socket is written as IPv4-mapped. Other families are ignored.
#[inline(always)]
pub(crate) fn set_peer(
    header: &mut EventHeader,
    family: u16,
    port_be: u16,
    ipv4: [u8; 4],
    ipv6: [u8; 16],
) {
    if family == u16::from(AF_INET) {
        header.peer_port = u16::from_be(port_be);
        header.peer_addr = [0; 16];
        if header.family == AF_INET6 {
            map_ipv4(&mut header.peer_addr, ipv4);
        } else {
            set_ipv4(&mut header.peer_addr, ipv4);
        }
    } else if family == u16::from(AF_INET6) {
        header.peer_port = u16::from_be(port_be);
        header.peer_addr = ipv6;
    }
}

//! Reads `struct sock`: whether the socket is of a kind that is tapped, its inode number and its addresses.

use core::{mem::offset_of, ptr};

use aya_ebpf::helpers::bpf_get_current_task;
use dnstap_ebpf::{
    AF_INET, AF_INET6, Counter, DIRECTION_RECEIVED, DIRECTION_SENT, EVENT_SHUT_DOWN,
    EVENT_UNCONNECTED, EVENT_URGENT, EVENT_URGENT_NEXT, EventHeader, IPPROTO_MPTCP, IPPROTO_TCP,
    IPPROTO_UDP, MISSING, UDP_WINDOW,
};

use crate::kernel::{
    config::config,
    memory::{self, Reach},
};

/// `S_IFMT` and `S_IFSOCK` (include/uapi/linux/stat.h).
const S_IFMT: u16 = 0o170_000;
const S_IFSOCK: u16 = 0o140_000;

/// Bits of `sk_shutdown` (include/net/sock.h).
const RCV_SHUTDOWN: u8 = 1;
const SEND_SHUTDOWN: u8 = 2;
const SHUTDOWN_MASK: u8 = RCV_SHUTDOWN | SEND_SHUTDOWN;
/// `SOCK_URGINLINE` of `enum sock_flags`: the process has set `SO_OOBINLINE`.
const SOCK_URGINLINE: u64 = 1 << 2;

/// Direction of a message, from the process's point of view.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Direction {
    Received,
    Sent,
}

/// A `struct sock` in kernel memory.
#[derive(Clone, Copy)]
pub(crate) struct Sock {
    address: *const u8,
    reach: Reach,
}

impl Sock {
    /// Treats a kernel address as the address of a `struct sock`. A wrong address gives errors or wrong values, but
    /// does no harm.
    #[inline(always)]
    pub(crate) fn at(address: *const u8, reach: Reach) -> Self {
        Self { address, reach }
    }

    /// Finds the socket of an inode's `struct socket`.
    #[inline(always)]
    pub(crate) fn of_socket(socket: *const u8, reach: Reach) -> Result<Self, Counter> {
        // SAFETY: a pointer is valid for any bytes; it is only used as an address to read from.
        let address = unsafe { reach.read(socket, config!(offsets.socket_sk))? };
        Ok(Self { address, reach })
    }

    /// Finds the socket behind a descriptor of the current process. `None` if the descriptor is not a socket.
    #[inline(always)]
    pub(crate) fn of_descriptor(descriptor: u64) -> Option<Self> {
        // SAFETY: takes no arguments.
        let task = unsafe { bpf_get_current_task() } as *const u8;
        // SAFETY: pointers and integers. The descriptor was valid when the call began. If another thread has closed it
        // since, the walk ends at null or at another file. The checks below refuse that file, or it is another socket
        // of the process.
        unsafe {
            let file = file_of(task, descriptor)?;
            if file.is_null() {
                return None;
            }
            let inode: *const u8 = memory::kernel(file, config!(offsets.file_inode)).ok()?;
            let mode: u16 = memory::kernel(inode, config!(offsets.inode_mode)).ok()?;
            if mode & S_IFMT != S_IFSOCK {
                return None;
            }
            let socket = memory::kernel(file, config!(offsets.file_private_data)).ok()?;
            Self::of_socket(socket, Reach::Probed).ok()
        }
    }

    /// Returns whether this is the socket behind a descriptor of the current process.
    #[inline(always)]
    pub(crate) fn is_behind(self, descriptor: u64) -> bool {
        // This runs seldom, so it uses the helper: for each load from a typed pointer the verifier searches the
        // kernel's types, which takes time.
        let probed = Self::at(self.address, Reach::Probed);
        // SAFETY: takes no arguments.
        let task = unsafe { bpf_get_current_task() } as *const u8;
        // SAFETY: the current task.
        let Some(file) = (unsafe { file_of(task, descriptor) }) else {
            return false;
        };
        !file.is_null() && probed.file() == Ok(file)
    }

    /// Returns the open file of the socket; null if there is none.
    #[inline(always)]
    fn file(self) -> Result<*const u8, Counter> {
        // SAFETY: pointers.
        unsafe {
            let socket: *const u8 = self.read(config!(offsets.sock_socket))?;
            self.reach.read(socket, config!(offsets.socket_file))
        }
    }

    /// Reads a member.
    ///
    /// # Safety
    ///
    /// Any bytes must be a valid `T`.
    #[inline(always)]
    unsafe fn read<T>(self, offset: usize) -> Result<T, Counter> {
        // SAFETY: the caller vouches for `T`.
        unsafe { self.reach.read(self.address, offset) }
    }

    /// Reads a member behind `struct sock`, in the structure around it.
    ///
    /// # Safety
    ///
    /// Any bytes must be a valid `T`.
    #[inline(always)]
    unsafe fn read_behind<T>(self, offset: usize) -> Result<T, Counter> {
        // SAFETY: the caller vouches for `T`.
        unsafe { memory::kernel(self.address, offset) }
    }

    /// Returns family and protocol if this is an IPv4 or IPv6 socket of UDP, TCP or Multipath TCP. Multipath TCP counts
    /// as TCP.
    #[inline(always)]
    pub(crate) fn kind(self) -> Result<Option<(u8, u8)>, Counter> {
        // SAFETY: integers.
        let family: u16 = unsafe { self.read(config!(offsets.sock_family))? };
        if family != u16::from(AF_INET) && family != u16::from(AF_INET6) {
            return Ok(None);
        }
        let protocol = self.protocol()?;
        if protocol != u16::from(IPPROTO_UDP)
            && protocol != u16::from(IPPROTO_TCP)
            && protocol != IPPROTO_MPTCP
        {
            return Ok(None);
        }
        // The low byte of `IPPROTO_MPTCP` is `IPPROTO_TCP`.
        Ok(Some((family as u8, protocol as u8)))
    }

    /// Returns the protocol (`IPPROTO_*`).
    #[inline(always)]
    pub(crate) fn protocol(self) -> Result<u16, Counter> {
        // SAFETY: an integer. It has two bytes since 5.6; before, this reads the low byte of a bit-field.
        unsafe { self.read(config!(offsets.sock_protocol)) }
    }

    /// Returns whether this is a connection of Multipath TCP (RFC 8684). Its sequence numbers are not in
    /// `struct tcp_sock`. `false` if the protocol cannot be read.
    #[inline(always)]
    pub(crate) fn is_multipath(self) -> bool {
        self.protocol() == Ok(IPPROTO_MPTCP)
    }

    /// Returns whether both directions were shut down, for example by closing the socket.
    #[inline(always)]
    pub(crate) fn is_shut_down(self) -> Result<bool, Counter> {
        // SAFETY: an integer.
        let shutdown: u8 = unsafe { self.read(config!(offsets.sock_shutdown))? };
        Ok(shutdown & SHUTDOWN_MASK == SHUTDOWN_MASK)
    }

    /// Returns whether the socket is bound to the wildcard address.
    #[inline(always)]
    pub(crate) fn is_wildcard(self) -> Result<bool, Counter> {
        // SAFETY: integers.
        unsafe {
            let family: u16 = self.read(config!(offsets.sock_family))?;
            if family == u16::from(AF_INET) {
                let local: u32 = self.read(config!(offsets.sock_rcv_saddr))?;
                Ok(local == 0)
            } else {
                let local: Address = self.read(config!(offsets.sock_v6_rcv_saddr))?;
                Ok(local[0] | local[1] == 0)
            }
        }
    }

    /// Returns the inode number of the socket, which identifies it for its lifetime.
    #[inline(always)]
    pub(crate) fn inode(self) -> Result<u64, Counter> {
        // SAFETY: pointers and integers.
        unsafe {
            let inode: *const u8 = self.reach.read(self.file()?, config!(offsets.file_inode))?;
            match self.reach.read(inode, config!(offsets.inode_ino))? {
                // `Typed` reads 0 if there is no inode.
                0 => Err(Counter::KernelFault),
                number => Ok(number),
            }
        }
    }

    /// Fills a header from the socket. An address is known only if the socket is bound or connected.
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
        // SAFETY: integers.
        unsafe {
            header.local_port = self.local_port(protocol)?;
            header.peer_port = u16::from_be(self.read(config!(offsets.sock_dport))?);
            let (local, peer) = if family == AF_INET {
                (
                    ipv4(self.read(config!(offsets.sock_rcv_saddr))?),
                    ipv4(self.read(config!(offsets.sock_daddr))?),
                )
            } else {
                (
                    self.read(config!(offsets.sock_v6_rcv_saddr))?,
                    self.read(config!(offsets.sock_v6_daddr))?,
                )
            };
            set_local_address(header, local);
            set_peer_address(header, peer);
            header.segment = 0;
            header.arrived_len = 0;
            header.tcp_seq = 0;
            header.flags = if protocol == IPPROTO_UDP && header.peer_port == 0 {
                EVENT_UNCONNECTED
            } else {
                0
            };
        }
        Ok(())
    }

    /// Sets the position in the TCP stream at which the `length` bytes of the message begin, and the flags for cases in
    /// which it may differ from the end of the previous message. When the hooks run, the sequence numbers have already
    /// advanced past the message and `behind` more bytes.
    #[inline(always)]
    pub(crate) fn place(
        self,
        header: &mut EventHeader,
        direction: Direction,
        length: u32,
        behind: u32,
    ) -> Result<(), Counter> {
        // SAFETY: integers.
        unsafe {
            let bytes = length.wrapping_add(behind);
            let shutdown: u8 = self.read(config!(offsets.sock_shutdown))?;
            let (end, shut_down);
            let (mut urgent, mut hole) = (0, 0);
            if direction == Direction::Received {
                end = self.read_behind(config!(offsets.tcp_copied_seq))?;
                shut_down = shutdown & RCV_SHUTDOWN != 0
                    && self.read_behind::<u32>(config!(offsets.tcp_rcv_nxt))? == end;
                // A read ends before an urgent byte or begins behind one. The shutdown may be counted in the position,
                // and the next urgent byte may have arrived since the read.
                let latest: u32 = self.read_behind(config!(offsets.tcp_urg_seq))?;
                let behind_start = latest.wrapping_sub(end.wrapping_sub(bytes)).wrapping_add(2);
                let behind_end = latest
                    .wrapping_sub(end.wrapping_sub(behind))
                    .wrapping_add(1);
                // With `SO_OOBINLINE` the byte is read like any other and leaves no hole.
                if (behind_start < 2 || behind_end < behind.wrapping_add(3))
                    && self.read::<u64>(config!(offsets.sock_flags))? & SOCK_URGINLINE == 0
                {
                    // The urgent byte is behind this read, and a later read of the same `recvmmsg`, which may have
                    // found no more bytes, has passed it.
                    hole = u32::from(behind_end <= behind);
                    urgent = if behind_start < 2 {
                        EVENT_URGENT
                    } else if hole == 0 {
                        EVENT_URGENT_NEXT
                    } else {
                        0
                    };
                }
            } else {
                end = self.read_behind::<u32>(config!(offsets.tcp_write_seq))?;
                shut_down = shutdown & SEND_SHUTDOWN != 0;
            }
            header.tcp_seq = end.wrapping_sub(bytes).wrapping_sub(hole);
            header.flags = if shut_down { EVENT_SHUT_DOWN } else { 0 } | urgent;
        }
        Ok(())
    }

    /// Reads the options of a UDP socket from `struct udp_sock`. `None` if this kernel does not have them at the known
    /// place.
    #[inline(always)]
    pub(crate) fn udp(self) -> Result<Option<UdpOptions>, Counter> {
        if config!(udp_window) == MISSING as usize {
            return Ok(None);
        }
        // SAFETY: integers.
        let window = unsafe { self.read_behind(config!(udp_window))? };
        Ok(Some(UdpOptions(window)))
    }

    /// Returns the local port in host byte order. For TCP it reads `inet_sport`, because a reset of the connection sets
    /// the port in `struct sock` to 0 (`inet_put_port`).
    #[inline(always)]
    fn local_port(self, protocol: u8) -> Result<u16, Counter> {
        // SAFETY: integers.
        unsafe {
            if protocol == IPPROTO_UDP {
                self.read(config!(offsets.sock_num))
            } else {
                Ok(u16::from_be(self.read_behind(config!(offsets.inet_sport))?))
            }
        }
    }
}

/// The members of a `struct udp_sock` that tell how calls and datagrams belong together.
#[derive(Clone, Copy)]
pub(crate) struct UdpOptions([u64; UDP_WINDOW / 8]);

impl UdpOptions {
    /// Returns whether a datagram is incomplete, so that a later call will send it.
    #[inline(always)]
    pub(crate) fn is_unfinished(&self) -> bool {
        self.member::<u32>(config!(udp_pending)) != 0
    }

    /// Returns whether all sends are held back until the socket option `UDP_CORK` is turned off.
    #[inline(always)]
    pub(crate) fn is_corked(&self) -> bool {
        usize::from(self.member::<u8>(config!(udp_cork))) & config!(udp_cork_mask) != 0
    }

    /// Returns whether the kernel may return several datagrams in one call.
    #[inline(always)]
    pub(crate) fn may_receive_several(&self) -> bool {
        usize::from(self.member::<u8>(config!(udp_gro))) & config!(udp_gro_mask) != 0
    }

    /// Returns the size of the datagrams into which the kernel cuts what is sent, in bytes; 0 if it does not cut.
    #[inline(always)]
    pub(crate) fn segment(&self) -> u16 {
        self.member(config!(udp_gso_size))
    }

    /// Reads the integer at `offset`, a constant that the agent has checked to be within the window.
    #[inline(always)]
    fn member<T: Copy>(&self, offset: usize) -> T {
        // SAFETY: the verifier refuses a program that reads outside of the window.
        unsafe {
            ptr::from_ref(&self.0)
                .cast::<u8>()
                .add(offset)
                .cast::<T>()
                .read_volatile()
        }
    }
}

/// Finds the open file behind a descriptor of `task`. `None` if the descriptor is beyond the table.
///
/// # Safety
///
/// `task` must be the address of a task.
#[inline(always)]
unsafe fn file_of(task: *const u8, descriptor: u64) -> Option<*const u8> {
    // SAFETY: pointers and integers.
    unsafe {
        let files: *const u8 = memory::kernel(task, config!(offsets.task_files)).ok()?;
        let fdt: *const u8 = memory::kernel(files, config!(offsets.files_fdt)).ok()?;
        let max_fds: u32 = memory::kernel(fdt, config!(offsets.fdtable_max_fds)).ok()?;
        if descriptor >= u64::from(max_fds) {
            return None;
        }
        let array: *const u8 = memory::kernel(fdt, config!(offsets.fdtable_fd)).ok()?;
        memory::kernel(array, descriptor as usize * 8).ok()
    }
}

/// The sixteen bytes of an address in the header's form, as words in memory order. Single bytes would be copied one by
/// one.
pub(crate) type Address = [u64; 2];

const _: () = assert!(offset_of!(EventHeader, local_addr).is_multiple_of(8));
const _: () = assert!(offset_of!(EventHeader, peer_addr).is_multiple_of(8));

/// Makes an address from an IPv4 address in memory order.
#[inline(always)]
pub(crate) fn ipv4(address: u32) -> Address {
    [u64::from_le(u64::from(address.to_le())), 0]
}

/// Makes an IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2) from an IPv4 address in memory order.
#[inline(always)]
pub(crate) fn mapped_ipv4(address: u32) -> Address {
    [
        0,
        u64::from_le(u64::from(address.to_le()) << 32 | 0xffff_0000),
    ]
}

/// Sets the local address.
#[inline(always)]
pub(crate) fn set_local_address(header: &mut EventHeader, address: Address) {
    // SAFETY: the member's sixteen bytes.
    unsafe { set_address(header, offset_of!(EventHeader, local_addr), address) };
}

/// Sets the peer's address.
#[inline(always)]
pub(crate) fn set_peer_address(header: &mut EventHeader, address: Address) {
    // SAFETY: the member's sixteen bytes.
    unsafe { set_address(header, offset_of!(EventHeader, peer_addr), address) };
}

/// Writes an address at `offset`, in words.
///
/// # Safety
///
/// `offset` must be that of an address in the header, aligned to 8.
#[inline(always)]
unsafe fn set_address(header: &mut EventHeader, offset: usize, address: Address) {
    let start = ptr::from_mut(header).cast::<Address>();
    // SAFETY: the caller vouches for the offset.
    unsafe { start.byte_add(offset).write(address) };
}

/// Like [`set_peer`], for the sender of a datagram. Sets [`EVENT_UNCONNECTED`] if the sender is not the connected peer:
/// any host could send to the socket before it was connected, and such a datagram may be read afterwards.
#[inline(always)]
pub(crate) fn set_sender(
    header: &mut EventHeader,
    family: u16,
    port_be: u16,
    name_ipv4: u32,
    name_ipv6: Address,
) {
    let (port, address) = (header.peer_port, peer_address(header));
    set_peer(header, family, port_be, name_ipv4, name_ipv6);
    let sender = peer_address(header);
    let differs =
        u64::from(port ^ header.peer_port) | (address[0] ^ sender[0]) | (address[1] ^ sender[1]);
    if differs != 0 {
        header.flags |= EVENT_UNCONNECTED;
    }
}

/// Returns the peer's address in words.
#[inline(always)]
fn peer_address(header: &EventHeader) -> Address {
    let start = ptr::from_ref(header).cast::<Address>();
    // SAFETY: the member's sixteen bytes, aligned to 8.
    unsafe { start.byte_add(offset_of!(EventHeader, peer_addr)).read() }
}

/// Sets the header's peer from a socket address: `family`, the port in network byte order, and the address's bytes in
/// the order of `sockaddr_in` or `sockaddr_in6`. An IPv4 name on an IPv6 socket is written as IPv4-mapped. Other
/// families are ignored.
#[inline(always)]
pub(crate) fn set_peer(
    header: &mut EventHeader,
    family: u16,
    port_be: u16,
    name_ipv4: u32,
    name_ipv6: Address,
) {
    let address = if family == u16::from(AF_INET6) {
        name_ipv6
    } else if family != u16::from(AF_INET) {
        return;
    } else if header.family == AF_INET6 {
        mapped_ipv4(name_ipv4)
    } else {
        ipv4(name_ipv4)
    };
    header.peer_port = u16::from_be(port_be);
    set_peer_address(header, address);
}

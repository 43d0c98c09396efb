//! Packets of a network namespace: packet(7) sockets, with the kernel's time of each packet.
#![expect(
    unsafe_code,
    reason = "recvmsg(2) with a control message, which has the time of a packet; options of packet(7)"
)]

use std::{
    io,
    mem::{self, MaybeUninit},
    os::fd::AsRawFd as _,
    ptr,
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};

use super::check;

/// `PACKET_IGNORE_OUTGOING` of `linux/if_packet.h`. A packet of the loopback is sent and arrives; only the arrival is
/// captured.
const IGNORE_OUTGOING: libc::c_int = 23;
/// Size of the buffer for waiting packets, in bytes.
const ROOM: libc::c_int = 256 << 20;
/// Time to wait for a packet.
const WAIT: Duration = Duration::from_millis(20);

/// All packets that arrive in this thread's network namespace.
pub(crate) struct Packets(Socket);

/// Room for control messages, aligned for their headers.
#[repr(align(8))]
struct Control([u8; 64]);

impl Packets {
    /// Starts to capture.
    pub(crate) fn open() -> io::Result<Self> {
        let all = u16::try_from(libc::ETH_P_ALL).map_err(io::Error::other)?;
        let protocol = Protocol::from(i32::from(all.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
        socket.set_read_timeout(Some(WAIT))?;
        let packets = Self(socket);
        packets.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, ROOM)?;
        packets.set(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
        packets.set(libc::SOL_PACKET, IGNORE_OUTGOING, 1)?;
        Ok(packets)
    }

    /// Returns the next packet: its time since 1970, and the number of its bytes in `buffer`. `None` if none arrives
    /// within a short time.
    pub(crate) fn next(&self, buffer: &mut [u8]) -> io::Result<Option<(Duration, usize)>> {
        let mut control = Control([0; 64]);
        let mut part = libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        };
        // SAFETY: all fields of `msghdr` are integers and pointers, for which zero is a value.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = control.0.len();
        // SAFETY: `message` points to `buffer` and `control`, which outlive the call, with their lengths.
        let length = unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut message, 0) };
        let Ok(length) = usize::try_from(length) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
                _ => Err(error),
            };
        };
        if message.msg_flags & libc::MSG_TRUNC != 0 {
            return Err(io::Error::other("a packet larger than the buffer"));
        }
        let time = time_of(&message).ok_or_else(|| io::Error::other("a packet without a time"))?;
        Ok(Some((time, length)))
    }

    /// Returns the number of packets that were dropped since the last call.
    pub(crate) fn dropped(&self) -> io::Result<u32> {
        /// `struct tpacket_stats` of `linux/if_packet.h`.
        #[repr(C)]
        struct Statistics {
            packets: u32,
            drops: u32,
        }
        let mut statistics = MaybeUninit::<Statistics>::zeroed();
        let mut length =
            libc::socklen_t::try_from(size_of::<Statistics>()).map_err(io::Error::other)?;
        // SAFETY: the pointers are to `statistics` and to its length, which the kernel writes during the call.
        check(unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                statistics.as_mut_ptr().cast(),
                &raw mut length,
            )
        })?;
        // SAFETY: two integers, zero or written by the kernel.
        Ok(unsafe { statistics.assume_init() }.drops)
    }

    fn set(&self, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
        let length =
            libc::socklen_t::try_from(size_of::<libc::c_int>()).map_err(io::Error::other)?;
        // SAFETY: the pointer is to an integer of that length, which outlives the call.
        check(unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                level,
                option,
                ptr::from_ref(&value).cast(),
                length,
            )
        })
    }
}

/// Returns the time from the control messages of a packet.
fn time_of(message: &libc::msghdr) -> Option<Duration> {
    // SAFETY: the kernel has filled the control buffer of `message`, which is alive, up to `msg_controllen`.
    let header = unsafe { libc::CMSG_FIRSTHDR(message).as_ref()? };
    if (header.cmsg_level, header.cmsg_type) != (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) {
        return None;
    }
    // SAFETY: a control message of this type holds a `timespec`, not necessarily aligned.
    let time: libc::timespec = unsafe { ptr::read_unaligned(libc::CMSG_DATA(header).cast()) };
    Some(Duration::new(
        u64::try_from(time.tv_sec).ok()?,
        u32::try_from(time.tv_nsec).ok()?,
    ))
}

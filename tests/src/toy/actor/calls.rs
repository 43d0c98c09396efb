//! Socket calls with all their parameters: flags, control messages, batches, descriptors; and `fork`. Each function
//! makes the call of its name and retries nothing.
#![expect(
    unsafe_code,
    reason = "the system calls whose effects are to be found, each as it is"
)]

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem,
    net::SocketAddr,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    ptr,
};

use socket2::SockAddr;

use crate::toy::calls::{Peer, receive_header, send_header};

/// `UDP_CORK` (`include/uapi/linux/udp.h`): sent data waits until this is off, and becomes one datagram.
pub(crate) const UDP_CORK: i32 = 1;
/// `UDP_SEGMENT`: sent data is split into datagrams of this size.
pub(crate) const UDP_SEGMENT: i32 = 103;
/// `UDP_GRO`: the socket may receive several datagrams at once.
pub(crate) const UDP_GRO: i32 = 104;
/// `TCP_FASTOPEN_NO_COOKIE` (`include/uapi/linux/tcp.h`): the first segment carries data without the server's consent.
pub(super) const TCP_FASTOPEN_NO_COOKIE: i32 = 34;

/// Size of the buffer for one control message with an integer.
const CONTROL: usize = 64;

/// `recvmsg` with room for a control message. `named`: asks for the sender.
pub(super) fn recvmsg(
    fd: BorrowedFd<'_>,
    segments: &mut [IoSliceMut<'_>],
    flags: i32,
    named: bool,
) -> io::Result<usize> {
    let mut peer = Peer::empty();
    let mut control = [0_u64; CONTROL / 8];
    let mut header = receive_header(segments, named.then_some(&mut peer));
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = CONTROL;
    // SAFETY: the header points to segments, an address (or null) and control space that outlive the call.
    result(unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut header, flags) })
}

/// `recvmmsg` with an element for each segment; it waits for at most one message. Returns the lengths of the elements.
pub(super) fn recvmmsg(
    fd: BorrowedFd<'_>,
    segments: &mut [IoSliceMut<'_>],
    flags: i32,
    named: bool,
) -> io::Result<Vec<usize>> {
    let mut peers = vec![Peer::empty(); segments.len()];
    let mut controls = vec![[0_u64; CONTROL / 8]; segments.len()];
    let mut headers: Vec<_> = segments
        .chunks_mut(1)
        .zip(peers.iter_mut().zip(&mut controls))
        .map(|(segment, (peer, control))| {
            let mut header = receive_header(segment, named.then_some(peer));
            header.msg_control = control.as_mut_ptr().cast();
            header.msg_controllen = CONTROL;
            libc::mmsghdr {
                msg_hdr: header,
                msg_len: 0,
            }
        })
        .collect();
    let count = u32::try_from(headers.len()).map_err(io::Error::other)?;
    // SAFETY: each header points to a segment, an address (or null) and control space that outlive the call; no timeout.
    let received = result_int(unsafe {
        libc::recvmmsg(
            fd.as_raw_fd(),
            headers.as_mut_ptr(),
            count,
            flags | libc::MSG_WAITFORONE,
            ptr::null_mut(),
        )
    })?;
    let length = |header: &libc::mmsghdr| header.msg_len as usize;
    Ok(headers[..received].iter().map(length).collect())
}

/// `preadv2` without an offset.
pub(super) fn preadv2(fd: BorrowedFd<'_>, segments: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
    let count = i32::try_from(segments.len()).map_err(io::Error::other)?;
    let pointer = segments.as_mut_ptr().cast::<libc::iovec>();
    // SAFETY: IoSliceMut has the layout of iovec; the segments outlive the call.
    result(unsafe { libc::preadv2(fd.as_raw_fd(), pointer, count, -1, 0) })
}

/// `pwritev2` without an offset.
pub(super) fn pwritev2(fd: BorrowedFd<'_>, segments: &[IoSlice<'_>]) -> io::Result<usize> {
    let count = i32::try_from(segments.len()).map_err(io::Error::other)?;
    let pointer = segments.as_ptr().cast::<libc::iovec>();
    // SAFETY: IoSlice has the layout of iovec; the segments outlive the call.
    result(unsafe { libc::pwritev2(fd.as_raw_fd(), pointer, count, -1, 0) })
}

/// `sendto`; without an address it is `send`.
pub(super) fn sendto(
    fd: BorrowedFd<'_>,
    bytes: &[u8],
    flags: i32,
    to: Option<SocketAddr>,
) -> io::Result<usize> {
    let to = to.map(SockAddr::from);
    let (address, length) = match &to {
        Some(to) => (to.as_ptr().cast(), to.len()),
        None => (ptr::null(), 0),
    };
    let flags = flags | libc::MSG_NOSIGNAL;
    // SAFETY: bytes and address (or null) are valid for the lengths given.
    result(unsafe {
        libc::sendto(
            fd.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            flags,
            address,
            length,
        )
    })
}

/// `sendmsg`. If `segment` is not 0, the kernel splits the bytes into datagrams of that size. The control message for
/// this comes after `others` other control messages.
pub(super) fn sendmsg(
    fd: BorrowedFd<'_>,
    segments: &[IoSlice<'_>],
    flags: i32,
    to: Option<SocketAddr>,
    segment: u16,
    others: usize,
) -> io::Result<usize> {
    let to = to.map(SockAddr::from);
    let mut header = send_header(segments, None);
    if let Some(to) = &to {
        header.msg_name = to.as_ptr().cast_mut().cast();
        header.msg_namelen = to.len();
    }
    // Each has a header of 16 bytes and a word.
    let mut control = Vec::new();
    for _ in 0..others {
        control.extend([20, control_kind(libc::IPPROTO_IP, libc::IP_TOS), 0]);
    }
    if segment > 0 {
        control.extend([18, control_kind(libc::SOL_UDP, UDP_SEGMENT), segment.into()]);
    }
    if !control.is_empty() {
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(control.as_slice());
    }
    // SAFETY: the header points to segments, an address (or null) and control space that outlive the call, which reads them.
    result(unsafe {
        libc::sendmsg(
            fd.as_raw_fd(),
            &raw const header,
            flags | libc::MSG_NOSIGNAL,
        )
    })
}

/// Returns level and type of a control message, as the second word of its header.
fn control_kind(level: i32, kind: i32) -> u64 {
    u64::from(level.cast_unsigned()) | u64::from(kind.cast_unsigned()) << 32
}

/// `sendmmsg` with an element for each segment. Returns the number of bytes sent of each.
pub(super) fn sendmmsg(
    fd: BorrowedFd<'_>,
    segments: &[IoSlice<'_>],
    flags: i32,
    to: Option<SocketAddr>,
) -> io::Result<Vec<usize>> {
    let to = to.map(SockAddr::from);
    let element = |segment: &[IoSlice<'_>]| {
        let mut header = send_header(segment, None);
        if let Some(to) = &to {
            header.msg_name = to.as_ptr().cast_mut().cast();
            header.msg_namelen = to.len();
        }
        libc::mmsghdr {
            msg_hdr: header,
            msg_len: 0,
        }
    };
    let mut headers: Vec<_> = segments.chunks(1).map(element).collect();
    let count = u32::try_from(headers.len()).map_err(io::Error::other)?;
    let flags = flags | libc::MSG_NOSIGNAL;
    // SAFETY: each header points to a segment and an address (or null) that outlive the call, which writes only msg_len.
    let sent =
        result_int(unsafe { libc::sendmmsg(fd.as_raw_fd(), headers.as_mut_ptr(), count, flags) })?;
    let length = |header: &libc::mmsghdr| header.msg_len as usize;
    Ok(headers[..sent].iter().map(length).collect())
}

/// Passes a descriptor to the process at the other end.
pub(super) fn give(over: &UnixStream, fd: BorrowedFd<'_>) -> io::Result<()> {
    let byte = [IoSlice::new(b".")];
    let mut header = send_header(&byte, None);
    let mut control = [0_u64; CONTROL / 8];
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = CONTROL;
    // SAFETY: the control space is aligned and larger than one header with a descriptor.
    unsafe {
        let first = libc::CMSG_FIRSTHDR(&raw const header);
        (*first).cmsg_level = libc::SOL_SOCKET;
        (*first).cmsg_type = libc::SCM_RIGHTS;
        (*first).cmsg_len = libc::CMSG_LEN(4) as _;
        libc::CMSG_DATA(first)
            .cast::<RawFd>()
            .write_unaligned(fd.as_raw_fd());
        header.msg_controllen = libc::CMSG_SPACE(4) as _;
    }
    // SAFETY: the header points to a segment and control space that outlive the call, which reads them.
    result(unsafe { libc::sendmsg(over.as_raw_fd(), &raw const header, 0) }).map(drop)
}

/// Receives a descriptor that [`give`] passes.
pub(super) fn given(over: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = [0];
    let mut segments = [IoSliceMut::new(&mut byte)];
    let mut header = receive_header(&mut segments, None);
    let mut control = [0_u64; CONTROL / 8];
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = CONTROL;
    // SAFETY: the header points to a segment and control space that outlive the call.
    result(unsafe { libc::recvmsg(over.as_raw_fd(), &raw mut header, 0) })?;
    // SAFETY: the kernel has filled the header; its control space is alive.
    let first = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    if first.is_null() {
        return Err(io::Error::other("no descriptor"));
    }
    // SAFETY: the one control message that was sent carries one descriptor, which is now this process's own.
    Ok(unsafe { OwnedFd::from_raw_fd(libc::CMSG_DATA(first).cast::<RawFd>().read_unaligned()) })
}

/// `fork`, in a process that has one thread. Returns 0 in the child, which ends by itself and is not waited for.
pub(super) fn fork() -> io::Result<i32> {
    // SAFETY: takes no pointers; this process does not wait for its children.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    // SAFETY: this process has one thread.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(pid),
    }
}

/// Sets `SO_LINGER` to zero time: closing resets the connection.
pub(super) fn reset_at_close(fd: BorrowedFd<'_>) -> io::Result<()> {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    option(fd, libc::SO_LINGER, &linger)
}

/// Limits the time that receives and sends wait to a few seconds.
pub(super) fn limit_waits(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: timeval is plain old data.
    let mut time: libc::timeval = unsafe { mem::zeroed() };
    time.tv_sec = 5;
    option(fd, libc::SO_RCVTIMEO, &time)?;
    option(fd, libc::SO_SNDTIMEO, &time)
}

fn option<T>(fd: BorrowedFd<'_>, name: i32, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    let pointer = ptr::from_ref(value).cast();
    // SAFETY: pointer and length describe `value`.
    result_int(unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, name, pointer, length) })
        .map(drop)
}

fn result(value: isize) -> io::Result<usize> {
    usize::try_from(value).map_err(|_negative| io::Error::last_os_error())
}

fn result_int(value: libc::c_int) -> io::Result<usize> {
    usize::try_from(value).map_err(|_negative| io::Error::last_os_error())
}

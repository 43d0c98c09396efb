//! The ten socket calls without a wrapper: each function makes exactly the call of its name on a descriptor and returns
//! the result. Errors are the system's; nothing is retried.
//!
//! All functions take segments, because the calls differ in these. Calls that do not support segments use the first
//! one.
#![expect(
    unsafe_code,
    reason = "the system calls whose buffers are to be found, each as it is"
)]

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr,
};

/// A socket address as the kernel wrote it. The toy passes it back and never reads it.
#[derive(Clone, Copy)]
pub(super) struct Peer {
    storage: libc::sockaddr_storage,
    length: libc::socklen_t,
}

impl Peer {
    /// Makes an empty address.
    pub(super) fn empty() -> Self {
        // SAFETY: sockaddr_storage is plain old data; all zeroes is a valid value (AF_UNSPEC).
        let storage = unsafe { mem::zeroed() };
        Self {
            storage,
            length: length_of::<libc::sockaddr_storage>(),
        }
    }

    /// Returns the same address with the length that the kernel reported.
    pub(super) fn with_length(self, length: libc::socklen_t) -> Self {
        Self { length, ..self }
    }
}

/// `read`.
pub(super) fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the pointer and length describe `buffer`, which nothing else uses during the call.
    result(unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) })
}

/// `readv`.
pub(super) fn readv(fd: BorrowedFd<'_>, segments: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
    let (pointer, count) = (
        segments.as_mut_ptr().cast::<libc::iovec>(),
        count(segments.len()),
    );
    // SAFETY: IoSliceMut has the layout of iovec (its documentation); the segments outlive the call.
    result(unsafe { libc::readv(fd.as_raw_fd(), pointer, count) })
}

/// `recvfrom`, with the sender's address if wanted.
pub(super) fn recvfrom(
    fd: BorrowedFd<'_>,
    buffer: &mut [u8],
    flags: i32,
    want_peer: bool,
) -> io::Result<(usize, Option<Peer>)> {
    let mut peer = Peer::empty();
    let (address, length) = if want_peer {
        (
            ptr::from_mut(&mut peer.storage).cast(),
            ptr::from_mut(&mut peer.length),
        )
    } else {
        (ptr::null_mut(), ptr::null_mut())
    };
    // SAFETY: buffer and address (or null) are valid for the lengths given and used by nothing else.
    let received = result(unsafe {
        libc::recvfrom(
            fd.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            flags,
            address,
            length,
        )
    })?;
    Ok((received, want_peer.then_some(peer)))
}

/// `recvmsg`.
pub(super) fn recvmsg(
    fd: BorrowedFd<'_>,
    segments: &mut [IoSliceMut<'_>],
    want_peer: bool,
) -> io::Result<(usize, Option<Peer>)> {
    let mut peer = Peer::empty();
    let mut header = receive_header(segments, want_peer.then_some(&mut peer));
    // SAFETY: the header points to segments and an address (or null) that outlive the call.
    let received = result(unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut header, 0) })?;
    peer.length = header.msg_namelen;
    Ok((received, want_peer.then_some(peer)))
}

/// `recvmmsg`, with one element per list of segments. Returns the number of bytes of each received element.
pub(super) fn recvmmsg(
    fd: BorrowedFd<'_>,
    messages: &mut [Vec<IoSliceMut<'_>>],
    want_peer: bool,
) -> io::Result<Vec<(usize, Option<Peer>)>> {
    let mut peers = vec![Peer::empty(); messages.len()];
    let mut headers: Vec<_> = messages
        .iter_mut()
        .zip(&mut peers)
        .map(|(segments, peer)| libc::mmsghdr {
            msg_hdr: receive_header(segments, want_peer.then_some(peer)),
            msg_len: 0,
        })
        .collect();
    let vlen = u32::try_from(headers.len()).map_err(io::Error::other)?;
    // SAFETY: each header points to segments and an address (or null) that outlive the call; no timeout.
    let received = result_int(unsafe {
        libc::recvmmsg(
            fd.as_raw_fd(),
            headers.as_mut_ptr(),
            vlen,
            0,
            ptr::null_mut(),
        )
    })?;
    let lengths: Vec<_> = headers
        .iter()
        .map(|header| (header.msg_len as usize, header.msg_hdr.msg_namelen))
        .collect();
    Ok(lengths
        .into_iter()
        .zip(peers)
        .take(received)
        .map(|((received, length), peer)| (received, want_peer.then_some(Peer { length, ..peer })))
        .collect())
}

/// `write`.
pub(super) fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the pointer and length describe `bytes`.
    result(unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) })
}

/// `writev`.
pub(super) fn writev(fd: BorrowedFd<'_>, segments: &[IoSlice<'_>]) -> io::Result<usize> {
    let (pointer, count) = (
        segments.as_ptr().cast::<libc::iovec>(),
        count(segments.len()),
    );
    // SAFETY: IoSlice has the layout of iovec (its documentation); the segments outlive the call.
    result(unsafe { libc::writev(fd.as_raw_fd(), pointer, count) })
}

/// `sendto`; without an address it is `send`.
pub(super) fn sendto(fd: BorrowedFd<'_>, bytes: &[u8], peer: Option<&Peer>) -> io::Result<usize> {
    let (address, length) = peer.map_or((ptr::null(), 0), |peer| {
        (ptr::from_ref(&peer.storage).cast(), peer.length)
    });
    let flags = libc::MSG_NOSIGNAL;
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

/// `sendmsg`.
pub(super) fn sendmsg(
    fd: BorrowedFd<'_>,
    segments: &[IoSlice<'_>],
    peer: Option<&Peer>,
) -> io::Result<usize> {
    let header = send_header(segments, peer);
    // SAFETY: the header points to segments and an address (or null) that outlive the call; sendmsg only reads them.
    result(unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) })
}

/// `sendmmsg`, with one element per list of segments. Returns the number of bytes sent of each element.
pub(super) fn sendmmsg(
    fd: BorrowedFd<'_>,
    messages: &[(Vec<IoSlice<'_>>, Option<Peer>)],
) -> io::Result<Vec<usize>> {
    let mut headers: Vec<_> = messages
        .iter()
        .map(|(segments, peer)| libc::mmsghdr {
            msg_hdr: send_header(segments, peer.as_ref()),
            msg_len: 0,
        })
        .collect();
    let vlen = u32::try_from(headers.len()).map_err(io::Error::other)?;
    // SAFETY: each header points to segments and an address (or null) that outlive the call, which writes only msg_len.
    let sent = result_int(unsafe {
        libc::sendmmsg(
            fd.as_raw_fd(),
            headers.as_mut_ptr(),
            vlen,
            libc::MSG_NOSIGNAL,
        )
    })?;
    Ok(headers[..sent]
        .iter()
        .map(|header| header.msg_len as usize)
        .collect())
}

/// Waits until the descriptor has `events` (`POLLIN`, `POLLOUT`), for all of several descriptors at once.
pub(super) fn poll(descriptors: &mut [libc::pollfd]) -> io::Result<()> {
    let count = libc::nfds_t::try_from(descriptors.len()).map_err(io::Error::other)?;
    // SAFETY: the pointer and count describe `descriptors`.
    result_int(unsafe { libc::poll(descriptors.as_mut_ptr(), count, -1) }).map(drop)
}

/// Like [`poll`], for at most this many milliseconds. Returns whether any descriptor has an event.
pub(super) fn wait_for(descriptors: &mut [libc::pollfd], milliseconds: i32) -> io::Result<bool> {
    let count = libc::nfds_t::try_from(descriptors.len()).map_err(io::Error::other)?;
    // SAFETY: the pointer and count describe `descriptors`.
    let ready = result_int(unsafe { libc::poll(descriptors.as_mut_ptr(), count, milliseconds) })?;
    Ok(ready > 0)
}

/// Connects a UDP socket to the sender of the waiting datagram, without taking it out of the queue.
pub(super) fn connect_to_sender(fd: BorrowedFd<'_>) -> io::Result<()> {
    let (_, peer) = recvfrom(fd, &mut [0; 64], libc::MSG_PEEK, true)?;
    let peer = peer.ok_or_else(|| io::Error::other("no sender"))?;
    // SAFETY: the address is what the kernel wrote, with its length.
    result_int(unsafe {
        libc::connect(
            fd.as_raw_fd(),
            ptr::from_ref(&peer.storage).cast(),
            peer.length,
        )
    })
    .map(drop)
}

/// Ends a socket's connection, so that it can be connected again: `connect` to an address without a family.
pub(super) fn disconnect(fd: BorrowedFd<'_>) -> io::Result<()> {
    let nowhere = Peer::empty();
    // SAFETY: the address is all zeroes, which is AF_UNSPEC, and outlives the call with its length.
    result_int(unsafe {
        libc::connect(
            fd.as_raw_fd(),
            ptr::from_ref(&nowhere.storage).cast(),
            nowhere.length,
        )
    })
    .map(drop)
}

/// Sets an option with an integer value, such as `SO_RCVBUFFORCE`.
pub(crate) fn set_option(
    fd: BorrowedFd<'_>,
    level: i32,
    option: i32,
    value: i32,
) -> io::Result<()> {
    let pointer = ptr::from_ref(&value).cast();
    // SAFETY: pointer and length describe `value`.
    result_int(unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, option, pointer, length_of::<i32>())
    })
    .map(drop)
}

/// Makes the header of a receive: the place of its segments, and room for the sender's address if wanted.
pub(super) fn receive_header(
    segments: &mut [IoSliceMut<'_>],
    peer: Option<&mut Peer>,
) -> libc::msghdr {
    // SAFETY: msghdr is plain old data; all zeroes is a valid value (no buffers, no address).
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = segments.as_mut_ptr().cast();
    header.msg_iovlen = segments.len();
    if let Some(peer) = peer {
        header.msg_name = ptr::from_mut(&mut peer.storage).cast();
        header.msg_namelen = peer.length;
    }
    header
}

/// Makes the header of a send.
pub(super) fn send_header(segments: &[IoSlice<'_>], peer: Option<&Peer>) -> libc::msghdr {
    // SAFETY: msghdr is plain old data; all zeroes is a valid value (no buffers, no address).
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = segments.as_ptr().cast_mut().cast();
    header.msg_iovlen = segments.len();
    if let Some(peer) = peer {
        header.msg_name = ptr::from_ref(&peer.storage).cast_mut().cast();
        header.msg_namelen = peer.length;
    }
    header
}

fn result(value: isize) -> io::Result<usize> {
    usize::try_from(value).map_err(|_negative| io::Error::last_os_error())
}

fn result_int(value: libc::c_int) -> io::Result<usize> {
    usize::try_from(value).map_err(|_negative| io::Error::last_os_error())
}

fn count(segments: usize) -> libc::c_int {
    libc::c_int::try_from(segments).expect("a few segments")
}

fn length_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).expect("addresses and options are small")
}

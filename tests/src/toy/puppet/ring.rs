//! Sends and receives through `io_uring`, one at a time. Each operation is submitted and waited for, so its buffers
//! only need to live as long as the call. The exception is one receive that may wait in the kernel; it has a buffer of
//! its own.
#![expect(unsafe_code, reason = "io_uring: the kernel writes to buffers later")]

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr,
};

use io_uring::{IoUring, opcode, squeue, types::Fd};

use crate::toy::calls::{self, Peer};

pub(super) struct Ring {
    ring: IoUring,
    /// Buffer of a receive that was begun and not collected yet.
    begun: Option<Vec<u8>>,
}

impl Ring {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            ring: IoUring::new(2)?,
            begun: None,
        })
    }

    /// Submits `IORING_OP_RECV` and does not wait. The kernel receives when something arrives, in the middle of any
    /// system call that this thread makes then.
    pub(super) fn begin_recv(&mut self, fd: BorrowedFd<'_>, size: usize) -> io::Result<()> {
        let buffer = self.begun.insert(vec![0; size]);
        let entry = opcode::Recv::new(descriptor(fd), buffer.as_mut_ptr(), length(buffer));
        // SAFETY: the buffer stays where it is until the receive has been collected.
        unsafe { self.ring.submission().push(&entry.build()) }.map_err(io::Error::other)?;
        self.ring.submit().map(drop)
    }

    /// Waits until the receive that was begun is done. Returns its result.
    pub(super) fn collect(&mut self) -> io::Result<usize> {
        self.ring.submit_and_wait(1)?;
        let received = self.completion();
        self.begun = None;
        received
    }

    /// `IORING_OP_RECV`.
    pub(super) fn recv(&mut self, fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
        let entry = opcode::Recv::new(descriptor(fd), buffer.as_mut_ptr(), length(buffer));
        // SAFETY: pointer and length describe `buffer`, which outlives the call.
        unsafe { self.run(&entry.build()) }
    }

    /// `IORING_OP_SEND`.
    pub(super) fn send(&mut self, fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
        let entry = opcode::Send::new(descriptor(fd), bytes.as_ptr(), length(bytes));
        // SAFETY: pointer and length describe `bytes`, which outlives the call.
        unsafe { self.run(&entry.build()) }
    }

    /// `IORING_OP_RECVMSG`, with the sender's address.
    pub(super) fn recvmsg(
        &mut self,
        fd: BorrowedFd<'_>,
        buffer: &mut [u8],
    ) -> io::Result<(usize, Peer)> {
        let mut peer = Peer::empty();
        let mut segments = [IoSliceMut::new(buffer)];
        let mut header = calls::receive_header(&mut segments, Some(&mut peer));
        let entry = opcode::RecvMsg::new(descriptor(fd), ptr::from_mut(&mut header));
        // SAFETY: the header, its segment and its address outlive the call.
        let received = unsafe { self.run(&entry.build()) }?;
        Ok((received, peer.with_length(header.msg_namelen)))
    }

    /// `IORING_OP_SENDMSG`.
    pub(super) fn sendmsg(
        &mut self,
        fd: BorrowedFd<'_>,
        bytes: &[u8],
        peer: Option<&Peer>,
    ) -> io::Result<usize> {
        let segments = [IoSlice::new(bytes)];
        let header = calls::send_header(&segments, peer);
        let entry = opcode::SendMsg::new(descriptor(fd), ptr::from_ref(&header));
        // SAFETY: the header, its segment and its address outlive the call.
        unsafe { self.run(&entry.build()) }
    }

    /// Submits the entry and waits until it is done.
    ///
    /// # Safety
    /// The memory that the entry points to must outlive the call.
    unsafe fn run(&mut self, entry: &squeue::Entry) -> io::Result<usize> {
        // SAFETY: the caller promises it. The entry is done when this function returns, whether it succeeded or not.
        unsafe { self.ring.submission().push(entry) }.map_err(io::Error::other)?;
        self.ring.submit_and_wait(1)?;
        self.completion()
    }

    fn completion(&mut self) -> io::Result<usize> {
        let completion = self.ring.completion().next();
        let result = completion
            .ok_or_else(|| io::Error::other("no completion"))?
            .result();
        usize::try_from(result).map_err(|_negative| io::Error::from_raw_os_error(-result))
    }
}

fn descriptor(fd: BorrowedFd<'_>) -> Fd {
    Fd(fd.as_raw_fd())
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("messages are small")
}

//! Sends and receives through `io_uring`, one at a time. Each operation is submitted and waited for, so its buffers
//! only need to live as long as the call. The exception is one receive that may wait in the kernel; it has a buffer of
//! its own.
#![expect(unsafe_code, reason = "io_uring: the kernel writes to buffers later")]

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    ptr, thread,
};

use io_uring::{IoUring, cqueue, opcode, squeue, types::Fd};

use super::{Way, ways};
use crate::toy::calls::{self, Peer};

/// Number and size of the buffers that a receive may choose from, and the number of their group.
const PROVIDED: u16 = 4;
const PROVIDED_SIZE: usize = 4_096;
const GROUP: u16 = 7;
/// Time after which the kernel thread of a polled ring goes to sleep, in milliseconds. It is awake in the tests.
const IDLE: u32 = 60_000;

pub(super) struct Ring {
    queues: IoUring,
    /// Buffer of a receive that was begun and not collected yet.
    begun: Option<Vec<u8>>,
    /// Whether a kernel thread takes the entries.
    is_polled: bool,
}

impl Ring {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            queues: IoUring::new(2)?,
            begun: None,
            is_polled: false,
        })
    }

    /// Makes a ring whose entries a kernel thread takes, so that no system call is needed.
    pub(super) fn polled() -> io::Result<Self> {
        Ok(Self {
            queues: IoUring::builder().setup_sqpoll(IDLE).build(4)?,
            begun: None,
            is_polled: true,
        })
    }

    /// Receives what is there, or waits for it.
    pub(super) fn take(
        &mut self,
        fd: BorrowedFd<'_>,
        way: Way,
        buffer: &mut [u8],
    ) -> io::Result<usize> {
        let (pointer, size) = (buffer.as_mut_ptr(), length(buffer));
        let from = descriptor(fd);
        match way {
            Way::RingRead => {
                let entry = opcode::Read::new(from, pointer, size).build();
                // SAFETY: pointer and length describe `buffer`, which outlives the call.
                unsafe { self.run(&entry) }
            }
            Way::RingReadv => {
                let segments = [libc::iovec {
                    iov_base: pointer.cast(),
                    iov_len: buffer.len(),
                }];
                let entry = opcode::Readv::new(from, segments.as_ptr(), 1).build();
                // SAFETY: the segment and `buffer` outlive the call.
                unsafe { self.run(&entry) }
            }
            Way::RingFixed => self.with_registered(buffer, |ring, pointer| {
                let entry = opcode::ReadFixed::new(from, pointer, size, 0).build();
                // SAFETY: the registered buffer outlives the call.
                unsafe { ring.run(&entry) }
            }),
            Way::RingMultishot => self.multishot(fd),
            Way::RingSplice => {
                let (read_end, write_end) = ways::pipe()?;
                let to = descriptor(write_end.as_fd());
                let entry = opcode::Splice::new(from, -1, to, -1, size).build();
                // SAFETY: the entry points to no memory.
                let moved = unsafe { self.run(&entry) }?;
                ways::drain(read_end.as_fd(), moved)
            }
            Way::RingPolled => self.recv(fd, buffer),
            _ => Err(io::Error::other("the ring does not receive so")),
        }
    }

    /// Sends on a connected socket.
    pub(super) fn put(&mut self, fd: BorrowedFd<'_>, way: Way, bytes: &[u8]) -> io::Result<usize> {
        let (pointer, size) = (bytes.as_ptr(), length(bytes));
        let to = descriptor(fd);
        match way {
            Way::RingRead => {
                let entry = opcode::Write::new(to, pointer, size).build();
                // SAFETY: pointer and length describe `bytes`, which outlives the call.
                unsafe { self.run(&entry) }
            }
            Way::RingReadv => {
                let segments = [libc::iovec {
                    iov_base: pointer.cast_mut().cast(),
                    iov_len: bytes.len(),
                }];
                let entry = opcode::Writev::new(to, segments.as_ptr(), 1).build();
                // SAFETY: the segment and `bytes` outlive the call, which only reads them.
                unsafe { self.run(&entry) }
            }
            Way::RingFixed => self.with_registered(&mut bytes.to_vec(), |ring, pointer| {
                let entry = opcode::WriteFixed::new(to, pointer, size, 0).build();
                // SAFETY: the registered buffer outlives the call.
                unsafe { ring.run(&entry) }
            }),
            Way::RingZeroCopy => {
                let entry = opcode::SendZc::new(to, pointer, size).build();
                // SAFETY: `bytes` outlives the call, which waits until the kernel has let go of them.
                unsafe { self.run_zero_copy(&entry) }
            }
            Way::RingMessageZeroCopy => {
                let segments = [IoSlice::new(bytes)];
                let header = calls::send_header(&segments, None);
                let entry = opcode::SendMsgZc::new(to, ptr::from_ref(&header)).build();
                // SAFETY: header, segment and `bytes` outlive the call, which waits until the kernel has let go of them.
                unsafe { self.run_zero_copy(&entry) }
            }
            Way::RingSplice => {
                let (read_end, write_end) = ways::pipe()?;
                calls::write(write_end.as_fd(), bytes)?;
                let from = descriptor(read_end.as_fd());
                let entry = opcode::Splice::new(from, -1, to, -1, size).build();
                // SAFETY: the entry points to no memory.
                unsafe { self.run(&entry) }
            }
            Way::RingPolled => self.send(fd, bytes),
            _ => Err(io::Error::other("the ring does not send so")),
        }
    }

    /// Runs `work` with `buffer` as the registered buffer number 0, at its address.
    fn with_registered(
        &mut self,
        buffer: &mut [u8],
        work: impl FnOnce(&mut Self, *mut u8) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let segment = libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        };
        // SAFETY: `buffer` stays where it is until it is no longer registered.
        unsafe { self.queues.submitter().register_buffers(&[segment]) }?;
        let done = work(self, buffer.as_mut_ptr());
        self.queues.submitter().unregister_buffers()?;
        done
    }

    /// Provides buffers, begins a receive that goes on, takes its first message, and cancels it.
    fn multishot(&mut self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        const RECEIVE: u64 = 1;
        let mut space = vec![0; usize::from(PROVIDED) * PROVIDED_SIZE];
        let size = i32::try_from(PROVIDED_SIZE).map_err(io::Error::other)?;
        let provide = opcode::ProvideBuffers::new(space.as_mut_ptr(), size, PROVIDED, GROUP, 0);
        // SAFETY: `space` stays where it is until the buffers are removed.
        unsafe { self.run(&provide.build()) }?;
        let receive = opcode::RecvMulti::new(descriptor(fd), GROUP).build();
        // SAFETY: the entry points to no memory; the buffers that were provided are alive.
        unsafe { self.push(&receive.user_data(RECEIVE)) }?;
        self.queues.submit_and_wait(1)?;
        let received = self.completion();
        let cancel = opcode::AsyncCancel::new(RECEIVE).build();
        // SAFETY: the entry points to no memory.
        unsafe { self.push(&cancel) }?;
        // The cancellation has a completion, and so has the receive that it ends.
        self.queues.submit_and_wait(2)?;
        while self.queues.completion().next().is_some() {}
        // SAFETY: the entry points to no memory.
        unsafe { self.run(&opcode::RemoveBuffers::new(PROVIDED, GROUP).build()) }?;
        received
    }

    /// Submits the entry, and waits until it is done and its memory is free again, which is told by a second completion.
    ///
    /// # Safety
    /// The memory that the entry points to must outlive the call.
    unsafe fn run_zero_copy(&mut self, entry: &squeue::Entry) -> io::Result<usize> {
        // SAFETY: the caller promises it.
        unsafe { self.push(entry) }?;
        self.queues.submit_and_wait(1)?;
        let first = self.queues.completion().next();
        let first = first.ok_or_else(|| io::Error::other("no completion"))?;
        if cqueue::more(first.flags()) {
            self.queues.submit_and_wait(1)?;
            self.queues.completion().next();
        }
        length_of(first.result())
    }

    /// Puts the entry into the queue.
    ///
    /// # Safety
    /// The memory that the entry points to must live until it is done.
    unsafe fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: the caller promises it.
        unsafe { self.queues.submission().push(entry) }.map_err(io::Error::other)
    }

    /// Submits `IORING_OP_RECV` and does not wait. The kernel receives when something arrives, in the middle of any
    /// system call that this thread makes then.
    pub(super) fn begin_recv(&mut self, fd: BorrowedFd<'_>, size: usize) -> io::Result<()> {
        let buffer = self.begun.insert(vec![0; size]);
        let entry = opcode::Recv::new(descriptor(fd), buffer.as_mut_ptr(), length(buffer));
        // SAFETY: the buffer stays where it is until the receive has been collected.
        unsafe { self.queues.submission().push(&entry.build()) }.map_err(io::Error::other)?;
        self.queues.submit().map(drop)
    }

    /// Waits until the receive that was begun is done. Returns its result.
    pub(super) fn collect(&mut self) -> io::Result<usize> {
        self.queues.submit_and_wait(1)?;
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
        unsafe { self.queues.submission().push(entry) }.map_err(io::Error::other)?;
        if self.is_polled {
            // This makes no system call as long as the kernel thread is awake.
            self.queues.submit()?;
            while self.queues.completion().is_empty() {
                thread::yield_now();
            }
        } else {
            self.queues.submit_and_wait(1)?;
        }
        self.completion()
    }

    fn completion(&mut self) -> io::Result<usize> {
        let completion = self.queues.completion().next();
        let completion = completion.ok_or_else(|| io::Error::other("no completion"))?;
        length_of(completion.result())
    }
}

/// Returns the length that a completion tells, or its error.
fn length_of(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_negative| io::Error::from_raw_os_error(-result))
}

fn descriptor(fd: BorrowedFd<'_>) -> Fd {
    Fd(fd.as_raw_fd())
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("messages are small")
}

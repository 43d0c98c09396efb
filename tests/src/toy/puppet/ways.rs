//! Ways to move bytes over a connected socket that are no socket calls and need no `io_uring`. Each is done once;
//! errors are the system's.
#![expect(
    unsafe_code,
    reason = "the system calls that are to be seen or counted, each as it is"
)]

use std::{
    io::{self, Seek as _, Write as _},
    mem,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
    ptr,
};

use super::Way;
use crate::toy::calls;

/// `TCP_ZEROCOPY_RECEIVE` (`include/uapi/linux/tcp.h`).
const TCP_ZEROCOPY_RECEIVE: i32 = 35;

/// `struct tcp_zerocopy_receive` up to the members that older kernels do not have.
#[repr(C)]
#[derive(Default)]
struct ZeroCopyReceive {
    address: u64,
    length: u32,
    skip: u32,
    queued: u32,
    error: i32,
    copy_address: u64,
    copy_length: i32,
    flags: u32,
}

/// `IOCB_CMD_PREAD` and `IOCB_CMD_PWRITE` (`include/uapi/linux/aio_abi.h`).
const AIO_READ: u16 = 0;
const AIO_WRITE: u16 = 1;

/// Receives into `buffer`. Returns the number of bytes.
pub(super) fn take(fd: BorrowedFd<'_>, way: Way, buffer: &mut [u8]) -> io::Result<usize> {
    match way {
        Way::Preadv2 => {
            let segment = segment(buffer.as_mut_ptr(), buffer.len());
            // SAFETY: the segment describes `buffer`; both outlive the call.
            result(unsafe { libc::preadv2(fd.as_raw_fd(), &raw const segment, 1, -1, 0) })
        }
        Way::Splice => {
            let (read_end, write_end) = pipe()?;
            let moved = splice(fd, write_end.as_fd(), buffer.len())?;
            drain(read_end.as_fd(), moved)
        }
        Way::Aio => aio(fd, AIO_READ, buffer.as_mut_ptr(), buffer.len()),
        Way::MappedReceive => mapped_receive(fd, buffer),
        _ => Err(io::Error::other("not a way to receive")),
    }
}

/// Sends `bytes`. Returns the number of bytes sent.
pub(super) fn put(fd: BorrowedFd<'_>, way: Way, bytes: &[u8]) -> io::Result<usize> {
    match way {
        Way::Preadv2 => {
            let segment = segment(bytes.as_ptr().cast_mut(), bytes.len());
            // SAFETY: the segment describes `bytes`, which the call only reads; both outlive it.
            result(unsafe { libc::pwritev2(fd.as_raw_fd(), &raw const segment, 1, -1, 0) })
        }
        Way::Splice => {
            let (read_end, write_end) = pipe()?;
            calls::write(write_end.as_fd(), bytes)?;
            splice(read_end.as_fd(), fd, bytes.len())
        }
        Way::Vmsplice => {
            let (read_end, write_end) = pipe()?;
            // The kernel takes the pages themselves, so the bytes may never change.
            let bytes: &'static [u8] = bytes.to_vec().leak();
            let segment = segment(bytes.as_ptr().cast_mut(), bytes.len());
            // SAFETY: the segment describes bytes that stay as they are for good.
            result(unsafe { libc::vmsplice(write_end.as_raw_fd(), &raw const segment, 1, 0) })?;
            splice(read_end.as_fd(), fd, bytes.len())
        }
        Way::Tee => {
            let (first_read, first_write) = pipe()?;
            let (second_read, second_write) = pipe()?;
            calls::write(first_write.as_fd(), bytes)?;
            let (from, to) = (first_read.as_raw_fd(), second_write.as_raw_fd());
            // SAFETY: the call takes two descriptors and no memory.
            result(unsafe { libc::tee(from, to, bytes.len(), 0) })?;
            splice(second_read.as_fd(), fd, bytes.len())
        }
        Way::Sendfile => {
            let mut file = tempfile::tempfile()?;
            file.write_all(bytes)?;
            file.rewind()?;
            let from = file.as_raw_fd();
            // SAFETY: the call takes two descriptors and no memory.
            result(unsafe { libc::sendfile(fd.as_raw_fd(), from, ptr::null_mut(), bytes.len()) })
        }
        Way::Aio => aio(fd, AIO_WRITE, bytes.as_ptr().cast_mut(), bytes.len()),
        Way::ZeroCopy => {
            calls::set_option(fd, libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1)?;
            let (pointer, length) = (bytes.as_ptr().cast(), bytes.len());
            // SAFETY: pointer and length describe `bytes`. The kernel holds their pages until they are sent, and on
            // loopback it copies them before.
            result(unsafe { libc::send(fd.as_raw_fd(), pointer, length, libc::MSG_ZEROCOPY) })
        }
        _ => Err(io::Error::other("not a way to send")),
    }
}

/// Makes a pipe. Returns its ends for reading and writing.
pub(super) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends: [RawFd; 2] = [0; 2];
    // SAFETY: the array has room for two descriptors.
    result_int(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
    // SAFETY: the kernel has just made these two descriptors, which nobody else owns.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

/// Reads `length` bytes from a pipe and throws them away. Returns how many there were.
pub(super) fn drain(pipe: BorrowedFd<'_>, length: usize) -> io::Result<usize> {
    let mut buffer = vec![0; length];
    if length == 0 {
        return Ok(0);
    }
    calls::read(pipe, &mut buffer)
}

/// Returns a copy of a descriptor of another process.
pub(super) fn descriptor_of(pid: i32, descriptor: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the call takes numbers only.
    let process = result_long(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel has just made this descriptor.
    let process = unsafe { OwnedFd::from_raw_fd(process) };
    let number = process.as_raw_fd();
    // SAFETY: the call takes numbers only.
    let copy = result_long(unsafe { libc::syscall(libc::SYS_pidfd_getfd, number, descriptor, 0) })?;
    // SAFETY: the kernel has just made this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, length: usize) -> io::Result<usize> {
    let (from, to) = (from.as_raw_fd(), to.as_raw_fd());
    let nowhere = ptr::null_mut();
    // SAFETY: the call takes two descriptors and no memory.
    result(unsafe { libc::splice(from, nowhere, to, nowhere, length, 0) })
}

/// Does one operation of the kernel's asynchronous input and output, and waits for its end.
fn aio(fd: BorrowedFd<'_>, opcode: u16, pointer: *mut u8, length: usize) -> io::Result<usize> {
    let mut context: libc::c_ulong = 0;
    // SAFETY: the kernel writes the number of the context.
    result_long(unsafe { libc::syscall(libc::SYS_io_setup, 1, &raw mut context) })?;
    // SAFETY: plain old data; all zeroes is a valid value.
    let mut operation: libc::iocb = unsafe { mem::zeroed() };
    operation.aio_lio_opcode = opcode;
    operation.aio_fildes = u32::try_from(fd.as_raw_fd()).map_err(io::Error::other)?;
    operation.aio_buf = pointer.addr() as u64;
    operation.aio_nbytes = length as u64;
    let mut list = [&raw mut operation];
    // `struct io_event`: data, object, result, second result.
    let mut events = [[0_i64; 4]];
    let nobody = ptr::null_mut::<libc::timespec>();
    // SAFETY: the operation and its buffer live until the context is destroyed, which waits for the operation.
    let done =
        result_long(unsafe { libc::syscall(libc::SYS_io_submit, context, 1, list.as_mut_ptr()) })
            .and_then(|_one| {
                let events = events.as_mut_ptr();
                // SAFETY: there is room for one event.
                result_long(unsafe {
                    libc::syscall(libc::SYS_io_getevents, context, 1, 1, events, nobody)
                })
            });
    // SAFETY: the context was made above.
    result_long(unsafe { libc::syscall(libc::SYS_io_destroy, context) })?;
    done?;
    let result = events[0][2];
    usize::try_from(result).map_err(|_negative| {
        io::Error::from_raw_os_error(i32::try_from(-result).unwrap_or(libc::EIO))
    })
}

/// Waits for data, and takes it with `TCP_ZEROCOPY_RECEIVE`: less than a page is copied into the buffer.
fn mapped_receive(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    calls::poll(&mut [libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    }])?;
    let mut request = ZeroCopyReceive {
        copy_address: buffer.as_mut_ptr().addr() as u64,
        copy_length: i32::try_from(buffer.len()).map_err(io::Error::other)?,
        ..ZeroCopyReceive::default()
    };
    let mut length =
        libc::socklen_t::try_from(size_of::<ZeroCopyReceive>()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads and writes the request, whose length is told, and writes to `buffer`.
    result_int(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            TCP_ZEROCOPY_RECEIVE,
            (&raw mut request).cast(),
            &raw mut length,
        )
    })?;
    usize::try_from(request.copy_length).map_err(io::Error::other)
}

fn segment(pointer: *mut u8, length: usize) -> libc::iovec {
    libc::iovec {
        iov_base: pointer.cast(),
        iov_len: length,
    }
}

fn result(value: isize) -> io::Result<usize> {
    usize::try_from(value).map_err(|_negative| io::Error::last_os_error())
}

fn result_int(value: libc::c_int) -> io::Result<()> {
    if value < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn result_long(value: libc::c_long) -> io::Result<RawFd> {
    if value < 0 {
        return Err(io::Error::last_os_error());
    }
    RawFd::try_from(value).map_err(io::Error::other)
}

//! The two transports from the kernel behind one interface. The only question a reader asks: what is there, now or within
//! some milliseconds?
//!
//! The kernel wakes the reader when a ring is filled to its watermark, not for each record; until then the reader comes by
//! itself, when the time that it gave to [`Ring::wait`] is over.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, RawFd},
    time::Duration,
};

use aya::maps::{MapData, RingBuf};

/// A source of records: header and payload, as [`crate::event::Event::parse`] takes them.
pub(super) trait Ring: Send {
    /// Waits until the kernel wakes the reader, at most `timeout`.
    fn wait(&mut self, timeout: Duration) -> io::Result<()>;

    /// Hands over the records that are there, oldest first, and frees their room.
    ///
    /// With several buffers underneath, the newest records may stay for the next time, so that order across buffers is kept;
    /// `last` asks for all.
    fn drain(&mut self, last: bool, take: &mut dyn FnMut(&[u8]));
}

impl Ring for RingBuf<MapData> {
    fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        poll(&mut [readable(self.as_raw_fd())], timeout)
    }

    fn drain(&mut self, _last: bool, take: &mut dyn FnMut(&[u8])) {
        while let Some(record) = self.next() {
            take(&record);
        }
    }
}

/// Whether `fd` becomes readable within `timeout`.
pub fn poll_readable(fd: BorrowedFd<'_>, timeout: Duration) -> io::Result<bool> {
    let mut fds = [readable(fd.as_raw_fd())];
    poll(&mut fds, timeout)?;
    Ok(fds[0].revents != 0)
}

/// A descriptor to wait for.
pub(super) fn readable(fd: RawFd) -> libc::pollfd {
    libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    }
}

/// `poll(2)`. A signal ends the wait like the timeout does.
pub(super) fn poll(fds: &mut [libc::pollfd], timeout: Duration) -> io::Result<()> {
    let milliseconds = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let count = fds.len() as libc::nfds_t;
    // SAFETY: the pointer and the count describe the slice.
    if unsafe { libc::poll(fds.as_mut_ptr(), count, milliseconds) } < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(())
}

//! Waiting for descriptors.

use std::{io, os::fd::BorrowedFd, time::Duration};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

/// Waits until one of `fds` becomes readable, or until `timeout`. Returns whether one has. A signal
/// ends the wait like the timeout.
pub fn poll_readable<'f>(
    fds: impl IntoIterator<Item = BorrowedFd<'f>>,
    timeout: Duration,
) -> io::Result<bool> {
    let mut fds: Vec<_> = fds
        .into_iter()
        .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
        .collect();
    // A timeout that the kernel cannot represent means no timeout.
    let timeout = Timespec::try_from(timeout).ok();
    match poll(&mut fds, timeout.as_ref()) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

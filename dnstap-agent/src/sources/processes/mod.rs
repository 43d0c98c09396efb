//! The process to tap: it is found, pinned so that a reused PID is never taken for it, and
//! described.
//!
//! A process is identified by its PID and start time. A pidfd, opened before both are read, tells
//! its end.

pub mod executable;
mod seen;
mod selection;
pub mod unit;

use std::{
    collections::HashSet,
    fs::File,
    io::{self, Read as _},
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use procfs::{
    ProcError,
    net::{TcpNetEntry, TcpState, UdpNetEntry},
    process::{FDTarget, Process},
};
use rustix::{
    io::Errno,
    process::{self, Pid, PidfdFlags},
};

pub use self::{
    selection::{Found, Search, Selection},
    unit::Unit,
};
use crate::{
    host::{
        exit::{Exit, ExitWith},
        poll::poll_readable,
    },
    sources::processes::executable::printable,
};

/// A running process.
#[derive(Debug)]
pub struct Target {
    /// Process id in this process's PID namespace.
    pub pid: u32,
    /// Start time in clock ticks since boot (`/proc/PID/stat`, field 22).
    pub start_time: u64,
    /// Name in `/proc/PID/comm`: that of the executable, or one that the process has chosen.
    pub name: String,
    pidfd: OwnedFd,
}

/// An IPv4 or IPv6 socket of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenSocket {
    /// Inode number, which identifies it in the hooks' events.
    pub inode: u64,
    /// Whether it is TCP rather than UDP.
    pub tcp: bool,
    /// Whether any client can reach it: a listening TCP socket or an unconnected UDP socket.
    pub listening: bool,
    /// Local address and port.
    pub local: SocketAddr,
}

impl Target {
    /// Pins the running process `pid`. If that fails, the error says what `pid` is instead.
    pub fn open(pid: u32) -> Result<Self> {
        let no_target = |message: String| ExitWith(Exit::NoTarget, message);
        let pidfd = pidfd_open(pid).map_err(|error| match error.raw_os_error() {
            Some(libc::ESRCH) => anyhow!(no_target(format!("there is no process {pid}"))),
            // For a thread's id Linux returns EINVAL, from 6.15 on ENOENT.
            Some(libc::EINVAL | libc::ENOENT) => anyhow!(no_target(thread_message(pid))),
            _ => anyhow!(error).context(no_target(format!("cannot open process {pid}"))),
        })?;
        let pid_i32 = i32::try_from(pid).context(no_target(format!("{pid} is no process id")))?;
        let stat = Process::new(pid_i32)
            .and_then(|process| process.stat())
            .with_context(|| no_target(format!("cannot read /proc/{pid}/stat")))?;
        let target = Self {
            pid,
            start_time: stat.starttime,
            name: stat.comm,
            pidfd,
        };
        if stat.state == 'Z' || target.has_ended()? {
            return Err(anyhow!(no_target(format!(
                "process {pid} ({}) has ended",
                printable(&target.name)
            ))));
        }
        Ok(target)
    }

    /// Returns whether the process has ended.
    pub fn has_ended(&self) -> Result<bool> {
        poll_readable([self.pidfd.as_fd()], Duration::ZERO)
            .context("cannot ask whether the process has ended")
    }

    /// Fails if the layout of the process's system calls is not the one that the hooks know.
    pub fn check_word_size(&self) -> Result<()> {
        let path = format!("/proc/{}/exe", self.pid);
        let mut identification = [0; 5];
        // A process without readable executable (a kernel thread) has no sockets either, which is
        // found later.
        let known = File::open(&path).and_then(|mut file| file.read_exact(&mut identification));
        if known.is_ok() && identification == *b"\x7fELF\x01" {
            return Err(anyhow!(
                "the socket and syscall hooks read the 64-bit system-call registers only"
            ))
            .context(ExitWith(
                Exit::NoTarget,
                format!(
                    "process {} ({}) is a 32-bit program",
                    self.pid,
                    printable(&self.name)
                ),
            ));
        }
        Ok(())
    }

    /// Returns the UDP and TCP sockets of IPv4 and IPv6 that the process has open.
    pub fn sockets(&self) -> Result<Vec<OpenSocket>> {
        open_sockets(self.pid)
    }
}

/// Returns the UDP and TCP sockets of IPv4 and IPv6 that process `pid` has open.
pub fn open_sockets(pid: u32) -> Result<Vec<OpenSocket>> {
    open_sockets_among(usize::MAX, pid)
}

/// Like [`open_sockets`], but searches only the first `descriptors` descriptors, in the order of
/// their numbers.
pub fn open_sockets_among(descriptors: usize, pid: u32) -> Result<Vec<OpenSocket>> {
    let what = || format!("cannot read the sockets of process {pid} from /proc");
    let process = Process::new(i32::try_from(pid)?).with_context(what)?;
    let own: HashSet<u64> = process
        .fd()
        .map_err(|error| match error {
            ProcError::PermissionDenied(_) => anyhow!(error).context(ExitWith(
                Exit::NoPermission,
                format!(
                    "{}: the process is another user's, which takes CAP_DAC_READ_SEARCH",
                    what()
                ),
            )),
            error => anyhow!(error).context(what()),
        })?
        .take(descriptors)
        .filter_map(|descriptor| match descriptor.ok()?.target {
            FDTarget::Socket(inode) => Some(inode),
            _ => None,
        })
        .collect();
    let mut sockets = Vec::new();
    let mut add = |inode, tcp, listening, local| {
        if own.contains(&inode) {
            sockets.push(OpenSocket {
                inode,
                tcp,
                listening,
                local,
            });
        }
    };
    let udp = |entry: &UdpNetEntry| entry.remote_address.port() == 0;
    let tcp = |entry: &TcpNetEntry| entry.state == TcpState::Listen;
    // A kernel without IPv6 has no such files.
    for entry in process
        .udp()
        .with_context(what)?
        .iter()
        .chain(process.udp6().unwrap_or_default().iter())
    {
        add(entry.inode, false, udp(entry), entry.local_address);
    }
    for entry in process
        .tcp()
        .with_context(what)?
        .iter()
        .chain(process.tcp6().unwrap_or_default().iter())
    {
        add(entry.inode, true, tcp(entry), entry.local_address);
    }
    Ok(sockets)
}

impl AsFd for Target {
    /// Returns the pidfd, which is readable when the process has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Describes the distinct addresses on which a process listens: `UDP 127.0.0.1:53, TCP
/// 127.0.0.1:53`.
#[must_use]
pub fn describe_listeners(sockets: &[OpenSocket]) -> String {
    let mut names: Vec<String> = Vec::new();
    for socket in sockets.iter().filter(|socket| socket.listening) {
        let name = format!(
            "{} {}",
            if socket.tcp { "TCP" } else { "UDP" },
            socket.local
        );
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.join(", ")
}

fn thread_message(pid: u32) -> String {
    let process = std::fs::read_to_string(format!("/proc/{pid}/status"))
        .ok()
        .and_then(|status| {
            status
                .lines()
                .find_map(|line| line.strip_prefix("Tgid:"))
                .map(|tgid| tgid.trim().to_owned())
        });
    match process {
        Some(tgid) => format!("{pid} is a thread of process {tgid}: name that one"),
        None => format!("there is no process {pid}"),
    }
}

/// Calls `pidfd_open(2)` (Linux 5.3).
fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    Ok(process::pidfd_open(
        pid.ok_or(Errno::SRCH)?,
        PidfdFlags::empty(),
    )?)
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, UdpSocket},
        process::Command,
    };

    use super::*;

    #[test]
    fn a_process_that_does_not_exist_is_named() {
        let error = Target::open(u32::MAX / 4).unwrap_err();
        assert_eq!(Exit::of(&error), Exit::NoTarget);
        assert!(error.to_string().contains("there is no process"), "{error}");
    }

    #[test]
    fn a_process_that_has_ended_is_noticed() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let target = Target::open(child.id()).unwrap();
        assert!(!target.has_ended().unwrap());
        child.kill().unwrap();
        assert!(poll_readable([target.as_fd()], Duration::from_secs(10)).unwrap());
        assert!(target.has_ended().unwrap());
        assert!(Target::open(child.id()).is_err(), "a zombie is no target");
        child.wait().unwrap();
    }

    #[test]
    fn no_more_descriptors_are_looked_at_than_asked_for() {
        let _socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let among = |descriptors| open_sockets_among(descriptors, std::process::id()).unwrap();
        assert_eq!(among(0), []);
        assert_ne!(among(usize::MAX), []);
    }

    #[test]
    fn own_sockets_are_found_with_their_addresses() {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let sockets = Target::open(std::process::id()).unwrap().sockets().unwrap();
        let find = |tcp: bool, local| {
            sockets
                .iter()
                .find(|socket| socket.tcp == tcp && socket.local == local)
        };
        assert!(find(false, udp.local_addr().unwrap()).unwrap().listening);
        assert!(find(true, tcp.local_addr().unwrap()).unwrap().listening);
        let names = describe_listeners(&sockets);
        assert!(
            names.contains(&format!("TCP {}", tcp.local_addr().unwrap())),
            "{names}"
        );
    }
}

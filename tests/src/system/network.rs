//! A private network for a thread: it has only the loopback interface, so that tests may use well-known ports and any
//! address.
//!
//! It is set up over rtnetlink (rtnetlink(7)) and not by ioctl. With ioctl an IPv6 address always gets duplicate
//! address detection, so it would be unusable for a moment.
#![expect(unsafe_code, reason = "unshare(2) of one thread")]

use std::{
    io::{self, Read as _, Write as _},
    net::IpAddr,
    panic, thread,
};

use socket2::{Domain, Protocol, Socket, Type};

use super::check;

/// The loopback is the first interface of every network namespace (`LOOPBACK_IFINDEX`, net/flow.h).
const LOOPBACK: u32 = 1;
/// `IFA_F_NODAD` of `linux/if_addr.h`: the address is usable at once.
const NO_DETECTION: u8 = 2;
/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;

/// Runs `work` on a thread in a new network namespace. Its loopback has `addresses` in addition to `127.0.0.1` and
/// `::1`. Children that `work` starts are in the namespace, too. It disappears when they and the thread have ended. The
/// outer error means that the namespace could not be made.
pub(crate) fn isolated<T: Send>(
    addresses: &[IpAddr],
    work: impl FnOnce() -> T + Send,
) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter(addresses)?;
            Ok(work())
        });
        thread
            .join()
            .unwrap_or_else(|cause| panic::resume_unwind(cause))
    })
}

/// Moves this thread to a new network namespace.
fn enter(addresses: &[IpAddr]) -> io::Result<()> {
    // SAFETY: unshare takes an integer and touches no memory.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
    let route = Some(Protocol::from(libc::NETLINK_ROUTE));
    let mut kernel = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, route)?;
    ask(&mut kernel, libc::RTM_NEWLINK, &up())?;
    for address in addresses {
        ask(&mut kernel, libc::RTM_NEWADDR, &new_address(*address))?;
    }
    Ok(())
}

/// Makes a `struct ifinfomsg` that sets the loopback's `IFF_UP`.
fn up() -> Vec<u8> {
    let flag = libc::IFF_UP.cast_unsigned().to_ne_bytes();
    [[0; 4], LOOPBACK.to_ne_bytes(), flag, flag].concat()
}

/// Makes a `struct ifaddrmsg` and attributes that add an address to the loopback.
fn new_address(address: IpAddr) -> Vec<u8> {
    // All IPv4 addresses are in one network, so that clients send from its first address and not from the server's own.
    let (family, prefix, octets) = match address {
        IpAddr::V4(address) => (libc::AF_INET, 8, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6, 128, address.octets().to_vec()),
    };
    let mut message = vec![low(family), prefix, NO_DETECTION, 0];
    message.extend(LOOPBACK.to_ne_bytes());
    for attribute in [libc::IFA_LOCAL, libc::IFA_ADDRESS] {
        message.extend(u16::from(low(4 + octets.len())).to_ne_bytes());
        message.extend(attribute.to_ne_bytes());
        message.extend(&octets);
    }
    message
}

/// Sends one request and reads the kernel's answer.
fn ask(kernel: &mut Socket, kind: u16, body: &[u8]) -> io::Result<()> {
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE;
    let flags = u16::try_from(flags).map_err(io::Error::other)?;
    let length = u32::from(low(HEADER + body.len()));
    let mut message = length.to_ne_bytes().to_vec();
    message.extend([kind.to_ne_bytes(), flags.to_ne_bytes()].concat());
    message.extend([0; 8]); // sequence and port are 0: there is one request at a time
    message.extend(body);
    kernel.write_all(&message)?;
    let mut answer = [0; 512];
    let length = kernel.read(&mut answer)?;
    // `struct nlmsgerr`: 0 or the negative error follows the header.
    let error = match answer[..length].get(HEADER..HEADER + 4) {
        Some(&[a, b, c, d]) => i32::from_ne_bytes([a, b, c, d]),
        _ => return Err(io::ErrorKind::UnexpectedEof.into()),
    };
    match error {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}

/// Converts a number of these messages, all of which are small.
fn low<T: TryInto<u8>>(number: T) -> u8 {
    number
        .try_into()
        .unwrap_or_else(|_| unreachable!("lengths and families are below 256"))
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::{self, Write as _},
        path::Path,
    };

    use super::*;
    use crate::system;

    #[test]
    fn an_isolated_thread_has_a_network_of_its_own() {
        if !system::is_root() {
            // This does not use a print macro, whose text the test harness would capture.
            let _told = writeln!(
                io::stderr(),
                "SKIP isolated thread: only root has namespaces"
            );
            return;
        }
        let name = |path: &Path| fs::read_link(path).unwrap();
        let here = name(Path::new("/proc/thread-self/ns/net"));
        let addresses = ["10.53.0.1", "10.53.0.2", "fd53::7"].map(|text| text.parse().unwrap());
        let there = isolated(&addresses, || {
            for address in addresses {
                std::net::UdpSocket::bind((address, 53)).unwrap();
            }
            name(Path::new("/proc/thread-self/ns/net"))
        });
        assert_ne!(there.unwrap(), here);
        assert_eq!(name(Path::new("/proc/thread-self/ns/net")), here);
    }
}

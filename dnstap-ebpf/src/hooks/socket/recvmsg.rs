//! Cgroup programs on `recvmsg4` and `recvmsg6`: they store the sender of the datagram that is being received.
//!
//! The kernel runs them from `udp_recvmsg` and `udpv6_recvmsg` when it has filled in the name of the sender
//! (`BPF_CGROUP_RUN_PROG_UDP4_RECVMSG_LOCK`; 5.2 and later, run on 6.18), for `recvmsg`, `recvmmsg`, and `recvfrom` with an
//! address. Only the `socket` hook needs them: `sock_recv_length` fires before that name is copied to user memory. They
//! change nothing and always allow.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use crate::thread::{peers::Peer, threads};

const ALLOW: i32 = 1;

/// Runs when a datagram is received on an IPv4 socket.
#[cgroup_sock_addr(recvmsg4)]
fn recvmsg4(ctx: SockAddrContext) -> i32 {
    let address = ctx.sock_addr;
    if let Some(peer) = peer() {
        // SAFETY: the context's members, each read as the 32 bits that the verifier allows.
        unsafe {
            peer.ipv4 = (&raw const (*address).user_ip4).read_volatile();
            peer.family = (&raw const (*address).user_family).read_volatile() as u16;
            peer.port_be = (&raw const (*address).user_port).read_volatile() as u16;
        }
    }
    ALLOW
}

/// Runs when a datagram is received on an IPv6 socket.
#[cgroup_sock_addr(recvmsg6)]
fn recvmsg6(ctx: SockAddrContext) -> i32 {
    let address = ctx.sock_addr;
    if let Some(peer) = peer() {
        // SAFETY: as above.
        unsafe {
            let ipv6 = (&raw const (*address).user_ip6).cast::<u32>();
            peer.ipv6 = [
                ipv6.read_volatile(),
                ipv6.add(1).read_volatile(),
                ipv6.add(2).read_volatile(),
                ipv6.add(3).read_volatile(),
            ];
            peer.family = (&raw const (*address).user_family).read_volatile() as u16;
            peer.port_be = (&raw const (*address).user_port).read_volatile() as u16;
        }
    }
    ALLOW
}

/// Returns the place for the peer of the datagram that the current thread is receiving, if its process is tapped.
/// Without a state the message is delivered without peer and counted. A program writes only the address of its family;
/// an older address may stay in the other member. `family` tells which one is valid.
#[inline(always)]
fn peer<'a>() -> Option<&'a mut Peer> {
    let (_, state) = threads::current()?;
    Some(&mut state?.peer)
}

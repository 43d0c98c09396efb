//! Cgroup programs on `recvmsg4` and `recvmsg6`: who sent the datagram that is being received.
//!
//! The kernel runs them from `udp_recvmsg` and `udpv6_recvmsg` when it has filled in the name of the sender
//! (`BPF_CGROUP_RUN_PROG_UDP4_RECVMSG_LOCK`; 5.2 and later, run on 6.18), for `recvmsg`, `recvmmsg`, and `recvfrom` with an
//! address. Only the `socket` hook needs them: `sock_recv_length` fires before that name is copied to user memory. They
//! change nothing and always allow.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use crate::thread::{peers::Peer, threads};

const ALLOW: i32 = 1;

/// A datagram is being received on an IPv4 socket.
#[cgroup_sock_addr(recvmsg4)]
fn recvmsg4(ctx: SockAddrContext) -> i32 {
    // SAFETY: the context's members, each read as the 32 bits that the verifier allows.
    keep(|| unsafe {
        let address = ctx.sock_addr;
        Peer {
            ipv6: [0; 4],
            ipv4: (&raw const (*address).user_ip4).read_volatile(),
            family: (&raw const (*address).user_family).read_volatile() as u16,
            port_be: (&raw const (*address).user_port).read_volatile() as u16,
        }
    });
    ALLOW
}

/// A datagram is being received on an IPv6 socket.
#[cgroup_sock_addr(recvmsg6)]
fn recvmsg6(ctx: SockAddrContext) -> i32 {
    // SAFETY: the context's members, each read as the 32 bits that the verifier allows.
    keep(|| unsafe {
        let address = ctx.sock_addr;
        let ipv6 = (&raw const (*address).user_ip6).cast::<u32>();
        Peer {
            ipv6: [
                ipv6.read_volatile(),
                ipv6.add(1).read_volatile(),
                ipv6.add(2).read_volatile(),
                ipv6.add(3).read_volatile(),
            ],
            ipv4: 0,
            family: (&raw const (*address).user_family).read_volatile() as u16,
            port_be: (&raw const (*address).user_port).read_volatile() as u16,
        }
    });
    ALLOW
}

/// Keeps the peer of the datagram that the current thread is receiving, if its process is tapped.
#[inline(always)]
fn keep(peer: impl FnOnce() -> Peer) {
    // Without a state the message is delivered without peer and counted.
    if let Some((_, Some(state))) = threads::current() {
        state.peer = peer();
    }
}

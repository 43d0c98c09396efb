//! fexit on `inet_recvmsg` and `inet6_recvmsg`: the receiving half of the `fentry` hook.
//!
//! ```c
//! int inet_recvmsg(struct socket *sock, struct msghdr *msg, size_t size, int flags);
//! int inet6_recvmsg(struct socket *sock, struct msghdr *msg, size_t size, int flags);
//! ```
//!
//! The prototypes are the same on 5.10, 6.1, 6.12, 6.18 and 7.x. Every read from an IPv4 or IPv6 socket of UDP or TCP
//! passes through one of them exactly once for each message: `recv`, `recvfrom`, `recvmsg`, each element of `recvmmsg`,
//! `read`, `readv`, `io_uring`. At the exit the caller's buffers are filled, and the sender's name is in kernel memory.

use aya_ebpf::{macros::fexit, programs::FExitContext};

use super::inet::{self, Arguments, programs};
use crate::{kernel::sock::Direction, message::work::Slot, thread::once::Turn};

/// Number of parameters; the result comes after them.
const PARAMETERS: usize = 4;

programs! {
    inet_recvmsg = "inet_recvmsg", Receive, First;
    inet6_recvmsg = "inet6_recvmsg", Receive6, First;
    inet_recvmsg_second = "inet_recvmsg", SecondReceive, Second;
    inet6_recvmsg_second = "inet6_recvmsg", SecondReceive6, Second;
}

#[inline(always)]
fn run(ctx: &FExitContext, slot: Slot, turn: Turn) {
    let arguments = Arguments {
        socket: ctx.arg(0),
        message: ctx.arg(1),
        size: ctx.arg(2),
        flags: ctx.arg(3),
        result: ctx.arg(PARAMETERS),
    };
    inet::run(ctx, slot, turn, Direction::Received, &arguments);
}

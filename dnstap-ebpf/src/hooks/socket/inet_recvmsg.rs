//! fexit on `inet_recvmsg` and `inet6_recvmsg`: the receiving half of the `fentry` hook.
//!
//! ```c
//! int inet_recvmsg(struct socket *sock, struct msghdr *msg, size_t size, int flags);
//! int inet6_recvmsg(struct socket *sock, struct msghdr *msg, size_t size, int flags);
//! ```
//!
//! The same on 5.10, 6.1, 6.12, 6.18 and 7.x. Every way out of an IPv4 or IPv6 socket of UDP or TCP leads through one of
//! them exactly once for each message: `recv`, `recvfrom`, `recvmsg`, each element of `recvmmsg`, `read`, `readv`,
//! `io_uring`. At the exit the caller's buffers are filled, and the sender's name is in kernel memory.

use aya_ebpf::{macros::fexit, programs::FExitContext};

use super::inet::{self, Arguments};
use crate::{kernel::sock::Direction, message::work::Slot, thread::once::Turn};

/// Number of parameters; the result lies behind them.
const PARAMETERS: usize = 4;

/// A message was received on an IPv4 socket, or there was none.
#[fexit(function = "inet_recvmsg")]
fn inet_recvmsg(ctx: FExitContext) -> i32 {
    run(&ctx, Slot::Receive, Turn::First);
    0
}

/// A message was received on an IPv6 socket, or there was none.
#[fexit(function = "inet6_recvmsg")]
fn inet6_recvmsg(ctx: FExitContext) -> i32 {
    run(&ctx, Slot::Receive6, Turn::First);
    0
}

/// The second program for an IPv4 socket; see [`crate::thread::once`].
#[fexit(function = "inet_recvmsg")]
fn inet_recvmsg_second(ctx: FExitContext) -> i32 {
    run(&ctx, Slot::SecondReceive, Turn::Second);
    0
}

/// The second program for an IPv6 socket; see [`crate::thread::once`].
#[fexit(function = "inet6_recvmsg")]
fn inet6_recvmsg_second(ctx: FExitContext) -> i32 {
    run(&ctx, Slot::SecondReceive6, Turn::Second);
    0
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

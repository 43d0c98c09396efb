//! fexit on `inet_sendmsg` and `inet6_sendmsg`: the sending half of the `fentry` hook.
//!
//! ```c
//! int inet_sendmsg(struct socket *sock, struct msghdr *msg, size_t size);
//! int inet6_sendmsg(struct socket *sock, struct msghdr *msg, size_t size);
//! ```
//!
//! The prototypes are the same on 5.10, 6.1, 6.12, 6.18 and 7.x. Every write to an IPv4 or IPv6 socket of UDP or TCP
//! passes through one of them exactly once for each message: `send`, `sendto`, `sendmsg`, each element of `sendmmsg`,
//! `write`, `writev`, `io_uring`. (The protocols' own functions fire twice for an IPv4-mapped peer; `sock_sendmsg` is
//! inlined.) At the exit the result tells how many bytes were really sent. The iterator has moved past them, so the
//! program walks back.

use aya_ebpf::{macros::fexit, programs::FExitContext};

use super::inet::{self, Arguments, programs};
use crate::{kernel::sock::Direction, message::work::Slot, thread::once::Turn};

/// Number of parameters; the result comes after them.
const PARAMETERS: usize = 3;

programs! {
    inet_sendmsg = "inet_sendmsg", Send, First;
    inet6_sendmsg = "inet6_sendmsg", Send6, First;
    inet_sendmsg_second = "inet_sendmsg", SecondSend, Second;
    inet6_sendmsg_second = "inet6_sendmsg", SecondSend6, Second;
}

#[inline(always)]
fn run(ctx: &FExitContext, slot: Slot, turn: Turn) {
    let arguments = Arguments {
        socket: ctx.arg(0),
        message: ctx.arg(1),
        size: ctx.arg(2),
        flags: 0,
        result: ctx.arg(PARAMETERS),
    };
    inet::run(ctx, slot, turn, Direction::Sent, &arguments);
}

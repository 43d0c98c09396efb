//! Raw tracepoint `inet_sock_set_state`: the end of TCP connections, beside every hook.
//!
//! ```c
//! void inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate);
//! ```
//!
//! The same on 5.10 to 7.2. It fires some times in the life of each connection of the host, never for a message. `tcp_close` sets both
//! bits of `sk_shutdown` and then leaves the states in which data passes; `shutdown` sets one bit. A reset comes in whatever thread the
//! packet is processed in, so whose the socket is can only be told by what is known of it ([`crate::sockets`]). Once the process has
//! closed a socket nothing leads from the `struct sock` to its inode any more: an end is told once. If it is not told, because the ring
//! is full or the program is under way on this CPU already, the agent forgets the connection when it has been idle for long.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use dnstap_ebpf::{Counter, DIRECTION_RECEIVED, DIRECTION_SENT, IPPROTO_TCP};

use crate::{emit, memory::Reach, sock::Sock, sockets};

/// `TCP_*` (`include/net/tcp_states.h`).
mod state {
    pub(super) const ESTABLISHED: i32 = 1;
    pub(super) const FIN_WAIT1: i32 = 4;
    pub(super) const CLOSE: i32 = 7;
    pub(super) const CLOSE_WAIT: i32 = 8;
    pub(super) const LAST_ACK: i32 = 9;
}

/// A connection goes from one state to another.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
fn inet_sock_set_state(ctx: RawTracePointContext) -> i32 {
    // What cannot be read was not ours.
    let _ = try_set_state(&ctx);
    0
}

#[inline(always)]
fn try_set_state(ctx: &RawTracePointContext) -> Result<(), Counter> {
    let (old, new): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    let was_open = old == state::ESTABLISHED || old == state::CLOSE_WAIT;
    if !was_open || !matches!(new, state::FIN_WAIT1 | state::LAST_ACK | state::CLOSE) {
        return Ok(());
    }
    let sock = Sock::at(ctx.arg(0), Reach::Probed);
    let direction = if sock.is_shut_down()? {
        DIRECTION_SENT
    } else if new == state::CLOSE {
        DIRECTION_RECEIVED
    } else {
        return Ok(());
    };
    let Some((family, IPPROTO_TCP)) = sock.kind()? else {
        return Ok(());
    };
    let socket = sock.inode()?;
    if sockets::forget(socket) {
        emit::end(ctx, socket, family, direction);
    }
    Ok(())
}

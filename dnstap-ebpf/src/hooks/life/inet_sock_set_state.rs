//! Raw tracepoint `inet_sock_set_state`: the end of TCP connections. It is attached in addition to every hook.
//!
//! ```c
//! void inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate);
//! ```
//!
//! The prototype is the same on 5.10 to 7.2. The tracepoint fires a few times in the life of each connection of the
//! host, but never for a message. A connection ends when both directions are shut down, for example by closing the
//! socket, or when it is reset. A reset is processed in any thread, so the programs find the connection by the state of
//! its socket ([`crate::kernel::sockets`]) and not by the process. The process may still read data that arrived before.
//! An end is not reported if the ring is full, or if the program already runs on this CPU. The agent then drops the
//! connection after it has been idle for long.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use dnstap_ebpf::{Counter, IPPROTO_TCP};

use crate::{
    kernel::{memory::Reach, sock::Sock, sockets},
    message::{emit, multipath},
};

/// `TCP_CLOSE` (`include/net/tcp_states.h`).
const TCP_CLOSE: i32 = 7;

/// Runs when a connection goes from one state to another.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
fn inet_sock_set_state(ctx: RawTracePointContext) -> i32 {
    // An unreadable socket is not one of a tapped process.
    let _ = try_set_state(&ctx);
    0
}

#[inline(always)]
fn try_set_state(ctx: &RawTracePointContext) -> Result<(), Counter> {
    let sock = Sock::at(ctx.arg(0), Reach::Probed);
    let new_state: i32 = ctx.arg(2);
    let is_shut_down = sock.is_shut_down()?;
    if !is_shut_down && new_state != TCP_CLOSE {
        return Ok(());
    }
    let Some((family, IPPROTO_TCP)) = sock.kind()? else {
        return Ok(());
    };
    let socket = sock.inode()?;
    if sock.is_multipath() && is_shut_down {
        multipath::forget(socket);
    }
    // After a reset the entry stays: it may count losses before data that can still be read.
    let is_known = if is_shut_down {
        sockets::forget(socket)
    } else {
        sockets::is_known(socket)
    };
    if is_known {
        emit::end(ctx, socket, family);
    }
    Ok(())
}

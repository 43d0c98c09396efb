//! Raw tracepoint `inet_sock_set_state`: the end of TCP connections, beside every hook.
//!
//! ```c
//! void inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate);
//! ```
//!
//! The same on 5.10 to 7.2. It fires some times in the life of each connection of the host, never for a message. An end is that both
//! directions are shut down, be it by closing the socket, or that the connection is reset, which comes in whatever thread the packet is
//! processed in. So whose the socket is can only be told by what is known of it ([`crate::kernel::sockets`]). What had arrived before may still
//! be read. If an end is not told, because the ring is full or the program is under way on this CPU already, the agent forgets the
//! connection when it has been idle for long.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use dnstap_ebpf::{Counter, IPPROTO_TCP};

use crate::{
    kernel::{memory::Reach, sock::Sock, sockets},
    message::{emit, multipath},
};

/// `TCP_CLOSE` (`include/net/tcp_states.h`).
const TCP_CLOSE: i32 = 7;

/// A connection goes from one state to another.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
fn inet_sock_set_state(ctx: RawTracePointContext) -> i32 {
    // What cannot be read was not ours.
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
    // After a reset the entry stays: it may hold how much was lost of what can still be read.
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

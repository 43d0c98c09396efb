//! The hooks, one file each, and what they share: the way of a message from its socket to the ring.

mod recvmsg;
mod sock_length;
mod sys_exit;

use aya_ebpf::{EbpfContext, helpers::bpf_ktime_get_ns};
use dnstap_ebpf::{Counter, EventHeader, Hook, SocketState};

use crate::{
    call::Payload,
    counters::{add, count},
    emit::{self, Slot},
    sock::{self, Direction, Sock},
    sockets,
    target::Thread,
};

/// A socket of the kind that is tapped.
struct Tapped {
    sock: Sock,
    /// Family and protocol.
    kind: (u8, u8),
    inode: u64,
    state: SocketState,
}

/// Looks at the socket of a message. `None`: not IPv4 or IPv6 over UDP or TCP, or a counted error.
#[inline(always)]
fn admit(sock: Sock) -> Option<Tapped> {
    let admitted = sock.kind().and_then(|kind| match kind {
        None => Ok(None),
        Some(kind) => sock.inode().map(|inode| Some(Tapped { sock, kind, inode, state: sockets::state(inode) })),
    });
    admitted.unwrap_or_else(|reason| {
        count(Counter::Seen);
        count(reason);
        None
    })
}

/// One message of a tapped socket.
struct Transfer {
    thread: Thread,
    hook: Hook,
    direction: Direction,
    /// Bytes transferred, at least one.
    length: u32,
}

impl Tapped {
    /// Counts a message as seen and delivers it, or counts why not. `find` completes the header (the peer) and finds the payload.
    #[inline(always)]
    fn deliver<C: EbpfContext>(
        &self,
        ctx: &C,
        slot: Slot,
        transfer: &Transfer,
        find: impl FnOnce(&mut EventHeader) -> Result<Payload, Counter>,
    ) {
        count(Counter::Seen);
        if sockets::is_skipped(self.state) {
            count(Counter::NotDns);
            return;
        }
        // SAFETY: takes no arguments.
        let mut header = sock::header(transfer.thread, transfer.hook, unsafe { bpf_ktime_get_ns() });
        header.socket = self.inode;
        header.lost = self.state.lost;
        let payload = self
            .sock
            .describe(&mut header, self.kind, transfer.direction, transfer.length)
            .and_then(|()| find(&mut header));
        match payload {
            Ok(payload) => {
                if header.peer_port == 0 {
                    count(Counter::NoPeer);
                }
                emit::message(ctx, slot, &mut header, payload);
            }
            Err(reason) => emit::lost(self.inode, reason),
        }
    }

    /// Counts `messages` as seen, and as dropped for `reason`.
    #[inline(always)]
    fn lose(&self, messages: u64, reason: Counter) {
        add(Counter::Seen, messages);
        add(reason, messages);
        sockets::note_loss(self.inode);
    }
}

//! The hooks, one file each, and what they share: the way of a message from its socket to the ring.

mod inet;
mod inet_recvmsg;
mod inet_sendmsg;
mod inet_sock_set_state;
mod recvmsg;
mod sched_process;
mod skb_consume_udp;
mod sock_length;
mod sys_exit;

use aya_ebpf::helpers::bpf_ktime_get_ns;
use dnstap_ebpf::{Counter, EventHeader, Hook, IPPROTO_TCP, SocketState};

use crate::{
    counters::{add, count},
    emit, filter,
    sock::{Direction, Sock},
    sockets,
    target::Thread,
    work::{Payload, Vectors, Work},
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
        Some(kind) => sock.inode().map(|inode| {
            Some(Tapped {
                sock,
                kind,
                inode,
                state: sockets::state(inode, kind.1 == IPPROTO_TCP),
            })
        }),
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
    /// Whether the agent wants the message; counts it if not.
    #[inline(always)]
    fn is_wanted(&self) -> bool {
        let wanted = !sockets::is_skipped(self.state);
        if !wanted {
            count(Counter::Seen);
            count(Counter::NotDns);
        }
        wanted
    }

    /// The header of a message, complete but for a peer that only the call knows.
    #[inline(always)]
    fn describe(&self, header: &mut EventHeader, transfer: &Transfer) -> Result<(), Counter> {
        // SAFETY: takes no arguments.
        header.ktime_ns = unsafe { bpf_ktime_get_ns() };
        header.socket = self.inode;
        header.tgid = transfer.thread.tgid;
        header.tid = transfer.thread.tid;
        header.lost = self.state.lost;
        header.hook = transfer.hook as u8;
        header.image = transfer.thread.image;
        self.sock
            .describe(header, self.kind, transfer.direction, transfer.length)
    }

    /// Begins with the message whose header is in `work`, unless a filter leaves it out or something is wrong with it, which
    /// is counted.
    #[inline(always)]
    fn begin(&self, work: &mut Work, payload: Result<Payload, Counter>, vectors: Vectors) {
        match payload {
            Ok(payload) => {
                if let Some(reason) = filter::reason(&work.header, &payload, vectors) {
                    count(Counter::Seen);
                    count(reason);
                    work.abandon();
                    return;
                }
                if work.header.peer_port == 0 {
                    count(Counter::NoPeer);
                }
                work.begin(payload);
            }
            Err(reason) => {
                work.abandon();
                emit::lost(self.inode, reason);
            }
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

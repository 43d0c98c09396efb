//! Hooks that see messages at the socket, one file each, and the code that they share: the way of a message from its
//! socket to the ring.

mod inet;
mod inet_recvmsg;
mod inet_sendmsg;
mod io_uring_complete;
mod recvmsg;
mod skb_consume_udp;
mod skb_copy_datagram_iovec;
mod sock_length;
mod sys_exit;

use aya_ebpf::helpers::bpf_ktime_get_ns;
use dnstap_ebpf::{
    Counter, EVENT_COALESCED, EventHeader, Hook, IPPROTO_TCP, IPPROTO_UDP, RecordKind, SocketState,
};

use crate::{
    kernel::{
        counters::{add, count},
        sock::{Direction, Sock},
        sockets,
        target::Thread,
    },
    message::{
        call::{TRUNCATED, is_peek},
        coalesced, emit, filter, multipath,
        payload::{Payload, Vectors},
        work::Work,
    },
};

/// A socket of the kind that is tapped.
struct Tapped {
    sock: Sock,
    /// Family and protocol.
    kind: (u8, u8),
    inode: u64,
    state: SocketState,
}

/// Reads the socket of a message. `None`: it is not IPv4 or IPv6 over UDP or TCP, or an error occurred, which is
/// counted.
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
    /// Bytes of the TCP stream behind the message that the same call has transferred, too.
    behind: u32,
    /// For a receive: whether it may be several datagrams ([`coalesced::take`]).
    coalesced: u64,
}

impl Tapped {
    /// Returns whether the agent wants the message. Counts the message if not.
    #[inline(always)]
    fn is_wanted(&self) -> bool {
        let wanted = !sockets::is_skipped(self.state);
        if !wanted {
            count(Counter::Seen);
            count(Counter::NotDns);
            self.pass_unseen();
        }
        wanted
    }

    /// Fills in the header of a message, except for a peer that only the call knows.
    #[inline(always)]
    fn describe(&self, header: &mut EventHeader, transfer: &Transfer) -> Result<(), Counter> {
        // SAFETY: takes no arguments.
        header.ktime_ns = unsafe { bpf_ktime_get_ns() };
        header.socket = self.inode;
        header.tgid = transfer.thread.tgid;
        header.tid = transfer.thread.tid;
        header.lost = self.state.lost;
        header.hook = transfer.hook as u8;
        header.kind = RecordKind::Chunk as u8;
        header.program_id = transfer.thread.program_id;
        self.sock
            .describe(header, self.kind, transfer.direction, transfer.length)?;
        if self.kind.1 == IPPROTO_UDP {
            self.datagrams(header, transfer)
        } else if self.sock.is_multipath() {
            header.tcp_seq = multipath::advance(self.inode, transfer.direction, transfer.length);
            Ok(())
        } else {
            self.sock
                .place(header, transfer.direction, transfer.length, transfer.behind)
        }
    }

    /// Completes the header with the relation between the call and the datagrams on the wire.
    /// [`Counter::UnsupportedCall`] if the call sends only a piece of a datagram: neither the piece nor the pieces
    /// together become a message.
    #[inline(always)]
    fn datagrams(&self, header: &mut EventHeader, transfer: &Transfer) -> Result<(), Counter> {
        let is_received = transfer.direction == Direction::Received;
        if is_received && transfer.coalesced == coalesced::ONE {
            return Ok(());
        }
        let Some(options) = self.sock.udp()? else {
            return Ok(());
        };
        if is_received {
            if options.may_receive_several() {
                header.flags |= EVENT_COALESCED;
            }
            return Ok(());
        }
        let was_unfinished = self.state.unfinished != 0;
        let is_unfinished = options.is_unfinished();
        if was_unfinished || is_unfinished {
            // A datagram that `UDP_CORK` holds back is sent by the call that turns the option off. No hook sees that
            // call, so the next send is a new datagram.
            let continues = is_unfinished && !options.is_corked();
            if continues != was_unfinished {
                sockets::note_unfinished(self.inode, continues);
            }
            return Err(Counter::UnsupportedCall);
        }
        header.segment = options.segment();
        Ok(())
    }

    /// Returns whether a receive with these `MSG_*` flags throws bytes of a TCP stream away (`MSG_TRUNC`), so that no
    /// process gets them. Counts such a receive.
    #[inline(always)]
    fn is_discard(&self, direction: Direction, flags: u64) -> bool {
        let discards = direction == Direction::Received
            && self.kind.1 == IPPROTO_TCP
            && flags & TRUNCATED != 0;
        if discards {
            self.lose(1, Counter::Truncated);
        }
        discards
    }

    /// Returns whether a receive with these `MSG_*` flags reads a message that stays in the queue, an error, or an
    /// urgent byte of TCP. Counts such a receive.
    #[inline(always)]
    fn is_peek(&self, direction: Direction, flags: u64) -> bool {
        let peeks = direction == Direction::Received && is_peek(flags, self.kind.1);
        if peeks {
            count(Counter::Peek);
        }
        peeks
    }

    /// Begins with the message whose header is in `work`, unless a filter leaves it out or `payload` is an error.
    /// Counts the message in these two cases.
    #[inline(always)]
    fn begin(work: &mut Work, payload: Result<Payload, Counter>, vectors: Vectors) {
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
                emit::lost(&work.header, reason);
            }
        }
    }

    /// Counts `messages` as seen, and as dropped for `reason`.
    #[inline(always)]
    fn lose(&self, messages: u64, reason: Counter) {
        add(Counter::Seen, messages);
        add(reason, messages);
        sockets::note_loss(self.inode);
        self.pass_unseen();
    }

    /// Records that bytes have passed that no header describes.
    #[inline(always)]
    fn pass_unseen(&self) {
        if self.sock.is_multipath() {
            multipath::leap(self.inode);
        }
    }
}

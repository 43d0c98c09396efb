//! Raw tracepoints `sock_send_length` and `sock_recv_length`: the `socket` hook.
//!
//! ```c
//! void sock_send_length(struct sock *sk, int ret, int flags);
//! void sock_recv_length(struct sock *sk, int ret, int flags);
//! ```
//!
//! Kernels from 6.3 on (net/socket.c: `sock_sendmsg_nosec`, `sock_recvmsg_nosec`), run on 6.18. They fire once for each
//! message of every socket call, in the thread that made it, while it holds no lock; cheap for everybody else. They show
//! no buffer: that comes from the system call's saved registers, so calls that are not among [`Call`]'s (`splice`,
//! `sendfile`, `io_uring`) are counted, not read. For `recvmmsg` and `sendmmsg` the hook counts along which element it is at.
//! The peer of an unconnected socket is not yet in user memory when a receive fires: `recvmsg.rs` keeps it.

use aya_ebpf::{
    helpers::{bpf_get_current_task_btf, bpf_task_pt_regs},
    macros::{map, raw_tracepoint},
    maps::LruHashMap,
    programs::RawTracePointContext,
};
use dnstap_ebpf::{Counter, EventHeader, Hook};

use super::{Tapped, Transfer, admit};
use crate::{
    call::{Call, is_peek},
    counters::count,
    emit,
    once::{self, Turn},
    peers,
    registers::Registers,
    sock::{Direction, Sock},
    target::{self, Thread},
    work::{self, Payload, Slot, Vectors},
};

/// Most elements that the kernel takes from a batch (`UIO_MAXIOV`).
const MAX_BATCH: u64 = 1024;

/// How far a thread has come in a batch.
#[derive(Clone, Copy)]
struct Progress {
    /// Address of the batch's array.
    pointer: u64,
    /// Index of the next element.
    next: u32,
    /// What the kernel reported for the element before it.
    previous: u32,
}

/// Thread -> progress in its current `recvmmsg` or `sendmmsg`.
#[map]
static BATCHES: LruHashMap<u64, Progress> = LruHashMap::with_max_entries(4096, 0);

/// A message was sent, or could not be.
#[raw_tracepoint(tracepoint = "sock_send_length")]
fn sock_send_length(ctx: RawTracePointContext) -> i32 {
    run(&ctx, Slot::Send, Turn::First, Direction::Sent);
    0
}

/// A message was received, or could not be.
#[raw_tracepoint(tracepoint = "sock_recv_length")]
fn sock_recv_length(ctx: RawTracePointContext) -> i32 {
    run(&ctx, Slot::Receive, Turn::First, Direction::Received);
    0
}

/// The second program; see [`crate::once`].
#[raw_tracepoint(tracepoint = "sock_send_length")]
fn sock_send_length_second(ctx: RawTracePointContext) -> i32 {
    run(&ctx, Slot::SecondSend, Turn::Second, Direction::Sent);
    0
}

/// The second program; see [`crate::once`].
#[raw_tracepoint(tracepoint = "sock_recv_length")]
fn sock_recv_length_second(ctx: RawTracePointContext) -> i32 {
    run(&ctx, Slot::SecondReceive, Turn::Second, Direction::Received);
    0
}

#[inline(always)]
fn run(ctx: &RawTracePointContext, slot: Slot, turn: Turn, direction: Direction) {
    let Some(thread) = target::current() else {
        return;
    };
    if !once::claim(turn, thread) {
        return;
    }
    let result: i32 = ctx.arg(1);
    if result < 0 {
        forget(thread);
        return;
    }
    // SAFETY: the current task's saved registers; the pointer is only probed.
    let pt_regs = unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) } as *const u8;
    let call = Call::decode(&Registers::read(pt_regs));
    let index = if call.is_batch() {
        advance(thread, &call, result as u32)
    } else {
        0
    };
    if result == 0 {
        return;
    }
    let flags: u64 = ctx.arg(2);
    if direction == Direction::Received && is_peek(flags) {
        count(Counter::Peek);
        return;
    }
    let sock = Sock::at(ctx.arg(0));
    let Some(tapped) = admit(sock) else {
        return;
    };
    // The call must be one on this socket: a receive that io_uring left waiting is finished at the end of whatever call the
    // thread is in, a `read` from a pipe for example, whose buffer is none of ours.
    let is_ours = Sock::of_descriptor(call.descriptor) == Some(sock);
    if !call.is_known() || call.direction() != direction || !is_ours {
        tapped.lose(1, Counter::UnsupportedCall);
        return;
    }
    let Some(work) = work::of(slot) else {
        return;
    };
    if !tapped.is_wanted() {
        return;
    }
    let transfer = Transfer {
        thread,
        hook: Hook::Socket,
        direction,
        length: result as u32,
    };
    let payload = find(&tapped, &transfer, &mut work.header, &call, index);
    tapped.begin(work, payload, Vectors::User);
    if work.left() != 0 {
        emit::message(ctx, slot, Vectors::User, work);
    }
}

/// Completes the header and finds the payload of element `index` of the call.
#[inline(always)]
fn find(
    tapped: &Tapped,
    transfer: &Transfer,
    header: &mut EventHeader,
    call: &Call,
    index: u32,
) -> Result<Payload, Counter> {
    tapped.describe(header, transfer)?;
    let message = call.message(index)?;
    if transfer.direction == Direction::Sent {
        message.peer(header, Direction::Sent)?;
    } else if header.peer_port == 0 && (call.has_header() || message.name != 0) {
        peers::take(transfer.thread, header);
    }
    Ok(message.payload)
}

/// Index of the element of a batch that has just been transferred with `result` bytes.
#[inline(always)]
fn advance(thread: Thread, call: &Call, result: u32) -> u32 {
    let mut index = 0;
    // SAFETY: the entry belongs to this thread, which is in this call.
    if let Some(progress) = unsafe { BATCHES.get(thread.key()) } {
        // A batch that ended early without an event of its own leaves its progress behind. The array's address and the length
        // reported for the element before tell whether this is still the same batch.
        if progress.pointer == call.batch_pointer()
            && progress.next > 0
            && call.reported_length(progress.next - 1) == Ok(progress.previous)
        {
            index = progress.next;
        }
    }
    let next = index + 1;
    let length = call.batch_length();
    if u64::from(next)
        >= if length < MAX_BATCH {
            length
        } else {
            MAX_BATCH
        }
    {
        forget(thread);
    } else {
        let progress = Progress {
            pointer: call.batch_pointer(),
            next,
            previous: result,
        };
        // An LRU map makes room; if it cannot, the next element is taken for the first and its length will not match.
        let _ = BATCHES.insert(thread.key(), progress, 0);
    }
    index
}

/// The thread's batch, if it was in one, is over.
#[inline(always)]
fn forget(thread: Thread) {
    // Not being in the map is the usual case.
    let _ = BATCHES.remove(thread.key());
}

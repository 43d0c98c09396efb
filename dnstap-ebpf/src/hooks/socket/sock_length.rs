//! Raw tracepoints `sock_send_length` and `sock_recv_length`, with BTF: the `socket` hook.
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
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use dnstap_ebpf::{Counter, EventHeader, Hook, IPPROTO_TCP, IPPROTO_UDP};

use super::{Tapped, Transfer, admit};
use crate::{
    kernel::{
        counters::count,
        io_uring,
        memory::Reach,
        registers::Registers,
        sock::{Direction, Sock},
    },
    message::{
        call::{Call, Message, MessageHeader},
        coalesced, emit,
        payload::{Payload, Vectors},
        work::{self, Slot, forget, keep},
    },
    thread::{
        once::{self, Turn},
        peers,
        threads::{self, State},
    },
};

/// Most elements that the kernel takes from a batch (`UIO_MAXIOV`).
const MAX_BATCH: u64 = 1024;

/// A message was sent, or could not be.
#[btf_tracepoint(function = "sock_send_length")]
fn sock_send_length(ctx: BtfTracePointContext) -> i32 {
    run(&ctx, Slot::Send, Turn::First, Direction::Sent);
    0
}

/// A message was received, or could not be.
#[btf_tracepoint(function = "sock_recv_length")]
fn sock_recv_length(ctx: BtfTracePointContext) -> i32 {
    run(&ctx, Slot::Receive, Turn::First, Direction::Received);
    0
}

/// The second program; see [`crate::thread::once`].
#[btf_tracepoint(function = "sock_send_length")]
fn sock_send_length_second(ctx: BtfTracePointContext) -> i32 {
    run(&ctx, Slot::SecondSend, Turn::Second, Direction::Sent);
    0
}

/// The second program; see [`crate::thread::once`].
#[btf_tracepoint(function = "sock_recv_length")]
fn sock_recv_length_second(ctx: BtfTracePointContext) -> i32 {
    run(&ctx, Slot::SecondReceive, Turn::Second, Direction::Received);
    0
}

#[inline(always)]
fn run(ctx: &BtfTracePointContext, slot: Slot, turn: Turn, direction: Direction) {
    let Some(key) = threads::possible() else {
        return;
    };
    let result: i32 = ctx.arg(1);
    if result < 0 {
        // The thread's batch, if it was in one, is over, and what it was receiving has not become a message. A server that reads until there
        // is nothing more comes here as often as with messages.
        if let Some(state) = threads::known(key) {
            state.next = 0;
            coalesced::take(Some(state));
        }
        return;
    }
    let Some((thread, mut state)) = threads::tapped(key) else {
        return;
    };
    if !once::claim(turn, state.as_deref_mut().map(|state| &mut state.mark)) {
        return;
    }
    let coalesced = if direction == Direction::Received {
        coalesced::take(state.as_deref_mut())
    } else {
        coalesced::ONE
    };
    // Before the ways part for the sorts of calls: the verifier searches the kernel's types for each load of a typed pointer, on
    // each way anew, which is most of the time that attaching takes.
    let Some(tapped) = admit(Sock::at(ctx.arg(0), Reach::Typed)) else {
        return;
    };
    let uses_io_uring = io_uring::is_used();
    // SAFETY: the current task's saved registers, of which the verifier knows the type.
    let pt_regs = unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) } as *const u8;
    let call = Call::decode(&Registers::read(pt_regs, Reach::Typed));
    // The header of the message where it is known already; all of it defined in any case, as the compiler copies undefined
    // registers, which the verifier refuses (`R5 !read_ok`).
    let (mut header, mut is_known) = ([0; 7], false);
    if call.is_batch()
        && let Some(state) = &mut state
    {
        is_known = advance(state, &call, result as u32, &mut header);
    }
    if result == 0 {
        return;
    }
    let flags: u64 = ctx.arg(2);
    if tapped.is_peek(direction, flags)
        || !tapped.is_wanted()
        || tapped.is_discard(direction, flags)
    {
        return;
    }
    if call.is_probe() && tapped.kind.1 == IPPROTO_UDP {
        count(Counter::Peek);
        return;
    }
    if !call.is_known()
        || call.direction() != direction
        || (call.may_end_early() && call.batch_length() > 1)
        || (uses_io_uring && !tapped.sock.is_behind(call.descriptor))
    {
        tapped.lose(1, Counter::UnsupportedCall);
        return;
    }
    let Some(work) = work::of(slot) else {
        return;
    };
    let transfer = Transfer {
        thread,
        hook: Hook::Socket,
        direction,
        length: result as u32,
        behind: 0,
        coalesced,
    };
    let known = is_known.then(|| Message::of(header));
    let payload = find(&tapped, &transfer, &mut work.header, &call, known, state);
    Tapped::begin(work, payload, Vectors::User);
    // In map memory, as all that outlives the loops in there.
    let ends_when_full =
        call.is_batch() && direction == Direction::Sent && tapped.kind.1 == IPPROTO_TCP;
    keep(&mut work.next, u64::from(ends_when_full));
    if work.left() != 0 {
        emit::message(ctx, slot, Vectors::User, work);
    }
    if forget(&work.next) != 0
        && (work.room() != 0 || work.segments_behind() != 0)
        && let Some(state) = threads::possible().and_then(threads::known)
    {
        // The stream took no more, which ends the call.
        state.next = 0;
    }
}

/// Completes the header and finds the payload of the message, which is `known` or the first of the call.
#[inline(always)]
fn find(
    tapped: &Tapped,
    transfer: &Transfer,
    header: &mut EventHeader,
    call: &Call,
    known: Option<Message>,
    state: Option<&mut State>,
) -> Result<Payload, Counter> {
    tapped.describe(header, transfer)?;
    let message = match known {
        Some(message) => message,
        // Without state it is not known which element of the batch this is.
        None if call.is_batch() && state.is_none() => return Err(Counter::KernelFault),
        None => call.message(0)?,
    };
    if transfer.direction == Direction::Sent {
        message.peer(header)?;
        message.segment(header)?;
    } else if header.protocol == IPPROTO_UDP {
        coalesced::complete(header, transfer.coalesced);
        if (call.has_header() || message.name != 0)
            && let Some(state) = state
        {
            peers::take(&state.peer, header);
        }
    }
    Ok(message.payload)
}

/// An element of a batch has just been transferred, with `result` bytes; the thread goes on to the next. If it is not the first one,
/// writes its `header`, and `true`.
#[inline(always)]
fn advance(state: &mut State, call: &Call, result: u32, header: &mut MessageHeader) -> bool {
    let (mut index, mut follows) = (0, false);
    // A batch that ended early without an event of its own leaves its progress behind. The array's address and the length
    // reported for the element before tell whether this is still the same batch.
    if state.next > 0
        && state.batch == call.batch_pointer()
        && let Ok((reported, following)) = call.follower(state.next)
        && reported == state.previous
    {
        index = state.next;
        *header = following;
        follows = true;
    }
    let next = index + 1;
    let length = call.batch_length();
    let is_last = u64::from(next)
        >= if length < MAX_BATCH {
            length
        } else {
            MAX_BATCH
        };
    state.next = if is_last { 0 } else { next };
    state.batch = call.batch_pointer();
    state.previous = result;
    follows
}

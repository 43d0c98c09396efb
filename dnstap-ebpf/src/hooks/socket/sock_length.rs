//! Raw tracepoints `sock_send_length` and `sock_recv_length`, with BTF: the `socket` hook.
//!
//! ```c
//! void sock_send_length(struct sock *sk, int ret, int flags);
//! void sock_recv_length(struct sock *sk, int ret, int flags);
//! ```
//!
//! For kernels from 6.3 on (net/socket.c: `sock_sendmsg_nosec`, `sock_recvmsg_nosec`); run on 6.18. The tracepoints
//! fire once for each message of every socket call, in the thread that made the call, while it holds no lock. They are
//! cheap for all other processes. They do not show the buffer: it comes from the saved registers of the system call. So
//! calls that [`Call`] does not know (`splice`, `sendfile`, `io_uring`) are counted and not read. For `recvmmsg` and
//! `sendmmsg` the hook counts the elements to know the current one. When a receive on an unconnected socket fires, its
//! peer is not yet in user memory: `recvmsg.rs` stores the peer.

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
        work::{self, Slot, volatile_load, volatile_store},
    },
    thread::{
        once::{self, Turn},
        peers,
        threads::{self, State},
    },
};

/// Most elements that the kernel takes from a batch (`UIO_MAXIOV`).
const MAX_BATCH: u64 = 1024;

/// Runs when a message was sent, or could not be sent.
#[btf_tracepoint(function = "sock_send_length")]
fn sock_send_length(ctx: BtfTracePointContext) -> i32 {
    run(&ctx, Slot::Send, Turn::First, Direction::Sent);
    0
}

/// Runs when a message was received, or could not be received.
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
        // The call failed. If it was a batch, it is over, and no message was received. A server that reads until
        // nothing is left comes here as often as with messages.
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
    // This comes before the code branches by the kind of call: the verifier searches the kernel's types for each load
    // from a typed pointer, and does so again on each branch. That is most of the time that attaching takes.
    let Some(tapped) = admit(Sock::at(ctx.arg(0), Reach::Typed)) else {
        return;
    };
    let uses_io_uring = io_uring::is_used();
    // SAFETY: the current task's saved registers, whose type the verifier knows.
    let pt_regs = unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) } as *const u8;
    let call = Call::decode(&Registers::read(pt_regs, Reach::Typed));
    // The header of the message, if it is already known. All of it is initialised in any case, because the compiler
    // copies undefined registers, which the verifier refuses (`R5 !read_ok`).
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
    // This is in map memory, like all values that are used after the loops in `emit::message`.
    let ends_when_full =
        call.is_batch() && direction == Direction::Sent && tapped.kind.1 == IPPROTO_TCP;
    volatile_store(&mut work.next, u64::from(ends_when_full));
    if work.left() != 0 {
        emit::message(ctx, slot, Vectors::User, work);
    }
    if volatile_load(&work.next) != 0
        && (work.room() != 0 || work.segments_behind() != 0)
        && let Some(state) = threads::possible().and_then(threads::known)
    {
        // The stream accepted only a part, and the kernel ends the call after that.
        state.next = 0;
    }
}

/// Completes the header and finds the payload of the message: `known`, or the first message of the call.
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
        // Without state the current element of the batch is not known.
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

/// Advances the thread to the next element of a batch, after an element was transferred with `result` bytes. If that
/// element is not the first one, writes its `header` and returns `true`.
#[inline(always)]
fn advance(state: &mut State, call: &Call, result: u32, header: &mut MessageHeader) -> bool {
    let (mut index, mut follows) = (0, false);
    // If a batch ended early without an event, its progress is still stored. The array's address, and the length
    // reported for the previous element, tell whether this is still the same batch.
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

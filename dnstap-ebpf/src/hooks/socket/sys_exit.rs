//! Raw tracepoint `sys_exit`: the `syscall` hook, for kernels on which no other hook works.
//!
//! ```c
//! void sys_exit(struct pt_regs *regs, long ret);
//! ```
//!
//! For all kernels from 5.10 on; run on 6.18. The tracepoint fires at the end of every system call of every process.
//! That is why it is the last choice: the kernel takes its slow exit path for all of them. The registers still hold the
//! call's arguments, buffers and names of both directions are in user memory, and the socket is found through the
//! descriptor table.

use aya_ebpf::{
    macros::{map, raw_tracepoint},
    maps::ProgramArray,
    programs::RawTracePointContext,
};
use dnstap_ebpf::{Counter, EventHeader, Hook, IPPROTO_TCP, IPPROTO_UDP};

use super::{Tapped, Transfer, admit};
use crate::{
    kernel::{
        counters::{add, count},
        memory::Reach,
        registers::Registers,
        sock::{Direction, Sock},
        sockets,
        target::Thread,
    },
    message::{
        call::{Call, is_io_uring, moved},
        coalesced, emit,
        payload::{Payload, Vectors},
        work::{self, Slot, Work, volatile_load, volatile_store},
    },
    thread::{
        once::{self, Turn},
        threads,
    },
};

/// Number of chunks that one run of the program sends, including the messages of a batch that it skips. The verifier
/// walks through each step.
const STEPS: u32 = 8;

/// Number of operations of one call of another form whose descriptors are checked.
const MAX_MOVED: u64 = 16;

/// Number of elements of a batch on a TCP socket whose bytes are summed up. Behind them the stream shows a gap, and the
/// agent finds its framing again.
const MAX_STREAM_BATCH: u32 = 256;

/// Resources of one of the two programs: its work slot, and its entry in `CONTINUE`.
#[derive(Clone, Copy)]
struct Role {
    slot: Slot,
    next: u32,
}

const FIRST: Role = Role {
    slot: Slot::Receive,
    next: 0,
};
const SECOND: Role = Role {
    slot: Slot::SecondReceive,
    next: 1,
};

/// Programs that continue a long batch: `sys_exit_next` and `sys_exit_second_next`. The kernel allows 33 tail calls in
/// a row.
#[map]
static CONTINUE: ProgramArray = ProgramArray::with_max_entries(2, 0);

/// Runs when a system call is over.
#[raw_tracepoint(tracepoint = "sys_exit")]
fn sys_exit(ctx: RawTracePointContext) -> i32 {
    start(&ctx, FIRST, Turn::First);
    0
}

/// Continues the work that `sys_exit` has left in the work slot. Tail calls stay on the CPU.
#[raw_tracepoint(tracepoint = "sys_exit")]
fn sys_exit_next(ctx: RawTracePointContext) -> i32 {
    resume(&ctx, FIRST);
    0
}

/// The second program; see [`crate::thread::once`].
#[raw_tracepoint(tracepoint = "sys_exit")]
fn sys_exit_second(ctx: RawTracePointContext) -> i32 {
    start(&ctx, SECOND, Turn::Second);
    0
}

/// Continues the work that `sys_exit_second` has left.
#[raw_tracepoint(tracepoint = "sys_exit")]
fn sys_exit_second_next(ctx: RawTracePointContext) -> i32 {
    resume(&ctx, SECOND);
    0
}

#[inline(always)]
fn resume(ctx: &RawTracePointContext, role: Role) {
    if let (Some((thread, _)), Some(work)) = (threads::current(), work::of(role.slot)) {
        go_on(ctx, role, thread, work);
    }
}

/// Stores what the call that has just ended transferred, and delivers it.
#[inline(always)]
fn start(ctx: &RawTracePointContext, role: Role, turn: Turn) {
    let Some((thread, state)) = threads::current() else {
        return;
    };
    if !once::claim(turn, state.map(|state| &mut state.mark)) {
        return;
    }
    let result: i64 = ctx.arg(1);
    if result <= 0 {
        return;
    }
    let registers = Registers::read(ctx.arg(0), Reach::Probed);
    let call = Call::decode(&registers);
    if !call.is_known() {
        return count_moved(&registers, result as u64);
    }
    let Some(work) = work::of(role.slot) else {
        return;
    };
    volatile_store(&mut work.next, 0);
    volatile_store(
        &mut work.messages,
        if call.is_batch() { result as u64 } else { 1 },
    );
    volatile_store(&mut work.result, result as u64);
    volatile_store(
        &mut work.rest,
        if call.is_batch() {
            batch_bytes(&call, result as u64)
        } else {
            0
        },
    );
    work.set_call(call);
    work.abandon();
    go_on(ctx, role, thread, work);
}

/// Counts the messages that a call of another form moved over sockets. The place of their bytes is not known.
#[inline(always)]
fn count_moved(registers: &Registers, result: u64) {
    if is_io_uring(registers) {
        return count(Counter::IoUringCalls);
    }
    for index in 0..MAX_MOVED {
        let Some(descriptor) = moved(registers, result, index) else {
            return;
        };
        if let Some(tapped) = Sock::of_descriptor(descriptor).and_then(admit)
            && tapped.is_wanted()
        {
            tapped.lose(1, Counter::UnsupportedCall);
        }
    }
    // The descriptors of the remaining operations are not checked. One message too many is better than none.
    count(Counter::Seen);
    count(Counter::UnsupportedCall);
}

/// Delivers the remaining messages of the call in `work`.
#[inline(always)]
fn go_on(ctx: &RawTracePointContext, role: Role, thread: Thread, work: &mut Work) {
    for _ in 0..STEPS {
        if work.left() == 0 && !next(thread, work) {
            return;
        }
        if work.left() != 0 {
            emit::step(ctx, role.slot, Vectors::User, work);
        }
    }
    // SAFETY: the entry holds a program of this type, or nothing; in the second case the call returns.
    unsafe { CONTINUE.tail_call(ctx, role.next) };
    // This is reached only if no more tail calls are allowed.
    if work.left() != 0 {
        emit::lost(&work.header, Counter::TooManyChunks);
    }
    let rest = volatile_load(&work.messages).wrapping_sub(volatile_load(&work.next));
    if rest != 0 {
        add(Counter::Seen, rest);
        add(Counter::BatchTooLong, rest);
        sockets::note_loss(work.header.socket);
    }
}

/// Puts the next message of the call into `work`. A message with an error is counted instead, and an empty one is
/// skipped. Returns `false` if there are no more messages.
///
/// The socket is read again for each message: if facts that the verifier learns about it on one path lived on to the
/// next round, the verifier would walk through the whole loop for each kind of socket.
#[inline(always)]
fn next(thread: Thread, work: &mut Work) -> bool {
    let index = volatile_load(&work.next);
    if index >= volatile_load(&work.messages) {
        return false;
    }
    volatile_store(&mut work.next, index + 1);
    let call = work.call();
    let Some(tapped) = Sock::of_descriptor(call.descriptor).and_then(admit) else {
        return false;
    };
    if tapped.is_peek(call.direction(), call.flags()) {
        return false;
    }
    if call.is_probe() && tapped.kind.1 == IPPROTO_UDP {
        count(Counter::Peek);
        return false;
    }
    let length = if call.is_batch() {
        call.reported_length(index as u32)
    } else {
        Ok(volatile_load(&work.result) as u32)
    };
    match length {
        Ok(0) => {}
        Ok(length) => {
            if tapped.is_wanted() && !tapped.is_discard(call.direction(), call.flags()) {
                let transfer = Transfer {
                    thread,
                    hook: Hook::Syscall,
                    direction: call.direction(),
                    length,
                    behind: behind(work, length),
                    coalesced: coalesced::UNKNOWN,
                };
                let payload = find(&tapped, &transfer, &mut work.header, &call, index as u32);
                Tapped::begin(work, payload, Vectors::User);
            }
        }
        Err(reason) => tapped.lose(1, reason),
    }
    true
}

/// Returns the number of bytes of the batch behind the next message, which has `length` bytes, on a TCP socket; 0 on
/// another socket.
#[inline(always)]
fn behind(work: &mut Work, length: u32) -> u32 {
    let rest = volatile_load(&work.rest);
    if rest == 0 {
        return 0;
    }
    let behind = rest.wrapping_sub(u64::from(length));
    volatile_store(&mut work.rest, behind);
    behind as u32
}

/// Returns the number of bytes of all messages of a batch on a TCP socket; 0 on another socket.
#[inline(always)]
fn batch_bytes(call: &Call, messages: u64) -> u64 {
    let kind = Sock::of_descriptor(call.descriptor).map(Sock::kind);
    let Some(Ok(Some((_, IPPROTO_TCP)))) = kind else {
        return 0;
    };
    let mut bytes = 0;
    for index in 0..MAX_STREAM_BATCH {
        if u64::from(index) >= messages {
            break;
        }
        bytes += u64::from(call.reported_length(index).unwrap_or(0));
    }
    bytes
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
    message.peer(header)?;
    if transfer.direction == Direction::Sent {
        message.segment(header)?;
    } else if header.protocol == IPPROTO_UDP && call.has_header() {
        message.arrived(header)?;
    }
    Ok(message.payload)
}

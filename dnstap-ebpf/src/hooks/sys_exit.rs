//! Raw tracepoint `sys_exit`: the `syscall` hook, for kernels that offer nothing better.
//!
//! ```c
//! void sys_exit(struct pt_regs *regs, long ret);
//! ```
//!
//! All kernels from 5.10 on; run on 6.18. It fires at the end of every system call of every process, which is why it is
//! the last choice: the kernel takes its slow exit path for all of them. The registers still hold the call's arguments,
//! buffers and names of both directions are in user memory, and the socket is found through the descriptor table.

use aya_ebpf::{
    helpers::bpf_get_current_task,
    macros::{map, raw_tracepoint},
    maps::{LruHashMap, ProgramArray},
    programs::RawTracePointContext,
};
use dnstap_ebpf::{Counter, Hook};

use super::{Tapped, Transfer, admit};
use crate::{
    call::{Call, PEEK_FLAGS},
    config::config,
    counters::count,
    emit::Slot,
    memory,
    registers::Registers,
    sock::{Direction, Sock},
    target::{self, Thread},
};

/// Elements of a batch that one run of the program delivers. The verifier walks through each of them.
const STEP: u32 = 8;

/// `S_IFMT` and `S_IFSOCK` (include/uapi/linux/stat.h).
const S_IFMT: u16 = 0o170_000;
const S_IFSOCK: u16 = 0o140_000;

/// Slot 0: `sys_exit_next`, which goes on with a long batch. The kernel allows 33 calls in a row.
#[map]
static CONTINUE: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Thread -> index of the next element of the batch that it is delivering.
#[map]
static NEXT: LruHashMap<u64, u32> = LruHashMap::with_max_entries(4096, 0);

/// A system call is over.
#[raw_tracepoint(tracepoint = "sys_exit")]
fn sys_exit(ctx: RawTracePointContext) -> i32 {
    if let Some(thread) = target::current() {
        run(&ctx, thread, 0);
    }
    0
}

/// Goes on with the batch of the current thread.
#[raw_tracepoint(tracepoint = "sys_exit")]
fn sys_exit_next(ctx: RawTracePointContext) -> i32 {
    if let Some(thread) = target::current() {
        // SAFETY: the entry belongs to this thread.
        if let Some(&first) = unsafe { NEXT.get(thread.key()) } {
            run(&ctx, thread, first);
        }
    }
    0
}

/// Delivers the message of the call that has just ended, or its elements from `first` on.
#[inline(always)]
fn run(ctx: &RawTracePointContext, thread: Thread, first: u32) {
    let result: i64 = ctx.arg(1);
    if result <= 0 {
        return;
    }
    let Ok(registers) = Registers::read(ctx.arg(0)) else {
        return;
    };
    let Some(call) = Call::decode(&registers) else {
        return;
    };
    let Some(sock) = socket_of(registers.first()) else {
        return;
    };
    if call.direction == Direction::Received && call.flags & PEEK_FLAGS != 0 {
        count(Counter::Peek);
        return;
    }
    let Some(tapped) = admit(sock) else {
        return;
    };
    if !call.is_batch() {
        deliver(ctx, &tapped, thread, &call, 0, result as u32);
        return;
    }
    let messages = result as u64;
    for step in 0..STEP {
        let index = first + step;
        if u64::from(index) >= messages {
            return;
        }
        match call.reported_length(index) {
            Ok(0) => {} // an empty datagram
            Ok(length) => deliver(ctx, &tapped, thread, &call, index, length),
            Err(reason) => tapped.lose(1, reason),
        }
    }
    let next = first + STEP;
    if u64::from(next) < messages {
        if NEXT.insert(thread.key(), next, 0).is_ok() {
            // SAFETY: slot 0 holds a program of this type, or nothing; then the call returns.
            let _ = unsafe { CONTINUE.tail_call(ctx, 0) };
        }
        // Only reached if the chain is at its end.
        tapped.lose(messages - u64::from(next), Counter::BatchTooLong);
    }
}

#[inline(always)]
fn deliver(ctx: &RawTracePointContext, tapped: &Tapped, thread: Thread, call: &Call, index: u32, length: u32) {
    let transfer = Transfer { thread, hook: Hook::Syscall, direction: call.direction, length };
    tapped.deliver(ctx, Slot::Receive, &transfer, |header| {
        let message = call.message(index)?;
        message.peer(header, call.direction)?;
        Ok(message.payload)
    });
}

/// The socket behind a descriptor of the current process; `None` if it is something else.
#[inline(always)]
fn socket_of(descriptor: u64) -> Option<Sock> {
    // SAFETY: takes no arguments.
    let task = unsafe { bpf_get_current_task() } as *const u8;
    // SAFETY: pointers and integers. The descriptor was valid when the call began; if another thread has closed it since,
    // the walk ends at null or at another file, which the checks below refuse or which is a socket of the process as well.
    unsafe {
        let files: *const u8 = memory::kernel(task, config!(offsets.task_files)).ok()?;
        let fdt: *const u8 = memory::kernel(files, config!(offsets.files_fdt)).ok()?;
        let max_fds: u32 = memory::kernel(fdt, config!(offsets.fdtable_max_fds)).ok()?;
        if descriptor >= u64::from(max_fds) {
            return None;
        }
        let array: *const u8 = memory::kernel(fdt, config!(offsets.fdtable_fd)).ok()?;
        let file: *const u8 = memory::kernel(array, descriptor as usize * 8).ok()?;
        if file.is_null() {
            return None;
        }
        let inode: *const u8 = memory::kernel(file, config!(offsets.file_inode)).ok()?;
        let mode: u16 = memory::kernel(inode, config!(offsets.inode_mode)).ok()?;
        if mode & S_IFMT != S_IFSOCK {
            return None;
        }
        Sock::of_socket(memory::kernel(file, config!(offsets.file_private_data)).ok()?).ok()
    }
}

//! Code that the fexit programs on `inet_sendmsg`, `inet_recvmsg` and their IPv6 siblings share. It reads
//! `struct msghdr` and its iterator.
//!
//! At the exit the iterator has moved past the transferred bytes, so the program finds the start by walking back. This
//! needs no program at the entry, and no state between entry and exit: the descriptions of the segments, which the
//! caller made, are still in memory before the iterator's current one. `ITER_UBUF` (single buffers, from 6.0 on; single
//! segments, from 6.4 on) keeps the base and moves `iov_offset`; `ITER_IOVEC` moves both the segment pointer and
//! `iov_offset`.

use aya_ebpf::EbpfContext;
use dnstap_ebpf::{Counter, EventHeader, Hook, IPPROTO_UDP, MAX_SEGMENTS, MISSING};

use super::{Tapped, Transfer, admit};
use crate::{
    kernel::{
        config::config,
        counters::count,
        memory::{self, Reach},
        sock::{Address, Direction, Sock, set_sender},
    },
    message::{
        call::{self, TRUNCATED},
        coalesced, emit,
        payload::{Payload, Vectors},
        work::{self, Slot, Work, volatile_load, volatile_store},
    },
    thread::{
        locals,
        once::{self, Turn},
        threads::{self, State},
    },
};

/// Defines the programs of a file: the hooked function, the slot of memory, and whether it is the first or the second
/// program (see [`crate::thread::once`]).
macro_rules! programs {
    ($($name:ident = $function:tt, $slot:ident, $turn:ident;)+) => {$(
        #[fexit(function = $function)]
        fn $name(ctx: FExitContext) -> i32 {
            run(&ctx, Slot::$slot, Turn::$turn);
            0
        }
    )+};
}
pub(super) use programs;

/// `sizeof(struct iovec)`.
const IOVEC: u64 = 16;

/// `-EAGAIN`.
const NOTHING_THERE: i32 = -11;

/// Arguments and result of the hooked function.
pub(super) struct Arguments {
    /// `struct socket *`.
    pub(super) socket: *const u8,
    /// `struct msghdr *`.
    pub(super) message: *const u8,
    /// Bytes that the iterator had at the entry.
    pub(super) size: u64,
    /// `MSG_*` of a receive.
    pub(super) flags: i32,
    /// Bytes transferred, or a negative error.
    pub(super) result: i32,
}

/// Delivers the message that the function transferred, if any.
#[inline(always)]
pub(super) fn run<C: EbpfContext>(
    ctx: &C,
    slot: Slot,
    turn: Turn,
    direction: Direction,
    arguments: &Arguments,
) {
    if arguments.result <= 0 {
        // Several datagrams may have been thrown away. If there were none, there is nothing to do.
        if direction == Direction::Received
            && arguments.result != NOTHING_THERE
            && let Some((_, Some(state))) = threads::current()
        {
            coalesced::take(Some(state));
        }
        return;
    }
    let Some((thread, mut state)) = threads::current() else {
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
    let Ok(sock) = Sock::of_socket(arguments.socket, Reach::Typed) else {
        count(Counter::Seen);
        count(Counter::KernelFault);
        return;
    };
    let Some(tapped) = admit(sock) else {
        return;
    };
    let Some(work) = work::of(slot) else {
        return;
    };
    if tapped.is_peek(direction, arguments.flags as u64) || !tapped.is_wanted() {
        return;
    }
    let transfer = Transfer {
        thread,
        hook: Hook::Fentry,
        direction,
        length: arguments.result as u32,
        behind: 0,
        coalesced,
    };
    let payload = find(&tapped, &transfer, work, arguments, state);
    Tapped::begin(work, payload, Vectors::Kernel);
    if work.left() != 0 {
        emit::message(ctx, slot, Vectors::Kernel, work);
    }
}

/// Completes the header and finds the payload.
///
/// The verifier knows the type of the message, so its members, and those of the iterator in it, are read with plain
/// loads.
#[inline(always)]
fn find(
    tapped: &Tapped,
    transfer: &Transfer,
    work: &mut Work,
    arguments: &Arguments,
    state: Option<&mut State>,
) -> Result<Payload, Counter> {
    let header = &mut work.header;
    tapped.describe(header, transfer)?;
    if header.protocol == IPPROTO_UDP {
        peer(header, arguments.message)?;
        if transfer.direction == Direction::Sent {
            segment(header, arguments.message)?;
        } else {
            // SAFETY: an integer, and the message is typed.
            let flags: u32 =
                unsafe { Reach::Typed.read(arguments.message, config!(offsets.msghdr_flags))? };
            coalesced::complete(header, transfer.coalesced);
            if header.segment == 0 {
                if u64::from(flags) & TRUNCATED != 0 {
                    return Err(Counter::Truncated);
                }
                header.arrived_len = header.message_len;
            }
            if header.local_addr == [0; 16]
                && let Some(state) = state
            {
                locals::take(&mut state.local, header);
            }
        }
    }
    payload(work, arguments)
}

/// Sets the header's segment from the message's control messages, which the kernel has copied from the caller.
#[inline(always)]
fn segment(header: &mut EventHeader, message: *const u8) -> Result<(), Counter> {
    // SAFETY: an integer, and the message is typed.
    let length: u64 = unsafe { Reach::Typed.read(message, config!(offsets.msghdr_controllen))? };
    if length == 0 {
        return Ok(());
    }
    // Control messages are rare, so this uses the helper: it returns a number, with which the program may compute; the
    // verifier does not allow that with a pointer.
    // SAFETY: an integer.
    let control: u64 = unsafe { memory::kernel(message, config!(offsets.msghdr_control))? };
    call::segment(header, Vectors::Kernel, control, length)
}

/// The part of a socket address that is read: a `struct sockaddr_in6` without its scope, or a `struct sockaddr_in` and
/// the bytes behind it.
#[derive(Clone, Copy)]
#[repr(C)]
struct Name {
    family: u16,
    port_be: u16,
    ipv4: u32,
    ipv6: Address,
}

/// Sets the header's peer from the message's name, which the kernel has copied from the caller or filled in for it.
#[inline(always)]
fn peer(header: &mut EventHeader, message: *const u8) -> Result<(), Counter> {
    // SAFETY: a pointer and an integer, and the message is typed.
    let (name, length): (*const u8, i32) = unsafe {
        (
            Reach::Typed.read(message, config!(offsets.msghdr_name))?,
            Reach::Typed.read(message, config!(offsets.msghdr_namelen))?,
        )
    };
    if name.is_null() || length <= 0 {
        return Ok(());
    }
    // SAFETY: integers. The read is within `struct sockaddr_storage`, for any family.
    let name: Name = unsafe { memory::kernel(name, 0)? };
    set_sender(header, name.family, name.port_be, name.ipv4, name.ipv6);
    Ok(())
}

/// Finds the transferred bytes.
#[inline(always)]
fn payload(work: &mut Work, arguments: &Arguments) -> Result<Payload, Counter> {
    let iterator = arguments.message.wrapping_add(config!(offsets.msghdr_iter));
    // SAFETY: integers, and the message is typed.
    let (kind, offset, count): (u8, u64, u64) = unsafe {
        (
            Reach::Typed.read(iterator, config!(offsets.iter_type))?,
            Reach::Typed.read(iterator, config!(offsets.iter_iov_offset))?,
            Reach::Typed.read(iterator, config!(offsets.iter_count))?,
        )
    };
    let kind = usize::from(kind) & config!(iter_type_mask);
    // With MSG_TRUNC a receive reports more than it copied.
    let walked = arguments.size.wrapping_sub(count);
    if walked < arguments.result as u64 {
        return Err(Counter::Truncated);
    }
    if config!(iter_ubuf) != MISSING as usize && kind == config!(iter_ubuf) {
        let base = address(work, iterator, config!(offsets.iter_ubuf))?;
        return Ok(Payload {
            base: base.wrapping_add(offset).wrapping_sub(walked),
            length: walked,
            vector: 0,
            segments: 0,
        });
    }
    if kind != config!(iter_iovec) {
        return Err(Counter::UnsupportedIterator);
    }
    let segment = address(work, iterator, config!(offsets.iter_iov))?;
    walk_back(work, segment, offset, walked)
}

/// Reads the pointer at `offset` in the iterator, as a number. The value passes through memory, because the verifier
/// knows its type (or the type that this member has in another kind of iterator) and does not allow computing with a
/// pointer.
#[inline(always)]
fn address(work: &mut Work, iterator: *const u8, offset: usize) -> Result<u64, Counter> {
    // SAFETY: an integer, and the iterator is a member of the message, which is typed.
    let pointer = unsafe { Reach::Typed.read(iterator, offset)? };
    volatile_store(&mut work.untyped, pointer);
    Ok(volatile_load(&work.untyped))
}

/// Goes back `walked` bytes from `offset` in `segment`, an element of an array of `struct iovec` in kernel memory.
///
/// The loop keeps its values in map memory for the reason that [`crate::message::work`] explains.
#[inline(always)]
fn walk_back(work: &mut Work, segment: u64, offset: u64, walked: u64) -> Result<Payload, Counter> {
    if offset >= walked {
        let start = offset - walked;
        let (base, length) = Vectors::Kernel.segment(segment)?;
        return Ok(Payload {
            base: base.wrapping_add(start),
            length: length.wrapping_sub(start),
            vector: segment.wrapping_add(IOVEC),
            segments: 0,
        });
    }
    work.begin_walk(segment, walked - offset);
    for _ in 1..MAX_SEGMENTS {
        let (segment, bytes) = work.walk();
        let before = segment.wrapping_sub(IOVEC);
        // The iterator has passed this segment.
        let (base, length) = Vectors::Kernel.segment(before)?;
        if length >= bytes {
            return Ok(Payload {
                base: base.wrapping_add(length - bytes),
                length: bytes,
                vector: segment,
                segments: work.walked_segments() + 1,
            });
        }
        work.walk_to(before, bytes - length);
    }
    Err(Counter::TooManyChunks)
}

//! Recognises the system calls that move messages, and finds their buffers in the memory of the process.
//!
//! The layouts are those of the 64-bit user ABI: `struct iovec` {base, len}, `struct msghdr` (56 bytes), `struct mmsghdr`
//! (`msghdr` and `msg_len`, 64 bytes).

use dnstap_ebpf::{
    Counter, DIRECTION_RECEIVED, DIRECTION_SENT, EVENT_COALESCED, EventHeader, IPPROTO_TCP,
    IPPROTO_UDP, syscall,
};

use crate::{
    kernel::{
        memory,
        registers::Registers,
        sock::{Direction, set_sender},
    },
    message::payload::{Payload, Vectors},
};

/// `MSG_PEEK | MSG_ERRQUEUE`: the call reads a message that stays in the queue, or an error.
const PEEK_FLAGS: u64 = 0x02 | 0x2000;

/// `MSG_PROBE`: the call sends no datagram; it only asks about the path.
const PROBE: u64 = 0x10;

/// `MSG_OOB`: on TCP, the call takes an urgent byte, which is not part of the stream. UDP ignores the flag.
const OUT_OF_BAND: u64 = 0x01;

/// `MSG_TRUNC`. The kernel sets it in `msg_flags` after a receive if the datagram was longer than the buffers. If the
/// caller of a receive on TCP sets it, the kernel throws the bytes away.
pub(crate) const TRUNCATED: u64 = 0x20;

/// `MSG_CTRUNC`. The kernel sets it in `msg_flags` after a receive if there was no room for some control messages.
const CONTROL_TRUNCATED: u64 = 0x08;

/// `SOL_UDP` with `UDP_SEGMENT` and with `UDP_GRO` (`include/uapi/linux/udp.h`) in the order of `struct cmsghdr`: level, type.
const UDP_SEGMENT: u64 = (103 << 32) | 0x11;
const UDP_GRO: u64 = (104 << 32) | 0x11;

/// Offsets of `aio_lio_opcode` and `aio_fildes` in `struct iocb` (`include/uapi/linux/aio_abi.h`), and `IOCB_CMD_POLL`,
/// an operation that moves no bytes.
const AIO_OPCODE: u64 = 16;
const AIO_FILDES: u64 = 20;
const AIO_POLL: u16 = 5;

/// Size of a `struct cmsghdr` without and with a value of 2 bytes, and largest number of control messages that are
/// read.
const CONTROL_HEADER: u64 = 16;
const CONTROL_SIZE: u64 = 18;
const MAX_CONTROLS: usize = 8;

const MMSGHDR_SIZE: u64 = 64;
const MMSGHDR_LEN: u64 = 56;

/// The words of a `struct msghdr`: address and length of the name, address and number of the `iovec`s, address and
/// length of the control messages, flags. One read gets all of them, because the cost of a read of user memory is
/// mostly per call.
pub(crate) type MessageHeader = [u64; 7];

/// First half of a `struct sockaddr_in6`, or a whole `struct sockaddr_in`.
#[derive(Clone, Copy)]
#[repr(C)]
struct SocketName {
    family: u16,
    port_be: u16,
    ipv4: u32,
    ipv6: u64,
}

/// Offset of the second half of the IPv6 address in a `struct sockaddr_in6`.
const IPV6_REST: u64 = 16;

/// Returns whether a receive with these flags reads a message that stays in the queue, an error, or an urgent byte of
/// TCP.
#[inline(always)]
pub(crate) fn is_peek(flags: u64, protocol: u8) -> bool {
    flags & PEEK_FLAGS != 0 || (protocol == IPPROTO_TCP && flags & OUT_OF_BAND != 0)
}

/// Form in which a call names its buffers.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Form {
    /// Not a call that sends or receives. This is a variant, and not an `Option` around the call, because the call's
    /// members would be undefined for `None`: the compiler copies undefined registers, which the verifier refuses
    /// (`R4 !read_ok`).
    Other,
    /// One buffer: `pointer`, `length`.
    Buffer,
    /// An array of segments: `pointer` to `iovec`s, `length` of them.
    Vector,
    /// `pointer` to a `msghdr`.
    Message,
    /// `pointer` to `mmsghdr`s, `length` of them.
    Batch,
}

/// A system call that sends or receives.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Call {
    /// File descriptor.
    pub descriptor: u64,
    /// `MSG_*` flags; 0 if the call has none.
    flags: u64,
    pointer: u64,
    length: u64,
    /// User address of the peer's name for [`Form::Buffer`], or of the time-out for `recvmmsg`; 0 if there is none.
    name: u64,
    direction: Direction,
    form: Form,
}

impl Call {
    /// Recognises the call in `registers`; see [`Self::is_known`].
    #[inline(always)]
    pub(crate) fn decode(registers: &Registers) -> Self {
        let (direction, form) = match registers.number() {
            syscall::READ | syscall::RECVFROM => (Direction::Received, Form::Buffer),
            syscall::WRITE | syscall::SENDTO => (Direction::Sent, Form::Buffer),
            syscall::READV | syscall::PREADV2 => (Direction::Received, Form::Vector),
            syscall::WRITEV | syscall::PWRITEV2 => (Direction::Sent, Form::Vector),
            syscall::RECVMSG => (Direction::Received, Form::Message),
            syscall::SENDMSG => (Direction::Sent, Form::Message),
            syscall::RECVMMSG => (Direction::Received, Form::Batch),
            syscall::SENDMMSG => (Direction::Sent, Form::Batch),
            _ => (Direction::Sent, Form::Other),
        };
        let (flags, name) = match registers.number() {
            syscall::SENDTO | syscall::RECVFROM | syscall::RECVMMSG => {
                (registers.fourth(), registers.fifth())
            }
            syscall::SENDMMSG => (registers.fourth(), 0),
            syscall::RECVMSG | syscall::SENDMSG => (registers.third(), 0),
            _ => (0, 0),
        };
        Self {
            descriptor: registers.first(),
            flags,
            pointer: registers.second(),
            length: registers.third(),
            name,
            direction,
            form,
        }
    }

    /// Returns whether the call sends or receives.
    #[inline(always)]
    pub(crate) fn is_known(&self) -> bool {
        self.form != Form::Other
    }

    /// Returns whether the call is a send that only probes and sends nothing (`MSG_PROBE`).
    #[inline(always)]
    pub(crate) fn is_probe(&self) -> bool {
        self.direction == Direction::Sent && self.flags & PROBE != 0
    }

    /// Returns whether the call is a `recvmmsg` with a time-out. It may end after any of its messages without an event.
    /// The first message of the thread's next call would then be taken for the next message of this call.
    #[inline(always)]
    pub(crate) fn may_end_early(&self) -> bool {
        self.form == Form::Batch && self.direction == Direction::Received && self.name != 0
    }

    /// Returns the direction of the call's messages.
    #[inline(always)]
    pub(crate) fn direction(&self) -> Direction {
        self.direction
    }

    /// Returns the `MSG_*` flags.
    #[inline(always)]
    pub(crate) fn flags(&self) -> u64 {
        self.flags
    }

    /// Returns whether the call is `recvmmsg` or `sendmmsg`.
    #[inline(always)]
    pub(crate) fn is_batch(&self) -> bool {
        self.form == Form::Batch
    }

    /// Returns whether the call takes `msghdr`s. The kernel then looks up the sender's name even if the process does
    /// not want it.
    #[inline(always)]
    pub(crate) fn has_header(&self) -> bool {
        matches!(self.form, Form::Message | Form::Batch)
    }

    /// Returns the number of elements that the caller offered in a batch.
    #[inline(always)]
    pub(crate) fn batch_length(&self) -> u64 {
        self.length
    }

    /// Returns the address of a batch's array.
    #[inline(always)]
    pub(crate) fn batch_pointer(&self) -> u64 {
        self.pointer
    }

    /// Reads `msg_len` of element `index` of a batch. The kernel writes it when it goes on to the next element.
    #[inline(always)]
    pub(crate) fn reported_length(&self, index: u32) -> Result<u32, Counter> {
        // SAFETY: an integer.
        unsafe { memory::user(self.pointer, u64::from(index) * MMSGHDR_SIZE + MMSGHDR_LEN) }
    }

    /// Reads the header of element `index` (at least 1) of a batch, and the `msg_len` of the element before, which is
    /// next to it in memory.
    #[inline(always)]
    pub(crate) fn follower(&self, index: u32) -> Result<(u32, MessageHeader), Counter> {
        let at = u64::from(index) * MMSGHDR_SIZE - (MMSGHDR_SIZE - MMSGHDR_LEN);
        // SAFETY: integers. The length is the first half of its word; the other half is padding.
        let [length, header @ ..]: [u64; 8] = unsafe { memory::user(self.pointer, at)? };
        Ok((u64::from_le(length) as u32, header))
    }

    /// Returns the buffers and the name of the message; for a batch, those of element `index`.
    #[inline(always)]
    pub(crate) fn message(&self, index: u32) -> Result<Message, Counter> {
        match self.form {
            Form::Other => Err(Counter::UnsupportedCall),
            Form::Buffer => Ok(Message {
                payload: Payload {
                    base: self.pointer,
                    length: self.length,
                    vector: 0,
                    segments: 0,
                },
                name: self.name,
                control: 0,
                control_length: 0,
                flags: 0,
            }),
            Form::Vector => Ok(Message {
                payload: segments(self.pointer, self.length),
                name: 0,
                control: 0,
                control_length: 0,
                flags: 0,
            }),
            Form::Message | Form::Batch => {
                let offset = if self.form == Form::Batch {
                    u64::from(index) * MMSGHDR_SIZE
                } else {
                    0
                };
                // SAFETY: integers.
                unsafe { memory::user(self.pointer, offset) }.map(Message::of)
            }
        }
    }
}

/// Sets the header's segment from a control message: `UDP_SEGMENT` of a send, or `UDP_GRO` of a receive. The control
/// messages have `length` bytes and are at `control`, in the memory of the process or in the kernel's copy. Only the
/// first ones are read; [`Counter::UnsupportedCall`] if there are more.
#[inline(always)]
pub(crate) fn segment(
    header: &mut EventHeader,
    memory: Vectors,
    control: u64,
    length: u64,
) -> Result<(), Counter> {
    // The wanted level is computed and not chosen by a branch, so that the verifier walks through the loop once.
    const { assert!(UDP_GRO == UDP_SEGMENT + (1 << 32)) }
    const { assert!(DIRECTION_RECEIVED == 0 && DIRECTION_SENT == 1) }
    // SAFETY: a live reference.
    let direction = unsafe { (&raw const header.direction).read_volatile() };
    let wanted = UDP_GRO.wrapping_sub(u64::from(direction) << 32);
    let mut at = 0;
    for _ in 0..MAX_CONTROLS {
        if at + CONTROL_SIZE > length {
            return Ok(());
        }
        let [size, kind] = memory.read::<[u64; 2]>(control.wrapping_add(at))?;
        if kind == wanted {
            // If there are several, the kernel uses the last one.
            header.segment = memory.read(control.wrapping_add(at + CONTROL_HEADER))?;
        }
        // `CMSG_NXTHDR`.
        at = at.wrapping_add(size.wrapping_add(7) & !7);
    }
    if at + CONTROL_SIZE > length {
        Ok(())
    } else {
        Err(Counter::UnsupportedCall)
    }
}

/// Returns whether the call is `io_uring_enter`. Through it a process moves messages that no other call shows.
#[inline(always)]
pub(crate) fn is_io_uring(registers: &Registers) -> bool {
    registers.number() == syscall::IO_URING_ENTER
}

/// Returns the descriptor number `index` of a call of another form that moves bytes between descriptors. `result` is
/// what the call returned. `None` if the call has fewer descriptors or moves no bytes.
#[inline(always)]
pub(crate) fn moved(registers: &Registers, result: u64, index: u64) -> Option<u64> {
    match (registers.number(), index) {
        (syscall::SENDFILE | syscall::SPLICE, 0) => Some(registers.first()),
        (syscall::SPLICE, 1) => Some(registers.third()),
        (syscall::IO_SUBMIT, _) if index < result => {
            // SAFETY: a pointer (`struct iocb **`) and an integer.
            unsafe {
                let operation: u64 = memory::user(registers.third(), index * 8).ok()?;
                let opcode: u16 = memory::user(operation, AIO_OPCODE).ok()?;
                let descriptor: u32 = memory::user(operation, AIO_FILDES).ok()?;
                // `u64::MAX` is never a valid descriptor.
                Some(if opcode == AIO_POLL {
                    u64::MAX
                } else {
                    u64::from(descriptor)
                })
            }
        }
        _ => None,
    }
}

/// Describes `count` `iovec`s in user memory. None of them has been read yet.
#[inline(always)]
fn segments(vector: u64, count: u64) -> Payload {
    Payload {
        base: 0,
        length: 0,
        vector,
        segments: count,
    }
}

/// One message of a call.
pub(crate) struct Message {
    pub payload: Payload,
    /// User address of a `sockaddr`, 0 if none.
    pub name: u64,
    /// User address and length of the control messages.
    control: u64,
    control_length: u64,
    /// `msg_flags`; after a receive, the flags that the kernel returns.
    pub flags: u64,
}

impl Message {
    /// Makes a message from the words of a `msghdr`.
    #[inline(always)]
    pub(crate) fn of(
        [name, _, vector, count, control, control_length, flags]: MessageHeader,
    ) -> Self {
        Self {
            payload: segments(vector, count),
            name,
            control,
            control_length,
            flags: flags & 0xffff_ffff,
        }
    }

    /// Sets the header's segment from a control message that has it, if there is one: of a datagram that is sent, or of
    /// a received one after the end of the call.
    #[inline(always)]
    pub(crate) fn segment(&self, header: &mut EventHeader) -> Result<(), Counter> {
        if header.protocol == IPPROTO_UDP && self.control_length >= CONTROL_SIZE {
            segment(header, Vectors::User, self.control, self.control_length)
        } else {
            Ok(())
        }
    }

    /// Completes the header of a datagram that a call with `msghdr`s received, from the flags and control messages that
    /// the kernel returned. Call this only after the end of the call. [`Counter::Truncated`] if the datagram was cut.
    #[inline(always)]
    pub(crate) fn arrived(&self, header: &mut EventHeader) -> Result<(), Counter> {
        if header.flags & EVENT_COALESCED != 0 {
            let looked_at_all = self.segment(header).is_ok();
            if header.segment != 0 || (looked_at_all && self.flags & CONTROL_TRUNCATED == 0) {
                header.flags &= !EVENT_COALESCED;
            }
        }
        header.arrived_len = header.message_len;
        if self.flags & TRUNCATED != 0 {
            if header.segment == 0 {
                return Err(Counter::Truncated);
            }
            header.arrived_len += 1;
        }
        Ok(())
    }

    /// Sets the header's peer from the name that the process gave or got. TCP ignores names.
    ///
    /// The name of a received message is in user memory only after the system call.
    #[inline(always)]
    pub(crate) fn peer(&self, header: &mut EventHeader) -> Result<(), Counter> {
        if header.protocol != IPPROTO_UDP || self.name == 0 {
            return Ok(());
        }
        // SAFETY: integers.
        let name: SocketName = unsafe { memory::user(self.name, 0)? };
        let mut ipv6 = [name.ipv6, 0];
        if name.family == u16::from(dnstap_ebpf::AF_INET6) {
            // SAFETY: an integer.
            ipv6[1] = unsafe { memory::user(self.name, IPV6_REST)? };
        }
        set_sender(header, name.family, name.port_be, name.ipv4, ipv6);
        Ok(())
    }
}

//! System calls that move messages: which they are, and where their buffers lie in the memory of the process.
//!
//! The layouts are those of the 64-bit user ABI: `struct iovec` {base, len}, `struct msghdr` (56 bytes), `struct mmsghdr`
//! (`msghdr` and `msg_len`, 64 bytes).

use dnstap_ebpf::{
    Counter, DIRECTION_RECEIVED, DIRECTION_SENT, EVENT_COALESCED, EventHeader, IPPROTO_TCP,
    IPPROTO_UDP,
};

use crate::{
    kernel::{
        memory,
        registers::Registers,
        sock::{Direction, set_sender},
    },
    message::payload::{Payload, Vectors},
};

/// x86-64 system call numbers (`arch/x86/entry/syscalls/syscall_64.tbl`).
mod number {
    pub(super) const READ: u64 = 0;
    pub(super) const WRITE: u64 = 1;
    pub(super) const READV: u64 = 19;
    pub(super) const WRITEV: u64 = 20;
    pub(super) const SENDTO: u64 = 44;
    pub(super) const RECVFROM: u64 = 45;
    pub(super) const SENDMSG: u64 = 46;
    pub(super) const RECVMSG: u64 = 47;
    pub(super) const RECVMMSG: u64 = 299;
    pub(super) const SENDMMSG: u64 = 307;
    pub(super) const PREADV2: u64 = 327;
    pub(super) const PWRITEV2: u64 = 328;
    /// These move bytes whose place cannot be told: they are counted.
    pub(super) const SENDFILE: u64 = 40;
    pub(super) const IO_SUBMIT: u64 = 209;
    pub(super) const SPLICE: u64 = 275;
    pub(super) const IO_URING_ENTER: u64 = 426;
}

/// `MSG_PEEK | MSG_ERRQUEUE`: the call looks at a message that stays, or at an error.
const PEEK_FLAGS: u64 = 0x02 | 0x2000;

/// `MSG_PROBE`: a datagram is not sent, but only what is on its way is asked for.
const PROBE: u64 = 0x10;

/// `MSG_OOB`: of TCP, the call takes an urgent byte, which is no part of the stream. UDP ignores it.
const OUT_OF_BAND: u64 = 0x01;

/// `MSG_TRUNC`, as the kernel sets it in `msg_flags` after a receive: the datagram was longer than the buffers. Asked for by the caller on TCP:
/// the bytes are thrown away.
pub(crate) const TRUNCATED: u64 = 0x20;

/// `MSG_CTRUNC`, as the kernel sets it in `msg_flags` after a receive: it had control messages for which there was no room.
const CONTROL_TRUNCATED: u64 = 0x08;

/// `SOL_UDP` with `UDP_SEGMENT` and with `UDP_GRO` (`include/uapi/linux/udp.h`) in the order of `struct cmsghdr`: level, type.
const UDP_SEGMENT: u64 = (103 << 32) | 0x11;
const UDP_GRO: u64 = (104 << 32) | 0x11;

/// Offsets of `aio_lio_opcode` and `aio_fildes` in `struct iocb` (`include/uapi/linux/aio_abi.h`), and the operation that moves nothing,
/// `IOCB_CMD_POLL`.
const AIO_OPCODE: u64 = 16;
const AIO_FILDES: u64 = 20;
const AIO_POLL: u16 = 5;

/// Bytes of a `struct cmsghdr` without and with a value of 2 bytes, and control messages that are looked at.
const CONTROL_HEADER: u64 = 16;
const CONTROL_SIZE: u64 = 18;
const MAX_CONTROLS: usize = 8;

const MMSGHDR_SIZE: u64 = 64;
const MMSGHDR_LEN: u64 = 56;

/// The words of a `struct msghdr`: address and length of the name, address and number of the `iovec`s, address and length of the control
/// messages, flags. Each read of user memory costs more than its bytes, so they come in one.
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

/// Where the other half of an IPv6 address lies in a `struct sockaddr_in6`.
const IPV6_REST: u64 = 16;

/// Whether a receive with these flags looks at a message that stays or at an error, or takes an urgent byte of TCP.
#[inline(always)]
pub(crate) fn is_peek(flags: u64, protocol: u8) -> bool {
    flags & PEEK_FLAGS != 0 || (protocol == IPPROTO_TCP && flags & OUT_OF_BAND != 0)
}

/// How a call names its buffers.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Form {
    /// Not a call that sends or receives. A variant and not an `Option` around the call: its members would be undefined
    /// then, and the compiler copies undefined registers, which the verifier refuses (`R4 !read_ok`).
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
    /// `MSG_*` flags; 0 where the call has none.
    flags: u64,
    pointer: u64,
    length: u64,
    /// User address of the peer's name for [`Form::Buffer`], of the time-out for a `recvmmsg`, 0 if none.
    name: u64,
    direction: Direction,
    form: Form,
}

impl Call {
    /// Recognises the call in `registers`; see [`Self::is_known`].
    #[inline(always)]
    pub(crate) fn decode(registers: &Registers) -> Self {
        let (direction, form) = match registers.number() {
            number::READ | number::RECVFROM => (Direction::Received, Form::Buffer),
            number::WRITE | number::SENDTO => (Direction::Sent, Form::Buffer),
            number::READV | number::PREADV2 => (Direction::Received, Form::Vector),
            number::WRITEV | number::PWRITEV2 => (Direction::Sent, Form::Vector),
            number::RECVMSG => (Direction::Received, Form::Message),
            number::SENDMSG => (Direction::Sent, Form::Message),
            number::RECVMMSG => (Direction::Received, Form::Batch),
            number::SENDMMSG => (Direction::Sent, Form::Batch),
            _ => (Direction::Sent, Form::Other),
        };
        let (flags, name) = match registers.number() {
            number::SENDTO | number::RECVFROM | number::RECVMMSG => {
                (registers.fourth(), registers.fifth())
            }
            number::SENDMMSG => (registers.fourth(), 0),
            number::RECVMSG | number::SENDMSG => (registers.third(), 0),
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

    /// Whether this is a call that sends or receives.
    #[inline(always)]
    pub(crate) fn is_known(&self) -> bool {
        self.form != Form::Other
    }

    /// Whether the call sends nothing although it says so.
    #[inline(always)]
    pub(crate) fn is_probe(&self) -> bool {
        self.direction == Direction::Sent && self.flags & PROBE != 0
    }

    /// Whether the call is a `recvmmsg` with a time-out, which may end behind any of its messages without a word. Its next one is then taken for
    /// the next message of the same.
    #[inline(always)]
    pub(crate) fn may_end_early(&self) -> bool {
        self.form == Form::Batch && self.direction == Direction::Received && self.name != 0
    }

    /// Whether the call sends or receives.
    #[inline(always)]
    pub(crate) fn direction(&self) -> Direction {
        self.direction
    }

    /// `MSG_*` flags.
    #[inline(always)]
    pub(crate) fn flags(&self) -> u64 {
        self.flags
    }

    /// Whether this is `recvmmsg` or `sendmmsg`.
    #[inline(always)]
    pub(crate) fn is_batch(&self) -> bool {
        self.form == Form::Batch
    }

    /// Whether the call takes `msghdr`s. The kernel asks for the sender's name then, whether the process does or not.
    #[inline(always)]
    pub(crate) fn has_header(&self) -> bool {
        matches!(self.form, Form::Message | Form::Batch)
    }

    /// Elements of a batch that the caller offered.
    #[inline(always)]
    pub(crate) fn batch_length(&self) -> u64 {
        self.length
    }

    /// Address of a batch's array.
    #[inline(always)]
    pub(crate) fn batch_pointer(&self) -> u64 {
        self.pointer
    }

    /// `msg_len` of element `index` of a batch: what the kernel reported for it, once it has gone on to the next.
    #[inline(always)]
    pub(crate) fn reported_length(&self, index: u32) -> Result<u32, Counter> {
        // SAFETY: an integer.
        unsafe { memory::user(self.pointer, u64::from(index) * MMSGHDR_SIZE + MMSGHDR_LEN) }
    }

    /// The header of element `index` of a batch, at least 1, and what [`Self::reported_length`] has for the one before: they
    /// are neighbours in memory.
    #[inline(always)]
    pub(crate) fn follower(&self, index: u32) -> Result<(u32, MessageHeader), Counter> {
        let at = u64::from(index) * MMSGHDR_SIZE - (MMSGHDR_SIZE - MMSGHDR_LEN);
        // SAFETY: integers. The length is the first half of its word, padding the other.
        let [length, header @ ..]: [u64; 8] = unsafe { memory::user(self.pointer, at)? };
        Ok((u64::from_le(length) as u32, header))
    }

    /// Buffers and name of the message; of element `index` for a batch.
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

/// Sets the header's segment from a `UDP_SEGMENT` of a send, or a `UDP_GRO` of a receive, among the first of `length` bytes of control
/// messages at `control`, in the memory of the process or in the kernel's copy. [`Counter::UnsupportedCall`] if not all of them were looked at.
#[inline(always)]
pub(crate) fn segment(
    header: &mut EventHeader,
    memory: Vectors,
    control: u64,
    length: u64,
) -> Result<(), Counter> {
    // By arithmetic, so that the verifier walks through the loop once.
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
            // The kernel takes the last of several.
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

/// Whether the call is `io_uring_enter`, by which a process has messages moved that no other call shows.
#[inline(always)]
pub(crate) fn is_io_uring(registers: &Registers) -> bool {
    registers.number() == number::IO_URING_ENTER
}

/// Descriptor number `index` of those between which a call of another form moves bytes, which returned `result`. `None`: there are not
/// as many, or the call is none.
#[inline(always)]
pub(crate) fn moved(registers: &Registers, result: u64, index: u64) -> Option<u64> {
    match (registers.number(), index) {
        (number::SENDFILE | number::SPLICE, 0) => Some(registers.first()),
        (number::SPLICE, 1) => Some(registers.third()),
        (number::IO_SUBMIT, _) if index < result => {
            // SAFETY: a pointer (`struct iocb **`) and an integer.
            unsafe {
                let operation: u64 = memory::user(registers.third(), index * 8).ok()?;
                let opcode: u16 = memory::user(operation, AIO_OPCODE).ok()?;
                let descriptor: u32 = memory::user(operation, AIO_FILDES).ok()?;
                // No descriptor has this number.
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

/// `count` `iovec`s in user memory, none of them read yet.
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
    /// `msg_flags`: of a receive, what the kernel says about it, once the call is over.
    pub flags: u64,
}

impl Message {
    /// What a `msghdr` says.
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

    /// Sets the header's segment from a control message of a datagram sent, or of a received one once the call is over, if there is one that
    /// says it.
    #[inline(always)]
    pub(crate) fn segment(&self, header: &mut EventHeader) -> Result<(), Counter> {
        if header.protocol == IPPROTO_UDP && self.control_length >= CONTROL_SIZE {
            segment(header, Vectors::User, self.control, self.control_length)
        } else {
            Ok(())
        }
    }

    /// Completes the header of a datagram received by a call that takes `msghdr`s with what the kernel says about it once the call is over.
    /// [`Counter::Truncated`] if it was cut.
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

//! System calls that move messages: which they are, and where their buffers lie in the memory of the process.
//!
//! The layouts are those of the 64-bit user ABI: `struct iovec` {base, len}, `struct msghdr` (56 bytes), `struct mmsghdr`
//! ({msghdr, msg_len}, 64 bytes).

use dnstap_ebpf::{Counter, EventHeader, IPPROTO_UDP};

use crate::{
    memory,
    registers::Registers,
    sock::{Direction, set_peer},
};

/// x86-64 system call numbers (arch/x86/entry/syscalls/syscall_64.tbl).
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
}

/// `MSG_PEEK | MSG_ERRQUEUE`: the call looks at a message that stays, or at an error.
pub(crate) const PEEK_FLAGS: u64 = 0x02 | 0x2000;

const MSGHDR_NAME: u64 = 0;
const MSGHDR_IOV: u64 = 16;
const MSGHDR_IOVLEN: u64 = 24;
const MMSGHDR_SIZE: u64 = 64;
const MMSGHDR_LEN: u64 = 56;

/// How a call names its buffers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
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
pub(crate) struct Call {
    pub direction: Direction,
    /// `MSG_*` flags; 0 where the call has none.
    pub flags: u64,
    form: Form,
    pointer: u64,
    length: u64,
    /// User address of the peer's name for [`Form::Buffer`], 0 if none.
    name: u64,
}

impl Call {
    /// Recognises the call in `registers`.
    #[inline(always)]
    pub(crate) fn decode(registers: &Registers) -> Option<Self> {
        let (direction, form) = match registers.number() {
            number::READ | number::RECVFROM => (Direction::Received, Form::Buffer),
            number::WRITE | number::SENDTO => (Direction::Sent, Form::Buffer),
            number::READV => (Direction::Received, Form::Vector),
            number::WRITEV => (Direction::Sent, Form::Vector),
            number::RECVMSG => (Direction::Received, Form::Message),
            number::SENDMSG => (Direction::Sent, Form::Message),
            number::RECVMMSG => (Direction::Received, Form::Batch),
            number::SENDMMSG => (Direction::Sent, Form::Batch),
            _ => return None,
        };
        let (flags, name) = match registers.number() {
            number::SENDTO | number::RECVFROM => (registers.fourth(), registers.fifth()),
            number::RECVMMSG | number::SENDMMSG => (registers.fourth(), 0),
            number::RECVMSG | number::SENDMSG => (registers.third(), 0),
            _ => (0, 0),
        };
        Some(Self { direction, flags, form, pointer: registers.second(), length: registers.third(), name })
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

    /// Buffers and name of the message; of element `index` for a batch.
    #[inline(always)]
    pub(crate) fn message(&self, index: u32) -> Result<Message, Counter> {
        match self.form {
            Form::Buffer => Ok(Message {
                payload: Payload { base: self.pointer, length: self.length, vector: 0, segments: 0 },
                name: self.name,
            }),
            Form::Vector => Ok(Message { payload: Payload::vector(self.pointer, self.length)?, name: 0 }),
            Form::Message | Form::Batch => {
                let header = self.pointer.wrapping_add(if self.form == Form::Batch {
                    u64::from(index) * MMSGHDR_SIZE
                } else {
                    0
                });
                // SAFETY: integers.
                let (name, vector, segments): (u64, u64, u64) = unsafe {
                    (
                        memory::user(header, MSGHDR_NAME)?,
                        memory::user(header, MSGHDR_IOV)?,
                        memory::user(header, MSGHDR_IOVLEN)?,
                    )
                };
                Ok(Message { payload: Payload::vector(vector, segments)?, name })
            }
        }
    }
}

/// One message of a call.
pub(crate) struct Message {
    pub payload: Payload,
    /// User address of a `sockaddr`, 0 if none.
    pub name: u64,
}

impl Message {
    /// Sets the header's peer from the name that the process gave or got, where it says more than the socket: always on a
    /// datagram sent, on a received one only if the socket is not connected. TCP ignores names.
    ///
    /// The name of a received message is in user memory only after the system call.
    #[inline(always)]
    pub(crate) fn peer(&self, header: &mut EventHeader, direction: Direction) -> Result<(), Counter> {
        if header.protocol != IPPROTO_UDP || self.name == 0 {
            return Ok(());
        }
        if direction == Direction::Received && header.peer_port != 0 {
            return Ok(());
        }
        // SAFETY: integers and byte arrays. The IPv6 read goes past the end of a `sockaddr_in`, so it is made for IPv6 alone.
        unsafe {
            let (family, port_be): (u16, u16) = (memory::user(self.name, 0)?, memory::user(self.name, 2)?);
            if family == u16::from(dnstap_ebpf::AF_INET6) {
                set_peer(header, family, port_be, [0; 4], memory::user(self.name, 8)?);
            } else {
                set_peer(header, family, port_be, memory::user(self.name, 4)?, [0; 16]);
            }
        }
        Ok(())
    }
}

/// User memory that holds a message: the current segment, and where the ones after it are described.
#[derive(Clone, Copy)]
pub(crate) struct Payload {
    /// Address of the current segment.
    pub base: u64,
    /// Bytes left in it.
    pub length: u64,
    /// Address of the `iovec` of the next segment.
    vector: u64,
    /// Segments from there on.
    segments: u64,
}

impl Payload {
    /// Starts at the first of `segments` `iovec`s in user memory.
    #[inline(always)]
    fn vector(vector: u64, segments: u64) -> Result<Self, Counter> {
        let mut payload = Self { base: 0, length: 0, vector, segments };
        payload.next_segment()?;
        Ok(payload)
    }

    /// Goes on to the next segment. [`Counter::Truncated`] if there is none: the call reported more than it could hold.
    #[inline(always)]
    pub(crate) fn next_segment(&mut self) -> Result<(), Counter> {
        if self.segments == 0 {
            return Err(Counter::Truncated);
        }
        // SAFETY: integers.
        unsafe {
            self.base = memory::user(self.vector, 0)?;
            self.length = memory::user(self.vector, 8)?;
        }
        self.vector = self.vector.wrapping_add(16);
        self.segments -= 1;
        Ok(())
    }
}

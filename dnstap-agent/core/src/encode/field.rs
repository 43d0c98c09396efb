//! Short protobuf fields: a number, a time, an address. Each takes one or two stores of a fixed
//! width. The next store overwrites the excess bytes.
//!
//! Wire format: <https://protobuf.dev/programming-guides/encoding/>. All dnstap fields written here
//! have numbers below 16, so a key is one byte.

use crate::model::Endpoint;

/// Most bytes in a [`Room`]: three enums, two addresses, two ports, two times, key and length of
/// the DNS message.
const MOST: usize = 6 + 2 * 18 + 2 * 4 + 2 * 11 + 6;

/// Bytes of the widest store.
const WIDTH: usize = 18;

const SECOND: u64 = 1_000_000_000;

/// Returns the key of a number field.
pub(super) const fn varint_key(number: u8) -> u8 {
    number << 3
}

/// Returns the key of a byte string field.
const fn bytes_key(number: u8) -> u8 {
    number << 3 | 2
}

/// Returns the key of a field with four little-endian bytes.
const fn fixed32_key(number: u8) -> u8 {
    number << 3 | 5
}

/// A field, or its key and length: the first `len` bytes, lowest first.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Field {
    pub(super) bytes: u64,
    pub(super) len: usize,
}

impl Field {
    /// Encodes a number in groups of seven bits, lowest first. All groups but the last have the
    /// high bit set.
    #[inline]
    fn varint(value: u64) -> Self {
        debug_assert!(value < 1 << 35, "five groups at most");
        let group = |at: u32| (value & 0x7f << (7 * at)) << at;
        let (bytes, len) = match value {
            0..0x80 => (value, 1),
            0x80..0x4000 => (group(0) | group(1) | 0x80, 2),
            0x4000..0x20_0000 => (group(0) | group(1) | group(2) | 0x8080, 3),
            0x20_0000..0x1000_0000 => {
                let low = group(0) | group(1) | group(2) | group(3);
                (low | 0x80_8080, 4)
            }
            _ => {
                let low = group(0) | group(1) | group(2) | group(3);
                (low | group(4) | 0x8080_8080, 5)
            }
        };
        Self { bytes, len }
    }

    /// Puts a key in front of the field.
    #[inline]
    fn behind(self, key: u8) -> Self {
        Self {
            bytes: self.bytes << 8 | u64::from(key),
            len: self.len + 1,
        }
    }

    /// Encodes key and length of a byte string.
    #[inline]
    pub(super) fn length(number: u8, len: usize) -> Self {
        Self::varint(len as u64).behind(bytes_key(number))
    }

    /// Encodes a port, unless it is 0.
    #[inline]
    pub(super) fn port(number: u8, port: u16) -> Self {
        match port {
            0 => Self::default(),
            port => Self::varint(port.into()).behind(varint_key(number)),
        }
    }

    /// Encodes the fields 1, 2 and 3, which are small numbers.
    #[inline]
    pub(super) fn enums(values: [u8; 3]) -> Self {
        let [one, two, three] = values;
        let keys = const { [varint_key(1), varint_key(2), varint_key(3)] };
        Self {
            bytes: u64::from_le_bytes([keys[0], one, keys[1], two, keys[2], three, 0, 0]),
            len: 6,
        }
    }
}

/// Second of the last time, with its encoding.
#[derive(Clone, Copy, Debug)]
pub(super) struct Second {
    start_ns: u64,
    seconds: Field,
}

impl Default for Second {
    fn default() -> Self {
        Self::of(0)
    }
}

impl Second {
    #[cold]
    fn of(time_ns: u64) -> Self {
        let seconds = time_ns / SECOND;
        Self {
            start_ns: seconds * SECOND,
            seconds: Field::varint(seconds),
        }
    }

    /// Splits a time into its encoded second and the nanoseconds since then.
    #[inline]
    fn split(&mut self, time_ns: u64) -> (Field, u64) {
        let mut nanoseconds = time_ns.wrapping_sub(self.start_ns);
        if nanoseconds >= SECOND {
            *self = Self::of(time_ns);
            nanoseconds = time_ns - self.start_ns;
        }
        (self.seconds, nanoseconds)
    }
}

/// Memory of a [`Room`].
pub(super) type Memory = [u8; Room::LAST + 1 + WIDTH];

/// Collects fields one after the other. Room in front is reserved for their common key and length.
pub(super) struct Room<'m> {
    bytes: &'m mut Memory,
    end: usize,
}

impl<'m> Room<'m> {
    /// Bytes in front for key and length.
    const FRONT: usize = size_of::<u64>();

    /// A power of two less one: `end` masked with it is always a position with room for any field.
    /// `end` never exceeds it.
    const LAST: usize = 127;

    /// Unused memory.
    pub(super) const EMPTY: Memory = [0; _];

    #[inline]
    pub(super) fn new(bytes: &'m mut Memory) -> Self {
        const { assert!(Room::FRONT + MOST <= Room::LAST) };
        Self {
            bytes,
            end: Self::FRONT,
        }
    }

    #[inline]
    fn next<const W: usize>(&mut self) -> &mut [u8; W] {
        let place = self.bytes[self.end & Self::LAST..].first_chunk_mut();
        place.expect("no field is wider")
    }

    #[inline]
    pub(super) fn put(&mut self, field: Field) {
        *self.next() = field.bytes.to_le_bytes();
        self.end += field.len;
    }

    /// Writes an address, unless it is unknown.
    #[inline]
    pub(super) fn put_address(&mut self, number: u8, endpoint: &Endpoint) {
        let length = endpoint.length;
        if length != 0 {
            let place = self.next::<WIDTH>();
            place[0] = bytes_key(number);
            place[1] = length;
            place[2..].copy_from_slice(endpoint.octets());
            self.end += 2 + usize::from(length);
        }
    }

    /// Writes a time in nanoseconds since 1970: its seconds as a number, and in the next field its
    /// nanoseconds in four bytes.
    #[inline]
    pub(super) fn put_time(&mut self, number: u8, time_ns: u64, second: &mut Second) {
        let (seconds, nanoseconds) = second.split(time_ns);
        let nanoseconds = Field {
            bytes: nanoseconds,
            len: 4,
        };
        self.put(seconds.behind(varint_key(number)));
        self.put(nanoseconds.behind(fixed32_key(number + 1)));
    }

    /// Returns all fields.
    pub(super) fn bytes(self) -> &'m [u8] {
        &self.bytes[Self::FRONT..self.end]
    }

    /// Returns all fields, behind key and length of a byte string that begins with them and has
    /// `more` bytes.
    #[inline]
    pub(super) fn behind_length(self, number: u8, more: usize) -> &'m [u8] {
        let field = Field::length(number, self.end - Self::FRONT + more);
        let front = field.bytes << (8 * (Self::FRONT - field.len));
        self.bytes[..Self::FRONT].copy_from_slice(&front.to_le_bytes());
        &self.bytes[Self::FRONT - field.len..self.end]
    }
}

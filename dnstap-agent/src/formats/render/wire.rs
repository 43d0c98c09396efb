//! Owns reading a DNS message where it lies (RFC 1035 section 4): header, names, question, record headers. Copies nothing.
//!
//! Every function is total: any bytes give a value or a [`WireError`]. Compression pointers must point backwards, and a name
//! may follow at most [`MAX_POINTERS`], so that no message takes more than a bounded time.

use std::fmt::{self, Write as _};

use thiserror::Error;

use super::mnemonics::{Class, Opcode, Rcode, Type};

/// What is wrong with a message, and where (byte offset).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum WireError {
    #[error("shorter than a DNS header (12 bytes)")]
    NoHeader,
    #[error("cut short at byte {0}")]
    Short(usize),
    #[error("unknown kind of label at byte {0}")]
    Label(usize),
    #[error("compression pointer at byte {0} does not point backwards")]
    Pointer(usize),
    #[error("name at byte {0} is longer than 255 bytes")]
    LongName(usize),
}

/// A name has at most 127 labels, and each may come from another place.
const MAX_POINTERS: usize = 127;

/// A message with a whole header.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dns<'a> {
    bytes: &'a [u8],
    flags: u16,
}

impl<'a> Dns<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        if bytes.len() < 12 {
            return Err(WireError::NoHeader);
        }
        Ok(Self {
            bytes,
            flags: u16_at(bytes, 2)?,
        })
    }

    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    pub(crate) fn id(&self) -> u16 {
        u16_at(self.bytes, 0).unwrap_or_default()
    }

    pub(crate) fn opcode(&self) -> Opcode {
        Opcode(self.flags >> 11 & 15)
    }

    /// Whether it says that it is a response.
    pub(crate) fn is_response(&self) -> bool {
        self.has(0x8000)
    }

    /// The four bits of the header.
    pub(crate) fn rcode(&self) -> Rcode {
        Rcode(self.flags & 15)
    }

    /// One bit of the header's flags word.
    pub(crate) fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// Entries that the header announces in section 0 to 3.
    pub(crate) fn count(&self, section: usize) -> u16 {
        u16_at(self.bytes, 4 + 2 * section).unwrap_or_default()
    }

    /// The first question, if the header announces any.
    pub(crate) fn question(&self) -> Result<Option<Question<'a>>, WireError> {
        if self.count(0) == 0 {
            return Ok(None);
        }
        Question::parse(self.bytes, 12).map(|(question, _)| Some(question))
    }

    /// All questions; ends after an error.
    pub(crate) fn questions(&self) -> impl Iterator<Item = Result<Question<'a>, WireError>> {
        let bytes = self.bytes;
        let mut at = Ok(12);
        (0..self.count(0)).map_while(move |_| {
            let question = at.ok().map(|at| Question::parse(bytes, at))?;
            at = question.map(|(_, behind)| behind);
            Some(question.map(|(question, _)| question))
        })
    }

    /// All records behind the questions, with their section (1 answer, 2 authority, 3 additional); ends after an error.
    pub(crate) fn records(&self) -> Records<'a> {
        Records {
            dns: *self,
            at: 12,
            section: 0,
            left: self.count(0),
        }
    }

    /// The rcode with the upper bits of the OPT record, if there is a readable one.
    pub(crate) fn full_rcode(&self) -> Rcode {
        if self.count(3) == 0 {
            return self.rcode();
        }
        let opt = self
            .records()
            .map_while(Result::ok)
            .find(|(_, record)| record.is_opt());
        opt.map_or(self.rcode(), |(_, record)| {
            record.extended_rcode(self.rcode())
        })
    }
}

/// Header flags (RFC 1035 section 4.1.1, RFC 4035 section 3), in the order of their bits.
pub(crate) const FLAGS: [(&str, u16); 7] = [
    ("qr", 0x8000),
    ("aa", 0x400),
    ("tc", 0x200),
    ("rd", 0x100),
    ("ra", 0x80),
    ("ad", 0x20),
    ("cd", 0x10),
];

/// An entry of the question section.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question<'a> {
    pub(crate) name: Name<'a>,
    pub(crate) kind: Type,
    pub(crate) class: Class,
}

impl<'a> Question<'a> {
    /// The question at `at`, and the offset behind it.
    fn parse(bytes: &'a [u8], at: usize) -> Result<(Self, usize), WireError> {
        let (name, at) = Name::parse(bytes, at)?;
        let question = Self {
            name,
            kind: Type(u16_at(bytes, at)?),
            class: Class(u16_at(bytes, at + 2)?),
        };
        Ok((question, at + 4))
    }
}

/// A record; its data is `message[data..data + length]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record<'a> {
    pub(crate) name: Name<'a>,
    pub(crate) kind: Type,
    pub(crate) class: Class,
    pub(crate) ttl: u32,
    pub(crate) data: usize,
    pub(crate) length: u16,
}

impl Record<'_> {
    pub(crate) fn is_opt(&self) -> bool {
        self.kind == Type(41)
    }

    /// Of an OPT record, whose TTL is extended rcode, version and flags (RFC 6891 section 6.1.3).
    pub(crate) fn extended_rcode(&self, rcode: Rcode) -> Rcode {
        let [upper, ..] = self.ttl.to_be_bytes();
        Rcode(u16::from(upper) << 4 | rcode.0)
    }
}

/// See [`Dns::records`].
#[derive(Debug)]
pub(crate) struct Records<'a> {
    dns: Dns<'a>,
    at: usize,
    section: usize,
    left: u16,
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<(usize, Record<'a>), WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            while self.left == 0 {
                if self.section >= 3 {
                    return None;
                }
                self.section += 1;
                self.left = self.dns.count(self.section);
            }
            self.left -= 1;
            let entry = if self.section == 0 {
                self.skip_question().map(|()| None)
            } else {
                self.record().map(Some)
            };
            match entry {
                Ok(None) => {}
                Ok(Some(record)) => return Some(Ok((self.section, record))),
                Err(error) => {
                    (self.section, self.left) = (3, 0);
                    return Some(Err(error));
                }
            }
        }
    }
}

impl<'a> Records<'a> {
    fn skip_question(&mut self) -> Result<(), WireError> {
        let (_, behind) = Question::parse(self.dns.bytes, self.at)?;
        self.at = behind;
        Ok(())
    }

    fn record(&mut self) -> Result<Record<'a>, WireError> {
        let bytes = self.dns.bytes;
        let (name, at) = Name::parse(bytes, self.at)?;
        let length = u16_at(bytes, at + 8)?;
        let ttl = u32::from(u16_at(bytes, at + 4)?) << 16 | u32::from(u16_at(bytes, at + 6)?);
        let record = Record {
            name,
            kind: Type(u16_at(bytes, at)?),
            class: Class(u16_at(bytes, at + 2)?),
            ttl,
            data: at + 10,
            length,
        };
        self.at = at + 10 + usize::from(length);
        if self.at > bytes.len() {
            return Err(WireError::Short(bytes.len()));
        }
        Ok(record)
    }
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Result<u16, WireError> {
    match bytes.get(at..at + 2) {
        Some(&[high, low]) => Ok(u16::from_be_bytes([high, low])),
        _ => Err(WireError::Short(bytes.len())),
    }
}

/// A name that was checked once and can be printed any number of times.
///
/// It prints absolute, with the escapes of RFC 1035 section 5.1 and RFC 4343 section 2.1: only printable ASCII comes out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Name<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Name<'a> {
    /// The name at `at`, and the offset behind it.
    pub(crate) fn parse(message: &'a [u8], at: usize) -> Result<(Self, usize), WireError> {
        let mut labels = Labels::new(message, at);
        let mut size = 1;
        while let Some(label) = labels.next()? {
            size += 1 + label.len();
            if size > 255 {
                return Err(WireError::LongName(at));
            }
        }
        Ok((Self { message, at }, labels.end))
    }

    /// Its labels, without the root's.
    pub(crate) fn labels(self) -> impl Iterator<Item = &'a [u8]> {
        let mut labels = Labels::new(self.message, self.at);
        std::iter::from_fn(move || labels.next().ok().flatten())
    }
}

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut root = true;
        for label in self.labels() {
            root = false;
            write_escaped(f, label, br#".\"();@$"#)?;
            f.write_char('.')?;
        }
        if root { f.write_char('.') } else { Ok(()) }
    }
}

/// Printable bytes as they are, `special` ones behind a backslash, all others (space included) as `\DDD`.
pub(crate) fn write_escaped(f: &mut impl fmt::Write, bytes: &[u8], special: &[u8]) -> fmt::Result {
    for &byte in bytes {
        match byte {
            b'!'..=b'~' if special.contains(&byte) => write!(f, "\\{}", char::from(byte))?,
            b'!'..=b'~' => f.write_char(char::from(byte))?,
            _ => write!(f, "\\{byte:03}")?,
        }
    }
    Ok(())
}

/// Walks labels through pointers.
struct Labels<'a> {
    message: &'a [u8],
    at: usize,
    /// Pointers must lead before this.
    before: usize,
    pointers: usize,
    /// Behind the name where it started: behind its root label or its first pointer.
    end: usize,
}

impl<'a> Labels<'a> {
    fn new(message: &'a [u8], at: usize) -> Self {
        Self {
            message,
            at,
            before: at,
            pointers: 0,
            end: at,
        }
    }

    fn next(&mut self) -> Result<Option<&'a [u8]>, WireError> {
        loop {
            let first = *self
                .message
                .get(self.at)
                .ok_or(WireError::Short(self.message.len()))?;
            match first {
                0 => {
                    self.passed(1);
                    return Ok(None);
                }
                1..64 => {
                    let start = self.at + 1;
                    let label = self.message.get(start..start + usize::from(first));
                    let label = label.ok_or(WireError::Short(self.message.len()))?;
                    self.at = start + label.len();
                    return Ok(Some(label));
                }
                64..192 => return Err(WireError::Label(self.at)),
                192.. => {
                    let target = usize::from(u16_at(self.message, self.at)? & 0x3fff);
                    if target >= self.before || self.pointers == MAX_POINTERS {
                        return Err(WireError::Pointer(self.at));
                    }
                    self.passed(2);
                    self.pointers += 1;
                    (self.at, self.before) = (target, target);
                }
            }
        }
    }

    fn passed(&mut self, size: usize) {
        if self.pointers == 0 {
            self.end = self.at + size;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(b"\x03www\x07example\0", "www.example.")]
    #[case(b"\0", ".")]
    #[case(b"\x05a.b c\0", r"a\.b\032c.")]
    #[case(b"\x05\x1b[2J\\\0", r"\027[2J\\.")]
    #[case(b"\x04\x00\x7f\xff;\0", r"\000\127\255\;.")]
    fn names_print_with_escapes(#[case] wire: &[u8], #[case] printed: &str) {
        let (name, end) = Name::parse(wire, 0).expect("a name");
        assert_eq!((name.to_string().as_str(), end), (printed, wire.len()));
    }

    #[rstest]
    #[case(b"\xc0\x00", 0, WireError::Pointer(0))]
    #[case(b"\x01a\xc0\x00", 0, WireError::Pointer(2))]
    #[case(b"\x01a\xc0\x03\0", 0, WireError::Pointer(2))]
    #[case(b"\x05ab", 0, WireError::Short(3))]
    #[case(b"\x01a", 0, WireError::Short(2))]
    #[case(b"\x80a\0", 0, WireError::Label(0))]
    #[case(b"", 7, WireError::Short(0))]
    fn broken_names_are_named(#[case] wire: &[u8], #[case] at: usize, #[case] error: WireError) {
        assert_eq!(Name::parse(wire, at).err(), Some(error));
    }

    #[test]
    fn compression_is_followed_and_the_end_is_behind_the_first_pointer() {
        let wire = b"\x03com\0\x01a\xc0\x00\x01b\xc0\x05..";
        let (name, end) = Name::parse(wire, 9).expect("a name");
        assert_eq!((name.to_string().as_str(), end), ("b.a.com.", 13));
    }

    #[test]
    fn a_name_of_255_bytes_is_the_longest() {
        let label = [&[62][..], &[b'a'; 62]].concat();
        let longest = [label.repeat(4), vec![1, b'x', 0]].concat();
        assert_eq!(longest.len(), 255);
        assert!(Name::parse(&longest, 0).is_ok());
        let longer = [label.repeat(4), vec![2, b'x', b'x', 0]].concat();
        assert_eq!(Name::parse(&longer, 0).err(), Some(WireError::LongName(0)));
    }

    #[test]
    fn an_extended_rcode_is_put_together_from_header_and_opt() {
        let message = b"\0\x01\x80\x07\0\0\0\0\0\0\0\x01\0\0\x29\x04\xd0\x01\0\0\0\0\0";
        let dns = Dns::parse(message).expect("a header");
        assert_eq!(dns.full_rcode().to_string(), "BADCOOKIE");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic_and_in_bounded_steps(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(dns) = Dns::parse(&bytes) {
                if let Ok(Some(question)) = dns.question() {
                    prop_assert!(question.name.to_string().bytes().all(|byte| byte.is_ascii_graphic()));
                }
                prop_assert!(dns.records().count() <= bytes.len());
                dns.full_rcode();
            }
        }
    }
}

//! Reads a DNS message in place (RFC 1035 section 4): header, questions, record headers. Copies
//! nothing.
//!
//! Every function is total: any bytes give a value or a [`WireError`].

use std::ops::Range;

use super::{
    mnemonics::{Class, Opcode, Rcode, Type},
    name::Name,
    wire::{WireError, u16_at},
};

/// A message with a whole header.
#[derive(Debug, Clone, Copy)]
pub struct Dns<'a> {
    bytes: &'a [u8],
    flags: u16,
}

impl<'a> Dns<'a> {
    /// Reads the header (12 bytes).
    pub fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        if bytes.len() < 12 {
            return Err(WireError::NoHeader);
        }
        Ok(Self {
            bytes,
            flags: u16_at(bytes, 2)?,
        })
    }

    /// Returns the whole message.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Returns the message id.
    #[must_use]
    pub fn id(&self) -> u16 {
        u16_at(self.bytes, 0).unwrap_or_default()
    }

    /// Returns the kind of request.
    #[must_use]
    pub fn opcode(&self) -> Opcode {
        Opcode(self.flags >> 11 & 15)
    }

    /// Returns whether the QR bit marks a response.
    #[must_use]
    pub fn is_response(&self) -> bool {
        self.has(0x8000)
    }

    /// Returns the four-bit response code of the header.
    #[must_use]
    pub fn rcode(&self) -> Rcode {
        Rcode(self.flags & 15)
    }

    /// Returns whether one bit of the header's flags word is set.
    #[must_use]
    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// Returns the number of entries that the header announces for section 0 to 3.
    #[must_use]
    pub fn count(&self, section: usize) -> u16 {
        u16_at(self.bytes, 4 + 2 * section).unwrap_or_default()
    }

    /// Returns the first question, if the header announces one.
    pub fn question(&self) -> Result<Option<Question<'a>>, WireError> {
        if self.count(0) == 0 {
            return Ok(None);
        }
        Question::parse(self.bytes, 12).map(|(question, _)| Some(question))
    }

    /// Returns the name of the first question, even if the bytes behind it cannot be read.
    #[must_use]
    pub fn first_name(&self) -> Option<Name<'a>> {
        let name = Name::parse(self.bytes, 12).ok();
        name.filter(|_| self.count(0) > 0).map(|(name, _)| name)
    }

    /// Returns all questions; ends after an error.
    pub fn questions(&self) -> impl Iterator<Item = Result<Question<'a>, WireError>> {
        let bytes = self.bytes;
        let mut at = Ok(12);
        (0..self.count(0)).map_while(move |_| {
            let question = at.ok().map(|at| Question::parse(bytes, at))?;
            at = question.map(|(_, behind)| behind);
            Some(question.map(|(question, _)| question))
        })
    }

    /// Returns all records behind the questions, with their section (1 answer, 2 authority, 3
    /// additional); ends after an error.
    #[must_use]
    pub fn records(&self) -> Records<'a> {
        Records {
            dns: *self,
            at: 12,
            section: 0,
            left: self.count(0),
        }
    }

    /// Returns the position of each record's data, with its type. Names are skipped, wherever their
    /// pointers lead; the iterator ends at the first name that cannot be skipped. The last record
    /// may be cut.
    pub(crate) fn places(&self) -> Places<'a> {
        Places {
            bytes: self.bytes,
            at: 12,
            questions: self.count(0),
            records: (1..4).map(|section| u32::from(self.count(section))).sum(),
        }
    }

    /// Returns the first OPT record of the additional section (RFC 6891 section 6.1.1), if it can
    /// be read.
    #[must_use]
    pub fn first_opt(&self) -> Option<Record<'a>> {
        if self.count(3) == 0 {
            return None;
        }
        let mut records = self.records().map_while(Result::ok);
        let opt = records.find(|(section, record)| *section == 3 && record.is_opt());
        opt.map(|(_, record)| record)
    }

    /// Returns the response code, with the upper bits from the OPT record if there is a readable
    /// one.
    #[must_use]
    pub fn full_rcode(&self) -> Rcode {
        self.first_opt()
            .map_or(self.rcode(), |opt| opt.extended_rcode(self.rcode()))
    }
}

/// Header flags (RFC 1035 section 4.1.1, RFC 4035 section 3), in the order of their bits.
pub const FLAGS: [(&str, u16); 7] = [
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
pub struct Question<'a> {
    /// Name in question.
    pub name: Name<'a>,
    /// Type of the records asked for.
    pub kind: Type,
    /// Class of the records asked for.
    pub class: Class,
}

impl<'a> Question<'a> {
    /// Reads the question at `at`; also returns the offset behind it.
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
pub struct Record<'a> {
    /// Owner name.
    pub name: Name<'a>,
    /// Record type.
    pub kind: Type,
    /// Record class; for an OPT record, a size.
    pub class: Class,
    /// Time to live in seconds; for an OPT record, flags.
    pub ttl: u32,
    /// Offset of the data in the message.
    pub data: usize,
    /// Length of the data in bytes.
    pub length: u16,
}

impl<'a> Record<'a> {
    /// Returns the bytes of the data.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        let end = self.data + usize::from(self.length);
        self.name.message().get(self.data..end).unwrap_or_default()
    }

    /// Returns whether this is an OPT record (RFC 6891).
    #[must_use]
    pub fn is_opt(&self) -> bool {
        self.kind == Type::OPT
    }

    /// Returns the extended response code of an OPT record, whose TTL holds its upper bits, version
    /// and flags (RFC 6891 section 6.1.3).
    #[must_use]
    pub fn extended_rcode(&self, rcode: Rcode) -> Rcode {
        let [upper, ..] = self.ttl.to_be_bytes();
        Rcode(u16::from(upper) << 4 | rcode.0)
    }
}

/// Iterator over records; see [`Dns::records`].
#[derive(Debug)]
pub struct Records<'a> {
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
    /// Returns the bytes behind the entries read so far. After the last entry these are bytes that
    /// no count of the header announces.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.dns.bytes.get(self.at..).unwrap_or_default()
    }

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

/// Iterator over positions of records; see [`Dns::places`].
pub(crate) struct Places<'a> {
    bytes: &'a [u8],
    at: usize,
    questions: u16,
    records: u32,
}

impl Places<'_> {
    /// Returns the end of the entries that were skipped: behind the last one, or at the first one
    /// that cannot be read.
    pub(crate) fn end(&self) -> usize {
        self.at
    }

    fn skip_question(&mut self) -> Option<()> {
        self.at = Name::end(self.bytes, self.at)? + 4;
        Some(())
    }

    fn record(&mut self) -> Option<(Type, Range<usize>)> {
        let fields = Name::end(self.bytes, self.at)?;
        let kind = u16_at(self.bytes, fields).ok()?;
        let length = u16_at(self.bytes, fields + 8).ok()?;
        let data = fields + 10;
        self.at = data + usize::from(length);
        Some((Type(kind), data..self.at.min(self.bytes.len())))
    }
}

impl Iterator for Places<'_> {
    type Item = (Type, Range<usize>);

    fn next(&mut self) -> Option<Self::Item> {
        while self.questions > 0 {
            self.skip_question()?;
            self.questions -= 1;
        }
        self.records = self.records.checked_sub(1)?;
        self.record()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
                prop_assert!(dns.full_rcode().0 < 0x1000);
            }
        }
    }
}

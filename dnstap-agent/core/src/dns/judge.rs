//! Decides whether bytes are a DNS message, as far as the tap has to know.
//!
//! There are two checks of different strictness:
//! - [`Message::parse`] reads header and question. A message is malformed if its header or question
//!   cannot be read, or if its counts cannot fit into its length. It is still delivered where DNS
//!   is expected.
//! - [`fit`] decides whether bytes at an *unknown* position of a TCP stream can be a length and a
//!   message. It walks every record to the exact end, because a wrong yes would cut frames out of
//!   the middle of messages. For a message that only asks, the structure alone decides: an odd
//!   opcode, class, type or bit is no reason to say no. Otherwise a client could hide its query
//!   from the tap, or make the tap take the query's content for messages. Records, if announced,
//!   must be of the usual kinds, because many positions in a zone transfer look as if they
//!   announced some.
//!
//! [`Message::fold_question`] follows the compression pointers of a question, as some servers do.
//! [`fit`] checks only their form.

use super::{
    mnemonics::{Opcode, Type},
    name::{LONGEST_NAME, Name},
};

/// Bytes of the header.
pub(crate) const HEADER: usize = 12;

/// Bytes from the start of a length field that [`fit`] needs to judge the header.
pub(crate) const PREFIX: usize = 2 + HEADER;

/// Least bytes of a question and of a resource record (root name).
const QUESTION: usize = 5;
const RECORD: usize = 11;

/// Bytes of a question behind its name.
const TYPE_AND_CLASS: usize = 4;

/// Bytes of a block of [`Message::fold_question`].
const BLOCK: usize = 16;

/// Mask of the last block: the bytes of the name. Behind them are type and class, which have no
/// case.
const NAME_OF_LAST: u128 = u128::MAX >> (8 * TYPE_AND_CLASS);

/// First bytes of this value or above begin a compression pointer.
const POINTER: u8 = 0xc0;

/// Flag word of a header (RFC 1035 section 4.1.1, RFC 2535 section 6.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags(pub(crate) u16);

impl Flags {
    pub(crate) fn response(self) -> bool {
        self.0 & 0x8000 != 0
    }

    pub(crate) fn opcode(self) -> Opcode {
        Opcode(self.0 >> 11 & 0xf)
    }

    pub(crate) fn recursion_desired(self) -> bool {
        self.0 & 0x0100 != 0
    }

    pub(crate) fn recursion_available(self) -> bool {
        self.0 & 0x0080 != 0
    }

    fn reserved(self) -> bool {
        self.0 & 0x0040 != 0
    }

    pub(crate) fn rcode(self) -> u8 {
        (self.0 & 0xf) as u8
    }
}

/// Header and first question of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    pub(crate) id: u16,
    pub(crate) flags: Flags,
    /// Name, type and class of the question as on the wire; `None` if there is none or it cannot be
    /// read. The name may end in a pointer or be too long.
    pub(crate) question: Option<&'a [u8]>,
    /// Whether the question's name is neither compressed nor too long.
    plain: bool,
    /// The whole message, for compression pointers.
    bytes: &'a [u8],
    /// Whether header and question make sense together.
    pub(crate) well_formed: bool,
}

impl<'a> Message<'a> {
    /// Reads the header and the question. Returns `None` if there are fewer than 12 bytes.
    #[expect(
        clippy::inline_always,
        reason = "every message passes here; a call costs 25 instructions"
    )]
    #[inline(always)]
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (header, rest) = bytes.split_first_chunk::<HEADER>()?;
        let flags = Flags(word(header, 2));
        let counts = Counts::of(header);
        let (question, plain) = match question(rest) {
            Some((question, plain)) if counts.questions != 0 => (Some(question), plain),
            _ => (None, false),
        };
        let sensible = match (counts.questions, flags.opcode().0) {
            (1, 0..=2 | 4..=6) => plain,
            // Valid messages without a question: cookie queries (RFC 7873 section 5.4), later
            // messages of a transfer, terse errors, and DNS stateful operations (RFC 8490). Twelve
            // zero bytes are none of these.
            (0, 6) => true,
            (0, 0..=2 | 4..=5) => counts.records() > 0 || (flags.response() && flags.rcode() != 0),
            _ => false,
        };
        Some(Self {
            id: word(header, 0),
            flags,
            question,
            plain,
            bytes,
            well_formed: sensible && counts.fit_into(bytes.len()),
        })
    }

    /// Returns the DO bit (RFC 4035 section 3.2.1) of a query whose OPT record (RFC 6891 section
    /// 6.1.2) directly follows its one question. Other records are not walked.
    pub(crate) fn dnssec_ok(&self) -> bool {
        let counts = self.bytes.first_chunk().map(Counts::of);
        let behind = |question: &[u8]| self.bytes.get(HEADER + question.len()..);
        counts.is_some_and(Counts::is_query)
            && self.question.and_then(behind).is_some_and(dnssec_ok)
    }

    /// Returns whether this may be a response, well-formed or not: a server may send back what it
    /// could not read.
    pub(crate) fn may_answer(&self) -> bool {
        let counts = self.bytes.first_chunk().map(Counts::of);
        self.flags.response()
            && (self.flags.rcode() != 0
                || counts.is_some_and(|counts| counts.fit_into(self.bytes.len())))
    }

    /// Returns the type of the question.
    pub(crate) fn question_type(&self) -> Option<Type> {
        let question = self.question?;
        Some(Type(word(question, question.len() - 4)))
    }

    /// Folds the question into a number by `step`, block by block: its name in lower case (RFC
    /// 4343) and without pointers (RFC 1035 section 4.1.4), its type and its class. Questions with
    /// equal blocks are equal, because a name marks its own end. Returns `None` if there is no
    /// question, or its name cannot be expanded.
    ///
    /// A pointer may lead into the header, although no name can be there: BIND accepts such
    /// questions. Each pointer has to lead further back than the one before it, so the walk ends.
    #[inline]
    pub(crate) fn fold_question(&self, from: u64, step: impl Fn(u64, u128) -> u64) -> Option<u64> {
        let question = self.question?;
        if self.plain {
            fold(self.bytes.get(..HEADER + question.len())?, from, step)
        } else {
            self.fold_expanded(question, from, &step)
        }
    }

    #[cold]
    fn fold_expanded(
        &self,
        question: &[u8],
        from: u64,
        step: &dyn Fn(u64, u128) -> u64,
    ) -> Option<u64> {
        // The question is placed behind room for a header, as `fold` expects.
        let mut bytes = [0; HEADER + LONGEST_NAME + TYPE_AND_CLASS];
        let (name, _) = Name::parse(self.bytes, HEADER).ok()?;
        let room = bytes[HEADER..].first_chunk_mut()?;
        let end = HEADER + name.write_wire(room) + TYPE_AND_CLASS;
        let behind = bytes[..end].last_chunk_mut::<TYPE_AND_CLASS>()?;
        *behind = *question.last_chunk()?;
        fold(&bytes[..end], from, step)
    }
}

/// Folds the question behind a header in blocks of 16 bytes. The last block ends where the question
/// ends; a question shorter than a block fills only a part of it.
#[inline]
fn fold(bytes: &[u8], from: u64, step: impl Fn(u64, u128) -> u64) -> Option<u64> {
    let mut folded = from;
    let (_, question) = bytes.split_first_chunk::<HEADER>()?;
    let (blocks, _) = question.as_chunks::<BLOCK>();
    for block in blocks {
        folded = step(folded, lower(u128::from_le_bytes(*block)));
    }
    let last = u128::from_le_bytes(*bytes.last_chunk::<BLOCK>()?);
    let last = lower(last & NAME_OF_LAST) | last & !NAME_OF_LAST;
    let foreign = BLOCK.saturating_sub(question.len());
    Some(step(folded, last >> (8 * foreign)))
}

/// Converts bytes to lower case (RFC 4343 section 3). Most blocks have no upper-case letter, which a
/// quick test finds: every byte with bit 0x40 also has bit 0x20, the bit of lower case.
#[inline]
fn lower(block: u128) -> u128 {
    const LARGE: u64 = u64::from_ne_bytes([0x40; 8]);
    let [low, high] = halves(block);
    let may_be_upper = low & !(low << 1) | high & !(high << 1);
    if may_be_upper & LARGE == 0 {
        return block;
    }
    lowered(block)
}

#[inline]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the other half is the other value"
)]
fn halves(block: u128) -> [u64; 2] {
    [block as u64, (block >> 64) as u64]
}

#[cold]
fn lowered(block: u128) -> u128 {
    let mut bytes = block.to_le_bytes();
    bytes.make_ascii_lowercase();
    u128::from_le_bytes(bytes)
}

#[derive(Clone, Copy)]
struct Counts {
    questions: u16,
    sections: [u16; 3],
}

impl Counts {
    #[inline]
    fn of(header: &[u8; HEADER]) -> Self {
        Self {
            questions: word(header, 4),
            sections: [word(header, 6), word(header, 8), word(header, 10)],
        }
    }

    fn records(self) -> usize {
        self.sections.iter().map(|count| usize::from(*count)).sum()
    }

    /// Returns whether there is one question and only additional records.
    fn is_query(self) -> bool {
        self.questions == 1 && self.sections[..2] == [0, 0]
    }

    fn are_zero(self) -> bool {
        self.questions == 0 && self.records() == 0
    }

    /// Returns whether few enough records are announced that this is hardly an accident.
    fn are_few(self) -> bool {
        self.records() <= 24
    }

    /// Returns whether there are only a few questions, and no records but those that say how to
    /// answer (OPT, TSIG).
    fn only_ask(self) -> bool {
        let [answers, authorities, additional] = self.sections;
        self.questions <= 4 && (answers, authorities) == (0, 0) && additional <= 2
    }

    fn fit_into(self, length: usize) -> bool {
        HEADER + QUESTION * usize::from(self.questions) + RECORD * self.records() <= length
    }
}

/// Reads the first question at the start of `bytes`: a name that ends in the root or in a pointer,
/// type and class. Also returns whether the name is plain, that is neither compressed nor too long.
/// The pointer's target and the name's length do not matter here: a server that accepts them reads
/// the type from the same position.
fn question(bytes: &[u8]) -> Option<(&[u8], bool)> {
    let mut at = 0;
    loop {
        match *bytes.get(at)? {
            0 => return Some((bytes.get(..at + 5)?, at < LONGEST_NAME)),
            label @ 1..=63 => at += 1 + usize::from(label),
            POINTER.. => return Some((bytes.get(..at + 6)?, false)),
            _ => return None,
        }
    }
}

/// Returns the DO bit of an OPT record at the start of `bytes`.
fn dnssec_ok(bytes: &[u8]) -> bool {
    matches!(bytes, [0, 0, kind, _, _, _, _, flags, ..] if u16::from(*kind) == Type::OPT.0 && flags & 0x80 != 0)
}

/// Result of judging whether bytes can be a 2-byte length and a DNS message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// The bytes are a message that ends this many bytes after the start.
    Whole(usize),
    /// The bytes are a query followed by more bytes, which many servers accept. The message ends
    /// this many bytes after the start. This is weaker evidence than an exact end: not enough to
    /// deliver the message, but enough to reject messages inside it.
    Loose(usize),
    /// Nothing speaks against a message so far; more bytes are needed.
    Partly,
    /// The bytes are no message.
    Not,
}

/// Judges the bytes from a possible length field on. See the module's documentation.
pub(crate) fn fit(bytes: &[u8]) -> Fit {
    fit_in(bytes, &mut 0)
}

/// Like [`fit`], and adds the cost to `steps`, in labels and records walked.
pub(crate) fn fit_in(bytes: &[u8], steps: &mut i64) -> Fit {
    *steps += 1;
    let Some((prefix, rest)) = bytes.split_first_chunk::<2>() else {
        return Fit::Partly;
    };
    let length = usize::from(u16::from_be_bytes(*prefix));
    if length < HEADER {
        return Fit::Not;
    }
    let message = rest.get(..length).unwrap_or(rest);
    let Some(header) = message.first_chunk::<HEADER>() else {
        return Fit::Partly;
    };
    let counts = Counts::of(header);
    if counts.are_zero() {
        // Servers answer an unreadable query with a header alone.
        let is_answer = length == HEADER && Flags(word(header, 2)).response();
        return if is_answer {
            Fit::Whole(2 + HEADER)
        } else {
            Fit::Not
        };
    }
    let flags = Flags(word(header, 2));
    let asks = counts.only_ask();
    // Later messages of a zone transfer may leave the question out (RFC 5936 section 2.2.1).
    let answers = counts.questions == 1
        || counts.questions == 0 && flags.response() && counts.sections[0] > 0;
    let usual = answers && plausible_flags(flags, counts.are_few());
    if !counts.fit_into(length) || !(asks || usual) {
        return Fit::Not;
    }
    match walk(message, length, counts, asks, steps) {
        Ok(end) if end < length && !(asks && usual) => Fit::Not,
        Ok(_) if message.len() < length => Fit::Partly,
        Ok(end) if end < length => Fit::Loose(2 + length),
        Ok(_) => Fit::Whole(2 + length),
        Err(Stop::Short) => Fit::Partly,
        Err(Stop::Wrong) => Fit::Not,
    }
}

/// Returns the end of the message at the start of `bytes`, with any bits and types. Returns `None`
/// if it needs more bytes than there are, or is no message.
pub(crate) fn extent(bytes: &[u8]) -> Option<usize> {
    let counts = Counts::of(bytes.first_chunk()?);
    walk(bytes, bytes.len(), counts, true, &mut 0).ok()
}

/// Returns whether flags are plausible. A response with few records has to meet fewer conditions.
fn plausible_flags(flags: Flags, few: bool) -> bool {
    let opcode = matches!(
        flags.opcode(),
        Opcode::QUERY | Opcode::NOTIFY | Opcode::UPDATE
    );
    let answer = flags.response() && (few || flags.rcode() <= 10 && !flags.reserved());
    let question = !flags.response()
        && flags.rcode() == 0
        && !flags.recursion_available()
        && !flags.reserved();
    opcode && (answer || question)
}

fn plausible_class(class: u16) -> bool {
    matches!(class, 1 | 3 | 4 | 254 | 255)
}

/// Returns the size of a length field and of the message behind it, if the length is there.
pub(crate) fn frame(bytes: &[u8]) -> Option<usize> {
    let (prefix, _) = bytes.split_first_chunk::<2>()?;
    Some(2 + usize::from(u16::from_be_bytes(*prefix)))
}

/// Returns whether bytes consist of whole messages that fit, each behind its length.
pub(crate) fn are_messages(mut bytes: &[u8]) -> bool {
    while let Fit::Whole(total) = fit(bytes) {
        if total == bytes.len() {
            return true;
        }
        bytes = &bytes[total..];
    }
    false
}

/// Splits off the first message of such bytes. Returns the size of length and message together, and
/// the message.
pub(crate) fn split(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let total = frame(bytes)?;
    Some((total, bytes.get(2..total)?))
}

enum Stop {
    Short,
    Wrong,
}

/// Walks questions and records and returns the position behind the last one. `message` may hold
/// fewer than `length` bytes.
fn walk(
    message: &[u8],
    length: usize,
    counts: Counts,
    lenient: bool,
    steps: &mut i64,
) -> Result<usize, Stop> {
    let implausible = |kind, class| {
        if lenient {
            kind == 0 && class == 0
        } else {
            kind == 0 || kind != Type::OPT.0 && !plausible_class(class)
        }
    };
    let mut at = HEADER;
    for _ in 0..counts.questions {
        at = skip_name(message, at, length, steps)?;
        let fields: &[u8; 4] = fields(message, at, length)?;
        if implausible(word(fields, 0), word(fields, 2)) {
            return Err(Stop::Wrong);
        }
        at += 4;
    }
    for _ in 0..counts.records() {
        at = skip_name(message, at, length, steps)?;
        *steps += 1;
        let fields: &[u8; 10] = fields(message, at, length)?;
        if implausible(word(fields, 0), word(fields, 2)) {
            return Err(Stop::Wrong);
        }
        at += 10 + usize::from(word(fields, 8));
        if at > length {
            return Err(Stop::Wrong);
        }
    }
    Ok(at)
}

fn skip_name(message: &[u8], start: usize, length: usize, steps: &mut i64) -> Result<usize, Stop> {
    let mut at = start;
    loop {
        *steps += 1;
        if at >= length {
            return Err(Stop::Wrong);
        }
        match *message.get(at).ok_or(Stop::Short)? {
            0 => return Ok(at + 1),
            label @ 1..=63 => at += 1 + usize::from(label),
            high @ 192..=255 => {
                let low = *message.get(at + 1).ok_or(Stop::Short)?;
                let target = usize::from(u16::from_be_bytes([high & 0x3f, low]));
                // Some servers accept names that point into the header.
                return if target < at {
                    Ok(at + 2)
                } else {
                    Err(Stop::Wrong)
                };
            }
            _ => return Err(Stop::Wrong),
        }
        if at - start > 254 {
            return Err(Stop::Wrong);
        }
    }
}

fn fields<const N: usize>(message: &[u8], at: usize, length: usize) -> Result<&[u8; N], Stop> {
    if at + N > length {
        return Err(Stop::Wrong);
    }
    let rest = message.get(at..).unwrap_or_default();
    rest.first_chunk().ok_or(Stop::Short)
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Messages for the tests of this and the other stages.
#[cfg(test)]
pub(crate) mod fixture {
    /// Builds a query or response for `name` (labels without dots) with `flags` and `answers` TXT
    /// answers of 100 bytes.
    pub(crate) fn message(id: u16, flags: u16, name: &str, answers: u16) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [id, flags, 1, answers, 0, 0] {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
        bytes.push(u8::try_from(name.len()).unwrap());
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(&[0, 0, 16, 0, 1]);
        for number in (0..=u8::MAX).cycle().take(usize::from(answers)) {
            bytes.extend_from_slice(&[0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 60, 0, 100, 99]);
            bytes.resize(bytes.len() + 99, number);
        }
        bytes
    }

    /// Builds a query with these flags and a question of this type.
    pub(crate) fn asking(kind: u16, flags: u16) -> Vec<u8> {
        let mut bytes = message(7, flags, "zone", 0);
        let at = bytes.len() - 4;
        bytes[at..at + 2].copy_from_slice(&kind.to_be_bytes());
        bytes
    }

    /// Adds an OPT record with these flags to the query.
    pub(crate) fn with_opt(mut query: Vec<u8>, flags: u16) -> Vec<u8> {
        query[11] += 1;
        query.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0]);
        query.extend_from_slice(&flags.to_be_bytes());
        query.extend_from_slice(&[0, 0]);
        query
    }

    /// Puts the length in front of the message.
    pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(message.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend_from_slice(message);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use proptest::prelude::*;
    use rstest::rstest;

    use super::{fixture::*, *};

    #[test]
    fn message_fits_at_its_start_only() {
        let message = message(0x1234, 0x8580, "example", 3);
        let bytes = [framed(&message), framed(&message)].concat();
        assert_eq!(fit(&bytes), Fit::Whole(message.len() + 2));
        for at in 1..message.len() + 2 {
            assert_eq!(fit(&bytes[at..]), Fit::Not, "{at}");
        }
    }

    #[test]
    fn every_prefix_of_a_message_fits_partly() {
        let bytes = framed(&message(1, 0x0100, "example", 2));
        for length in 0..bytes.len() {
            assert_eq!(fit(&bytes[..length]), Fit::Partly, "{length}");
        }
    }

    #[rstest]
    #[case::rndc(b"\x00\x00\x00\xc5\x00\x00\x00\x01\x05_auth\x02\x00\x00\x00\x00")]
    #[case::http(b"GET / HTTP/1.1\r\nHost: localhost\r\n")]
    #[case::tls(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\xaa\xbb\xcc\xdd\xee")]
    #[case::zeroes(&[0; 64])]
    #[case::http2(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")]
    #[case::settings(b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x64\0\x04\0\x10\0\0\0\x06\0\0\x40\0")]
    fn what_is_not_dns_does_not_fit(#[case] bytes: &[u8]) {
        assert_eq!(fit(bytes), Fit::Not);
    }

    #[test]
    fn names_point_back_only() {
        let bytes = framed(&message(1, 0x8180, "example", 1));
        let pointer = bytes.iter().position(|byte| *byte == 0xc0).unwrap();
        for target in [u8::try_from(pointer).unwrap() - 2, 254, 255] {
            let mut bytes = bytes.clone();
            bytes[pointer + 1] = target;
            assert_eq!(fit(&bytes), Fit::Not, "{target}");
        }
    }

    #[rstest]
    #[case::query(0x0100, 0, Fit::Loose(29))]
    #[case::answer(0x8180, 1, Fit::Not)]
    fn bytes_behind_a_query_fit_loosely(
        #[case] flags: u16,
        #[case] answers: u16,
        #[case] expected: Fit,
    ) {
        let mut message = message(1, flags, "example", answers);
        message.extend([1, 2]);
        let bytes = framed(&message);
        assert_eq!(fit(&bytes), expected);
        if expected != Fit::Not {
            assert_eq!(fit(&bytes[..bytes.len() - 1]), Fit::Partly);
        }
    }

    /// Each of these is refused by some servers and answered by others.
    #[rstest]
    #[case::reserved_bit(|m: &mut Vec<u8>| m[3] |= 0x40)]
    #[case::all_bits(|m: &mut Vec<u8>| { m[2] = 0xff; m[3] = 0xff; })]
    #[case::unknown_opcode(|m: &mut Vec<u8>| m[2] = 0x78)]
    #[case::rcode_in_a_query(|m: &mut Vec<u8>| m[3] |= 5)]
    #[case::class(|m: &mut Vec<u8>| { let end = m.len(); m[end - 2] = 0xab; })]
    #[case::type_0(|m: &mut Vec<u8>| { let end = m.len(); m[end - 4..end - 2].fill(0); })]
    #[case::two_questions(|m: &mut Vec<u8>| { m[5] = 2; m.extend([1, b'x', 0, 0, 1, 0, 1]); })]
    #[case::name_that_points_back(|m: &mut Vec<u8>| { m[5] = 2; m.extend([0xc0, 12, 0, 1, 0, 1]); })]
    #[case::name_that_points_into_the_header(|m: &mut Vec<u8>| { m.truncate(12); m.extend([0xc0, 4, 0, 252, 0, 1]); })]
    #[case::no_question_but_opt(|m: &mut Vec<u8>| {
        m.truncate(12);
        (m[5], m[11]) = (0, 1);
        m.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    })]
    #[case::opcode_without_anything(|m: &mut Vec<u8>| { m.truncate(12); (m[2], m[3], m[5]) = (0x80, 1, 0); })]
    fn odd_messages_fit_by_their_structure(#[case] spoil: fn(&mut Vec<u8>)) {
        let mut message = message(0x2211, 0x0100, "example", 0);
        spoil(&mut message);
        let bytes = framed(&message);
        assert_eq!(fit(&bytes), Fit::Whole(bytes.len()));
        for length in 0..bytes.len() {
            assert_eq!(fit(&bytes[..length]), Fit::Partly, "{length}");
        }
    }

    #[test]
    fn messages_alone_are_told_from_parts_of_them() {
        let bytes = [
            framed(&message(1, 0x8180, "one", 2)),
            framed(&message(2, 0x8180, "two", 0)),
        ]
        .concat();
        assert!(are_messages(&bytes));
        for part in [&bytes[1..], &bytes[2..], &bytes[..bytes.len() - 1], &[]] {
            assert!(!are_messages(part));
        }
        assert!(!are_messages(&[&bytes[..], &[0]].concat()));
    }

    #[rstest]
    #[case::query(&message(9, 0x0100, "example", 0), true)]
    #[case::terse_error(&[0, 9, 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0], true)]
    #[case::zeroes(&[0; 12], false)]
    #[case::counts_beyond_length(&[0, 9, 0, 0, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 1, 0, 1], false)]
    #[case::cut_question(&[0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3, b'a', b'b', b'c', 0], false)]
    #[case::compressed(&[0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 0xc0, 4, 0, 252, 0, 1], false)]
    #[case::unassigned_opcode(&[0, 9, 0x78, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1], false)]
    fn well_formed_means_header_and_question(#[case] bytes: &[u8], #[case] expected: bool) {
        assert_eq!(Message::parse(bytes).unwrap().well_formed, expected);
    }

    /// Builds a question for AXFR whose name is these bytes.
    fn transfer_of(name: &[u8]) -> Vec<u8> {
        [
            &[0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..],
            name,
            &[0, 252, 0, 1],
        ]
        .concat()
    }

    /// Returns the question's blocks.
    fn folded(bytes: &[u8]) -> Option<Vec<u128>> {
        let blocks = RefCell::default();
        let message = Message::parse(bytes)?;
        message.fold_question(0, |number, block| {
            RefCell::<Vec<_>>::borrow_mut(&blocks).push(block);
            number
        })?;
        Some(blocks.into_inner())
    }

    #[rstest]
    #[case::plain(b"\x02nS\x03Lab\0", Some(&b"\x02ns\x03lab\0"[..]))]
    #[case::root_in_the_header(b"\x04zone\xc0\x04", Some(&b"\x04zone\0"[..]))]
    #[case::labels_in_the_header(b"\xc0\x05", Some(&b"\x01\0\0"[..]))]
    #[case::to_itself(b"\xc0\x0c", None)]
    #[case::into_its_own_labels(b"\x04zone\xc0\x0c", None)]
    #[case::forward(b"\x04zone\xc0\x20", None)]
    #[case::beyond_the_end(b"\xff\xff", None)]
    fn a_name_is_read_as_a_server_reads_it_and_the_type_in_any_case(
        #[case] name: &[u8],
        #[case] expected: Option<&[u8]>,
    ) {
        let bytes = transfer_of(name);
        let message = Message::parse(&bytes).unwrap();
        assert_eq!(message.question_type(), Some(Type::AXFR));
        let expected = expected.map(|name| folded(&transfer_of(name)).unwrap());
        assert_eq!(folded(&bytes), expected);
        assert_eq!(message.well_formed, name.last() == Some(&0));
    }

    #[test]
    fn a_name_that_is_too_long_does_not_hide_the_type() {
        let mut name = b"\x3f".repeat(5 * 64);
        name.push(0);
        let bytes = transfer_of(&name);
        let message = Message::parse(&bytes).unwrap();
        assert_eq!(message.question_type(), Some(Type::AXFR));
        assert_eq!(folded(&bytes), None);
        assert!(!message.well_formed);
    }

    proptest! {
        #[test]
        fn judging_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            fit(&bytes);
            folded(&bytes);
        }

        #[test]
        fn questions_fold_to_the_same_if_they_differ_in_case_alone(
            labels in proptest::collection::vec(prop_oneof!["[a-zA-Z@`_0-9]{1,20}", "[a-z0-9]{1,20}"], 0..8),
            changed in proptest::option::of((any::<prop::sample::Index>(), proptest::option::of(any::<u8>()))),
            flags in any::<u16>(),
        ) {
            let mut name: Vec<u8> = labels
                .iter()
                .flat_map(|label| [&[label.len().to_le_bytes()[0]], label.as_bytes()].concat())
                .collect();
            name.push(0);
            let mut other = transfer_of(&name);
            other[2..4].copy_from_slice(&flags.to_be_bytes());
            if let Some((at, byte)) = changed {
                let at = HEADER + at.index(name.len() + TYPE_AND_CLASS);
                // Usually this changes only the case of a letter.
                other[at] = byte.unwrap_or(other[at] ^ 0x20);
            }
            let one = transfer_of(&name);
            let (behind_one, behind_other) = (&one[HEADER..], &other[HEADER..]);
            let (name, kind) = behind_one.split_at(name.len());
            let (other_name, other_kind) = behind_other.split_at(name.len());
            let is_same = name.eq_ignore_ascii_case(other_name) && kind == other_kind;
            prop_assert_eq!(folded(&one) == folded(&other), is_same);
        }

        #[test]
        fn names_of_labels_and_pointers_have_an_end(
            pieces in proptest::collection::vec((0..4u8, any::<u8>()), 0..120),
        ) {
            let mut bytes = vec![0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
            for (kind, value) in pieces {
                match kind {
                    0 => bytes.extend([0xc0, value]),
                    1 => bytes.push(0),
                    _ => bytes.extend([1, value]),
                }
            }
            bytes.extend([0, 0, 1, 0, 1]);
            let message = Message::parse(&bytes).unwrap();
            if let Some(blocks) = folded(&bytes) {
                prop_assert!(!blocks.is_empty() && message.question_type().is_some());
            }
        }
    }
}

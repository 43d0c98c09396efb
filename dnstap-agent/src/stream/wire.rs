//! What a DNS message looks like (RFC 1035 section 4), as far as the tap has to know.
//!
//! Two judgements of different strictness:
//! - [`Message::parse`] reads header and question. A message whose header and question cannot be read, or whose counts
//!   cannot fit into its length, is malformed; it is still delivered where DNS is expected.
//! - [`fit`] decides whether bytes at an *unknown* place of a TCP stream can be a length and a message. It walks every
//!   record to the exact end, because a wrong yes would cut frames out of the middle of messages.
//!
//! [`Message::name`] follows the compression pointers of a question, as some servers do. [`fit`] does not: only their form matters there.

/// Bytes of the header.
pub(crate) const HEADER: usize = 12;

/// Bytes from the start of a length field that [`fit`] needs for the header's verdict.
pub(crate) const PREFIX: usize = 2 + HEADER;

/// Smallest message that [`fit`] accepts: a header and a question for the root.
const SMALLEST_FIT: usize = HEADER + 5;

/// Least bytes of a question and of a resource record (root name).
const QUESTION: usize = 5;
const RECORD: usize = 11;

const TYPE_OPT: u16 = 41;

/// Longest name (RFC 1035 section 2.3.4).
pub(crate) const LONGEST_NAME: usize = 255;

/// First bytes from here on begin a pointer.
const POINTER: u8 = 0xc0;

/// Flag word of a header (RFC 1035 section 4.1.1, RFC 2535 section 6.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags(pub(crate) u16);

impl Flags {
    pub(crate) fn response(self) -> bool {
        self.0 & 0x8000 != 0
    }

    pub(crate) fn opcode(self) -> u8 {
        (self.0 >> 11) as u8 & 0xf
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
    /// Name, type and class of the question as on the wire; `None` if there is none or it cannot be read. The name may end in a pointer,
    /// or be too long: what the question is about is known all the same.
    pub(crate) question: Option<&'a [u8]>,
    /// Whether the question's name is neither compressed nor too long.
    plain: bool,
    /// The whole message, into which pointers point.
    bytes: &'a [u8],
    /// Whether header and question make sense together.
    pub(crate) well_formed: bool,
    /// DO bit (RFC 4035 section 3.2.1), as far as it can be told without walking records: of a query with a question
    /// and an OPT record (RFC 6891 section 6.1.2) right behind it.
    pub(crate) dnssec_ok: bool,
}

impl<'a> Message<'a> {
    /// Reads the header and the question; `None` if there are not even 12 bytes.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (header, rest) = bytes.split_first_chunk::<HEADER>()?;
        let flags = Flags(word(header, 2));
        let counts = Counts::of(header);
        let (question, plain) = match question(rest) {
            Some((question, plain)) if counts.questions != 0 => (Some(question), plain),
            _ => (None, false),
        };
        let sensible = match (counts.questions, flags.opcode()) {
            (1, 0..=2 | 4..=6) => plain,
            // Without a question: cookie queries (RFC 7873 section 5.4), later messages of a transfer, terse errors,
            // DNS stateful operations (RFC 8490). Twelve zero bytes are none of these.
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
            dnssec_ok: question
                .is_some_and(|question| counts.is_query() && dnssec_ok(&rest[question.len()..])),
        })
    }

    /// Whether this may answer something, well-formed or not: a server may send back what it could not read.
    pub(crate) fn may_answer(&self) -> bool {
        let counts = self.bytes.first_chunk().map(Counts::of);
        self.flags.response()
            && (self.flags.rcode() != 0
                || counts.is_some_and(|counts| counts.fit_into(self.bytes.len())))
    }

    /// Type of the question.
    pub(crate) fn question_type(&self) -> Option<u16> {
        let question = self.question?;
        Some(word(question, question.len() - 4))
    }

    /// The question's name in lower case and without pointers (RFC 1035 section 4.1.4), written into `name`. `None` if there is no
    /// question, or its name cannot be expanded.
    ///
    /// A pointer may lead into the header, which is no place for a name: BIND takes such questions. It has to lead further back than
    /// the one before it, so that there is an end.
    #[inline]
    pub(crate) fn name<'n>(&self, name: &'n mut [u8; LONGEST_NAME]) -> Option<&'n [u8]> {
        let question = self.question?;
        if self.plain {
            let plain = name.get_mut(..question.len() - 4)?;
            plain.copy_from_slice(&question[..question.len() - 4]);
            // Lengths of labels are below 64, so lower case leaves them alone.
            plain.make_ascii_lowercase();
            return Some(plain);
        }
        let length = expand(self.bytes, HEADER, name)?;
        let name = &mut name[..length];
        name.make_ascii_lowercase();
        Some(name)
    }
}

#[derive(Clone, Copy)]
struct Counts {
    questions: u16,
    sections: [u16; 3],
}

impl Counts {
    fn of(header: &[u8; HEADER]) -> Self {
        Self {
            questions: word(header, 4),
            sections: [word(header, 6), word(header, 8), word(header, 10)],
        }
    }

    fn records(self) -> usize {
        self.sections.iter().map(|count| usize::from(*count)).sum()
    }

    /// One question and only additional records.
    fn is_query(self) -> bool {
        self.questions == 1 && self.sections[..2] == [0, 0]
    }

    fn fit_into(self, length: usize) -> bool {
        HEADER + QUESTION * usize::from(self.questions) + RECORD * self.records() <= length
    }
}

/// The first question at the start of `bytes`: a name that ends in the root or in a pointer, type and class; and whether the name is
/// plain: not compressed, not too long. Wherever a pointer leads, and however long the name is: a server that takes it reads the
/// type from here.
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

/// Writes the name at `at` of a message into `name`, without pointers; how many bytes it has.
fn expand(message: &[u8], mut at: usize, name: &mut [u8; LONGEST_NAME]) -> Option<usize> {
    let mut length = 0;
    // What a pointer may lead to: less than where this part of the name began.
    let mut before = at;
    loop {
        match *message.get(at)? {
            0 => {
                *name.get_mut(length)? = 0;
                return Some(length + 1);
            }
            label @ 1..=63 => {
                let end = 1 + usize::from(label);
                let written = name.get_mut(length..length + end)?;
                written.copy_from_slice(message.get(at..at + end)?);
                length += end;
                at += end;
            }
            high @ POINTER.. => {
                let low = *message.get(at + 1)?;
                let target = usize::from(u16::from_be_bytes([high & 0x3f, low]));
                if target >= before {
                    return None;
                }
                (at, before) = (target, target);
            }
            _ => return None,
        }
    }
}

/// The DO bit of an OPT record at the start of `bytes`.
fn dnssec_ok(bytes: &[u8]) -> bool {
    matches!(bytes, [0, 0, kind, _, _, _, _, flags, ..] if u16::from(*kind) == TYPE_OPT && flags & 0x80 != 0)
}

/// Whether bytes can be a 2-byte length and a DNS message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// They are one; it ends this many bytes after the start.
    Whole(usize),
    /// Nothing speaks against it so far; more bytes are needed.
    Partly,
    /// They are not.
    Not,
}

/// Judges the bytes from what may be a length field on. Strict: see the module's documentation.
pub(crate) fn fit(bytes: &[u8]) -> Fit {
    let Some((prefix, rest)) = bytes.split_first_chunk::<2>() else {
        return Fit::Partly;
    };
    let length = usize::from(u16::from_be_bytes(*prefix));
    if length < SMALLEST_FIT {
        return Fit::Not;
    }
    let message = rest.get(..length).unwrap_or(rest);
    if message.len() >= 4 && !plausible_flags(Flags(word(message, 2))) {
        return Fit::Not;
    }
    let Some(header) = message.first_chunk::<HEADER>() else {
        return Fit::Partly;
    };
    let counts = Counts::of(header);
    let sensible = match counts.questions {
        1 => true,
        // Later messages of a zone transfer may leave the question out (RFC 5936 section 2.2.1).
        0 => Flags(word(header, 2)).response() && counts.sections[0] > 0,
        _ => false,
    };
    if !sensible || !counts.fit_into(length) {
        return Fit::Not;
    }
    match walk(message, length, counts) {
        Ok(()) => Fit::Whole(2 + length),
        Err(Stop::Short) => Fit::Partly,
        Err(Stop::Wrong) => Fit::Not,
    }
}

fn plausible_flags(flags: Flags) -> bool {
    matches!(flags.opcode(), 0 | 4 | 5)
        && !flags.reserved()
        && flags.rcode() <= 10
        && (flags.response() || (flags.rcode() == 0 && !flags.recursion_available()))
}

fn plausible_class(class: u16) -> bool {
    matches!(class, 1 | 3 | 4 | 254 | 255)
}

enum Stop {
    Short,
    Wrong,
}

/// Walks questions and records; the last must end at `length`. `message` may hold less than `length` bytes.
fn walk(message: &[u8], length: usize, counts: Counts) -> Result<(), Stop> {
    let mut at = HEADER;
    for _ in 0..counts.questions {
        at = skip_name(message, at, length, false)?;
        let [kind, class] = words(message, at, length)?;
        if kind == 0 || !plausible_class(class) {
            return Err(Stop::Wrong);
        }
        at += 4;
    }
    for _ in 0..counts.records() {
        at = skip_name(message, at, length, true)?;
        let [kind, class, _, _, data] = words(message, at, length)?;
        if kind == 0 || (kind != TYPE_OPT && !plausible_class(class)) {
            return Err(Stop::Wrong);
        }
        at += 10 + usize::from(data);
        if at > length {
            return Err(Stop::Wrong);
        }
    }
    if at == length && message.len() < length {
        return Err(Stop::Short);
    }
    if at == length {
        Ok(())
    } else {
        Err(Stop::Wrong)
    }
}

fn skip_name(
    message: &[u8],
    start: usize,
    length: usize,
    may_compress: bool,
) -> Result<usize, Stop> {
    let mut at = start;
    loop {
        if at >= length {
            return Err(Stop::Wrong);
        }
        match *message.get(at).ok_or(Stop::Short)? {
            0 => return Ok(at + 1),
            label @ 1..=63 => at += 1 + usize::from(label),
            high @ 192..=255 if may_compress => {
                let low = *message.get(at + 1).ok_or(Stop::Short)?;
                let target = usize::from(u16::from_be_bytes([high & 0x3f, low]));
                return if (HEADER..at).contains(&target) {
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

fn words<const N: usize>(message: &[u8], at: usize, length: usize) -> Result<[u16; N], Stop> {
    if at + 2 * N > length {
        return Err(Stop::Wrong);
    }
    let bytes = message.get(at..at + 2 * N).ok_or(Stop::Short)?;
    Ok(std::array::from_fn(|n| word(bytes, 2 * n)))
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Messages for the tests of this and the other stages.
#[cfg(test)]
pub(crate) mod fixture {
    /// A query or response for `name` (labels without dots) with `flags` and as many TXT answers of 100 bytes.
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

    /// A query with these flags whose question is of this type.
    pub(crate) fn asking(kind: u16, flags: u16) -> Vec<u8> {
        let mut bytes = message(7, flags, "zone", 0);
        let at = bytes.len() - 4;
        bytes[at..at + 2].copy_from_slice(&kind.to_be_bytes());
        bytes
    }

    /// The query with an OPT record with these flags.
    pub(crate) fn with_opt(mut query: Vec<u8>, flags: u16) -> Vec<u8> {
        query[11] += 1;
        query.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0]);
        query.extend_from_slice(&flags.to_be_bytes());
        query.extend_from_slice(&[0, 0]);
        query
    }

    /// The message behind its length.
    pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(message.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend_from_slice(message);
        bytes
    }
}

#[cfg(test)]
mod tests {
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
    fn what_is_not_dns_does_not_fit(#[case] bytes: &[u8]) {
        assert_eq!(fit(bytes), Fit::Not);
    }

    #[test]
    fn names_point_back_only() {
        let bytes = framed(&message(1, 0x8180, "example", 1));
        let pointer = bytes.iter().position(|byte| *byte == 0xc0).unwrap();
        for target in [0, 11, u8::try_from(pointer).unwrap() - 2, 255] {
            let mut bytes = bytes.clone();
            bytes[pointer + 1] = target;
            assert_eq!(fit(&bytes), Fit::Not, "{target}");
        }
    }

    #[test]
    fn trailing_bytes_within_the_length_do_not_fit() {
        let mut message = message(1, 0x0100, "example", 0);
        message.push(0);
        assert_eq!(fit(&framed(&message)), Fit::Not);
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

    /// A question for AXFR whose name is these bytes.
    fn transfer_of(name: &[u8]) -> Vec<u8> {
        [
            &[0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..],
            name,
            &[0, 252, 0, 1],
        ]
        .concat()
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
        assert_eq!(message.question_type(), Some(252));
        assert_eq!(message.name(&mut [0; LONGEST_NAME]), expected);
        assert_eq!(message.well_formed, name.last() == Some(&0));
    }

    #[test]
    fn a_name_that_is_too_long_does_not_hide_the_type() {
        let mut name = b"\x3f".repeat(5 * 64);
        name.push(0);
        let bytes = transfer_of(&name);
        let message = Message::parse(&bytes).unwrap();
        assert_eq!(message.question_type(), Some(252));
        assert_eq!(message.name(&mut [0; LONGEST_NAME]), None);
        assert!(!message.well_formed);
    }

    proptest! {
        #[test]
        fn judging_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            fit(&bytes);
            if let Some(message) = Message::parse(&bytes) {
                message.name(&mut [0; LONGEST_NAME]);
            }
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
            let mut name = [0; LONGEST_NAME];
            if let Some(name) = message.name(&mut name) {
                prop_assert_eq!(name.last(), Some(&0));
                prop_assert!(message.question_type().is_some());
            }
        }
    }
}

//! Names in a message (RFC 1035 section 4.1.4), and their printing (RFC 1035 section 5.1, RFC 4343
//! section 2.1).
//!
//! Compression pointers must point backwards, and a name may follow at most [`MAX_POINTERS`], so
//! the time for a name is bounded.

use std::fmt::{self, Write as _};

use super::wire::{WireError, u16_at};

/// Longest name (RFC 1035 section 2.3.4).
pub const LONGEST_NAME: usize = 255;

/// Most pointers in a name. A name has at most 127 labels, and each may be in another place.
const MAX_POINTERS: usize = 127;

/// A name that was checked when it was parsed, so it can be printed without errors.
///
/// It prints as an absolute name with the escapes of RFC 1035 section 5.1 and RFC 4343 section 2.1,
/// in printable ASCII only.
#[derive(Debug, Clone, Copy)]
pub struct Name<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Name<'a> {
    /// Parses the name at `at`. Also returns the offset behind it.
    pub fn parse(message: &'a [u8], at: usize) -> Result<(Self, usize), WireError> {
        let mut labels = Labels::new(message, at);
        let mut size = 1;
        while let Some(label) = labels.next()? {
            size += 1 + label.len();
            if size > LONGEST_NAME {
                return Err(WireError::LongName(at));
            }
        }
        Ok((Self { message, at }, labels.end))
    }

    /// Returns the end of the name at `at`. A pointer is part of the name; its target is not
    /// checked.
    pub(super) fn end(message: &[u8], mut at: usize) -> Option<usize> {
        loop {
            match *message.get(at)? {
                0 => return Some(at + 1),
                label @ 1..64 => at += 1 + usize::from(label),
                64..192 => return None,
                192.. => return Some(at + 2),
            }
        }
    }

    /// Returns the message that contains the name.
    pub(crate) fn message(self) -> &'a [u8] {
        self.message
    }

    /// Writes the uncompressed name into `wire`. Returns its length.
    pub fn write_wire(self, wire: &mut [u8; LONGEST_NAME]) -> usize {
        let mut end = 0;
        for label in self.labels().chain([&b""[..]]) {
            let (Ok(length), Some(room)) = (
                u8::try_from(label.len()),
                wire.get_mut(end..=end + label.len()),
            ) else {
                break; // a parsed name is never too long
            };
            room[0] = length;
            room[1..].copy_from_slice(label);
            end += room.len();
        }
        end
    }

    /// Returns the length without compression.
    pub(super) fn length(self) -> usize {
        1 + self.labels().map(|label| 1 + label.len()).sum::<usize>()
    }

    /// Returns the labels, without the root's.
    pub fn labels(self) -> impl Iterator<Item = &'a [u8]> {
        let mut labels = Labels::new(self.message, self.at);
        std::iter::from_fn(move || labels.next().ok().flatten())
    }
}

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut is_root = true;
        for label in self.labels() {
            is_root = false;
            Label(label).fmt(f)?;
            f.write_char('.')?;
        }
        if is_root { f.write_char('.') } else { Ok(()) }
    }
}

/// A label; prints as in a [`Name`].
#[derive(Clone, Copy, Debug)]
pub struct Label<'a>(pub &'a [u8]);

impl fmt::Display for Label<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(f, self.0, |byte| {
            matches!(byte, b'!'..=b'~')
                && !matches!(byte, b'.' | b'"' | b'\\' | b'(' | b')' | b';' | b'@' | b'$')
        })
    }
}

/// Text that prints as a character-string: in quotes, with escapes.
#[derive(Clone, Copy, Debug)]
pub struct Quoted<'a>(pub &'a [u8]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_quoted(f, self.0)
    }
}

/// Writes a character-string in quotes (RFC 1035 section 5.1).
pub(super) fn write_quoted(f: &mut impl fmt::Write, text: &[u8]) -> fmt::Result {
    f.write_char('"')?;
    write_escaped(f, text, |byte| {
        matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
    })?;
    f.write_char('"')
}

/// Writes plain bytes as they are, other printable ones behind a backslash, and all others as
/// `\DDD`. Plain bytes must be ASCII.
pub(super) fn write_escaped(
    f: &mut impl fmt::Write,
    bytes: &[u8],
    is_plain: impl Fn(u8) -> bool,
) -> fmt::Result {
    for run in bytes.chunk_by(|one, next| is_plain(*one) && is_plain(*next)) {
        match *run {
            [byte @ b'!'..=b'~'] if !is_plain(byte) => write!(f, "\\{}", char::from(byte))?,
            [byte] if !is_plain(byte) => write!(f, "\\{byte:03}")?,
            _ => f.write_str(str::from_utf8(run).unwrap_or_default())?,
        }
    }
    Ok(())
}

/// Iterates over labels and follows pointers.
struct Labels<'a> {
    message: &'a [u8],
    at: usize,
    /// Position before which the next pointer must lead.
    before: usize,
    pointers: usize,
    /// Position behind the name at its start: behind its root label or its first pointer.
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
}

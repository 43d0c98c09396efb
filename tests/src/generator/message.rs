//! The messages of generated programs: of any size, with odd bits, malformed, or with whole framed messages inside.

use crate::{chance::Chance, wire};

/// Sort of a message: what is unusual about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    /// Nothing is unusual.
    Plain,
    /// Flags, opcode and response code are random.
    Odd,
    /// The message is malformed behind its header.
    Malformed,
    /// The padding consists of framed queries.
    Carrier,
}

/// Description of a message to make.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spec {
    /// Sort of the message.
    pub(super) sort: Sort,
    /// Size of the message in bytes, unless its question needs more.
    pub(super) size: usize,
    /// Seed of its name and its bytes.
    pub(super) salt: u32,
}

/// Owner, type, class, TTL and length of the record that pads a message.
const RECORD: usize = 11;
const HEADER: usize = 12;
const FLAG_QR: u8 = 0x80;
/// The bits of the opcode in the byte of [`FLAG_QR`].
const OPCODE: u8 = 0x78;

impl Spec {
    /// Makes a query with this id.
    pub(super) fn query(&self, id: u16) -> Vec<u8> {
        let mut chance = Chance::new(u64::from(self.salt));
        let qtype = *chance.of(&[1, 2, 6, 12, 15, 16, 28, 33, 65, 255]);
        let question = &wire::query(id, &name(&mut chance), qtype, true)[HEADER..];
        let mut flags = [1, 0];
        if self.sort == Sort::Odd {
            flags = [byte(&mut chance) & !FLAG_QR, byte(&mut chance)];
        }
        if self.sort == Sort::Malformed {
            return malformed(id, self.size, question, &mut chance);
        }
        self.padded(id, flags, question, &mut chance)
    }

    /// Makes the response to a query that [`can_be_answered`].
    pub(super) fn answer(&self, query: &[u8]) -> Vec<u8> {
        let mut chance = Chance::new(u64::from(self.salt));
        let id = u16::from_be_bytes([query[0], query[1]]);
        let end = question_end(query).unwrap_or(query.len());
        let mut flags = [query[2] & (OPCODE | 1) | FLAG_QR, 0x80];
        if self.sort == Sort::Odd {
            flags = [flags[0] | byte(&mut chance) & 6, byte(&mut chance)];
        }
        self.padded(id, flags, &query[HEADER..end], &mut chance)
    }

    fn padded(&self, id: u16, flags: [u8; 2], question: &[u8], chance: &mut Chance) -> Vec<u8> {
        let mut message = id.to_be_bytes().to_vec();
        message.extend(flags);
        message.extend([0, 1, 0, 0, 0, 0, 0, 0]);
        message.extend(question);
        let Some(padding) = self.size.checked_sub(message.len() + RECORD) else {
            return message;
        };
        message[11] = 1;
        // A private type of RFC 6895, without TTL.
        message.extend([0, 0xff, 0, 0, 1, 0, 0, 0, 0]);
        message.extend(
            u16::try_from(padding)
                .expect("a message is at most 65,535 bytes")
                .to_be_bytes(),
        );
        if self.sort == Sort::Carrier {
            let inner = wire::framed(&wire::query(id ^ 0x5555, "inside.lab", wire::TYPE_A, true));
            message.extend(inner.iter().cycle().take(padding));
        } else {
            let mut word = 0;
            message.extend((0..padding).map(|at| {
                if at % 8 == 0 {
                    word = chance.below(u64::MAX);
                }
                word.to_le_bytes()[at % 8]
            }));
        }
        message
    }
}

/// Returns whether the message can be answered: it is a query with one readable question.
pub(super) fn can_be_answered(message: &[u8]) -> bool {
    message.len() > HEADER
        && !wire::is_response(message)
        && message[4..6] == [0, 1]
        && question_end(message).is_some()
}

/// Returns the end of the first question.
fn question_end(message: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        match usize::from(*message.get(at)?) {
            0 => break,
            length @ 1..64 => at += 1 + length,
            _ => return None,
        }
    }
    let end = at + 5;
    (end <= message.len()).then_some(end)
}

/// Makes a valid name: mostly short, sometimes with labels of any length.
fn name(chance: &mut Chance) -> String {
    let long = chance.below(8) == 0;
    let (labels, longest) = if long { (3, 63) } else { (2, 8) };
    let mut name = String::new();
    for _ in 0..=chance.below(labels) {
        for _ in 0..=chance.below(longest) {
            name.push(char::from(
                *chance.of(b"abcdefghijklmnopqrstuvwxyz-0123XYZ"),
            ));
        }
        name.push('.');
    }
    name + "lab"
}

/// Makes a message with the header of a query that is malformed behind it.
fn malformed(id: u16, size: usize, question: &[u8], chance: &mut Chance) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    match chance.below(5) {
        // Nothing at all, or less than the header announces.
        0 => message.extend([1, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        1 => message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]),
        // A name that points to itself.
        2 => message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1]),
        // The header announces more records than there are.
        3 => {
            message.extend([1, 0, 0, 1, 0xff, 0xff, 0, 0, 0, 9]);
            message.extend(question);
        }
        // Any bytes.
        _ => {
            message.push(byte(chance) & !FLAG_QR);
            while message.len() < size.clamp(HEADER, 2_000) {
                message.push(byte(chance));
            }
        }
    }
    message
}

fn byte(chance: &mut Chance) -> u8 {
    chance.below(256).to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_their_sizes_and_answers_their_questions() {
        for sort in [Sort::Plain, Sort::Odd, Sort::Carrier] {
            for (salt, size) in (0..).zip([300, 1_232, 65_535]) {
                let spec = Spec { sort, size, salt };
                let query = spec.query(7);
                let answer = spec.answer(&query);
                assert_eq!((query.len(), answer.len()), (size, size));
                assert!(can_be_answered(&query) && wire::is_response(&answer));
                assert_eq!(wire::question(&query), wire::question(&answer));
                assert_eq!(wire::opcode(&query), wire::opcode(&answer));
            }
        }
    }

    #[test]
    fn what_is_malformed_has_a_header_and_is_no_response() {
        for salt in 0..200 {
            let spec = Spec {
                sort: Sort::Malformed,
                size: 100,
                salt,
            };
            let message = spec.query(7);
            assert!(message.len() >= HEADER && !wire::is_response(&message));
        }
    }
}

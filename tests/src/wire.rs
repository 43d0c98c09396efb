//! The parts of the DNS wire format (RFC 1035 section 4.1) that the tests need: they build queries of an exact size,
//! make the response of the toy server, and name a message in a diff.
//!
//! This is not a full parser: names are read without compression, which is enough for the question at the start of a
//! message. Everything else is shown as bytes.

/// Opcode NOTIFY (RFC 1996).
pub(crate) const OPCODE_NOTIFY: u8 = 4;
/// Opcode UPDATE (RFC 2136).
pub(crate) const OPCODE_UPDATE: u8 = 5;
/// QTYPE SOA.
pub(crate) const TYPE_SOA: u16 = 6;
/// QTYPE TXT.
pub(crate) const TYPE_TXT: u16 = 16;
/// QTYPE A.
pub(crate) const TYPE_A: u16 = 1;
/// QTYPE IXFR (RFC 1995).
pub(crate) const TYPE_IXFR: u16 = 251;
/// QTYPE AXFR (RFC 5936).
pub(crate) const TYPE_AXFR: u16 = 252;

const HEADER: usize = 12;
/// TYPE OPT, low byte.
const TYPE_OPT: u8 = 41;
const FLAG_QR: u8 = 0x80;
const FLAG_RD: u8 = 0x01;
/// Owner (root), private type, class, TTL and RDLENGTH of the record that pads a message.
const PADDING_RECORD: usize = 1 + 2 + 2 + 4 + 2;
/// First of the types for private use (RFC 6895 section 3.1).
const TYPE_PRIVATE: u16 = 65_280;

/// Makes a query for `name` and `qtype`, with recursion desired or not.
pub(crate) fn query(id: u16, name: &str, qtype: u16, recursion_desired: bool) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER + name.len() + 6);
    message.extend(id.to_be_bytes());
    message.extend([if recursion_desired { FLAG_RD } else { 0 }, 0]);
    message.extend([0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        message.push(u8::try_from(label.len()).expect("a label of a test's name is short"));
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(qtype.to_be_bytes());
    message.extend([0, 1]);
    message
}

/// Makes a valid query of exactly `size` bytes (or the smallest possible size above it): a record of a private type in
/// the additional section, filled with bytes that depend on `id`, takes the rest.
pub(crate) fn query_of_size(id: u16, name: &str, size: usize) -> Vec<u8> {
    let mut message = query(id, name, TYPE_A, true);
    let Some(padding) = size.checked_sub(message.len() + PADDING_RECORD) else {
        return message;
    };
    message[11] = 1;
    message.push(0);
    message.extend(TYPE_PRIVATE.to_be_bytes());
    message.extend([0, 1, 0, 0, 0, 0]);
    message.extend(
        u16::try_from(padding)
            .expect("sizes of tests fit a DNS message")
            .to_be_bytes(),
    );
    let mut state = u32::from(id) | 0x5eed_0000;
    message.extend((0..padding).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    }));
    message
}

/// Makes the response of the toy server: the query with the QR bit set.
pub(crate) fn answer(query: &[u8]) -> Vec<u8> {
    let mut message = query.to_vec();
    if let Some(flags) = message.get_mut(2) {
        *flags |= FLAG_QR;
    }
    message
}

/// Returns `message` in the form for TCP: after its length in two bytes (RFC 1035 section 4.2.2).
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).expect("a DNS message is at most 65,535 bytes");
    [&length.to_be_bytes(), message].concat()
}

/// Returns whether the message is a response.
pub(crate) fn is_response(message: &[u8]) -> bool {
    message.get(2).is_some_and(|flags| flags & FLAG_QR != 0)
}

/// Returns whether the RD bit is set.
pub(crate) fn recursion_desired(message: &[u8]) -> bool {
    message.get(2).is_some_and(|flags| flags & FLAG_RD != 0)
}

/// Returns the opcode, if the message has a header.
pub(crate) fn opcode(message: &[u8]) -> Option<u8> {
    (message.len() >= HEADER).then(|| (message[2] >> 3) & 0xf)
}

/// Returns the first question: the name in lower case without the root's dot, and the type.
pub(crate) fn question(message: &[u8]) -> Option<(String, u16)> {
    if message.len() < HEADER || message[4..6] == [0, 0] {
        return None;
    }
    let mut name = String::new();
    let mut at = HEADER;
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        if length > 63 {
            return None;
        }
        let label = message.get(at..at + length)?;
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(&String::from_utf8_lossy(label).to_lowercase());
        at += length;
    }
    let qtype = message.get(at..at + 2)?;
    Some((name, u16::from_be_bytes([qtype[0], qtype[1]])))
}

/// Returns extended RCODE and version of the OPT record (RFC 6891 section 6.1.3). The message must have no record
/// between the question and the additional section.
pub(crate) fn edns(message: &[u8]) -> Option<(u8, u8)> {
    if message.get(6..10)? != [0; 4] {
        return None;
    }
    let name = message.get(HEADER..)?.iter().position(|byte| *byte == 0)?;
    match message.get(HEADER + name + 5..)? {
        [0, 0, TYPE_OPT, _, _, code, version, ..] => Some((*code, *version)),
        _ => None,
    }
}

/// Returns the number of records in the answer section.
pub(crate) fn answers(message: &[u8]) -> usize {
    match message {
        [_, _, _, _, _, _, high, low, ..] => usize::from(u16::from_be_bytes([*high, *low])),
        _ => 0,
    }
}

/// Returns one line that names a message in a diff.
pub(crate) fn describe(message: &[u8]) -> String {
    let header = match message {
        [a, b, c, d, ..] if message.len() >= HEADER => {
            let question = match question(message) {
                Some((name, qtype)) => format!("{name} type {qtype}"),
                None => "no question".to_owned(),
            };
            format!("id {a:02x}{b:02x} flags {c:02x}{d:02x} {question}")
        }
        _ => "no DNS header".to_owned(),
    };
    let start: Vec<_> = message
        .iter()
        .take(24)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!(
        "{header}, {} bytes [{}{}]",
        message.len(),
        start.concat(),
        if message.len() > 24 { ".." } else { "" }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_has_exactly_the_size_asked_for() {
        for size in [60, 513, 4_097, 65_535] {
            assert_eq!(query_of_size(7, "a.lab", size).len(), size);
        }
        assert_eq!(
            query_of_size(7, "a.lab", 5),
            query(7, "a.lab", TYPE_A, true)
        );
    }

    #[test]
    fn the_version_of_edns_is_read() {
        let mut message = query(1, "h1.auth.lab", TYPE_A, true);
        assert_eq!(edns(&message), None);
        message.extend([0, 0, TYPE_OPT, 4, 0xd0, 1, 7, 0, 0, 0, 0]);
        assert_eq!(edns(&message), Some((1, 7)));
        message[7] = 1;
        assert_eq!((edns(&message), answers(&message)), (None, 1));
    }

    #[test]
    fn the_question_is_read_back() {
        let message = query(1, "H1.auth.lab", TYPE_TXT, false);
        assert_eq!(question(&message), Some(("h1.auth.lab".into(), TYPE_TXT)));
        assert!(!is_response(&message));
        assert!(is_response(&answer(&message)));
        assert_eq!(question(&message[..message.len() - 3]), None);
    }
}

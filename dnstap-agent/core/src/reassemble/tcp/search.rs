//! Where in a stream of unknown framing a message starts, and what a stream is that has none.

use crate::dns::{Fit, fit_in};

/// What a stream carries if not DNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Foreign {
    /// Something else in the clear: control channel, HTTP.
    NotDns,
    /// TLS records.
    Encrypted,
}

/// What [`scan`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// A message and its length at these bytes.
    Found { start: usize, end: usize },
    /// Nothing; a message may start at `start`, which may be the end.
    Wait { start: usize },
    /// The budget was used up before an end was found.
    Spent,
}

/// What a search may cost. Bytes can be made so that a long walk begins at each of them and fails at its end; without a bound the time
/// would be quadratic.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget(i64);

impl Default for Budget {
    fn default() -> Self {
        Self::new()
    }
}

impl Budget {
    /// Steps that each byte pays for. Ordinary streams take one or two: nearly all bytes fail as a length or as counts.
    const PER_BYTE: i64 = 4;

    /// Steps that may be saved up: what the largest of messages pays for.
    const MOST: i64 = Self::PER_BYTE * 65_537;

    /// Steps of one search in a stream before it pays anything.
    const START: i64 = 4_096;

    pub(super) fn new() -> Self {
        Self(Self::START)
    }

    /// These bytes have come, each of them once.
    pub(super) fn earn(&mut self, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(Self::MOST);
        self.0 = (self.0 + bytes.saturating_mul(Self::PER_BYTE)).min(Self::MOST);
    }

    /// Takes steps; whether there were so many.
    pub(super) fn pay(&mut self, steps: i64) -> bool {
        self.0 -= steps;
        self.0 >= 0
    }

    /// So many bytes are moved.
    pub(super) fn moved(&mut self, bytes: usize) {
        self.0 -= i64::try_from(bytes / 64).unwrap_or(0);
    }
}

/// Looks for a whole message that fits and is followed by one, or by nothing yet. What lies within a message that fits is never taken for one,
/// also if nothing that fits follows it: then it is passed over.
pub(super) fn scan(bytes: &[u8], budget: &mut Budget) -> Scan {
    let mut start = 0;
    while start < bytes.len() {
        let mut steps = 0;
        let judgement = fit_in(&bytes[start..], &mut steps);
        let ends_well = match judgement {
            Fit::Whole(total) => fit_in(&bytes[start + total..], &mut steps) != Fit::Not,
            Fit::Loose(_) | Fit::Partly | Fit::Not => false,
        };
        budget.0 -= steps;
        match judgement {
            Fit::Whole(total) if ends_well => {
                let end = start + total;
                return Scan::Found { start, end };
            }
            Fit::Partly => return Scan::Wait { start },
            _ if budget.0 < 0 => return Scan::Spent,
            Fit::Whole(total) | Fit::Loose(total) => start += total,
            Fit::Not => start += 1,
        }
    }
    Scan::Wait { start }
}

/// Recognises what else listens in a DNS server, by its first bytes.
pub(super) fn foreign(bytes: &[u8]) -> Option<Foreign> {
    const HTTP: [&[u8]; 8] = [
        b"GET ", b"POST", b"PUT ", b"HEAD", b"HTTP", b"PRI ", b"OPTI", b"DELE",
    ];
    match bytes {
        // TLS record (RFC 8446 section 5.1): content type, legacy version.
        [0x14..=0x17, 3, 0..=4, ..] => Some(Foreign::Encrypted),
        // BIND's control channel: length of four bytes, version 1.
        [0, 0, _, _, 0, 0, 0, 1, ..] => Some(Foreign::NotDns),
        // The SETTINGS with which a server of HTTP/2 begins (RFC 9113 sections 3.4 and 6.5).
        [0, 0, length, 4, 0 | 1, 0, 0, 0, 0, ..] if length % 6 == 0 => Some(Foreign::NotDns),
        _ if HTTP.iter().any(|start| bytes.starts_with(start)) => Some(Foreign::NotDns),
        _ => None,
    }
}

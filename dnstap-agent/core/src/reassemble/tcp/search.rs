//! Finds the start of a message in a stream of unknown framing, and recognises foreign protocols.

use crate::dns::{Fit, fit_in};

/// Content of a stream that is not DNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Foreign {
    /// Another protocol without encryption: BIND's control channel, HTTP.
    NotDns,
    /// TLS records.
    Encrypted,
}

/// Result of [`scan`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// A message, with its length, occupies these bytes.
    Found { start: usize, end: usize },
    /// No message was found; one may start at `start`, which may be the end.
    Wait { start: usize },
    /// The budget was used up before an end was found.
    Spent,
}

/// Limit on the cost of a search. A peer can craft bytes so that a long check begins at each of
/// them and fails at its end; without a limit the time would be quadratic.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget(i64);

impl Default for Budget {
    fn default() -> Self {
        Self::new()
    }
}

impl Budget {
    /// Steps that each byte pays for. Ordinary streams take one or two: nearly all bytes fail as a
    /// length or as counts.
    const PER_BYTE: i64 = 4;

    /// Most steps that can be saved up: as many as the largest message pays for.
    const MOST: i64 = Self::PER_BYTE * 65_537;

    /// Steps that a search may take before the stream has paid for any.
    const START: i64 = 4_096;

    pub(super) fn new() -> Self {
        Self(Self::START)
    }

    /// Adds the steps for bytes that have come. Each byte is counted once.
    pub(super) fn earn(&mut self, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(Self::MOST);
        self.0 = (self.0 + bytes.saturating_mul(Self::PER_BYTE)).min(Self::MOST);
    }

    /// Spends steps. Returns whether there were enough.
    pub(super) fn pay(&mut self, steps: i64) -> bool {
        self.0 -= steps;
        self.0 >= 0
    }

    /// Spends the cost of moving these bytes.
    pub(super) fn moved(&mut self, bytes: usize) {
        self.0 -= i64::try_from(bytes / 64).unwrap_or(0);
    }
}

/// Looks for a whole message that fits and is followed by another one, or by nothing yet. Bytes
/// inside a message that fits are never taken for a message. If nothing that fits follows it, the
/// whole message is skipped.
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

/// Recognises other protocols of a DNS server by their first bytes.
pub(super) fn foreign(bytes: &[u8]) -> Option<Foreign> {
    const HTTP: [&[u8]; 8] = [
        b"GET ", b"POST", b"PUT ", b"HEAD", b"HTTP", b"PRI ", b"OPTI", b"DELE",
    ];
    match bytes {
        // TLS record (RFC 8446 section 5.1): content type, legacy version.
        [0x14..=0x17, 3, 0..=4, ..] => Some(Foreign::Encrypted),
        // BIND's control channel: length of four bytes, version 1.
        [0, 0, _, _, 0, 0, 0, 1, ..] => Some(Foreign::NotDns),
        // The SETTINGS frame with which an HTTP/2 server begins (RFC 9113 sections 3.4 and 6.5).
        [0, 0, length, 4, 0 | 1, 0, 0, 0, 0, ..] if length % 6 == 0 => Some(Foreign::NotDns),
        _ if HTTP.iter().any(|start| bytes.starts_with(start)) => Some(Foreign::NotDns),
        _ => None,
    }
}

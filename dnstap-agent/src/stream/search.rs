//! Where in a stream of unknown framing a message starts, and what a stream is that has none.

use crate::stream::wire::{Fit, fit};

/// What a stream carries if not DNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Foreign {
    /// Something else in the clear: control channel, HTTP.
    NotDns,
    /// TLS records.
    Encrypted,
}

/// What [`scan`] found.
pub(super) enum Scan {
    /// A message and its length at these bytes.
    Found { start: usize, end: usize },
    /// Nothing; a message may start at `start`, which may be the end.
    Wait { start: usize },
}

/// Looks for a whole message that fits and is followed by one, or by nothing yet.
pub(super) fn scan(bytes: &[u8]) -> Scan {
    for start in 0..bytes.len() {
        match fit(&bytes[start..]) {
            Fit::Whole(total) if fit(&bytes[start + total..]) != Fit::Not => {
                return Scan::Found {
                    start,
                    end: start + total,
                };
            }
            Fit::Partly => return Scan::Wait { start },
            Fit::Whole(_) | Fit::Not => {}
        }
    }
    Scan::Wait { start: bytes.len() }
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
        _ if HTTP.iter().any(|start| bytes.starts_with(start)) => Some(Foreign::NotDns),
        _ => None,
    }
}

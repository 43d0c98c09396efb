//! Owns patterns for names: a name itself, or a name and all below it, compared on the wire without regard to case.

use std::str::FromStr;

use dnstap_core::dns::Name;
use hickory_proto::rr::Name as HickoryName;

/// Longest name on the wire (RFC 1035 section 2.3.4).
const LONGEST: usize = 255;

/// Names that are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    /// Uncompressed wire format, in lower case.
    wire: Vec<u8>,
    /// Names below it are meant, too.
    below: bool,
}

impl Pattern {
    pub(super) fn new(name: &DomainName, below: bool) -> Self {
        Self {
            wire: name.0.clone(),
            below,
        }
    }

    /// Whether the name is meant.
    pub(super) fn matches(&self, name: &Lowered) -> bool {
        let name = name.wire();
        if name.len() == self.wire.len() || !self.below {
            return name == self.wire;
        }
        let Some(cut) = name.len().checked_sub(self.wire.len()) else {
            return false;
        };
        name[cut..] == self.wire && is_label_end(name, cut)
    }
}

/// Whether a label begins at `cut`.
fn is_label_end(name: &[u8], cut: usize) -> bool {
    let mut at = 0;
    while at < cut {
        at += 1 + usize::from(name[at]);
    }
    at == cut
}

/// A name of a message as patterns want it.
pub(super) struct Lowered {
    bytes: [u8; LONGEST],
    length: usize,
}

impl Lowered {
    pub(super) fn of(name: Name<'_>) -> Self {
        let mut lowered = Self {
            bytes: [0; LONGEST],
            length: 0,
        };
        for label in name.labels() {
            lowered.push(&[u8::try_from(label.len()).unwrap_or(0)]);
            lowered.push(label);
        }
        lowered.push(&[0]);
        lowered.bytes[..lowered.length].make_ascii_lowercase();
        lowered
    }

    /// A name that was read is never too long.
    fn push(&mut self, bytes: &[u8]) {
        let end = self.length + bytes.len();
        if let Some(room) = self.bytes.get_mut(self.length..end) {
            room.copy_from_slice(bytes);
            self.length = end;
        }
    }

    fn wire(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// A name as an operator writes it, absolute or not, with the escapes of zone files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainName(Vec<u8>);

impl FromStr for DomainName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = HickoryName::from_ascii(text)
            .map_err(|error| format!("{text:?} is no domain name: {error}"))?;
        let mut wire = Vec::with_capacity(name.len() + 1);
        for label in &name {
            wire.push(u8::try_from(label.len()).map_err(|error| error.to_string())?);
            wire.extend(label.to_ascii_lowercase());
        }
        wire.push(0);
        Ok(Self(wire))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("example.com", false, "example.com", true)]
    #[case("EXAMPLE.com.", false, "example.COM", true)]
    #[case("example.com", false, "www.example.com", false)]
    #[case("example.com", true, "www.example.com", true)]
    #[case("example.com", true, "a.b.Example.Com", true)]
    #[case("example.com", true, "example.com", true)]
    #[case("example.com", true, "wwwexample.com", false)]
    #[case("example.com", true, "com", false)]
    #[case(".", true, "anything", true)]
    #[case(".", false, "anything", false)]
    #[case("c", true, "a\u{1}c", false)]
    #[case("a\\.b", false, "a.b", false)]
    fn names_match_by_labels_without_regard_to_case(
        #[case] pattern: DomainName,
        #[case] below: bool,
        #[case] name: &str,
        #[case] matches: bool,
    ) {
        let mut wire = Vec::new();
        for label in name.split('.') {
            wire.push(u8::try_from(label.len()).expect("short"));
            wire.extend(label.as_bytes());
        }
        wire.push(0);
        let (name, _) = Name::parse(&wire, 0).expect("a name");
        assert_eq!(
            Pattern::new(&pattern, below).matches(&Lowered::of(name)),
            matches
        );
    }

    #[rstest]
    #[case("a..b")]
    #[case("0123456789012345678901234567890123456789012345678901234567890123.com")]
    fn what_is_no_name_is_refused(#[case] text: &str) {
        assert!(text.parse::<DomainName>().is_err());
    }
}

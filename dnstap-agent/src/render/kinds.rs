//! Owns the names of the fourteen dnstap message types, and counts by type for summaries.

use std::fmt;

use dnstap_proto::message::Type;

/// Short and long name of every message type, in the order of their numbers (1 to 14).
///
/// The short names are those of `dnstap-read` and golang-dnstap, the long ones those of `dnstap.proto`.
pub const KINDS: [(Type, &str, &str); 14] = [
    (Type::AuthQuery, "AQ", "AUTH_QUERY"),
    (Type::AuthResponse, "AR", "AUTH_RESPONSE"),
    (Type::ResolverQuery, "RQ", "RESOLVER_QUERY"),
    (Type::ResolverResponse, "RR", "RESOLVER_RESPONSE"),
    (Type::ClientQuery, "CQ", "CLIENT_QUERY"),
    (Type::ClientResponse, "CR", "CLIENT_RESPONSE"),
    (Type::ForwarderQuery, "FQ", "FORWARDER_QUERY"),
    (Type::ForwarderResponse, "FR", "FORWARDER_RESPONSE"),
    (Type::StubQuery, "SQ", "STUB_QUERY"),
    (Type::StubResponse, "SR", "STUB_RESPONSE"),
    (Type::ToolQuery, "TQ", "TOOL_QUERY"),
    (Type::ToolResponse, "TR", "TOOL_RESPONSE"),
    (Type::UpdateQuery, "UQ", "UPDATE_QUERY"),
    (Type::UpdateResponse, "UR", "UPDATE_RESPONSE"),
];

/// `CQ` for `CLIENT_QUERY` and so on.
#[must_use]
pub fn short_name(kind: Type) -> &'static str {
    KINDS[index(kind)].1
}

/// `CLIENT_QUERY` and so on.
#[must_use]
pub fn long_name(kind: Type) -> &'static str {
    KINDS[index(kind)].2
}

/// Queries have odd numbers, responses even ones.
pub(super) fn is_response(kind: Type) -> bool {
    (kind as usize).is_multiple_of(2)
}

fn index(kind: Type) -> usize {
    kind as usize - 1
}

/// How many messages of each type. Prints as `CLIENT_QUERY 12, CLIENT_RESPONSE 12`, or `none`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KindCounts([u64; 14]);

impl KindCounts {
    /// Counts one message.
    pub fn count(&mut self, kind: Type) {
        self.add(kind, 1);
    }

    /// Counts several at once.
    pub fn add(&mut self, kind: Type, messages: u64) {
        self.0[index(kind)] += messages;
    }

    /// How many of that type.
    #[must_use]
    pub fn of(&self, kind: Type) -> u64 {
        self.0[index(kind)]
    }

    /// The types that occurred, in the order of their numbers, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (Type, u64)> {
        KINDS
            .iter()
            .zip(self.0)
            .filter(|(_, count)| *count > 0)
            .map(|((kind, ..), count)| (*kind, count))
    }

    /// All messages.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

impl fmt::Display for KindCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (kind, count) in self.iter() {
            write!(f, "{separator}{} {count}", long_name(kind))?;
            separator = ", ";
        }
        if separator.is_empty() {
            f.write_str("none")
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_agrees_with_the_format() {
        for (number, (kind, short, long)) in (1i32..).zip(KINDS) {
            assert_eq!(kind as i32, number);
            assert_eq!(kind.as_str_name(), long);
            assert_eq!((short_name(kind), long_name(kind)), (short, long));
            assert_eq!(is_response(kind), long.ends_with("_RESPONSE"));
        }
        assert!(Type::try_from(15).is_err(), "a type without a name");
    }

    #[test]
    fn counts_print_in_the_order_of_the_types() {
        let mut counts = KindCounts::default();
        assert_eq!(counts.to_string(), "none");
        counts.count(Type::ClientResponse);
        counts.add(Type::AuthQuery, 2);
        assert_eq!(counts.to_string(), "AUTH_QUERY 2, CLIENT_RESPONSE 1");
        assert_eq!(counts.total(), 3);
    }
}

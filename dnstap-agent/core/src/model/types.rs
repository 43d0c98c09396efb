//! Names of the fourteen dnstap message types, and counts by type for summaries.

use std::{fmt, str::FromStr};

use dnstap_proto::message::Type;

/// A dnstap message type and its names.
#[derive(Clone, Copy, Debug)]
pub struct MessageType {
    /// The type.
    pub kind: Type,
    /// Name as `dnstap-read` and golang-dnstap print it.
    pub short: &'static str,
    /// Name in `dnstap.proto`.
    pub long: &'static str,
    /// Name in summaries, metrics and on the command line.
    pub name: &'static str,
}

impl MessageType {
    /// Returns the part of the name that a query and its response share, such as `client`.
    #[must_use]
    pub fn family(&self) -> &'static str {
        self.name.split('_').next().unwrap_or_default()
    }
}

/// Every message type in the order of the numbers, which start at 1.
pub const MESSAGE_TYPES: [MessageType; 14] = [
    message_type(Type::AuthQuery, "AQ", "AUTH_QUERY", "auth_query"),
    message_type(Type::AuthResponse, "AR", "AUTH_RESPONSE", "auth_response"),
    message_type(
        Type::ResolverQuery,
        "RQ",
        "RESOLVER_QUERY",
        "resolver_query",
    ),
    message_type(
        Type::ResolverResponse,
        "RR",
        "RESOLVER_RESPONSE",
        "resolver_response",
    ),
    message_type(Type::ClientQuery, "CQ", "CLIENT_QUERY", "client_query"),
    message_type(
        Type::ClientResponse,
        "CR",
        "CLIENT_RESPONSE",
        "client_response",
    ),
    message_type(
        Type::ForwarderQuery,
        "FQ",
        "FORWARDER_QUERY",
        "forwarder_query",
    ),
    message_type(
        Type::ForwarderResponse,
        "FR",
        "FORWARDER_RESPONSE",
        "forwarder_response",
    ),
    message_type(Type::StubQuery, "SQ", "STUB_QUERY", "stub_query"),
    message_type(Type::StubResponse, "SR", "STUB_RESPONSE", "stub_response"),
    message_type(Type::ToolQuery, "TQ", "TOOL_QUERY", "tool_query"),
    message_type(Type::ToolResponse, "TR", "TOOL_RESPONSE", "tool_response"),
    message_type(Type::UpdateQuery, "UQ", "UPDATE_QUERY", "update_query"),
    message_type(
        Type::UpdateResponse,
        "UR",
        "UPDATE_RESPONSE",
        "update_response",
    ),
];

const fn message_type(
    kind: Type,
    short: &'static str,
    long: &'static str,
    name: &'static str,
) -> MessageType {
    MessageType {
        kind,
        short,
        long,
        name,
    }
}

/// Returns the short name: `CQ` for `CLIENT_QUERY` and so on.
#[must_use]
pub fn short_name(kind: Type) -> &'static str {
    MESSAGE_TYPES[index(kind)].short
}

/// Returns the long name: `CLIENT_QUERY` and so on.
#[must_use]
pub fn long_name(kind: Type) -> &'static str {
    MESSAGE_TYPES[index(kind)].long
}

/// Returns whether the type is a response. Queries have odd numbers, responses even ones.
#[must_use]
pub fn is_response(kind: Type) -> bool {
    (kind as usize).is_multiple_of(2)
}

fn index(kind: Type) -> usize {
    kind as usize - 1
}

/// Number of messages of each type. Prints as `CLIENT_QUERY 12, CLIENT_RESPONSE 12`, or `none`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KindCounts([u64; 14]);

impl KindCounts {
    /// Counts one message.
    pub fn count(&mut self, kind: Type) {
        self.add(kind, 1);
    }

    /// Counts several messages.
    pub fn add(&mut self, kind: Type, messages: u64) {
        self.0[index(kind)] += messages;
    }

    /// Returns the number of messages of that type.
    #[must_use]
    pub fn of(&self, kind: Type) -> u64 {
        self.0[index(kind)]
    }

    /// Returns the types that occurred, with their counts, in the order of the types' numbers.
    pub fn iter(&self) -> impl Iterator<Item = (Type, u64)> {
        MESSAGE_TYPES
            .iter()
            .zip(self.0)
            .filter(|(_, count)| *count > 0)
            .map(|(known, count)| (known.kind, count))
    }

    /// Returns the number of all messages.
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

/// A set of dnstap types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TypeSet(u16);

impl TypeSet {
    /// Returns the union of the sets.
    #[must_use]
    pub fn union(sets: &[Self]) -> Self {
        Self(sets.iter().fold(0, |all, set| all | set.0))
    }

    /// Returns whether the set is empty.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns whether the set contains the type.
    #[must_use]
    pub fn has(self, kind: Type) -> bool {
        self.contains(kind as usize - 1)
    }

    /// Returns whether the set contains the type at this index of [`MESSAGE_TYPES`].
    pub(crate) fn contains(self, at: usize) -> bool {
        self.0 & 1 << at != 0
    }
}

impl FromStr for TypeSet {
    type Err = String;

    /// Parses a family (`client`), or one of its types (`client-query`, `CQ`).
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.replace('-', "_").to_ascii_lowercase();
        let mut set = 0;
        for (at, known) in MESSAGE_TYPES.iter().enumerate() {
            if name == known.name
                || name == known.family()
                || text.eq_ignore_ascii_case(known.short)
            {
                set |= 1 << at;
            }
        }
        if set == 0 {
            return Err(
                "there are auth, client, resolver, forwarder, stub, tool and update, each also with -query or \
                 -response, and AQ, AR, CQ and so on"
                    .to_owned(),
            );
        }
        Ok(Self(set))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_agrees_with_the_format() {
        for (number, known) in (1i32..).zip(MESSAGE_TYPES) {
            let MessageType {
                kind,
                short,
                long,
                name,
            } = known;
            assert_eq!(name, long.to_ascii_lowercase());
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

    #[test]
    fn families_and_types_are_named_as_in_the_summary() {
        let set: TypeSet = "client".parse().unwrap();
        let names: Vec<_> = (0..14)
            .filter(|at| set.contains(*at))
            .map(|at| MESSAGE_TYPES[at].name)
            .collect();
        assert_eq!(names, ["client_query", "client_response"]);
        let one: TypeSet = "update-response".parse().unwrap();
        assert_eq!(one, TypeSet(1 << 13));
        assert_eq!("ur".parse(), Ok(one));
        assert_eq!(TypeSet::union(&[set, one]), TypeSet(set.0 | one.0));
        assert!("clients".parse::<TypeSet>().is_err());
        assert!("".parse::<TypeSet>().is_err());
    }
}

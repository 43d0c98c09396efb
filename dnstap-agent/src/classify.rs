//! Who asked whom, and what dnstap calls it.
//!
//! Owns the mapping from what is visible at the socket (direction, QR bit, opcode, RD bit: RFC 1035 section 4.1.1) to
//! the fourteen dnstap types. Direction and QR bit give the role: a received query or a sent response makes the process
//! the responder, a sent query or a received response the initiator. Role, opcode and RD select the family by a
//! [`Profile`]: a list of rules, of which the first that applies decides. A response takes the family of its query where
//! `pair` knows it; otherwise the same rules apply to it, since a response repeats the opcode and RD of its query.

use dnstap_proto::message::Type;

use crate::event::Direction;

const OPCODE_UPDATE: u8 = 5;

/// The process's part in an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It is asked and answers.
    Responder,
    /// It asks.
    Initiator,
}

impl Role {
    /// The role in a message that went in `direction` and is a `response` or a query.
    #[must_use]
    pub fn of(direction: Direction, response: bool) -> Self {
        if (direction == Direction::Received) == response {
            Self::Initiator
        } else {
            Self::Responder
        }
    }
}

/// Family of dnstap types: a query type and its response type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(
    missing_docs,
    reason = "the names are dnstap's own, explained in dnstap.proto"
)]
pub enum Kind {
    Auth,
    Resolver,
    Client,
    Forwarder,
    Stub,
    Tool,
    Update,
}

impl Kind {
    /// The dnstap type of a query or response of this family.
    #[must_use]
    pub fn message_type(self, response: bool) -> Type {
        TYPES[2 * self as usize + usize::from(response)]
    }
}

/// The dnstap types in the order of their numbers, which start at 1.
pub const TYPES: [Type; 14] = [
    Type::AuthQuery,
    Type::AuthResponse,
    Type::ResolverQuery,
    Type::ResolverResponse,
    Type::ClientQuery,
    Type::ClientResponse,
    Type::ForwarderQuery,
    Type::ForwarderResponse,
    Type::StubQuery,
    Type::StubResponse,
    Type::ToolQuery,
    Type::ToolResponse,
    Type::UpdateQuery,
    Type::UpdateResponse,
];

/// Names of [`TYPES`] in summaries and metrics.
pub const TYPE_NAMES: [&str; 14] = [
    "auth_query",
    "auth_response",
    "resolver_query",
    "resolver_response",
    "client_query",
    "client_response",
    "forwarder_query",
    "forwarder_response",
    "stub_query",
    "stub_response",
    "tool_query",
    "tool_response",
    "update_query",
    "update_response",
];

/// One rule: applies where all that it names agrees.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Role, if it matters.
    pub role: Option<Role>,
    /// Opcode, if it matters.
    pub opcode: Option<u8>,
    /// RD bit, if it matters.
    pub recursion_desired: Option<bool>,
    /// The answer.
    pub kind: Kind,
}

impl Rule {
    const fn new(
        role: Option<Role>,
        opcode: Option<u8>,
        recursion_desired: Option<bool>,
        kind: Kind,
    ) -> Self {
        Self {
            role,
            opcode,
            recursion_desired,
            kind,
        }
    }

    fn applies(self, role: Role, opcode: u8, recursion_desired: bool) -> bool {
        self.role.is_none_or(|wanted| wanted == role)
            && self.opcode.is_none_or(|wanted| wanted == opcode)
            && self
                .recursion_desired
                .is_none_or(|wanted| wanted == recursion_desired)
    }
}

/// Rules for a server that answers for its zones and resolves for its clients; also right for one that does only one
/// of these.
pub const GENERIC: &[Rule] = &[
    Rule::new(None, Some(OPCODE_UPDATE), None, Kind::Update),
    Rule::new(Some(Role::Responder), None, Some(true), Kind::Client),
    Rule::new(Some(Role::Responder), None, Some(false), Kind::Auth),
    Rule::new(Some(Role::Initiator), None, Some(true), Kind::Forwarder),
    Rule::new(Some(Role::Initiator), None, Some(false), Kind::Resolver),
];

/// A server's rules, worked out for every combination of role, opcode and RD.
#[derive(Clone, Debug)]
pub struct Profile {
    kinds: [Kind; 64],
}

impl Profile {
    /// Works the rules out. What no rule covers follows [`GENERIC`].
    #[must_use]
    pub fn new(rules: &[Rule]) -> Self {
        let mut kinds = [Kind::Auth; 64];
        for role in [Role::Responder, Role::Initiator] {
            for opcode in 0..16 {
                for recursion_desired in [false, true] {
                    let rule = rules
                        .iter()
                        .chain(GENERIC)
                        .find(|rule| rule.applies(role, opcode, recursion_desired));
                    if let Some(rule) = rule {
                        kinds[index(role, opcode, recursion_desired)] = rule.kind;
                    }
                }
            }
        }
        Self { kinds }
    }

    /// The family of a message.
    #[must_use]
    pub fn kind(&self, role: Role, opcode: u8, recursion_desired: bool) -> Kind {
        self.kinds[index(role, opcode, recursion_desired)]
    }
}

impl Default for Profile {
    fn default() -> Self {
        Self::new(GENERIC)
    }
}

fn index(role: Role, opcode: u8, recursion_desired: bool) -> usize {
    32 * (role as usize) + 2 * usize::from(opcode & 0xf) + usize::from(recursion_desired)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn types_are_in_the_order_of_their_numbers_and_names() {
        for (at, kind) in TYPES.iter().enumerate() {
            assert_eq!(*kind as usize, at + 1);
            assert_eq!(kind.as_str_name().to_lowercase(), TYPE_NAMES[at]);
        }
    }

    #[rstest]
    #[case::client(Direction::Received, 0, true, Kind::Client)]
    #[case::authoritative(Direction::Received, 0, false, Kind::Auth)]
    #[case::forwarder(Direction::Sent, 0, true, Kind::Forwarder)]
    #[case::resolver(Direction::Sent, 0, false, Kind::Resolver)]
    #[case::notify_in(Direction::Received, 4, false, Kind::Auth)]
    #[case::update_in(Direction::Received, 5, false, Kind::Update)]
    #[case::update_out(Direction::Sent, 5, true, Kind::Update)]
    fn query_and_its_response_are_of_the_same_family(
        #[case] query: Direction,
        #[case] opcode: u8,
        #[case] recursion_desired: bool,
        #[case] kind: Kind,
    ) {
        let answer = if query == Direction::Sent {
            Direction::Received
        } else {
            Direction::Sent
        };
        let profile = Profile::default();
        assert_eq!(
            profile.kind(Role::of(query, false), opcode, recursion_desired),
            kind
        );
        assert_eq!(
            profile.kind(Role::of(answer, true), opcode, recursion_desired),
            kind
        );
        assert_eq!(
            kind.message_type(true) as i32,
            kind.message_type(false) as i32 + 1
        );
    }

    #[test]
    fn first_rule_that_applies_decides() {
        let profile = Profile::new(&[Rule::new(Some(Role::Initiator), Some(0), None, Kind::Stub)]);
        assert_eq!(profile.kind(Role::Initiator, 0, true), Kind::Stub);
        assert_eq!(profile.kind(Role::Initiator, 4, false), Kind::Resolver);
    }
}

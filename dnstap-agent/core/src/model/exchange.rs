//! The exchange of a query and its responses, seen from the tapped process.

use std::str::FromStr;

use dnstap_proto::message::Type;

use super::{Direction, MESSAGE_TYPES};

/// Role of the process in an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The process is asked and answers.
    Responder,
    /// The process asks.
    Initiator,
}

impl Role {
    /// Returns the role for a message in this `direction` that is a `response` or a query.
    #[must_use]
    pub fn of(direction: Direction, response: bool) -> Self {
        if (direction == Direction::Received) == response {
            Self::Initiator
        } else {
            Self::Responder
        }
    }
}

/// Subject of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A question for a name (opcode QUERY) that is none of the following.
    Query,
    /// A secondary's query for the serial of a zone (RFC 1034 section 4.3.5): sent by the process,
    /// for SOA, without recursion (RD) and without DNSSEC (DO). A resolver's query for SOA can only
    /// be told apart by DO, which resolvers set. A process without zones has none to refresh
    /// (`Naming::has_zones`).
    Refresh,
    /// A zone transfer: type AXFR (RFC 5936) or IXFR (RFC 1995).
    Transfer,
    /// Opcode NOTIFY (RFC 1996).
    Notify,
    /// Opcode UPDATE (RFC 2136).
    Update,
    /// Any other opcode, and messages too short to have one.
    Other,
}

impl Subject {
    /// Number of subjects.
    pub const COUNT: usize = 6;

    /// All subjects.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Query,
        Self::Refresh,
        Self::Transfer,
        Self::Notify,
        Self::Update,
        Self::Other,
    ];

    /// Returns the name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Refresh => "refresh",
            Self::Transfer => "xfr",
            Self::Notify => "notify",
            Self::Update => "update",
            Self::Other => "other",
        }
    }
}

impl FromStr for Subject {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|subject| subject.name() == name)
            .ok_or_else(|| format!("there are {}", Self::ALL.map(Self::name).join(", ")))
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
    /// Returns the dnstap type of a query or response of this family.
    #[must_use]
    pub fn message_type(self, response: bool) -> Type {
        MESSAGE_TYPES[2 * self as usize + usize::from(response)].kind
    }
}

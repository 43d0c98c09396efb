//! Reads what the referee needs from a DNS message (RFC 1035 section 4.1), and determines its type by `docs/types.md`.

use dnstap_proto::message::Type;

use crate::wire;

const HEADER: usize = 12;
/// The DO bit, in the OPT record's second byte of flags (RFC 3225 section 3).
const DNSSEC_OK: u8 = 0x80;
const TYPE_OPT: u8 = 41;

/// Profile of a server in the documentation; it determines the types of its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Profile {
    Generic,
    Recursive,
    Authoritative,
    Forwarder,
}

/// Returns whether the message is long enough for a header.
pub(super) fn has_header(message: &[u8]) -> bool {
    message.len() >= HEADER
}

/// Returns whether QR is set.
pub(super) fn is_response(message: &[u8]) -> bool {
    wire::is_response(message)
}

/// Returns the documented type of a query. `sent`: the process has sent it; otherwise it has received it.
pub(super) fn type_of_query(profile: Profile, query: &[u8], sent: bool) -> Type {
    let subject = Subject::of(query);
    let recursion = wire::recursion_desired(query);
    match (profile, subject, sent) {
        (_, Subject::Update, _) => Type::UpdateQuery,
        (_, Subject::Transfer, true) => Type::ResolverQuery,
        (_, Subject::Transfer, false) | (Profile::Authoritative, _, false) => Type::AuthQuery,
        (Profile::Forwarder | Profile::Recursive, _, false) => Type::ClientQuery,
        (Profile::Generic, _, false) if recursion => Type::ClientQuery,
        (Profile::Generic, _, false) => Type::AuthQuery,
        // A forwarder has no zones to refresh. It forwards the queries of its clients.
        (Profile::Forwarder, _, true) => Type::ForwarderQuery,
        (Profile::Authoritative, Subject::Query, true) if recursion => Type::StubQuery,
        (_, Subject::Query, true) if recursion => Type::ForwarderQuery,
        (_, _, true) => Type::ResolverQuery,
    }
}

/// Returns the type of the response to a query of this type.
pub(super) fn answer_to(query: Type) -> Type {
    match query {
        Type::AuthQuery => Type::AuthResponse,
        Type::ClientQuery => Type::ClientResponse,
        Type::ResolverQuery => Type::ResolverResponse,
        Type::ForwarderQuery => Type::ForwarderResponse,
        Type::StubQuery => Type::StubResponse,
        Type::ToolQuery => Type::ToolResponse,
        Type::UpdateQuery => Type::UpdateResponse,
        response => response,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Update,
    /// A zone transfer or its announcement.
    Transfer,
    /// A secondary's query for the current serial.
    Refresh,
    Query,
}

impl Subject {
    fn of(query: &[u8]) -> Self {
        let opcode = wire::opcode(query);
        let qtype = wire::question(query).map(|(_, qtype)| qtype);
        match (opcode, qtype) {
            (Some(wire::OPCODE_UPDATE), _) => Self::Update,
            (Some(wire::OPCODE_NOTIFY), _) | (Some(0), Some(wire::TYPE_AXFR | wire::TYPE_IXFR)) => {
                Self::Transfer
            }
            (Some(0), Some(wire::TYPE_SOA))
                if !wire::recursion_desired(query) && !asks_for_dnssec(query) =>
            {
                Self::Refresh
            }
            _ => Self::Query,
        }
    }
}

/// Returns whether DO is set, in a query that has no record between the question and the OPT record.
fn asks_for_dnssec(query: &[u8]) -> bool {
    let behind = || {
        let name = query.get(HEADER..)?.iter().position(|byte| *byte == 0)?;
        query.get(HEADER + name + 5..)
    };
    matches!(behind(), Some([0, 0, TYPE_OPT, _, _, _, _, flags, ..]) if flags & DNSSEC_OK != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_those_of_the_documentation() {
        let plain = wire::query(1, "a.lab", wire::TYPE_A, true);
        let soa = wire::query(1, "a.lab", wire::TYPE_SOA, false);
        for (profile, query, sent, kind) in [
            (Profile::Generic, &plain, false, Type::ClientQuery),
            (Profile::Recursive, &soa, false, Type::ClientQuery),
            (Profile::Authoritative, &plain, false, Type::AuthQuery),
            (Profile::Authoritative, &plain, true, Type::StubQuery),
            (Profile::Forwarder, &soa, true, Type::ForwarderQuery),
            (Profile::Recursive, &plain, true, Type::ForwarderQuery),
            (Profile::Generic, &soa, true, Type::ResolverQuery),
        ] {
            assert_eq!(type_of_query(profile, query, sent), kind, "{profile:?}");
        }
    }
}

//! Who asked whom, what about, and what dnstap calls it.
//!
//! Owns the mapping from what is visible at the socket (direction; QR bit, opcode and RD bit: RFC 1035 section 4.1.1;
//! type of the question) to the fourteen dnstap types. Direction and QR bit give the [`Role`]: a received query or a sent
//! response makes the process the responder, a sent query or a received response the initiator. Opcode and question give
//! the [`Matter`]. Role, matter and RD select the family by a [`Profile`]: a list of rules, of which the first that applies
//! decides; `profile` has the lists. A response takes the family of its query where `pair` knows it; otherwise the same
//! rules apply to it, since a response repeats the opcode, the question and RD of its query.
//!
//! `docs/types.md` has the rules for readers of the output. [`bind`] has those of BIND's own dnstap.

pub mod bind;
pub mod profile;

use self::bind::BindRules;
use crate::{
    dns::{Flags, Message, Opcode, Type},
    model::{Kind, Matter, Role},
};

impl Matter {
    /// What a message is about; `message` is [`Message::parse`]'s view of it, where it has one.
    pub(crate) fn of(role: Role, flags: Flags, message: Option<&Message<'_>>) -> Self {
        let asked = message.and_then(Message::question_type);
        match (flags.opcode(), asked) {
            _ if message.is_none() => Self::Other,
            (Opcode::QUERY, Some(asked)) if asked.is_transfer() => Self::Transfer,
            (Opcode::QUERY, Some(Type::SOA))
                if role == Role::Initiator
                    && !flags.recursion_desired()
                    && !message.is_some_and(|message| message.dnssec_ok) =>
            {
                Self::Refresh
            }
            (Opcode::QUERY, _) => Self::Query,
            (Opcode::NOTIFY, _) => Self::Notify,
            (Opcode::UPDATE, _) => Self::Update,
            _ => Self::Other,
        }
    }
}

/// One rule: applies where all that it names agrees.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Role, if it is of importance.
    pub role: Option<Role>,
    /// Matter, if it is of importance.
    pub matter: Option<Matter>,
    /// RD bit, if it is of importance.
    pub recursion_desired: Option<bool>,
    /// The answer.
    pub kind: Kind,
}

impl Rule {
    /// A rule for one role, whatever the matter.
    #[must_use]
    pub const fn all(role: Role, kind: Kind) -> Self {
        Self::new(Some(role), None, None, kind)
    }

    /// A rule for one role and matter.
    #[must_use]
    pub const fn about(role: Role, matter: Matter, kind: Kind) -> Self {
        Self::new(Some(role), Some(matter), None, kind)
    }

    const fn new(
        role: Option<Role>,
        matter: Option<Matter>,
        recursion_desired: Option<bool>,
        kind: Kind,
    ) -> Self {
        Self {
            role,
            matter,
            recursion_desired,
            kind,
        }
    }

    fn applies(self, role: Role, matter: Matter, recursion_desired: bool) -> bool {
        self.role.is_none_or(|wanted| wanted == role)
            && self.matter.is_none_or(|wanted| wanted == matter)
            && self
                .recursion_desired
                .is_none_or(|wanted| wanted == recursion_desired)
    }
}

/// The rule that no profile changes.
const ALWAYS: &[Rule] = &[Rule::new(None, Some(Matter::Update), None, Kind::Update)];

/// Rules for a server that answers for its zones and resolves for its clients; also right for one that does only one
/// of these.
pub const GENERIC: &[Rule] = &[
    Rule::about(Role::Responder, Matter::Transfer, Kind::Auth),
    Rule::about(Role::Responder, Matter::Notify, Kind::Auth),
    Rule::about(Role::Initiator, Matter::Transfer, Kind::Resolver),
    Rule::about(Role::Initiator, Matter::Notify, Kind::Resolver),
    Rule::new(Some(Role::Responder), None, Some(true), Kind::Client),
    Rule::new(Some(Role::Responder), None, Some(false), Kind::Auth),
    Rule::new(Some(Role::Initiator), None, Some(true), Kind::Forwarder),
    Rule::new(Some(Role::Initiator), None, Some(false), Kind::Resolver),
];

/// How messages are named and selected.
#[derive(Clone, Debug)]
pub enum Naming {
    /// By a profile.
    Profile(Profile),
    /// As BIND's own dnstap would.
    Bind(BindRules),
}

impl Naming {
    /// Whether the process may be a secondary, which asks for the serials of its zones.
    pub(crate) fn has_zones(&self) -> bool {
        match self {
            Self::Profile(profile) => profile.has_zones,
            Self::Bind(_) => true,
        }
    }

    /// The families that messages may have in which the process has this role; one may come several times.
    pub(crate) fn kinds(&self, role: Role) -> impl Iterator<Item = Kind> + use<'_> {
        // RD; and what tells more to BIND's rules: QR, and whether recursion is available.
        let cases = (0..8).map(|case: u16| (case & 1 << 0, case & 1 << 1, case & 1 << 2 != 0));
        Matter::ALL.into_iter().flat_map(move |matter| {
            cases
                .clone()
                .map(move |(desired, response, available)| match self {
                    Self::Profile(profile) => profile.kind(role, matter, desired != 0),
                    Self::Bind(rules) => {
                        let flags = Flags(desired << 8 | response << 14);
                        rules.kind(role, matter, flags, available)
                    }
                })
        })
    }
}

impl Default for Naming {
    fn default() -> Self {
        Self::Profile(Profile::default())
    }
}

/// A server's rules, worked out for every combination of role, matter and RD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    kinds: [Kind; 2 * 2 * Matter::COUNT],
    has_zones: bool,
}

impl Profile {
    /// Works the rules out. UPDATE is UPDATE in all of them; what no rule covers follows [`GENERIC`].
    #[must_use]
    pub fn new(rules: &[Rule]) -> Self {
        let mut kinds = [Kind::Auth; 2 * 2 * Matter::COUNT];
        for role in [Role::Responder, Role::Initiator] {
            for matter in Matter::ALL {
                for recursion_desired in [false, true] {
                    let rule = ALWAYS
                        .iter()
                        .chain(rules)
                        .chain(GENERIC)
                        .find(|rule| rule.applies(role, matter, recursion_desired));
                    if let Some(rule) = rule {
                        kinds[index(role, matter, recursion_desired)] = rule.kind;
                    }
                }
            }
        }
        Self {
            kinds,
            has_zones: true,
        }
    }

    /// Of a process that has no zones: its questions for SOA are like all others.
    #[must_use]
    pub fn without_zones(self) -> Self {
        Self {
            has_zones: false,
            ..self
        }
    }

    /// Whether the process may be a secondary.
    #[must_use]
    pub fn has_zones(&self) -> bool {
        self.has_zones
    }

    /// The family of a message.
    #[must_use]
    pub fn kind(&self, role: Role, matter: Matter, recursion_desired: bool) -> Kind {
        self.kinds[index(role, matter, recursion_desired)]
    }
}

impl Default for Profile {
    fn default() -> Self {
        Self::new(GENERIC)
    }
}

fn index(role: Role, matter: Matter, recursion_desired: bool) -> usize {
    2 * (Matter::COUNT * role as usize + matter as usize) + usize::from(recursion_desired)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::dns::fixture::{asking, with_opt};
    use crate::model::Direction;

    #[rstest]
    #[case::client(Direction::Received, Matter::Query, true, Kind::Client)]
    #[case::authoritative(Direction::Received, Matter::Query, false, Kind::Auth)]
    #[case::forwarder(Direction::Sent, Matter::Query, true, Kind::Forwarder)]
    #[case::resolver(Direction::Sent, Matter::Query, false, Kind::Resolver)]
    #[case::notify_in(Direction::Received, Matter::Notify, true, Kind::Auth)]
    #[case::notify_out(Direction::Sent, Matter::Notify, false, Kind::Resolver)]
    #[case::transfer_out(Direction::Received, Matter::Transfer, true, Kind::Auth)]
    #[case::transfer_in(Direction::Sent, Matter::Transfer, false, Kind::Resolver)]
    #[case::refresh(Direction::Sent, Matter::Refresh, false, Kind::Resolver)]
    #[case::update_in(Direction::Received, Matter::Update, false, Kind::Update)]
    #[case::update_out(Direction::Sent, Matter::Update, true, Kind::Update)]
    fn query_and_its_response_are_of_the_same_family(
        #[case] query: Direction,
        #[case] matter: Matter,
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
            profile.kind(Role::of(query, false), matter, recursion_desired),
            kind
        );
        assert_eq!(
            profile.kind(Role::of(answer, true), matter, recursion_desired),
            kind
        );
        assert_eq!(
            kind.message_type(true) as i32,
            kind.message_type(false) as i32 + 1
        );
    }

    #[test]
    fn first_rule_that_applies_decides_but_update_stays() {
        let profile = Profile::new(&[
            Rule::about(Role::Initiator, Matter::Query, Kind::Stub),
            Rule::all(Role::Initiator, Kind::Tool),
        ]);
        assert_eq!(
            profile.kind(Role::Initiator, Matter::Query, true),
            Kind::Stub
        );
        assert_eq!(
            profile.kind(Role::Initiator, Matter::Notify, false),
            Kind::Tool
        );
        assert_eq!(
            profile.kind(Role::Initiator, Matter::Update, false),
            Kind::Update
        );
        assert_eq!(
            profile.kind(Role::Responder, Matter::Query, true),
            Kind::Client
        );
    }

    #[rstest]
    #[case::address(Role::Initiator, &asking(1, 0), Matter::Query)]
    #[case::axfr(Role::Responder, &asking(252, 0x0100), Matter::Transfer)]
    #[case::ixfr(Role::Initiator, &asking(251, 0), Matter::Transfer)]
    #[case::notify(Role::Responder, &asking(6, 0x2400), Matter::Notify)]
    #[case::update(Role::Responder, &asking(6, 0x2800), Matter::Update)]
    #[case::status(Role::Responder, &asking(6, 0x1000), Matter::Other)]
    #[case::refresh(Role::Initiator, &asking(6, 0), Matter::Refresh)]
    #[case::refresh_with_edns(Role::Initiator, &with_opt(asking(6, 0), 0), Matter::Refresh)]
    #[case::soa_by_a_resolver(Role::Initiator, &with_opt(asking(6, 0), 0x8000), Matter::Query)]
    #[case::soa_by_a_forwarder(Role::Initiator, &asking(6, 0x0100), Matter::Query)]
    #[case::soa_received(Role::Responder, &asking(6, 0), Matter::Query)]
    fn matter_follows_opcode_and_question(
        #[case] role: Role,
        #[case] bytes: &[u8],
        #[case] expected: Matter,
    ) {
        let message = Message::parse(bytes).unwrap();
        assert_eq!(Matter::of(role, message.flags, Some(&message)), expected);
    }
}

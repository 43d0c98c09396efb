//! Classifies messages: who asked whom, about what, and the dnstap type.
//!
//! The input is what the socket shows: direction; QR bit, opcode and RD bit (RFC 1035 section
//! 4.1.1); type of the question. The output is one of the fourteen dnstap types. Direction and QR
//! bit give the [`Role`]: a received query or a sent response makes the process the responder, a
//! sent query or a received response the initiator. Opcode and question give the [`Subject`]. Role,
//! subject and RD select the family by a [`Profile`]: a list of rules, of which the first that
//! matches decides; `profile` has the lists. A response takes the family of its query if `pair`
//! knows the query. Otherwise the same rules apply to it, because a response repeats the opcode,
//! the question and RD of its query.
//!
//! `docs/types.md` has the rules for readers of the output. [`bind`] has those of BIND's own dnstap.

pub mod bind;
pub mod profile;

use self::bind::BindRules;
use crate::{
    dns::{Flags, Message, Opcode, Type},
    model::{Kind, Role, Subject},
};

impl Subject {
    /// Returns the subject of a message; `message` is the result of [`Message::parse`], if it
    /// succeeded.
    pub(crate) fn of(role: Role, flags: Flags, message: Option<&Message<'_>>) -> Self {
        let asked = message.and_then(Message::question_type);
        match (flags.opcode(), asked) {
            _ if message.is_none() => Self::Other,
            (Opcode::QUERY, Some(asked)) if asked.is_transfer() => Self::Transfer,
            (Opcode::QUERY, Some(Type::SOA))
                if role == Role::Initiator
                    && !flags.recursion_desired()
                    && !message.is_some_and(Message::dnssec_ok) =>
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

/// A rule: it matches if all conditions that it has are met.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Required role; `None`: any.
    pub role: Option<Role>,
    /// Required subject; `None`: any.
    pub subject: Option<Subject>,
    /// Required RD bit; `None`: any.
    pub recursion_desired: Option<bool>,
    /// Resulting family.
    pub kind: Kind,
}

impl Rule {
    /// Creates a rule for one role and any subject.
    #[must_use]
    pub const fn all(role: Role, kind: Kind) -> Self {
        Self::new(Some(role), None, None, kind)
    }

    /// Creates a rule for one role and one subject.
    #[must_use]
    pub const fn about(role: Role, subject: Subject, kind: Kind) -> Self {
        Self::new(Some(role), Some(subject), None, kind)
    }

    const fn new(
        role: Option<Role>,
        subject: Option<Subject>,
        recursion_desired: Option<bool>,
        kind: Kind,
    ) -> Self {
        Self {
            role,
            subject,
            recursion_desired,
            kind,
        }
    }

    fn applies(self, role: Role, subject: Subject, recursion_desired: bool) -> bool {
        self.role.is_none_or(|wanted| wanted == role)
            && self.subject.is_none_or(|wanted| wanted == subject)
            && self
                .recursion_desired
                .is_none_or(|wanted| wanted == recursion_desired)
    }
}

/// Rules that no profile can override.
const ALWAYS: &[Rule] = &[Rule::new(None, Some(Subject::Update), None, Kind::Update)];

/// Rules for a server that answers for its zones and resolves for its clients. They are also right
/// for a server that does only one of these.
pub const GENERIC: &[Rule] = &[
    Rule::about(Role::Responder, Subject::Transfer, Kind::Auth),
    Rule::about(Role::Responder, Subject::Notify, Kind::Auth),
    Rule::about(Role::Initiator, Subject::Transfer, Kind::Resolver),
    Rule::about(Role::Initiator, Subject::Notify, Kind::Resolver),
    Rule::new(Some(Role::Responder), None, Some(true), Kind::Client),
    Rule::new(Some(Role::Responder), None, Some(false), Kind::Auth),
    Rule::new(Some(Role::Initiator), None, Some(true), Kind::Forwarder),
    Rule::new(Some(Role::Initiator), None, Some(false), Kind::Resolver),
];

/// How messages are classified and selected.
#[derive(Clone, Debug)]
pub enum Naming {
    /// By the rules of a profile.
    Profile(Profile),
    /// As BIND's own dnstap does.
    Bind(BindRules),
}

impl Naming {
    /// Returns whether the process may be a secondary, which asks for the serials of its zones.
    pub(crate) fn has_zones(&self) -> bool {
        match self {
            Self::Profile(profile) => profile.has_zones,
            Self::Bind(_) => true,
        }
    }

    /// Returns the families that messages can have if the process has this role. A family may occur
    /// several times.
    pub(crate) fn kinds(&self, role: Role) -> impl Iterator<Item = Kind> + use<'_> {
        // Cases: RD; and for BIND's rules also QR, and whether recursion is available.
        let cases = (0..8).map(|case: u16| (case & 1 << 0, case & 1 << 1, case & 1 << 2 != 0));
        Subject::ALL.into_iter().flat_map(move |subject| {
            cases
                .clone()
                .map(move |(desired, response, available)| match self {
                    Self::Profile(profile) => profile.kind(role, subject, desired != 0),
                    Self::Bind(rules) => {
                        let flags = Flags(desired << 8 | response << 14);
                        rules.kind(role, subject, flags, available)
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

/// Rules of a server, expanded for every combination of role, subject and RD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    kinds: [Kind; 2 * 2 * Subject::COUNT],
    has_zones: bool,
}

impl Profile {
    /// Expands the rules. UPDATE is always UPDATE; cases without a rule follow [`GENERIC`].
    #[must_use]
    pub fn new(rules: &[Rule]) -> Self {
        let mut kinds = [Kind::Auth; 2 * 2 * Subject::COUNT];
        for role in [Role::Responder, Role::Initiator] {
            for subject in Subject::ALL {
                for recursion_desired in [false, true] {
                    let rule = ALWAYS
                        .iter()
                        .chain(rules)
                        .chain(GENERIC)
                        .find(|rule| rule.applies(role, subject, recursion_desired));
                    if let Some(rule) = rule {
                        kinds[index(role, subject, recursion_desired)] = rule.kind;
                    }
                }
            }
        }
        Self {
            kinds,
            has_zones: true,
        }
    }

    /// Returns the profile of a process without zones: its questions for SOA are ordinary queries.
    #[must_use]
    pub fn without_zones(self) -> Self {
        Self {
            has_zones: false,
            ..self
        }
    }

    /// Returns whether the process may be a secondary.
    #[must_use]
    pub fn has_zones(&self) -> bool {
        self.has_zones
    }

    /// Returns the family of a message.
    #[must_use]
    pub fn kind(&self, role: Role, subject: Subject, recursion_desired: bool) -> Kind {
        self.kinds[index(role, subject, recursion_desired)]
    }
}

impl Default for Profile {
    fn default() -> Self {
        Self::new(GENERIC)
    }
}

fn index(role: Role, subject: Subject, recursion_desired: bool) -> usize {
    2 * (Subject::COUNT * role as usize + subject as usize) + usize::from(recursion_desired)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::dns::fixture::{asking, with_opt};
    use crate::model::Direction;

    #[rstest]
    #[case::client(Direction::Received, Subject::Query, true, Kind::Client)]
    #[case::authoritative(Direction::Received, Subject::Query, false, Kind::Auth)]
    #[case::forwarder(Direction::Sent, Subject::Query, true, Kind::Forwarder)]
    #[case::resolver(Direction::Sent, Subject::Query, false, Kind::Resolver)]
    #[case::notify_in(Direction::Received, Subject::Notify, true, Kind::Auth)]
    #[case::notify_out(Direction::Sent, Subject::Notify, false, Kind::Resolver)]
    #[case::transfer_out(Direction::Received, Subject::Transfer, true, Kind::Auth)]
    #[case::transfer_in(Direction::Sent, Subject::Transfer, false, Kind::Resolver)]
    #[case::refresh(Direction::Sent, Subject::Refresh, false, Kind::Resolver)]
    #[case::update_in(Direction::Received, Subject::Update, false, Kind::Update)]
    #[case::update_out(Direction::Sent, Subject::Update, true, Kind::Update)]
    fn query_and_its_response_are_of_the_same_family(
        #[case] query: Direction,
        #[case] subject: Subject,
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
            profile.kind(Role::of(query, false), subject, recursion_desired),
            kind
        );
        assert_eq!(
            profile.kind(Role::of(answer, true), subject, recursion_desired),
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
            Rule::about(Role::Initiator, Subject::Query, Kind::Stub),
            Rule::all(Role::Initiator, Kind::Tool),
        ]);
        assert_eq!(
            profile.kind(Role::Initiator, Subject::Query, true),
            Kind::Stub
        );
        assert_eq!(
            profile.kind(Role::Initiator, Subject::Notify, false),
            Kind::Tool
        );
        assert_eq!(
            profile.kind(Role::Initiator, Subject::Update, false),
            Kind::Update
        );
        assert_eq!(
            profile.kind(Role::Responder, Subject::Query, true),
            Kind::Client
        );
    }

    #[rstest]
    #[case::address(Role::Initiator, &asking(1, 0), Subject::Query)]
    #[case::axfr(Role::Responder, &asking(252, 0x0100), Subject::Transfer)]
    #[case::ixfr(Role::Initiator, &asking(251, 0), Subject::Transfer)]
    #[case::notify(Role::Responder, &asking(6, 0x2400), Subject::Notify)]
    #[case::update(Role::Responder, &asking(6, 0x2800), Subject::Update)]
    #[case::status(Role::Responder, &asking(6, 0x1000), Subject::Other)]
    #[case::refresh(Role::Initiator, &asking(6, 0), Subject::Refresh)]
    #[case::refresh_with_edns(Role::Initiator, &with_opt(asking(6, 0), 0), Subject::Refresh)]
    #[case::soa_by_a_resolver(Role::Initiator, &with_opt(asking(6, 0), 0x8000), Subject::Query)]
    #[case::soa_by_a_forwarder(Role::Initiator, &asking(6, 0x0100), Subject::Query)]
    #[case::soa_received(Role::Responder, &asking(6, 0), Subject::Query)]
    fn matter_follows_opcode_and_question(
        #[case] role: Role,
        #[case] bytes: &[u8],
        #[case] expected: Subject,
    ) {
        let message = Message::parse(bytes).unwrap();
        assert_eq!(Subject::of(role, message.flags, Some(&message)), expected);
    }
}

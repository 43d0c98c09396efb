//! The rules of BIND's own dnstap: which messages `named` would have logged, and under which type.
//!
//! They allow exact comparisons with BIND's built-in dnstap. The rules, as observed and read in
//! 9.16 to 9.21:
//! - A received query (opcode QUERY) is CLIENT if RD is set and recursion is available to this
//!   client, otherwise AUTH. Its response is CLIENT if RD is set, otherwise AUTH. So an
//!   authoritative server that is asked with RD logs AUTH queries and CLIENT responses.
//! - Sent queries are RESOLVER. From 9.20.20 and 9.21.19 on, those to forwarders, which have RD
//!   set, are FORWARDER.
//! - From the same versions on, responses to clients have the time of their query.
//! - Messages that `named` exchanges for its zones (NOTIFY, refresh, transfers, forwarded updates)
//!   do not pass its resolver and are not logged. Of the requests of others for its zones, the data
//!   of transfers over TCP are not logged. Received NOTIFY and other opcodes are not logged, but
//!   their responses are.
//!
//! The query does not show whether recursion is available. The response does, in its RA bit (RFC
//! 1035 section 4.1.1). Therefore `pipeline` holds a query back until its response.

use crate::model::{Kind, Role, Subject};
use crate::{dns::Flags, model::Protocol};

/// Rules of one version of BIND.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindRules {
    /// Whether queries to forwarders are FORWARDER, and responses to clients have their query's
    /// time.
    corrected: bool,
}

impl BindRules {
    /// Returns the rules of a version such as `9.18.49` or `BIND 9.18.49-1~deb12u3-Debian`. Without
    /// a version number, those of the newest.
    #[must_use]
    pub fn of_version(version: &str) -> Self {
        let start = version
            .find(|character: char| character.is_ascii_digit())
            .unwrap_or(version.len());
        let mut numbers = version[start..]
            .split(|character: char| !character.is_ascii_digit())
            .map_while(|number| number.parse::<u32>().ok());
        let version = numbers
            .next()
            .map(|major| (major, numbers.next(), numbers.next().unwrap_or(0)));
        Self {
            corrected: match version {
                Some((9, Some(minor), patch)) => match minor {
                    0..=19 => false,
                    20 => patch >= 20,
                    21 => patch >= 19,
                    _ => true,
                },
                _ => true,
            },
        }
    }

    /// Returns whether responses to clients have their query's time.
    #[must_use]
    pub fn answers_have_query_time(self) -> bool {
        self.corrected
    }

    /// Returns whether `named` logs the message.
    pub(crate) fn logs(role: Role, subject: Subject, protocol: Protocol, flags: Flags) -> bool {
        match (role, flags.response()) {
            (Role::Initiator, _) => subject == Subject::Query,
            (Role::Responder, false) => !matches!(subject, Subject::Notify | Subject::Other),
            (Role::Responder, true) => match subject {
                Subject::Transfer => protocol == Protocol::Udp || flags.rcode() != 0,
                _ => true,
            },
        }
    }

    /// Returns whether the type of a received query depends on the response.
    pub(crate) fn waits_for_answer(role: Role, subject: Subject, flags: Flags) -> bool {
        role == Role::Responder
            && !flags.response()
            && flags.recursion_desired()
            && !matches!(subject, Subject::Update | Subject::Notify | Subject::Other)
    }

    /// Returns the family of a message. `recursion_available` applies to received queries: whether
    /// the client may use recursion.
    pub(crate) fn kind(
        self,
        role: Role,
        subject: Subject,
        flags: Flags,
        recursion_available: bool,
    ) -> Kind {
        let recursion = flags.recursion_desired();
        match role {
            _ if subject == Subject::Update => Kind::Update,
            Role::Responder if recursion && (flags.response() || recursion_available) => {
                Kind::Client
            }
            Role::Responder => Kind::Auth,
            Role::Initiator if recursion && self.corrected => Kind::Forwarder,
            Role::Initiator => Kind::Resolver,
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::debian_12("BIND 9.18.49-1~deb12u3-Debian", false)]
    #[case::old("9.16.50", false)]
    #[case::before("9.20.19", false)]
    #[case::fixed("9.20.20", true)]
    #[case::development_before("9.21.18", false)]
    #[case::development("9.21.19", true)]
    #[case::next("BIND 9.22.0", true)]
    #[case::unknown("", true)]
    fn version_decides_on_forwarders_and_times(#[case] version: &str, #[case] corrected: bool) {
        assert_eq!(BindRules::of_version(version), BindRules { corrected });
    }

    #[test]
    fn query_with_recursion_desired_follows_availability_and_its_answer_does_not() {
        let rules = BindRules::of_version("9.18.1");
        let kind =
            |flags, available| rules.kind(Role::Responder, Subject::Query, Flags(flags), available);
        assert_eq!(kind(0x0100, true), Kind::Client);
        assert_eq!(kind(0x0100, false), Kind::Auth);
        assert_eq!(kind(0x8100, false), Kind::Client);
        assert_eq!(kind(0x8000, true), Kind::Auth);
    }

    #[rstest]
    #[case::asked(Role::Responder, Subject::Transfer, 0, true)]
    #[case::data(Role::Responder, Subject::Transfer, 0x8400, false)]
    #[case::refused(Role::Responder, Subject::Transfer, 0x8005, true)]
    #[case::notify_in(Role::Responder, Subject::Notify, 0x2400, false)]
    #[case::notify_answered(Role::Responder, Subject::Notify, 0xa400, true)]
    #[case::status(Role::Responder, Subject::Other, 0x1000, false)]
    #[case::not_implemented(Role::Responder, Subject::Other, 0x9004, true)]
    #[case::notify_out(Role::Initiator, Subject::Notify, 0x2400, false)]
    #[case::refresh(Role::Initiator, Subject::Refresh, 0, false)]
    #[case::forwarded_update(Role::Initiator, Subject::Update, 0x2800, false)]
    #[case::update(Role::Responder, Subject::Update, 0x2800, true)]
    #[case::resolver(Role::Initiator, Subject::Query, 0x8000, true)]
    fn only_what_named_logs_is_logged(
        #[case] role: Role,
        #[case] subject: Subject,
        #[case] flags: u16,
        #[case] expected: bool,
    ) {
        assert_eq!(
            BindRules::logs(role, subject, Protocol::Tcp, Flags(flags)),
            expected
        );
    }
}

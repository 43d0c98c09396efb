//! What is left out on purpose, by type and by matter. It comes after pairing, so that what remains is named and timed as
//! it would be without.

use std::str::FromStr;

use dnstap_proto::message::Type;

use crate::{
    classify::{Matter, Naming, Role, TYPE_NAMES},
    pipeline::deliver::DeliverCounters,
    render::KINDS,
};

/// Some of the fourteen dnstap types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TypeSet(u16);

impl TypeSet {
    /// Those in any of the sets.
    #[must_use]
    pub fn union(sets: &[Self]) -> Self {
        Self(sets.iter().fold(0, |all, set| all | set.0))
    }

    /// Whether the type is among them.
    #[must_use]
    pub fn has(self, kind: Type) -> bool {
        self.contains(kind as usize - 1)
    }

    /// Whether the type at this place of [`TYPE_NAMES`] is among them.
    fn contains(self, at: usize) -> bool {
        self.0 & 1 << at != 0
    }
}

impl FromStr for TypeSet {
    type Err = String;

    /// A family (`client`), or one of its types (`client-query`, `CQ`).
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.replace('-', "_").to_ascii_lowercase();
        let mut set = 0;
        for (at, known) in TYPE_NAMES.iter().enumerate() {
            let family = known.split('_').next();
            let short = KINDS[at].1;
            if name == *known || Some(name.as_str()) == family || text.eq_ignore_ascii_case(short) {
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

/// What is left out.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Types to deliver; none: all.
    pub only: TypeSet,
    /// Matters to leave out.
    pub exclude: Vec<Matter>,
    /// The kernel side delivers a sample only, chosen by the peer among others.
    pub sampled: bool,
}

impl Filter {
    /// Whether messages of exchanges in which the process has this role may be delivered. If not, neither queries nor
    /// responses are of any use: an exchange has one role.
    #[must_use]
    pub fn wants_role(&self, naming: &Naming, role: Role) -> bool {
        self.only.0 == 0
            || naming.kinds(role).any(|kind| {
                [false, true]
                    .into_iter()
                    .any(|response| self.only.contains(kind.message_type(response) as usize - 1))
            })
    }

    /// Whether a message about this matter, of the type at this place of [`TYPE_NAMES`], is delivered.
    pub(super) fn wants(&self, matter: Matter, at: usize) -> bool {
        !self.exclude.contains(&matter) && (self.only.0 == 0 || self.only.contains(at))
    }

    /// The counter of the reason to leave a message out, if there is one. `at`: its type's place in [`TYPE_NAMES`].
    pub(super) fn reason<'c>(
        &self,
        matter: Matter,
        at: usize,
        counters: &'c mut DeliverCounters,
    ) -> Option<&'c mut u64> {
        if self.wants(matter, at) {
            return None;
        }
        if self.exclude.contains(&matter) {
            return Some(match matter {
                Matter::Query => &mut counters.excluded_query,
                Matter::Refresh => &mut counters.excluded_refresh,
                Matter::Transfer => &mut counters.excluded_xfr,
                Matter::Notify => &mut counters.excluded_notify,
                Matter::Update => &mut counters.excluded_update,
                Matter::Other => &mut counters.excluded_other,
            });
        }
        Some(&mut counters.excluded_type)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_and_types_are_named_as_in_the_summary() {
        let set: TypeSet = "client".parse().unwrap();
        let names: Vec<_> = (0..14)
            .filter(|at| set.contains(*at))
            .map(|at| TYPE_NAMES[at])
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

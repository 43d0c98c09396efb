//! What is left out on purpose, by type and by subject. It comes after pairing, so that what remains is named and timed as
//! it would be without.

use crate::{
    account::DeliverCounters,
    classify::Naming,
    model::{Role, Subject, TypeSet},
};

/// What is left out.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Types to deliver; none: all.
    pub only: TypeSet,
    /// Matters to leave out.
    pub exclude: Vec<Subject>,
    /// The kernel side delivers a sample only, chosen by the peer among others.
    pub sampled: bool,
}

impl Filter {
    /// Whether messages of exchanges in which the process has this role may be delivered. If not, neither queries nor
    /// responses are of any use: an exchange has one role.
    #[must_use]
    pub fn wants_role(&self, naming: &Naming, role: Role) -> bool {
        self.only.is_empty()
            || naming.kinds(role).any(|kind| {
                [false, true]
                    .into_iter()
                    .any(|response| self.only.contains(kind.message_type(response) as usize - 1))
            })
    }

    /// Whether a message about this subject, of the type at this place of [`MESSAGE_TYPES`](crate::model::MESSAGE_TYPES), is delivered.
    pub(super) fn wants(&self, subject: Subject, at: usize) -> bool {
        !self.exclude.contains(&subject) && (self.only.is_empty() || self.only.contains(at))
    }

    /// The counter of the reason to leave a message out, if there is one. `at`: its type's place in [`MESSAGE_TYPES`](crate::model::MESSAGE_TYPES).
    pub(super) fn reason<'c>(
        &self,
        subject: Subject,
        at: usize,
        counters: &'c mut DeliverCounters,
    ) -> Option<&'c mut u64> {
        if self.wants(subject, at) {
            return None;
        }
        if self.exclude.contains(&subject) {
            return Some(match subject {
                Subject::Query => &mut counters.excluded_query,
                Subject::Refresh => &mut counters.excluded_refresh,
                Subject::Transfer => &mut counters.excluded_xfr,
                Subject::Notify => &mut counters.excluded_notify,
                Subject::Update => &mut counters.excluded_update,
                Subject::Other => &mut counters.excluded_other,
            });
        }
        Some(&mut counters.excluded_type)
    }
}

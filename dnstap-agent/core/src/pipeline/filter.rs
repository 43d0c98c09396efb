//! Messages that are left out on purpose, by type and by subject. This comes after pairing, so that
//! the filter does not change types and times of the other messages.

use crate::{
    account::DeliverCounters,
    classify::Naming,
    model::{Role, Subject, TypeSet},
};

/// Messages to leave out.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Types to deliver; empty: all.
    pub only: TypeSet,
    /// Subjects to leave out.
    pub exclude: Vec<Subject>,
    /// Whether the kernel side delivers only a sample, chosen by the peer and other values.
    pub sampled: bool,
}

impl Filter {
    /// Returns whether messages of exchanges in which the process has this role can be delivered.
    /// If not, neither their queries nor their responses are needed, because an exchange has one
    /// role.
    #[must_use]
    pub fn wants_role(&self, naming: &Naming, role: Role) -> bool {
        self.only.is_empty()
            || naming.kinds(role).any(|kind| {
                [false, true]
                    .into_iter()
                    .any(|response| self.only.contains(kind.message_type(response) as usize - 1))
            })
    }

    /// Returns whether a message is delivered that has this subject and the type at this index of
    /// [`MESSAGE_TYPES`](crate::model::MESSAGE_TYPES).
    pub(super) fn wants(&self, subject: Subject, at: usize) -> bool {
        !self.exclude.contains(&subject) && (self.only.is_empty() || self.only.contains(at))
    }

    /// Returns the counter of the reason to leave a message out, if there is one. `at`: index of
    /// its type in [`MESSAGE_TYPES`](crate::model::MESSAGE_TYPES).
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

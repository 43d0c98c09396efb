//! Finds queries without a response in files: each query waits for its response, in bounded memory.
//!
//! A query and its response have the same family of types, client, id and question. Either may come
//! first, because threads write messages in any order. A message that has waited for [`PATIENCE`],
//! by the times of the messages, has no partner. If time goes back by more than that, or forward by
//! more than [`LEAP`], another file has begun: the partners of waiting messages will not come. A
//! single message that leaps forward had a wrong clock, and does not affect the others.

use std::{
    collections::{HashMap, VecDeque},
    hash::BuildHasher as _,
    net::IpAddr,
};

use dnstap_core::model::MESSAGE_TYPES;
use foldhash::fast::RandomState;

use crate::tally::Frequent;

/// Nanoseconds for which a query waits: 10 s, longer than resolvers go on asking.
const PATIENCE: u64 = 10_000_000_000;

/// Nanoseconds by which time may go forward from one message to the next: a day. A larger leap
/// needs a second message to confirm it.
const LEAP: u64 = 86_400_000_000_000;

/// Most messages that wait. Above that the oldest is dropped, and it is unknown whether it would
/// have been answered.
const MOST: usize = 1 << 16;

/// Number of families of types: a query and its response belong to one family.
const FAMILIES: usize = MESSAGE_TYPES.len() / 2;

/// Outcomes of queries, for one family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fates {
    /// Queries with a response.
    pub(super) answered: u64,
    /// Queries that were repeated before their response: same client, id and question.
    pub(super) repeated: u64,
    /// Queries that got no response.
    pub(super) unanswered: u64,
    /// Queries with an unknown outcome: the files end too early, or too many queries were waiting.
    pub(super) unknown: u64,
    /// Responses without a query.
    pub(super) unasked: u64,
}

impl Fates {
    /// Counts a message that has no partner so far and will not get one.
    fn leave_open(&mut self, is_response: bool) {
        if is_response {
            self.unasked += 1;
        } else {
            self.unknown += 1;
        }
    }
}

/// One message of a pair.
#[derive(Clone, Copy, Debug)]
pub(super) struct Half<'a> {
    /// Number of the family, from 0.
    pub(super) family: usize,
    pub(super) is_response: bool,
    /// Nanoseconds since 1970.
    pub(super) at: u64,
    pub(super) client: Option<IpAddr>,
    pub(super) port: Option<u32>,
    pub(super) server: Option<IpAddr>,
    pub(super) id: u16,
    /// Name and type asked for.
    pub(super) question: Option<(&'a str, u16)>,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    family: usize,
    is_response: bool,
    /// Name in question; only for queries.
    name: Option<Box<str>>,
    server: Option<IpAddr>,
}

/// Pairs queries with responses.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    waiting: ByKey,
    /// Times, numbers and keys of waiting messages, and of some that no longer wait, in the order
    /// in which they came.
    order: VecDeque<(u64, u64, u64)>,
    /// Number of the last message.
    number: u64,
    /// Latest time of a message.
    now: u64,
    /// Time of the last message, if it leapt.
    leap: Option<u64>,
    fates: [Fates; FAMILIES],
    /// Names of queries without a response.
    pub(super) names: Frequent<String>,
    /// Servers of queries without a response.
    pub(super) servers: Frequent<IpAddr>,
}

impl Pairs {
    /// Takes one message.
    pub(super) fn take(&mut self, half: &Half<'_>) {
        let leaps = self.now != 0 && half.at > self.now.saturating_add(LEAP);
        let leap = std::mem::replace(&mut self.leap, leaps.then_some(half.at));
        if leaps && leap.is_none_or(|before| before.abs_diff(half.at) > LEAP) {
            self.fates[half.family].leave_open(half.is_response);
            return;
        }
        if leaps || half.at.saturating_add(PATIENCE) < self.now {
            self.begin_anew();
        }
        self.now = self.now.max(half.at);
        let key = self.key(half);
        match self.waiting.get(&key) {
            Some(first) if first.is_response != half.is_response => {
                self.waiting.remove(&key);
                self.fates[half.family].answered += 1;
            }
            Some(_) if half.is_response => self.fates[half.family].unasked += 1,
            Some(_) => self.fates[half.family].repeated += 1,
            None => self.wait(key, half),
        }
        self.give_up();
    }

    /// Returns the outcomes so far for each family that has queries.
    pub(super) fn fates(&self) -> impl Iterator<Item = (&'static str, Fates)> {
        let mut fates = self.fates;
        for waiting in self.waiting.values() {
            fates[waiting.family].leave_open(waiting.is_response);
        }
        for fates in &mut fates {
            // If there is no response at all, none were recorded, which says nothing about the
            // queries.
            if fates.answered + fates.unasked == 0 {
                fates.unknown += std::mem::take(&mut fates.unanswered);
            }
        }
        let families = MESSAGE_TYPES.iter().step_by(2);
        families
            .zip(fates)
            .filter(|(_, fates)| *fates != Fates::default())
            .map(|(query, fates)| (query.long.trim_end_matches("_QUERY"), fates))
    }

    /// Starts over for another file: no waiting message will meet its partner.
    fn begin_anew(&mut self) {
        for (_, waiting) in self.waiting.drain() {
            self.fates[waiting.family].leave_open(waiting.is_response);
        }
        self.order.clear();
        self.now = 0;
    }

    fn key(&self, half: &Half<'_>) -> u64 {
        let key = (half.family, half.client, half.port, half.id, half.question);
        self.waiting.hasher().hash_one(key)
    }

    fn wait(&mut self, key: u64, half: &Half<'_>) {
        self.number += 1;
        let name = (!half.is_response).then_some(half.question);
        self.order.push_back((half.at, self.number, key));
        self.waiting.insert(
            key,
            Waiting {
                number: self.number,
                family: half.family,
                is_response: half.is_response,
                name: name.flatten().map(|(name, _)| name.into()),
                server: half.server,
            },
        );
    }

    /// Drops messages that have waited long enough, and the oldest one if there are too many.
    fn give_up(&mut self) {
        if self.order.len() > 2 * MOST {
            let waiting = &self.waiting;
            self.order
                .retain(|(_, number, key)| is_waiting(waiting, *key, *number));
        }
        while let Some(&(at, number, key)) = self.order.front() {
            let is_over = at.saturating_add(PATIENCE) < self.now;
            if !is_over && self.waiting.len() <= MOST {
                return;
            }
            self.order.pop_front();
            if !is_waiting(&self.waiting, key, number) {
                continue;
            }
            let Some(waiting) = self.waiting.remove(&key) else {
                continue;
            };
            let fates = &mut self.fates[waiting.family];
            if waiting.is_response || !is_over {
                fates.leave_open(waiting.is_response);
                continue;
            }
            fates.unanswered += 1;
            if let Some(name) = waiting.name.as_deref() {
                self.names.count(name);
            }
            if let Some(server) = &waiting.server {
                self.servers.count(server);
            }
        }
    }
}

type ByKey = HashMap<u64, Waiting, RandomState>;

/// Returns whether this message still waits, and not a later one with the same key.
fn is_waiting(waiting: &ByKey, key: u64, number: u64) -> bool {
    waiting
        .get(&key)
        .is_some_and(|waiting| waiting.number == number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn half(is_response: bool, second: u64, id: u16) -> Half<'static> {
        Half {
            family: 2,
            is_response,
            at: second * SECOND,
            client: Some([192, 0, 2, 1].into()),
            port: Some(5353),
            server: Some([192, 0, 2, 53].into()),
            id,
            question: Some(("www.", 1)),
        }
    }

    fn fates(halves: &[Half<'_>]) -> Fates {
        let mut pairs = Pairs::default();
        for half in halves {
            pairs.take(half);
        }
        pairs
            .fates()
            .next()
            .map(|(_, fates)| fates)
            .unwrap_or_default()
    }

    #[test]
    fn a_query_and_its_response_are_a_pair_in_any_order() {
        let halves = [
            half(false, 1, 1),
            half(true, 2, 1),
            half(true, 3, 2),
            half(false, 3, 2),
        ];
        let expected = Fates {
            answered: 2,
            ..Fates::default()
        };
        assert_eq!(fates(&halves), expected);
    }

    #[test]
    fn who_has_waited_too_long_is_unanswered_and_who_has_not_is_unknown() {
        let halves = [
            half(false, 1, 1),
            half(false, 2, 1),
            half(true, 3, 7),
            half(false, 15, 2),
            half(true, 15, 1),
        ];
        let mut pairs = Pairs::default();
        for half in &halves {
            pairs.take(half);
        }
        let expected = Fates {
            repeated: 1,
            unanswered: 1,
            unknown: 1,
            unasked: 2,
            ..Fates::default()
        };
        assert_eq!(pairs.fates().collect::<Vec<_>>(), [("CLIENT", expected)]);
        let names = Frequent::ranking([&pairs.names].into_iter(), 10, String::clone);
        assert_eq!(names.rows, [("www.".to_owned(), 1)]);
    }

    #[test]
    fn without_any_response_nothing_is_known() {
        let halves = [half(false, 1, 1), half(false, 20, 2), half(false, 40, 3)];
        let expected = Fates {
            unknown: 3,
            ..Fates::default()
        };
        assert_eq!(fates(&halves), expected);
    }

    #[test]
    fn files_in_any_order_have_the_same_pairs() {
        let exchange = |second| [half(false, second, 1), half(true, second, 1)];
        let halves = [exchange(1_000), exchange(1), exchange(2_000), exchange(500)].concat();
        let expected = Fates {
            answered: 4,
            ..Fates::default()
        };
        assert_eq!(fates(&halves), expected);
    }

    #[test]
    fn one_wrong_clock_leaves_the_others_alone() {
        const DAYS: u64 = 1_000_000;
        let wrong = half(false, 1 + DAYS, 9);
        let halves = [
            half(false, 1, 1),
            wrong,
            half(true, 2, 1),
            half(false, 3, 2),
            half(true, 3, 2),
        ];
        let expected = Fates {
            answered: 2,
            unknown: 1,
            ..Fates::default()
        };
        assert_eq!(fates(&halves), expected);
        // If two messages leap, the second is believed: another file has begun.
        let halves = [
            half(false, 1, 1),
            wrong,
            half(false, DAYS, 2),
            half(true, DAYS, 2),
        ];
        let expected = Fates {
            answered: 1,
            unknown: 2,
            ..Fates::default()
        };
        assert_eq!(fates(&halves), expected);
    }

    #[test]
    fn answered_queries_push_no_other_out() {
        let mut pairs = Pairs::default();
        pairs.take(&half(false, 1, 0));
        for port in 0..3 * u32::try_from(MOST).expect("small") {
            for is_response in [false, true] {
                let port = Some(port);
                pairs.take(&Half {
                    port,
                    ..half(is_response, 2, 1)
                });
            }
        }
        pairs.take(&half(true, 3, 0));
        let (_, fates) = pairs.fates().next().expect("a family");
        assert_eq!((fates.answered, fates.unknown), (1 + 3 * MOST as u64, 0));
    }

    #[test]
    fn another_client_id_or_question_is_another_pair() {
        let query = half(false, 1, 1);
        for other in [
            Half { id: 2, ..query },
            Half {
                client: None,
                ..query
            },
            Half {
                port: Some(1),
                ..query
            },
            Half {
                question: Some(("www.", 28)),
                ..query
            },
        ] {
            let other = Half {
                is_response: true,
                ..other
            };
            assert_eq!(fates(&[query, other]).answered, 0, "{other:?}");
        }
    }

    #[test]
    fn a_flood_of_queries_takes_bounded_memory() {
        let mut pairs = Pairs::default();
        for port in 0..2 * u32::try_from(MOST).expect("small") {
            pairs.take(&Half {
                port: Some(port),
                ..half(false, 1, 1)
            });
            assert!(pairs.waiting.len() <= MOST && pairs.order.len() <= 2 * MOST);
        }
        let (_, fates) = pairs.fates().next().expect("a family");
        assert_eq!(fates.unknown, 2 * MOST as u64);
    }
}

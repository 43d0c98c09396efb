//! What librdkafka has: one slot for each message, in the order in which they were handed over.
//!
//! ```text
//!  settled from the front on: taken out      handed over, not settled yet
//! ◄──────────────────────────────────── [ ✓ ][ … ][ ✓ ][ … ] ◄── push
//! ```
//!
//! Partitions answer in any order. A message is taken out only when all before it are settled, too:
//! then what is taken out is a beginning of what was handed over, and the spool can forget it.

use std::collections::VecDeque;

/// A message that was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    /// Bytes of its frame, those of the length included.
    pub(super) bytes: usize,
    /// Whether it was sent to the output in this run, and not in an earlier one.
    pub(super) is_own: bool,
    fate: Option<Fate>,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// The brokers have it.
    Delivered,
    /// No broker takes a record of this size.
    TooLarge,
    /// A broker refused it for another reason, or it has no topic.
    Rejected,
    /// It was given up after the time that the operator has set.
    Expired,
    /// The output has ended before it was delivered.
    Ended,
    /// There is no record for it.
    Unfit,
    /// The spool could not be read.
    Damaged,
}

/// Messages that librdkafka has. They are numbered from 0 on.
#[derive(Debug, Default)]
pub(super) struct Flight {
    slots: VecDeque<Slot>,
    /// Number of the first slot.
    first: usize,
}

impl Flight {
    /// Adds a message and returns its number.
    pub(super) fn push(&mut self, bytes: usize, is_own: bool) -> usize {
        self.slots.push_back(Slot {
            bytes,
            is_own,
            fate: None,
        });
        self.first + self.slots.len() - 1
    }

    /// Removes the message that was added last, because librdkafka has not taken it.
    pub(super) fn pop(&mut self) {
        self.slots.pop_back();
    }

    /// Notes what became of a message. Does nothing if it is not here: the flight was given up.
    pub(super) fn settle(&mut self, number: usize, fate: Fate) {
        let nth = number.checked_sub(self.first);
        if let Some(slot) = nth.and_then(|nth| self.slots.get_mut(nth)) {
            slot.fate = Some(fate);
        }
    }

    /// Takes out the oldest message, if its fate is known.
    pub(super) fn take(&mut self) -> Option<(Slot, Fate)> {
        let slot = *self.slots.front()?;
        let fate = slot.fate?;
        self.slots.pop_front();
        self.first += 1;
        Some((slot, fate))
    }

    /// Notes the same fate for all messages that have none.
    pub(super) fn settle_all(&mut self, fate: Fate) {
        for slot in &mut self.slots {
            slot.fate.get_or_insert(fate);
        }
    }

    /// Forgets all messages; their numbers are not used again. Returns what is known of each, in order.
    pub(super) fn give_up(&mut self) -> VecDeque<Option<Fate>> {
        self.first += self.slots.len();
        self.slots.drain(..).map(|slot| slot.fate).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes out what is settled, as bytes and fates.
    fn taken(flight: &mut Flight) -> Vec<(usize, Fate)> {
        let next = || flight.take().map(|(slot, fate)| (slot.bytes, fate));
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn what_is_settled_out_of_order_waits_for_those_before_it() {
        let mut flight = Flight::default();
        let numbers: Vec<_> = (1..=4).map(|bytes| flight.push(bytes, true)).collect();
        flight.settle(numbers[1], Fate::Delivered);
        assert_eq!(taken(&mut flight), []);
        flight.settle(numbers[0], Fate::Rejected);
        assert_eq!(
            taken(&mut flight),
            [(1, Fate::Rejected), (2, Fate::Delivered)]
        );
        flight.settle(numbers[0], Fate::Delivered);
        assert_eq!(flight.len(), 2);
        flight.settle(numbers[3], Fate::Delivered);
        flight.settle_all(Fate::Ended);
        assert_eq!(taken(&mut flight), [(3, Fate::Ended), (4, Fate::Delivered)]);
    }

    #[test]
    fn numbers_are_not_used_again_after_the_flight_was_given_up() {
        let mut flight = Flight::default();
        let before = flight.push(1, true);
        let delivered = flight.push(3, true);
        flight.settle(delivered, Fate::Delivered);
        assert_eq!(flight.give_up(), [None, Some(Fate::Delivered)]);
        let behind = flight.push(2, true);
        flight.settle(before, Fate::Delivered);
        assert_eq!(taken(&mut flight), []);
        flight.settle(behind, Fate::Delivered);
        assert_eq!(taken(&mut flight), [(2, Fate::Delivered)]);
    }

    #[test]
    fn what_was_not_taken_has_no_number() {
        let mut flight = Flight::default();
        let refused = flight.push(1, true);
        flight.pop();
        assert_eq!(flight.push(2, true), refused);
    }
}

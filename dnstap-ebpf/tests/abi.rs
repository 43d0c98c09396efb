//! Tests of the functions that the eBPF programs and the agent share: both sides must get the same answers.

use std::collections::BTreeSet;

use dnstap_ebpf::{
    Counter, KernelOffsets, POSSIBLE_SLOTS, PROGRAM_STAYS, RING_CLASSES, RecordKind, possible_slot,
    program_id,
};

#[test]
fn a_program_id_tells_processes_and_starts_apart_and_leaves_its_bit_free() {
    // Neighbouring process ids, like those of a server's workers and of its restarts.
    let starts = (0..100).map(|restart| 7_000_000_000_000 + restart * 1_000_003);
    let ids: Vec<_> = starts
        .flat_map(|start| (1_000..1_100).map(move |tgid| program_id(tgid, start)))
        .collect();
    assert!(ids.iter().all(|id| id & PROGRAM_STAYS == 0));
    let distinct: BTreeSet<_> = ids.iter().collect();
    assert!(
        distinct.len() > ids.len() * 999 / 1_000,
        "{} of {}",
        distinct.len(),
        ids.len()
    );
    assert_ne!(
        program_id(1, 0),
        program_id(1, 2 << 32),
        "the upper half of a time counts, too"
    );
}

#[test]
fn every_process_has_a_slot_and_neighbours_have_others() {
    let slots: BTreeSet<_> = (0..POSSIBLE_SLOTS).map(possible_slot).collect();
    assert_eq!(slots.len(), POSSIBLE_SLOTS as usize);
    assert!(
        [u32::MAX, POSSIBLE_SLOTS, 4_194_304]
            .map(possible_slot)
            .iter()
            .all(|slot| *slot < POSSIBLE_SLOTS)
    );
}

#[test]
fn a_kind_has_the_number_that_it_is_read_from() {
    for number in 0..=u8::MAX {
        let kind = RecordKind::of(number);
        assert_eq!(
            kind.map(|kind| kind as u8),
            (1..=4).contains(&number).then_some(number)
        );
    }
}

/// A message is either delivered, dropped or skipped, and metrics tell the reasons apart by their names.
#[test]
fn a_counter_has_one_meaning_and_one_name() {
    let names: BTreeSet<_> = Counter::ALL.map(Counter::name).into();
    assert_eq!(names.len(), Counter::COUNT);
    for counter in Counter::ALL {
        assert!(!(counter.is_drop() && counter.is_skip()), "{counter:?}");
    }
    for sum in [
        Counter::Seen,
        Counter::Emitted,
        Counter::Records,
        Counter::Bytes,
    ] {
        assert!(!sum.is_drop() && !sum.is_skip(), "{sum:?}");
    }
}

#[test]
fn offsets_have_the_order_of_their_table() {
    let mut slots = [0; KernelOffsets::TABLE.len()];
    for (slot, place) in slots.iter_mut().zip(0..) {
        *slot = place;
    }
    let offsets = KernelOffsets::from_slots(&slots);
    let of = |structure: &str, member: &str| {
        let is_it = |slot: &dnstap_ebpf::Slot| {
            slot.structure == structure
                && slot.paths.iter().any(|path| path.last() == Some(&member))
        };
        KernelOffsets::TABLE
            .iter()
            .position(is_it)
            .and_then(|place| u32::try_from(place).ok())
    };
    assert_eq!(Some(offsets.sock_family), of("sock", "skc_family"));
    assert_eq!(Some(offsets.task_tgid), of("task_struct", "tgid"));
    assert_eq!(Some(offsets.iter_type), of("iov_iter", "type"));
    assert_eq!(Some(offsets.skb_protocol), of("sk_buff", "protocol"));
}

#[test]
fn classes_grow_and_the_last_holds_the_longest_message_of_tcp() {
    assert!(RING_CLASSES.is_sorted());
    assert!(RING_CLASSES.iter().all(|class| class % 8 == 0));
    assert!(
        RING_CLASSES
            .last()
            .is_some_and(|class| *class >= 2 + 65_535)
    );
}

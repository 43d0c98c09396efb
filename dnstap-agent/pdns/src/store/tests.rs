use fs::File;

use super::*;
use crate::{Fence, Kinds, Names, Query, What};

fn set(owner: &str, kind: u16, data: &[u8]) -> Rrset {
    Rrset {
        owner: owner.parse().expect("a name"),
        kind,
        bailiwick: Some("b".parse().expect("a name")),
        data: vec![data.into()],
    }
}

fn seen(first: u64, last: u64, count: u64) -> Seen {
    Seen { first, last, count }
}

fn add(store: &Store, sets: &[(Rrset, Seen)]) -> u64 {
    let keys: Vec<_> = sets.iter().map(|(set, seen)| (set.key(), *seen)).collect();
    let keys = keys
        .iter()
        .map(|((key, body), seen)| (&key[..], &body[..], *seen));
    let sightings: Vec<_> = keys.collect();
    store
        .add(&sightings, None, &mut |_, _| {})
        .expect("written")
}

fn all(store: &Store) -> Vec<(Rrset, Seen)> {
    store.rrsets(&[]).map(|item| item.expect("sound")).collect()
}

#[test]
fn sightings_are_added_up_also_those_of_long_data() {
    let folder = tempfile::tempdir().expect("a folder");
    let (short, long) = (set("a.b", 1, &[1, 2, 3, 4]), set("a.b", 16, &[7; 5000]));
    let store = Store::create(folder.path()).expect("a store");
    let once = [
        (short.clone(), seen(5, 9, 2)),
        (long.clone(), seen(6, 6, 1)),
    ];
    assert_eq!(add(&store, &once), 2);
    assert_eq!(
        add(
            &store,
            &[
                (short.clone(), seen(3, 7, 4)),
                (long.clone(), seen(8, 8, 1))
            ]
        ),
        0
    );
    drop(store);
    let store = Store::open(folder.path()).expect("the store");
    assert_eq!(all(&store), [(short, seen(3, 9, 6)), (long, seen(6, 8, 2))]);
    let stats = store.stats().expect("read");
    assert_eq!((stats.rrsets, stats.count, stats.owners), (2, 8, 1));
    assert_eq!((stats.first, stats.last), (Some(3), Some(9)));
}

/// The records are none of the type that is asked for, so only the check of each entry can stop it.
#[test]
fn a_query_that_nobody_wants_stops_although_it_finds_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::create(folder.path()).expect("a store");
    let sets: Vec<_> = (0..100)
        .map(|last| (set("a.b", 1, &[192, 0, 2, last]), seen(1, 1, 1)))
        .collect();
    add(&store, &sets);
    let addresses = crate::addresses("192.0.2.0/24").expect("a network");
    for what in [
        What::Address(addresses),
        What::Owner("a.b".parse().map(Names::Exactly).expect("a name")),
    ] {
        let query = Query {
            what,
            kinds: Kinds::These(vec![16]),
            bailiwick: None,
            fence: Fence::default(),
        };
        let looked = std::cell::Cell::new(0);
        let wanted = || {
            looked.set(looked.get() + 1);
            looked.get() < 10
        };
        assert_eq!(store.ask_while(&query, wanted).count(), 0);
        assert_eq!(looked.get(), 10);
    }
}

#[test]
fn what_is_no_store_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let absent = folder.path().join("absent");
    assert!(matches!(Store::open(&absent), Err(StoreError::None(_))));
    assert!(!absent.exists());
    fs::write(folder.path().join("lock"), "mine").expect("written");
    fs::write(folder.path().join("other"), "mine").expect("written");
    assert!(matches!(
        Store::create(folder.path()),
        Err(StoreError::Foreign(_))
    ));
    assert!(matches!(
        Store::open(folder.path()),
        Err(StoreError::Foreign(_))
    ));
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 2);
}

#[test]
fn a_store_that_was_never_finished_is_begun_again() {
    let folder = tempfile::tempdir().expect("a folder");
    File::create(folder.path().join("lock")).expect("made");
    File::create(folder.path().join("0.jnl")).expect("made");
    Store::create(folder.path()).expect("a store");
}

#[test]
fn only_one_has_the_store_open() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::create(folder.path()).expect("a store");
    let error = Store::open(folder.path()).err().expect("refused");
    assert!(matches!(error, StoreError::InUse(_)), "{error}");
    assert!(matches!(
        Store::create(folder.path()),
        Err(StoreError::InUse(_))
    ));
    drop(store);
    Store::open(folder.path()).expect("the store");
}

#[test]
fn merging_is_commutative_and_idempotent() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| Store::create(&folder.path().join(name)).expect("a store");
    let (one, other) = (at("one"), at("other"));
    let (x, y, z) = (
        set("x.b", 1, &[1; 4]),
        set("y.b", 1, &[2; 4]),
        set("z.b", 1, &[3; 4]),
    );
    add(
        &one,
        &[(x.clone(), seen(5, 9, 2)), (y.clone(), seen(1, 1, 1))],
    );
    add(
        &other,
        &[(x.clone(), seen(2, 7, 10)), (z.clone(), seen(4, 4, 4))],
    );
    let merge = |from: &Store, into: &Store| {
        let sightings: Result<Vec<_>, _> = from.sightings().expect("read").collect();
        into.merge(&sightings.expect("sound")).expect("merged");
    };
    let truth = vec![(x, seen(2, 9, 12)), (y, seen(1, 1, 1)), (z, seen(4, 4, 4))];
    let (left, right) = (at("left"), at("right"));
    for into in [&left, &right] {
        for _ in 0..2 {
            merge(&one, into);
            merge(&other, into);
        }
        assert_eq!(all(into), truth);
    }
    // The data takes a detour, and returns to where it came from.
    merge(&left, &right);
    merge(&left, &one);
    merge(&one, &other);
    for into in [&right, &one, &other] {
        assert_eq!(all(into), truth);
    }
}

#[test]
fn what_is_old_goes_and_the_index_with_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::create(folder.path()).expect("a store");
    let (old, new) = (10_000, 90_000);
    let shared = set("a.b", 2, b"\x02ns\x01b\0");
    let mut other_zone = shared.clone();
    other_zone.bailiwick = Some("a.b".parse().expect("a name"));
    let gone = set("gone.b", 2, b"\x04gone\x01b\0");
    add(
        &store,
        &[
            (shared, seen(old, old, 1)),
            (other_zone.clone(), seen(old, new, 2)),
            (gone, seen(old, old, 1)),
            (set("c.b", 1, &[1, 2, 3, 4]), seen(old, old, 1)),
        ],
    );
    let before = store.stats().expect("read").index;
    let retention = Retention {
        since: Some(old + 1),
        bytes: None,
    };
    assert_eq!(store.compact(retention).expect("done").rrsets, 3);
    assert_eq!(all(&store), [(other_zone, seen(old, new, 2))]);
    // Each NS RRset has three entries: one for the owner, and two for the name in its data. The A RRset had two, one of
    // them for the address.
    assert_eq!((before, store.stats().expect("read").index), (3 + 3 + 2, 3));
}

/// Returns 20,000 RRsets of random data. Each is seen once, at the `time` of its number.
fn random_sets(time: impl Fn(u64) -> u64) -> Vec<(Rrset, Seen)> {
    let mut chance = 1_u64;
    let numbered = |nth| {
        chance = chance
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let data = chance.to_be_bytes().repeat(4);
        let time = time(nth);
        (set(&format!("a{nth}.b"), 16, &data), seen(time, time, 1))
    };
    (0..20_000).map(numbered).collect()
}

#[test]
fn a_store_becomes_as_small_as_it_has_to() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::create(folder.path()).expect("a store");
    add(&store, &random_sets(|nth| nth * 600));
    store.compact(Retention::default()).expect("done");
    let size = |store: &Store| {
        let stats = store.stats().expect("read");
        stats.bytes - stats.journal_bytes
    };
    let most = size(&store) / 2;
    let retention = Retention {
        since: None,
        bytes: Some(most),
    };
    store.compact(retention).expect("done");
    let left = all(&store);
    assert!(size(&store) <= most, "{} of {most}", size(&store));
    assert!((5_000..12_000).contains(&left.len()), "{}", left.len());
    // The latest RRsets stay.
    let oldest = left.iter().map(|(_, seen)| seen.last).min();
    assert!(
        oldest >= Some((20_000 - left.len() as u64) * 600),
        "{oldest:?}"
    );
}

#[test]
fn the_newest_hour_is_cut_by_the_second_and_never_as_a_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::create(folder.path()).expect("a store");
    add(&store, &random_sets(|nth| 7200 + nth / 10));
    store.compact(Retention::default()).expect("done");
    let stats = store.stats().expect("read");
    let most = (stats.bytes - stats.journal_bytes) * 9 / 10;
    let retention = Retention {
        since: None,
        bytes: Some(most),
    };
    store.compact(retention).expect("done");
    let left = all(&store);
    assert!((12_000..20_000).contains(&left.len()), "{}", left.len());
    let smallest = Retention {
        since: None,
        bytes: Some(1),
    };
    store.compact(smallest).expect("done");
    let left = all(&store);
    assert_eq!(left.len(), 10, "those of the newest second");
}

#[test]
fn what_may_be_a_store_is_not_cleared_away() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::create(folder.path()).expect("a store");
    add(&store, &[(set("a.b", 1, &[1; 4]), seen(1, 1, 1))]);
    drop(store);
    fs::remove_file(folder.path().join("version")).expect("removed");
    for opened in [Store::create(folder.path()), Store::open(folder.path())] {
        let error = opened.err().expect("refused");
        assert!(matches!(error, StoreError::Damaged(..)), "{error}");
        assert!(error.to_string().contains("`version`"), "{error}");
    }
    assert!(folder.path().join("0.jnl").exists());
    let other = tempfile::tempdir().expect("a folder");
    fs::write(other.path().join("lock"), "mine").expect("written");
    assert!(matches!(
        Store::create(other.path()),
        Err(StoreError::Foreign(_))
    ));
    assert!(other.path().join("lock").exists());
}

#[test]
fn a_damaged_store_is_called_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::create(folder.path()).expect("a store");
    let sets: Vec<_> = (0..5_000)
        .map(|nth| (set(&format!("a{nth}.b"), 16, &[7; 100]), seen(nth, nth, 1)))
        .collect();
    add(&store, &sets);
    store.compact(Retention::default()).expect("done");
    drop(store);
    let mut files = Vec::new();
    let mut folders = vec![folder.path().to_path_buf()];
    while let Some(folder) = folders.pop() {
        for file in fs::read_dir(folder).expect("a folder") {
            let path = file.expect("a file").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(path);
            }
        }
    }
    let largest = files
        .iter()
        .max_by_key(|path| fs::metadata(path).expect("there").len());
    let largest = files
        .iter()
        .filter(|path| path.extension().is_none())
        .max_by_key(|path| fs::metadata(path).expect("there").len())
        .or(largest)
        .expect("a file");
    let mut bytes = fs::read(largest).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(largest, bytes).expect("written");
    let read = Store::open(folder.path()).and_then(|store| store.stats());
    let error = read.expect_err("refused");
    assert!(matches!(error, StoreError::Damaged(..)), "{error}");
    fs::write(folder.path().join(check::COMPLETE), "").expect("written");
    let error = Store::open(folder.path()).err().expect("refused");
    assert!(matches!(error, StoreError::Damaged(..)), "{error}");
}

/// The loss of a part must be reported: fjall would create the part again, empty.
#[test]
fn a_store_that_has_lost_a_part_is_called_damaged() {
    let lose = |part: &str| {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::create(folder.path()).expect("a store");
        add(&store, &[(set("a.b", 1, &[1, 2, 3, 4]), seen(1, 1, 1))]);
        drop(store);
        Store::open(folder.path()).expect("the store");
        let path = folder.path().join(part);
        if path.is_dir() {
            fs::remove_dir_all(path).expect("removed");
        } else {
            fs::remove_file(path).expect("removed");
        }
        for done in [Store::open(folder.path()), Store::create(folder.path())] {
            let error = done.err().expect(part);
            assert!(matches!(error, StoreError::Damaged(..)), "{part}: {error}");
        }
    };
    let parts = [
        "keyspaces",
        "0.jnl",
        "keyspaces/0",
        "keyspaces/1",
        "keyspaces/2",
        "keyspaces/3",
        "keyspaces/0/current",
        "keyspaces/1/current",
    ];
    parts.into_iter().for_each(lose);
}

/// The process died between `version` and the first write, so no data can be missing.
#[test]
fn a_store_in_which_nothing_was_written_is_made_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = tempfile::tempdir().expect("a folder");
    drop(Store::create(whole.path()).expect("a store"));
    fs::create_dir(folder.path().join("keyspaces")).expect("made");
    fs::write(folder.path().join("0.jnl"), [0; 64]).expect("written");
    File::create(folder.path().join("lock")).expect("made");
    fs::copy(
        whole.path().join(check::COMPLETE),
        folder.path().join(check::COMPLETE),
    )
    .expect("copied");
    Store::open(folder.path()).expect("a store");
}

#[test]
fn what_cannot_be_looked_at_is_not_called_absent() {
    let folder = tempfile::tempdir().expect("a folder");
    // A link to itself is an error for root as well. A lack of permission would not be one.
    let circle = folder.path().join("circle");
    std::os::unix::fs::symlink("circle", &circle).expect("made");
    for done in [Store::open(&circle), Store::create(&circle)] {
        let error = done.err().expect("refused");
        assert!(matches!(error, StoreError::Io(..)), "{error}");
    }
}

#[test]
fn origins_have_numbers_of_their_own_over_many_merges() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::create(folder.path()).expect("a store");
    let sighting = |nth: u8| (set("a.b", 1, &[1; 4]), seen(1, 1, 1), [nth; 16]);
    let sightings: Vec<_> = (1..=60).map(sighting).collect();
    for part in sightings.chunks(25).chain(sightings.chunks(7)) {
        store.merge(part).expect("merged");
    }
    let mine = (set("a.b", 1, &[1; 4]), seen(1, 1, 5), store.id());
    store.merge(&[mine]).expect("merged");
    assert_eq!(all(&store), [(set("a.b", 1, &[1; 4]), seen(1, 1, 65))]);
    assert_eq!(store.origins().expect("read").len(), 60);
}

/// An earlier version read all origins again for each new one: 20,000 of them took minutes.
#[test]
fn as_many_origins_as_lines_are_merged_soon() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::create(folder.path()).expect("a store");
    let sighting = |nth: u128| (set("a.b", 1, &[1; 4]), seen(1, 1, 1), nth.to_be_bytes());
    let sightings: Vec<_> = (1..=20_000).map(sighting).collect();
    let start = std::time::Instant::now();
    for part in sightings.chunks(10_000) {
        store.merge(part).expect("merged");
    }
    let took = start.elapsed();
    assert!(took.as_secs() < 10, "{took:?}");
    assert_eq!(all(&store)[0].1.count, 20_000);
}

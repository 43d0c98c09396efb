use dnstap_proto::message::Type;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    Fence, Kinds, Names, Query, What,
    message::fixture::{Rr, message, wire},
};

const SERVER: [u8; 4] = [192, 0, 2, 53];

fn collector(folder: &tempfile::TempDir) -> Collector {
    let store = Store::create(folder.path()).expect("a store");
    let options = Options {
        memory: 4 << 20,
        pairing: Pairing::ByWriter,
        roots: vec![SERVER.into()],
    };
    Collector::new(store, &options)
}

fn frame(zone: Option<&str>, question: &str, sections: [&[Rr<'_>]; 3]) -> Dnstap {
    let message = Message {
        r#type: Type::ResolverResponse.into(),
        response_time_sec: Some(1000),
        response_message: Some(message(1, 0x8400, (question, 1), sections).into()),
        response_address: Some(SERVER.to_vec().into()),
        query_zone: zone.map(|zone| wire(zone).into()),
        ..Message::default()
    };
    Dnstap {
        message: Some(message),
        ..Dnstap::default()
    }
}

/// Returns the owner and the bailiwick of each RRset in the store.
fn stored(collector: &mut Collector) -> Vec<(String, String)> {
    collector.write(None, &mut |_, _| {}).expect("written");
    let sets = collector.store().rrsets(&[]);
    let named = |(set, _): (Rrset, Seen)| {
        (
            set.owner.to_string(),
            set.bailiwick.expect("known").to_string(),
        )
    };
    sets.map(|item| named(item.expect("sound"))).collect()
}

#[test]
fn what_is_in_the_zone_of_the_frame_is_kept_and_all_else_left_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut collector = collector(&folder);
    let a: &[u8] = &[192, 0, 2, 1];
    let ns = wire("ns.example.org");
    collector.take(&frame(
        Some("example.com"),
        "www.example.com",
        [
            &[("www.example.com", 1, a), ("bank.test", 1, a)],
            &[("example.com", 2, &ns), ("com", 2, &ns)],
            &[("ns.example.org", 1, a), ("a.badexample.com", 1, a)],
        ],
    ));
    let expected = [
        ("example.com.", "example.com."),
        ("www.example.com.", "example.com."),
    ];
    let expected = expected.map(|(owner, zone)| (owner.to_owned(), zone.to_owned()));
    assert_eq!(stored(&mut collector), expected);
    let counts = collector.counts();
    assert_eq!((counts.responses, counts.rrsets, counts.stored), (1, 6, 2));
    assert_eq!(counts.discarded(Discard::OutOfBailiwick), 4);
    assert!(counts.are_balanced());
    // The question cannot be in this zone.
    collector.take(&frame(
        Some("bank.test"),
        "www.example.com",
        [&[("bank.test", 1, a)], &[], &[]],
    ));
    assert_eq!(collector.counts().discarded(Discard::WrongZone), 1);
    assert_eq!(stored(&mut collector).len(), 2);
}

#[test]
fn a_delegation_is_kept_for_parent_and_child_apart() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut collector = collector(&folder);
    let ns = wire("ns.example.com");
    let referral: [&[Rr<'_>]; 3] = [&[], &[("example.com", 2, &ns)], &[]];
    collector.take(&frame(Some("com"), "www.example.com", referral));
    let own: [&[Rr<'_>]; 3] = [&[("example.com", 2, &ns)], &[], &[]];
    collector.take(&frame(Some("example.com"), "example.com", own));
    let expected = [("example.com.", "com."), ("example.com.", "example.com.")];
    let expected = expected.map(|(owner, zone)| (owner.to_owned(), zone.to_owned()));
    assert_eq!(stored(&mut collector), expected);
}

#[test]
fn without_a_zone_the_servers_that_were_delegated_to_decide() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut collector = collector(&folder);
    let (a, ns): (&[u8], _) = (&[192, 0, 2, 7], wire("ns.com"));
    let from = |server: [u8; 4], sections: [&[Rr<'_>]; 3]| {
        let mut frame = frame(None, "www.com", sections);
        let message = frame.message.as_mut().expect("a message");
        message.response_address = Some(server.to_vec().into());
        frame
    };
    let answer: [&[Rr<'_>]; 3] = [&[("www.com", 1, a)], &[], &[("www.org", 1, a)]];
    // No delegation has shown yet that this server serves com.
    collector.take(&from([192, 0, 2, 7], answer));
    collector.take(&from(
        SERVER,
        [&[], &[("com", 2, &ns)], &[("ns.com", 1, a)]],
    ));
    collector.take(&from([192, 0, 2, 7], answer));
    let expected = [("com.", "."), ("ns.com.", "."), ("www.com.", "com.")];
    let expected = expected.map(|(owner, zone)| (owner.to_owned(), zone.to_owned()));
    assert_eq!(stored(&mut collector), expected);
    assert_eq!(collector.counts().discarded(Discard::UnknownServer), 3);
}

#[test]
fn no_address_of_a_peer_is_in_the_store() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut collector = collector(&folder);
    let mut frame = frame(Some("b"), "a.b", [&[("a.b", 16, b"\x04text")], &[], &[]]);
    let message = frame.message.as_mut().expect("a message");
    let (client, server) = ([203, 0, 113, 77], [198, 51, 100, 88]);
    message.query_address = Some(client.to_vec().into());
    message.response_address = Some(server.to_vec().into());
    collector.take(&frame);
    assert_eq!(stored(&mut collector).len(), 1);
    drop(collector);
    let mut folders = vec![folder.path().to_path_buf()];
    while let Some(folder) = folders.pop() {
        for file in std::fs::read_dir(folder).expect("a folder") {
            let path = file.expect("a file").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).expect("read");
            for address in [client, server] {
                assert!(
                    !bytes.windows(4).any(|window| window == address),
                    "{path:?}"
                );
            }
        }
    }
}

#[test]
fn a_set_that_is_in_several_sections_counts_once_for_a_response() {
    let folder = tempfile::tempdir().expect("a folder");
    let (one, two) = (("a.b", 1, &[1; 4][..]), ("a.b", 1, &[2; 4][..]));
    let mut collector = collector(&folder);
    collector.take(&frame(Some("b"), "a.b", [&[one, two], &[one], &[one, two]]));
    collector.write(None, &mut |_, _| {}).expect("written");
    let sets = collector.store().rrsets(&[]);
    let counts: Vec<_> = sets
        .map(|set| set.expect("read"))
        .map(|(set, seen)| (set.data.len(), seen.count))
        .collect();
    assert_eq!(counts, [(1, 1), (2, 1)]);
}

#[test]
fn the_same_place_in_a_file_is_not_written_twice() {
    let folder = tempfile::tempdir().expect("a folder");
    let frame = frame(Some("b"), "a.b", [&[("a.b", 1, &[1, 2, 3, 4])], &[], &[]]);
    let mark = Mark {
        first: [1; 32],
        frames: 5,
        digest: [2; 32],
    };
    let mut collector = collector(&folder);
    for _ in 0..5 {
        collector.take(&frame);
    }
    let mut new = Vec::new();
    collector
        .write(Some(&mark), &mut |set, seen| {
            new.push((set.owner.to_string(), seen.count));
        })
        .expect("written");
    assert_eq!(new, [("a.b.".to_owned(), 5)]);
    drop(collector);
    let store = Store::open(folder.path()).expect("the store");
    assert_eq!(store.mark([1; 32]).expect("read"), Some(mark));
    assert_eq!(store.mark([3; 32]).expect("read"), None);
    let seen: Vec<_> = store
        .rrsets(&[])
        .map(|item| item.expect("sound").1.count)
        .collect();
    assert_eq!(seen, [5]);
}

#[test]
fn it_is_told_why_nearly_all_responses_are_left_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut collector = collector(&folder);
    let a: &[u8] = &[192, 0, 2, 1];
    let sound = frame(Some("b"), "a.b", [&[("a.b", 1, a)], &[], &[]]);
    let mut stranger = frame(None, "a.b", [&[("a.b", 1, a)], &[], &[]]);
    let mut forwarded = sound.clone();
    let message = stranger.message.as_mut().expect("a message");
    message.response_address = Some(vec![192, 0, 2, 99].into());
    let message = forwarded.message.as_mut().expect("a message");
    message.r#type = Type::ForwarderResponse.into();
    let why = |collector: &Collector, least| {
        let told = collector.counts().nearly_all_left_out(least);
        told.map(|(why, _)| why)
    };
    assert_eq!(why(&collector, 0), None);
    for _ in 0..19 {
        collector.take(&stranger);
    }
    assert_eq!(why(&collector, 20), None, "too few");
    collector.take(&sound);
    assert_eq!(why(&collector, 20), Some(Discard::UnknownServer), "95 %");
    collector.take(&sound);
    assert_eq!(why(&collector, 20), None, "less");
    for _ in 0..40 {
        collector.take(&forwarded);
    }
    assert_eq!(why(&collector, 20), Some(Discard::Forwarder));
}

/// A hundred thousand RRsets come from attackers: from unknown servers, and from the servers of a zone that was
/// delegated to them. They claim names, name servers and addresses of other zones, so that later claims might be
/// accepted. Only the attackers' own zone is stored.
#[test]
fn no_server_gets_anything_in_that_is_not_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut collector = collector(&folder);
    let (evil, address): (_, &[u8]) = (wire("ns.evil.com"), &[192, 0, 2, 66]);
    let mut delegation = frame(
        None,
        "www.evil.com",
        [
            &[],
            &[("evil.com", 2, &evil)],
            &[("ns.evil.com", 1, address)],
        ],
    );
    let from = |frame: &mut Dnstap, server: &[u8]| {
        let message = frame.message.as_mut().expect("a message");
        message.response_address = Some(server.to_vec().into());
    };
    from(&mut delegation, &SERVER);
    collector.take(&delegation);
    let mut chance = 7_u64;
    let mut below = |end: u64| {
        chance = chance
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((chance >> 33) % end).expect("small")
    };
    let victims = [
        ".",
        "com.",
        "bank.com.",
        "www.bank.com.",
        "ns.bank.com.",
        "notevil.com.",
        "org.",
    ];
    let mut own = 0;
    for _ in 0..5_000 {
        let is_stranger = below(2) == 0;
        let owners: Vec<String> = (0..20)
            .map(|_| match below(10) {
                0 => format!("n{}.evil.com.", below(1000)),
                _ => victims[below(victims.len() as u64)].to_owned(),
            })
            .collect();
        let mut sections: [Vec<Rr<'_>>; 3] = Default::default();
        for owner in &owners {
            let (kind, data): (u16, &[u8]) = match below(3) {
                0 => (2, &evil),
                1 => (1, address),
                _ => (1, &SERVER),
            };
            own += u64::from(!is_stranger && owner.ends_with(".evil.com."));
            sections[below(3)].push((owner, kind, data));
        }
        let [one, two, three] = &sections;
        let mut frame = frame(None, "www.evil.com", [one, two, three]);
        from(
            &mut frame,
            if is_stranger {
                &[203, 0, 113, 9]
            } else {
                address
            },
        );
        collector.take(&frame);
    }
    let stored = stored(&mut collector);
    assert!(
        own > 1_000 && stored.len() > 1_000,
        "{own} {}",
        stored.len()
    );
    for (owner, zone) in stored {
        let of_root = ["evil.com.", "ns.evil.com."].contains(&&*owner) && zone == ".";
        // The attackers' zone may also delegate zones below it to itself.
        let of_evil =
            owner.ends_with(".evil.com.") && (zone == "evil.com." || zone.ends_with(".evil.com."));
        assert!(of_root || of_evil, "{owner} on the word of {zone}");
    }
    assert!(collector.counts().discarded(Discard::UnknownServer) > 50_000);
}

/// Returns names of few labels, so that zones and owners often match.
fn name() -> impl Strategy<Value = String> {
    vec(
        prop::sample::select(vec!["a", "b", "aa", "bank", "com"]),
        0..4,
    )
    .prop_map(|labels| format!("{}.", labels.join(".")))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    /// A server may send RRsets with any owner, also with one that is not in its zone. All RRsets in its zone are
    /// stored, and no others.
    #[test]
    fn exactly_what_is_in_the_zone_is_stored(
        responses in vec((name(), vec((name(), 0..3_usize, any::<bool>()), 1..12)), 1..30),
    ) {
        let folder = tempfile::tempdir().expect("a folder");
        let mut collector = collector(&folder);
        let mut truth = std::collections::BTreeSet::new();
        let (a, ns) = ([192, 0, 2, 1], wire("ns.bank"));
        for (zone, records) in &responses {
            let mut sections: [Vec<Rr<'_>>; 3] = Default::default();
            for (owner, section, is_ns) in records {
                let (kind, data): (u16, &[u8]) = if *is_ns { (2, &ns) } else { (1, &a) };
                sections[*section].push((owner, kind, data));
                // This compares text, so that it does not depend on the code under test.
                if zone == "." || owner == zone || owner.ends_with(&format!(".{zone}")) {
                    truth.insert((owner.trim_start_matches('.').to_owned(), kind, zone.trim_start_matches('.').to_owned()));
                }
            }
            let [one, two, three] = &sections;
            let question = if zone == "." { "x.".to_owned() } else { format!("x.{zone}") };
            collector.take(&frame(Some(zone), &question, [one, two, three]));
        }
        collector.write(None, &mut |_, _| {}).expect("written");
        let named = |name: &Name| name.to_string().trim_start_matches('.').to_owned();
        let stored: std::collections::BTreeSet<_> = collector
            .store()
            .rrsets(&[])
            .map(|item| item.expect("sound").0)
            .map(|set| (named(&set.owner), set.kind, named(set.bailiwick.as_ref().expect("known"))))
            .collect();
        prop_assert_eq!(stored, truth);
        prop_assert!(collector.counts().are_balanced());
    }

    /// Every RRset is found by each query that matches it, and by no other.
    #[test]
    fn what_was_stored_is_found_by_owner_name_and_address(
        records in vec((name(), 0..4_usize, name(), 0..4_u8), 1..25),
    ) {
        let folder = tempfile::tempdir().expect("a folder");
        let mut collector = collector(&folder);
        for (owner, kind, target, last) in &records {
            let target = wire(target);
            let (kind, data) = match kind {
                0 => (1, vec![192, 0, 2, *last]),
                1 => (2, target),
                2 => (15, [&[0, *last][..], &target].concat()),
                _ => (16, vec![1, *last]),
            };
            collector.take(&frame(Some("."), owner, [&[(owner, kind, &data)], &[], &[]]));
        }
        collector.write(None, &mut |_, _| {}).expect("written");
        let store = collector.store();
        let all: Vec<_> = store.rrsets(&[]).map(|item| item.expect("sound")).collect();
        let ask = |what| {
            let query = Query { what, kinds: Kinds::Any, bailiwick: None, fence: Fence::default() };
            let answers: Result<Vec<_>, _> = store.ask(&query).collect();
            let mut answers: Vec<_> = answers
                .expect("sound")
                .into_iter()
                .map(|answer| (answer.set.owner, answer.set.kind, answer.set.data))
                .collect();
            answers.sort();
            answers
        };
        let truth = |is_meant: &dyn Fn(&Rrset) -> bool| {
            let sets = all.iter().map(|(set, _)| set.clone()).filter(is_meant);
            let mut sets: Vec<_> = sets.map(|set| (set.owner, set.kind, set.data)).collect();
            sets.sort();
            sets
        };
        for name in ["a.", "b.a.", "bank.", ".", "aa.com."] {
            let name: Name = name.parse().expect("a name");
            prop_assert_eq!(ask(What::Owner(Names::Exactly(name.clone()))), truth(&|set| set.owner == name));
            prop_assert_eq!(ask(What::Owner(Names::Below(name.clone()))), truth(&|set| set.owner.is_within(&name)));
            let start = format!("{}.", name.undotted());
            let begins = |other: &Name| name.labels() > 0 && other.to_string().starts_with(&start) && *other != name || name.labels() == 0 && other.labels() > 0;
            prop_assert_eq!(ask(What::Owner(Names::Beginning(name.clone()))), truth(&|set| begins(&set.owner)));
            let target = |set: &Rrset| {
                let wire = match set.kind { 2 => &set.data[0][..], 15 => &set.data[0][2..], _ => return None };
                Name::from_wire(wire)
            };
            prop_assert_eq!(ask(What::DataName(Names::Exactly(name.clone()))), truth(&|set| target(set).as_ref() == Some(&name)));
            prop_assert_eq!(ask(What::DataName(Names::Below(name.clone()))), truth(&|set| target(set).is_some_and(|target| target.is_within(&name))));
            prop_assert_eq!(ask(What::DataName(Names::Beginning(name.clone()))), truth(&|set| target(set).is_some_and(|target| begins(&target))));
        }
        let (from, to) = ([192, 0, 2, 1], [192, 0, 2, 2]);
        let in_range = |set: &Rrset| set.kind == 1 && *set.data[0] >= from[..] && *set.data[0] <= to[..];
        prop_assert_eq!(ask(What::Address(from.into()..=to.into())), truth(&in_range));
        for (set, _) in &all {
            let data = set.data[0].to_vec();
            prop_assert_eq!(ask(What::Data(data.clone())), truth(&|other| *other.data[0] == *data));
        }
    }
}

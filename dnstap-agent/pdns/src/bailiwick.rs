//! Owns the question which zone an RRset was taken for (its bailiwick), and whether the server could speak for it.
//!
//! **Exact**: the frame's `query_zone` is what the resolver itself had in mind. An RRset counts if its owner is that zone or below it.
//!
//! **Without `query_zone`**, the algorithm of "Passive DNS Hardening" and of ISC's technical report on the passive DNS architecture
//! (Edmonds 2012, section 2.4.1): is the server's address that of a name server of a zone in which the owner could be, and of which, from the
//! owner upwards, first? It knows only name servers and addresses from RRsets that passed the check themselves, and at the beginning
//! the servers of the root. So it needs to have seen the delegations; until then data is left out, never taken by mistake.

use std::{mem, net::IpAddr};

use foldhash::{HashMap, HashMapExt as _};

use crate::{
    message::Set,
    name::{labels, suffix},
    rdata::kind,
};

/// Names in each half of what is remembered.
const HALF: usize = 1 << 18;

/// Name servers of a zone, or addresses of a server, that are remembered.
const MOST: usize = 64;

/// Addresses of the root's servers (IANA, root hints of 2023-11-27).
pub const ROOT_SERVERS: [&str; 26] = [
    "198.41.0.4",
    "170.247.170.2",
    "192.33.4.12",
    "199.7.91.13",
    "192.203.230.10",
    "192.5.5.241",
    "192.112.36.4",
    "198.97.190.53",
    "192.36.148.17",
    "192.58.128.30",
    "193.0.14.129",
    "199.7.83.42",
    "202.12.27.33",
    "2001:503:ba3e::2:30",
    "2801:1b8:10::b",
    "2001:500:2::c",
    "2001:500:2d::d",
    "2001:500:a8::e",
    "2001:500:2f::f",
    "2001:500:12::d0d",
    "2001:500:1::53",
    "2001:7fe::53",
    "2001:503:c27::2:30",
    "2001:7fd::1",
    "2001:500:9f::42",
    "2001:dc3::35",
];

/// Which addresses serve which zones, as far as it is known.
#[derive(Debug)]
pub(crate) struct Servers {
    roots: Vec<IpAddr>,
    known: Halves,
}

/// What was seen of names: name servers of zones, addresses of servers. When it is full, what was not used since it was half full is
/// forgotten.
#[derive(Debug, Default)]
struct Halves {
    new: Half,
    old: Half,
}

type Half = HashMap<Box<[u8]>, Known>;

#[derive(Debug, Clone, Default)]
struct Known {
    servers: Vec<Box<[u8]>>,
    addresses: Vec<IpAddr>,
}

impl Servers {
    /// That knows the root's servers alone; those of the real root if none are given.
    pub(crate) fn new(roots: &[IpAddr]) -> Self {
        let roots = if roots.is_empty() {
            ROOT_SERVERS
                .iter()
                .filter_map(|text| text.parse().ok())
                .collect()
        } else {
            roots.to_vec()
        };
        Self {
            roots,
            known: Halves {
                new: Half::new(),
                old: Half::new(),
            },
        }
    }

    /// Labels of the zone of the owner that the server at this address serves, the closest one.
    pub(crate) fn zone_of(&mut self, owner: &[u8], server: IpAddr) -> Option<usize> {
        let count = labels(owner).count();
        (0..=count)
            .rev()
            .find(|&labels| self.serves(suffix(owner, labels), server))
    }

    fn serves(&mut self, zone: &[u8], server: IpAddr) -> bool {
        if zone == [0] && self.roots.contains(&server) {
            return true;
        }
        let Some(known) = self.known.get(zone) else {
            return false;
        };
        let servers = known.servers.clone();
        servers.iter().any(|name| {
            let known = self.known.get(name);
            known.is_some_and(|known| known.addresses.contains(&server))
        })
    }

    /// Remembers what an RRset that passed says of servers.
    pub(crate) fn learn(&mut self, set: Set<'_>) {
        match set.kind() {
            kind::NS => {
                let servers = set.data().take(MOST).map(Box::from).collect();
                self.known
                    .change(set.owner(), |known| known.servers = servers);
            }
            kind::A | kind::AAAA => {
                let is_v4 = set.kind() == kind::A;
                let addresses: Vec<_> = set.data().take(MOST).filter_map(address).collect();
                self.known.change(set.owner(), |known| {
                    known.addresses.retain(|address| address.is_ipv4() != is_v4);
                    known.addresses.extend(addresses);
                });
            }
            _ => {}
        }
    }
}

impl Halves {
    fn get(&mut self, name: &[u8]) -> Option<&Known> {
        if !self.new.contains_key(name) {
            let (name, known) = self.old.remove_entry(name)?;
            self.insert(name, known);
        }
        self.new.get(name)
    }

    fn change(&mut self, name: &[u8], change: impl FnOnce(&mut Known)) {
        let mut known = self.get(name).cloned().unwrap_or_default();
        change(&mut known);
        self.insert(name.into(), known);
    }

    fn insert(&mut self, name: Box<[u8]>, known: Known) {
        if self.new.len() >= HALF {
            self.old = mem::take(&mut self.new);
        }
        self.new.insert(name, known);
    }
}

/// The address in the bytes of a record or of a frame.
pub(crate) fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use dnstap_core::dns::Dns;

    use super::*;
    use crate::message::{
        Records,
        fixture::{Rr, message, wire},
    };

    fn learn(servers: &mut Servers, records: &[Rr<'_>]) {
        let message = message(1, 0x8400, (".", 2), [records, &[], &[]]);
        let mut read = Records::default();
        read.read(Dns::parse(&message).expect("a header"))
            .expect("sound");
        read.sets().for_each(|set| servers.learn(set));
    }

    #[test]
    fn the_closest_zone_that_the_server_serves_is_found_and_none_for_strangers() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let mut servers = Servers::new(&[ip("192.0.2.1")]);
        let (com, example) = (wire("ns.com"), wire("ns.example.com"));
        learn(
            &mut servers,
            &[
                ("com", 2, &com),
                ("ns.com", 1, &[192, 0, 2, 2]),
                ("example.com", 2, &example),
                ("ns.example.com", 1, &[192, 0, 2, 3]),
            ],
        );
        let www = wire("www.example.com");
        for (server, zone) in [
            ("192.0.2.1", Some(0)),
            ("192.0.2.2", Some(1)),
            ("192.0.2.3", Some(2)),
            ("192.0.2.4", None),
        ] {
            assert_eq!(servers.zone_of(&www, ip(server)), zone, "{server}");
        }
        // The server of one zone says nothing of another.
        assert_eq!(servers.zone_of(&wire("www.org"), ip("192.0.2.3")), None);
        // A name server that has moved.
        learn(&mut servers, &[("ns.example.com", 1, &[192, 0, 2, 9])]);
        assert_eq!(servers.zone_of(&www, ip("192.0.2.3")), None);
        assert_eq!(servers.zone_of(&www, ip("192.0.2.9")), Some(2));
    }

    #[test]
    fn what_is_known_is_bounded_and_what_is_used_stays() {
        let mut halves = Halves::default();
        halves.change(b"used", |_| {});
        for nth in 0..3 * HALF {
            halves.change(&nth.to_be_bytes(), |_| {});
            if nth % 1000 == 0 {
                assert!(halves.get(b"used").is_some(), "{nth}");
            }
        }
        assert!(halves.new.len() + halves.old.len() <= 2 * HALF);
    }
}

//! Finds the zone that vouches for an RRset (its bailiwick), and checks that the server can speak for that zone.
//!
//! **Exact**: the frame's `query_zone` is the zone that the resolver itself assumed. An RRset counts if its owner is
//! that zone or below it.
//!
//! **Without `query_zone`**: the algorithm of "Passive DNS Hardening" and of ISC's technical report on the passive DNS
//! architecture (Edmonds 2012, section 2.4.1). It goes from the owner up to the root, and takes the first zone that has
//! a name server with the server's address. It knows name servers and addresses only from RRsets that passed this check
//! themselves, and at the beginning only the root servers. So it must first see the delegations. Until then it discards
//! RRsets, and never accepts one by mistake.

use std::{mem, net::IpAddr};

use foldhash::HashMap;

use crate::{
    accept::Discard,
    message::Set,
    name::{labels, suffix},
    rdata::kind,
};

/// Memory limit of each half of `Halves`, in bytes.
const HALF: usize = 32 << 20;

/// Estimated bytes that a name needs besides its own bytes and its data: a slot in the map, and three allocations.
const OVERHEAD: usize = 160;

/// Largest number of name servers that are remembered for a zone, and of addresses for a server in each family.
const MOST: usize = 16;

/// Largest number of names that are looked up for one message. A referral from the root with all its glue needs
/// about 500 lookups.
const LOOK_UPS: usize = 8192;

/// Addresses of the root servers (IANA, root hints of 2023-11-27).
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

/// Zones and the addresses of their servers, as far as they are known.
#[derive(Debug)]
pub(crate) struct Servers {
    roots: Vec<IpAddr>,
    known: Halves,
}

/// Name servers of zones and addresses of servers, in two halves. When the new half is full, it replaces the old half,
/// and the names in the old half are forgotten. A name that is used moves to the new half.
#[derive(Debug)]
struct Halves {
    new: Half,
    old: Half,
    /// Memory limit of each half, in bytes.
    limit: usize,
}

#[derive(Debug, Default)]
struct Half {
    names: HashMap<Box<[u8]>, Known>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Known {
    servers: Vec<Box<[u8]>>,
    addresses: Vec<IpAddr>,
}

/// Number of names that may still be looked up for a message. The limit is needed because an attacker's name can have
/// many labels, and each of its zones many servers.
#[derive(Debug)]
pub(crate) struct Budget(usize);

impl Budget {
    /// Returns the budget of a new message.
    pub(crate) fn new() -> Self {
        Self(LOOK_UPS)
    }

    fn spend(&mut self) -> Result<(), Discard> {
        self.0 = self.0.checked_sub(1).ok_or(Discard::TooCostly)?;
        Ok(())
    }
}

impl Servers {
    /// Knows only the root servers at these addresses. If there are none, it knows the real root servers.
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
            known: Halves::new(HALF),
        }
    }

    /// Returns the number of labels of the closest zone of the owner that the server at this address serves. Fails with
    /// `UnknownServer` if there is none, and with `TooCostly` if the budget is used up.
    pub(crate) fn zone_of(
        &mut self,
        owner: &[u8],
        server: IpAddr,
        budget: &mut Budget,
    ) -> Result<usize, Discard> {
        for labels in (0..=labels(owner).count()).rev() {
            if self.serves(suffix(owner, labels), server, budget)? {
                return Ok(labels);
            }
        }
        Err(Discard::UnknownServer)
    }

    fn serves(
        &mut self,
        zone: &[u8],
        server: IpAddr,
        budget: &mut Budget,
    ) -> Result<bool, Discard> {
        if zone == [0] && self.roots.contains(&server) {
            return Ok(true);
        }
        budget.spend()?;
        self.known.renew(zone);
        let Some(known) = self.known.get(zone) else {
            return Ok(false);
        };
        for name in &known.servers {
            budget.spend()?;
            let of_server = self.known.get(name);
            if of_server.is_some_and(|known| known.addresses.contains(&server)) {
                if !self.known.new.names.contains_key(name) {
                    let name = name.clone();
                    self.known.renew(&name);
                }
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Remembers the name servers or addresses in an RRset that passed the check.
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
    fn new(limit: usize) -> Self {
        Self {
            new: Half::default(),
            old: Half::default(),
            limit,
        }
    }

    fn get(&self, name: &[u8]) -> Option<&Known> {
        let new = self.new.names.get(name);
        new.or_else(|| self.old.names.get(name))
    }

    /// Moves a name that was used to the new half.
    fn renew(&mut self, name: &[u8]) {
        if let Some((name, known)) = self.old.remove(name) {
            self.insert(name, known);
        }
    }

    fn change(&mut self, name: &[u8], change: impl FnOnce(&mut Known)) {
        let entry = self.new.remove(name).or_else(|| self.old.remove(name));
        let (name, mut known) = entry.unwrap_or_else(|| (name.into(), Known::default()));
        change(&mut known);
        self.insert(name, known);
    }

    /// Inserts a name that is in neither half.
    fn insert(&mut self, name: Box<[u8]>, known: Known) {
        let size = size(&name, &known);
        if self.new.bytes + size > self.limit {
            self.old = mem::take(&mut self.new);
        }
        self.new.bytes += size;
        self.new.names.insert(name, known);
    }
}

impl Half {
    fn remove(&mut self, name: &[u8]) -> Option<(Box<[u8]>, Known)> {
        let (name, known) = self.names.remove_entry(name)?;
        self.bytes -= size(&name, &known);
        Some((name, known))
    }
}

/// Returns the bytes that a name needs together with its data.
fn size(name: &[u8], known: &Known) -> usize {
    // Each name of a server is a separate allocation.
    let servers = known
        .servers
        .iter()
        .map(|server| server.len() + size_of::<Box<[u8]>>() + 16);
    let addresses = known.addresses.capacity() * size_of::<IpAddr>();
    OVERHEAD + name.len() + servers.sum::<usize>() + addresses
}

/// Returns the IP address in a record's data or in a frame's field; `None` if it has neither 4 nor 16 bytes.
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
            assert_eq!(zone_of(&mut servers, &www, ip(server)), zone, "{server}");
        }
        // The server of one zone does not speak for another zone.
        assert_eq!(
            zone_of(&mut servers, &wire("www.org"), ip("192.0.2.3")),
            None
        );
        // The name server gets another address.
        learn(&mut servers, &[("ns.example.com", 1, &[192, 0, 2, 9])]);
        assert_eq!(zone_of(&mut servers, &www, ip("192.0.2.3")), None);
        assert_eq!(zone_of(&mut servers, &www, ip("192.0.2.9")), Some(2));
    }

    #[test]
    fn what_is_known_is_bounded_in_bytes_and_what_is_used_stays() {
        const LIMIT: usize = 1 << 20;
        let mut halves = Halves::new(LIMIT);
        halves.change(b"used", |_| {});
        for nth in 0..5_000_usize {
            halves.change(&nth.to_be_bytes(), |known| {
                known.servers = vec![Box::from([0; 255]); MOST];
            });
            if nth % 100 == 0 {
                halves.renew(b"used");
                assert!(halves.get(b"used").is_some(), "{nth}");
            }
            for half in [&halves.new, &halves.old] {
                let sizes = half.names.iter().map(|(name, known)| size(name, known));
                assert_eq!(sizes.sum::<usize>(), half.bytes);
                // A lower bound that does not depend on `size`: 255 bytes for each server.
                let least = half.names.values().map(|known| known.servers.len() * 255);
                assert!(
                    half.bytes <= LIMIT && least.sum::<usize>() <= LIMIT,
                    "{nth}"
                );
            }
        }
        // A name that changes many times is counted once.
        let before = halves.new.bytes + halves.old.bytes;
        for _ in 0..10_000 {
            halves.change(b"used", |known| {
                known.servers = vec![Box::from([0; 255]); 3];
            });
        }
        assert!(halves.new.bytes + halves.old.bytes < before + 2_000);
        assert!(halves.new.names.len() + halves.old.names.len() > 200);
    }

    #[test]
    fn a_zone_has_sixteen_servers_at_most() {
        let mut servers = Servers::new(&[]);
        let names: Vec<_> = (10..60).map(|nth| wire(&format!("ns{nth}.com"))).collect();
        let records: Vec<Rr<'_>> = names.iter().map(|name| ("com", 2, &name[..])).collect();
        learn(&mut servers, &records);
        let known = servers.known.get(&wire("com")).expect("learnt");
        assert_eq!(known.servers.len(), 16);
    }

    /// 100 nested zones, each with 16 servers that have no address. An owner below all of them costs 1,700 lookups.
    #[test]
    fn a_message_has_a_budget_of_look_ups() {
        let mut servers = Servers::new(&[]);
        let targets: Vec<_> = (10..26).map(|nth| wire(&format!("ns{nth}.com"))).collect();
        let mut zone = "com".to_owned();
        for _ in 0..100 {
            zone = format!("a.{zone}");
            let records: Vec<Rr<'_>> = targets.iter().map(|name| (&*zone, 2, &name[..])).collect();
            learn(&mut servers, &records);
        }
        let (owner, stranger) = (wire(&zone), IpAddr::from([192, 0, 2, 1]));
        let mut budget = Budget::new();
        let mut found: Vec<_> = (0..8)
            .map(|_| servers.zone_of(&owner, stranger, &mut budget))
            .collect();
        found.dedup();
        assert_eq!(
            found,
            [Err(Discard::UnknownServer), Err(Discard::TooCostly)]
        );
        // The next message has its own budget.
        let found = servers.zone_of(&owner, stranger, &mut Budget::new());
        assert_eq!(found, Err(Discard::UnknownServer));
    }

    fn zone_of(servers: &mut Servers, owner: &[u8], server: IpAddr) -> Option<usize> {
        servers.zone_of(owner, server, &mut Budget::new()).ok()
    }
}

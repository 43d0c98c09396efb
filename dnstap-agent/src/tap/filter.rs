//! What the kernel side leaves out, from the options to its maps, before it starts and while it runs.

use std::{
    hash::{BuildHasher as _, RandomState},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU32,
    str::FromStr,
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{
        Array, MapData, MapError,
        lpm_trie::{Key, LpmTrie},
    },
};
use dnstap_ebpf::{
    FILTER_INITIATOR, FILTER_NETS, FILTER_PORTS, FILTER_RESPONDER, Filter, MAPPED_PREFIX,
    PORT_WORDS,
};

use super::take;
use crate::classify::Role;

/// What is delivered; the default is everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelFilter {
    /// Messages of which one port is among these; none: all.
    pub ports: Vec<u16>,
    /// Messages of peers in these; none: all.
    pub nets: Vec<Net>,
    /// Roles whose datagrams are left out.
    pub without: Vec<Role>,
    /// One exchange in so many.
    pub sample: Option<NonZeroU32>,
}

impl KernelFilter {
    /// The filter's part in the map `FILTER`.
    fn to_abi(&self, sample_seed: u32) -> Filter {
        let bit = |set: bool, bit: u32| if set { bit } else { 0 };
        Filter {
            kinds: bit(!self.ports.is_empty(), FILTER_PORTS)
                | bit(!self.nets.is_empty(), FILTER_NETS)
                | bit(self.without.contains(&Role::Responder), FILTER_RESPONDER)
                | bit(self.without.contains(&Role::Initiator), FILTER_INITIATOR),
            sample_below: match self.sample {
                None | Some(NonZeroU32::MIN) => 0,
                Some(one_in) => u32::MAX / one_in,
            },
            sample_seed,
        }
    }

    /// A bit for each port.
    fn port_words(&self) -> [u64; PORT_WORDS as usize] {
        let mut words = [0; PORT_WORDS as usize];
        for port in &self.ports {
            words[usize::from(port / 64)] |= 1 << (port % 64);
        }
        words
    }

    /// Networks, and whether they are wanted: those asked for, and all of IPv4, which lies within `::/0` but is not meant by
    /// it.
    fn net_entries(&self) -> Vec<(Net, u32)> {
        let all_of_ipv4 = Net {
            address: Ipv4Addr::UNSPECIFIED.to_ipv6_mapped(),
            prefix: MAPPED_PREFIX,
        };
        let mut entries: Vec<(Net, u32)> = Vec::new();
        for net in &self.nets {
            if !entries.contains(&(*net, 1)) {
                entries.push((*net, 1));
            }
        }
        if !self.nets.is_empty() && !self.nets.contains(&all_of_ipv4) {
            entries.push((all_of_ipv4, 0));
        }
        entries
    }
}

/// The maps of the kernel side's filter, and what is in them.
pub(super) struct FilterMaps {
    filter: Array<MapData, Filter>,
    ports: Array<MapData, u64>,
    nets: LpmTrie<MapData, [u8; 16], u32>,
    seed: u32,
    in_force: KernelFilter,
}

impl FilterMaps {
    /// The maps of the object, in which there is nothing.
    pub(super) fn of(ebpf: &mut Ebpf) -> Result<Self> {
        // The low half of the hash of nothing, which is random in each process.
        let [seed @ .., _, _, _, _] = RandomState::new().hash_one(()).to_ne_bytes();
        Ok(Self {
            filter: Array::try_from(take(ebpf, "FILTER")?)?,
            ports: Array::try_from(take(ebpf, "PORTS")?)?,
            nets: LpmTrie::try_from(take(ebpf, "NETS")?)?,
            seed: u32::from_ne_bytes(seed),
            in_force: KernelFilter::default(),
        })
    }

    /// Puts a filter in force. Whatever the one before and this one ask for is delivered meanwhile, too.
    pub(super) fn set(&mut self, new: &KernelFilter) -> Result<()> {
        self.try_set(new)
            .context("the kernel does not take the filters")?;
        self.in_force = new.clone();
        Ok(())
    }

    /// Wider first, then narrower: a filter that is new is filled before it is heeded, one that goes is emptied when it no longer is.
    fn try_set(&mut self, new: &KernelFilter) -> Result<(), MapError> {
        let (ports, nets) = (new.port_words(), new.net_entries());
        let (old_ports, old_nets) = (self.in_force.port_words(), self.in_force.net_entries());
        let words = || (0..).zip(old_ports.iter().zip(&ports));
        for (word, (old, new)) in words().filter(|(_, (old, new))| **new & !**old != 0) {
            self.ports.set(word, old | new, 0)?;
        }
        for (net, wanted) in nets.iter().filter(|entry| !old_nets.contains(entry)) {
            self.nets.insert(&net.key(), wanted, 0)?;
        }
        self.filter.set(0, new.to_abi(self.seed), 0)?;
        for (word, (_, new)) in words().filter(|(_, (old, new))| **old & !**new != 0) {
            self.ports.set(word, new, 0)?;
        }
        let kept = |net: &Net| nets.iter().any(|(other, _)| other == net);
        for (net, _) in old_nets.iter().filter(|(net, _)| !kept(net)) {
            self.nets.remove(&net.key())?;
        }
        Ok(())
    }
}

/// A subnet: `192.0.2.0/24`, `2001:db8::/32`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net {
    /// Its address; IPv4 in the IPv4-mapped form.
    address: Ipv6Addr,
    /// Bits of that which count.
    prefix: u32,
}

impl Net {
    fn key(&self) -> Key<[u8; 16]> {
        Key::new(self.prefix, self.address.octets())
    }

    /// Whether the address lies in it. `::/0` has no IPv4 addresses.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let (address, v4) = match address {
            IpAddr::V4(address) => (address.to_ipv6_mapped(), true),
            IpAddr::V6(address) => (address, false),
        };
        let mask = u128::MAX.checked_shl(128 - self.prefix).unwrap_or(0);
        (!v4 || self.prefix >= MAPPED_PREFIX)
            && (address.to_bits() ^ self.address.to_bits()) & mask == 0
    }
}

impl FromStr for Net {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("{text:?} is no subnet, such as 192.0.2.0/24 or 2001:db8::/32");
        let (address, prefix) = text
            .split_once('/')
            .map_or((text, None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.parse().map_err(|_invalid| wrong())?;
        let (address, before, bits) = match address {
            IpAddr::V4(address) => (address.to_ipv6_mapped(), MAPPED_PREFIX, 32),
            IpAddr::V6(address) => (address, 0, 128),
        };
        let prefix = match prefix {
            Some(prefix) => prefix
                .parse()
                .ok()
                .filter(|prefix| *prefix <= bits)
                .ok_or_else(wrong)?,
            None => bits,
        };
        let prefix = before + prefix;
        let mask = u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
        if address.to_bits() & !mask != 0 {
            return Err(format!("{text}: the address has bits behind the prefix"));
        }
        Ok(Self { address, prefix })
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("192.0.2.0/24", "192.0.2.255", true)]
    #[case("192.0.2.0/24", "192.0.3.0", false)]
    #[case("0.0.0.0/0", "198.51.100.1", true)]
    #[case("0.0.0.0/0", "2001:db8::1", false)]
    #[case("::/0", "2001:db8::1", true)]
    #[case("::/0", "192.0.2.1", false)]
    #[case("2001:db8::1", "2001:db8::1", true)]
    #[case("2001:db8::1", "2001:db8::2", false)]
    fn addresses_lie_in_subnets_of_their_family(
        #[case] net: Net,
        #[case] address: IpAddr,
        #[case] contained: bool,
    ) {
        assert_eq!(net.contains(address), contained);
    }

    #[rstest]
    #[case::ipv4("192.0.2.0/24", Some(("::ffff:192.0.2.0", 120)))]
    #[case::one_ipv4("192.0.2.1", Some(("::ffff:192.0.2.1", 128)))]
    #[case::all_ipv4("0.0.0.0/0", Some(("::ffff:0.0.0.0", 96)))]
    #[case::ipv6("2001:db8::/32", Some(("2001:db8::", 32)))]
    #[case::all_ipv6("::/0", Some(("::", 0)))]
    #[case::one_ipv6("::1", Some(("::1", 128)))]
    #[case::bits_behind("192.0.2.1/24", None)]
    #[case::too_long("192.0.2.0/33", None)]
    #[case::too_long_ipv6("::/129", None)]
    #[case::negative("192.0.2.0/-1", None)]
    #[case::nothing("", None)]
    #[case::no_prefix("192.0.2.0/", None)]
    #[case::name("localhost/8", None)]
    fn subnets_are_read_as_the_kernel_side_wants_them(
        #[case] text: &str,
        #[case] expected: Option<(&str, u32)>,
    ) {
        let expected = expected.map(|(address, prefix)| Net {
            address: address.parse().unwrap(),
            prefix,
        });
        assert_eq!(text.parse().ok(), expected);
    }

    #[test]
    fn each_filter_sets_its_part_and_no_other() {
        let none = KernelFilter::default().to_abi(7);
        assert_eq!((none.kinds, none.sample_below, none.sample_seed), (0, 0, 7));
        let filter = KernelFilter {
            ports: vec![53, 65_535],
            without: vec![Role::Initiator],
            sample: NonZeroU32::new(4),
            ..KernelFilter::default()
        };
        let abi = filter.to_abi(0);
        assert_eq!(abi.kinds, FILTER_PORTS | FILTER_INITIATOR);
        assert_eq!(abi.sample_below, u32::MAX / 4);
        let words = filter.port_words();
        assert_eq!((words[0], words[1_023]), (1 << 53, 1 << 63));
        assert_eq!(words.iter().map(|word| word.count_ones()).sum::<u32>(), 2);
        let all = KernelFilter {
            sample: NonZeroU32::new(1),
            ..KernelFilter::default()
        };
        assert_eq!(all.to_abi(0).sample_below, 0);
    }

    #[test]
    fn ipv4_is_unwanted_unless_asked_for() {
        let entries = |nets: &[&str]| -> Vec<_> {
            let nets = nets.iter().map(|net| net.parse().unwrap()).collect();
            let filter = KernelFilter {
                nets,
                ..KernelFilter::default()
            };
            let entries = filter.net_entries();
            entries.iter().map(|(net, is)| (net.prefix, *is)).collect()
        };
        assert_eq!(entries(&[]), []);
        assert_eq!(entries(&["::/0"]), [(0, 1), (96, 0)]);
        assert_eq!(entries(&["::/0", "0.0.0.0/0", "::/0"]), [(0, 1), (96, 1)]);
    }
}

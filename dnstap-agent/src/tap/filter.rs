//! What the kernel side leaves out, from the command line to its read-only data and maps.

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
        Array,
        lpm_trie::{Key, LpmTrie},
    },
};
use dnstap_ebpf::{
    Config, FILTER_INITIATOR, FILTER_NETS, FILTER_PORTS, FILTER_RESPONDER, MAPPED_PREFIX, MAX_NETS,
    PORT_WORDS,
};

use crate::classify::Role;

/// What is delivered; the default is everything.
#[derive(Clone, Debug, Default)]
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
    /// `config` with the filter's part.
    pub(super) fn configure(&self, config: Config) -> Config {
        let bit = |set: bool, bit: u32| if set { bit } else { 0 };
        // The low half of the hash of nothing, which is random in each process.
        let [seed @ .., _, _, _, _] = RandomState::new().hash_one(()).to_ne_bytes();
        Config {
            filters: bit(!self.ports.is_empty(), FILTER_PORTS)
                | bit(!self.nets.is_empty(), FILTER_NETS)
                | bit(self.without.contains(&Role::Responder), FILTER_RESPONDER)
                | bit(self.without.contains(&Role::Initiator), FILTER_INITIATOR),
            sample_below: match self.sample {
                None | Some(NonZeroU32::MIN) => 0,
                Some(one_in) => u32::MAX / one_in,
            },
            sample_seed: u32::from_ne_bytes(seed),
            ..config
        }
    }

    /// Fills the maps of the filters that there are.
    pub(super) fn fill(&self, ebpf: &mut Ebpf) -> Result<()> {
        if !self.ports.is_empty() {
            self.fill_ports(ebpf)?;
        }
        if !self.nets.is_empty() {
            self.fill_nets(ebpf)?;
        }
        Ok(())
    }

    fn fill_ports(&self, ebpf: &mut Ebpf) -> Result<()> {
        let mut ports: Array<_, u64> = map(ebpf, "PORTS")?;
        for (word, bits) in (0..).zip(self.port_words()).filter(|(_, bits)| *bits != 0) {
            ports.set(word, bits, 0).context("cannot set the ports")?;
        }
        Ok(())
    }

    fn fill_nets(&self, ebpf: &mut Ebpf) -> Result<()> {
        let mut nets: LpmTrie<_, [u8; 16], u32> = map(ebpf, "NETS")?;
        for (net, wanted) in self.net_entries() {
            nets.insert(&Key::new(net.prefix, net.address.octets()), wanted, 0)
                .with_context(|| {
                    format!(
                        "cannot set the subnets, of which there may be {}",
                        MAX_NETS - 1
                    )
                })?;
        }
        Ok(())
    }

    /// A bit for each port.
    fn port_words(&self) -> [u64; PORT_WORDS as usize] {
        let mut words = [0; PORT_WORDS as usize];
        for port in &self.ports {
            words[usize::from(port / 64)] |= 1 << (port % 64);
        }
        words
    }

    /// Networks, and whether they are wanted: those asked for, and before them all of IPv4, which lies within `::/0` but is
    /// not meant by it.
    fn net_entries(&self) -> impl Iterator<Item = (Net, u32)> + use<'_> {
        let all_of_ipv4 = Net {
            address: Ipv4Addr::UNSPECIFIED.to_ipv6_mapped(),
            prefix: MAPPED_PREFIX,
        };
        [(all_of_ipv4, 0)]
            .into_iter()
            .chain(self.nets.iter().map(|net| (*net, 1)))
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

/// A map of the object by its name; the object keeps it.
fn map<'e, M>(ebpf: &'e mut Ebpf, name: &str) -> Result<M>
where
    M: TryFrom<&'e mut aya::maps::Map, Error = aya::maps::MapError>,
{
    let map = ebpf
        .map_mut(name)
        .with_context(|| format!("the eBPF object has no map {name}"))?;
    M::try_from(map).with_context(|| format!("map {name} is not what it should be"))
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
        let none = KernelFilter::default().configure(Config::default());
        assert_eq!((none.filters, none.sample_below), (0, 0));
        let filter = KernelFilter {
            ports: vec![53, 65_535],
            without: vec![Role::Initiator],
            sample: NonZeroU32::new(4),
            ..KernelFilter::default()
        };
        let config = filter.configure(Config::default());
        assert_eq!(config.filters, FILTER_PORTS | FILTER_INITIATOR);
        assert_eq!(config.sample_below, u32::MAX / 4);
        let words = filter.port_words();
        assert_eq!((words[0], words[1_023]), (1 << 53, 1 << 63));
        assert_eq!(words.iter().map(|word| word.count_ones()).sum::<u32>(), 2);
        let all = KernelFilter {
            sample: NonZeroU32::new(1),
            ..KernelFilter::default()
        };
        assert_eq!(all.configure(Config::default()).sample_below, 0);
    }

    #[test]
    fn ipv4_is_unwanted_unless_asked_for() {
        let filter = KernelFilter {
            nets: vec!["::/0".parse().unwrap(), "0.0.0.0/0".parse().unwrap()],
            ..KernelFilter::default()
        };
        let entries: Vec<_> = filter
            .net_entries()
            .map(|(net, wanted)| (net.prefix, wanted))
            .collect();
        assert_eq!(
            entries,
            [(96, 0), (0, 1), (96, 1)],
            "the last of one net counts"
        );
    }
}

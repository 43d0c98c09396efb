//! The filter of the kernel side: converts options to its maps, at the start and while the tap
//! runs.

use std::{
    hash::{BuildHasher as _, RandomState},
    num::NonZeroU32,
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{
        Array, MapData, MapError,
        lpm_trie::{Key, LpmTrie},
    },
};
use dnstap_core::model::{Net, Role};
use dnstap_ebpf::{
    FILTER_INITIATOR, FILTER_NETS, FILTER_PORTS, FILTER_RESPONDER, Filter, PORT_WORDS,
};

use super::take;

/// Conditions for delivery; the default delivers everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelFilter {
    /// Ports, of which a message must have one; empty: any.
    pub ports: Vec<u16>,
    /// Subnets, one of which must contain the peer; empty: any.
    pub nets: Vec<Net>,
    /// Roles whose datagrams are left out.
    pub without: Vec<Role>,
    /// Sampling: one exchange in this many is delivered.
    pub sample: Option<NonZeroU32>,
}

impl KernelFilter {
    /// Returns the entry of the map `FILTER`.
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

    /// Returns a bitmap of the ports.
    fn port_words(&self) -> [u64; PORT_WORDS as usize] {
        let mut words = [0; PORT_WORDS as usize];
        for port in &self.ports {
            words[usize::from(port / 64)] |= 1 << (port % 64);
        }
        words
    }

    /// Returns subnets, each with 1 if it is wanted. The result may include all of IPv4 as
    /// unwanted, because in the map IPv4 lies within `::/0`, which is meant for IPv6 only.
    fn net_entries(&self) -> Vec<(Net, u32)> {
        let all_of_ipv4 = Net::ALL_OF_IPV4;
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

/// The maps of the kernel side's filter, and their content.
pub(super) struct FilterMaps {
    filter: Array<MapData, Filter>,
    ports: Array<MapData, u64>,
    nets: LpmTrie<MapData, [u8; 16], u32>,
    seed: u32,
    in_force: KernelFilter,
}

impl FilterMaps {
    /// Takes the maps of the object, which are empty.
    pub(super) fn of(ebpf: &mut Ebpf) -> Result<Self> {
        // Half of the hash of an empty value, which is random in each process.
        let [seed @ .., _, _, _, _] = RandomState::new().hash_one(()).to_ne_bytes();
        Ok(Self {
            filter: Array::try_from(take(ebpf, "FILTER")?)?,
            ports: Array::try_from(take(ebpf, "PORTS")?)?,
            nets: LpmTrie::try_from(take(ebpf, "NETS")?)?,
            seed: u32::from_ne_bytes(seed),
            in_force: KernelFilter::default(),
        })
    }

    /// Activates a filter. During the change, messages that either of the two filters accepts are
    /// delivered.
    pub(super) fn set(&mut self, new: &KernelFilter) -> Result<()> {
        self.try_set(new)
            .context("the kernel does not take the filters")?;
        self.in_force = new.clone();
        Ok(())
    }

    /// First widens the filter, then narrows it. A new condition is filled before it is switched
    /// on, and an old one is emptied after it is switched off.
    fn try_set(&mut self, new: &KernelFilter) -> Result<(), MapError> {
        let (ports, nets) = (new.port_words(), new.net_entries());
        let (old_ports, old_nets) = (self.in_force.port_words(), self.in_force.net_entries());
        let words = || (0..).zip(old_ports.iter().zip(&ports));
        for (word, (old, new)) in words().filter(|(_, (old, new))| **new & !**old != 0) {
            self.ports.set(word, old | new, 0)?;
        }
        for (net, wanted) in nets.iter().filter(|entry| !old_nets.contains(entry)) {
            self.nets.insert(&key(net), wanted, 0)?;
        }
        self.filter.set(0, new.to_abi(self.seed), 0)?;
        for (word, (_, new)) in words().filter(|(_, (old, new))| **old & !**new != 0) {
            self.ports.set(word, new, 0)?;
        }
        let kept = |net: &Net| nets.iter().any(|(other, _)| other == net);
        for (net, _) in old_nets.iter().filter(|(net, _)| !kept(net)) {
            self.nets.remove(&key(net))?;
        }
        Ok(())
    }
}

/// Converts a subnet to a key of the kernel side's table.
fn key(net: &Net) -> Key<[u8; 16]> {
    let (address, prefix) = net.mapped();
    Key::new(prefix, address.octets())
}

#[cfg(test)]
mod tests {
    use super::*;

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
            entries
                .iter()
                .map(|(net, is)| (net.mapped().1, *is))
                .collect()
        };
        assert_eq!(entries(&[]), []);
        assert_eq!(entries(&["::/0"]), [(0, 1), (96, 0)]);
        assert_eq!(entries(&["::/0", "0.0.0.0/0", "::/0"]), [(0, 1), (96, 1)]);
    }
}

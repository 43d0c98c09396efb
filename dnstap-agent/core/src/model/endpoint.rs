//! One end of an exchange: an address that may be unknown, and a port.

use std::net::IpAddr;

use dnstap_ebpf::{AF_INET, AF_INET6};

/// An address that may be unknown, and a port (0: unknown).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Endpoint {
    octets: [u8; 16],
    pub(crate) length: u8,
    /// Port in host byte order; 0 if unknown.
    pub port: u16,
}

impl Endpoint {
    /// An endpoint without address and port.
    pub(crate) const UNKNOWN: Self = Self {
        octets: [0; 16],
        length: 0,
        port: 0,
    };

    /// Creates an endpoint from the ABI's form: `octets` as in [`EventHeader::peer_addr`], from a
    /// socket of `family`.
    #[inline]
    pub(crate) fn from_abi(family: u8, octets: [u8; 16], port: u16) -> Self {
        // A mapped address begins with ten bytes of zeros and two of ones (RFC 4291 section
        // 2.5.5.2).
        const PREFIX: u128 = u128::MAX >> 32;
        const MAPPED: u128 = 0xffff << 80;
        let address = u128::from_le_bytes(octets);
        let (address, length) = match family {
            AF_INET => (address & 0xffff_ffff, 4),
            _ if address & PREFIX == MAPPED => (address >> 96, 4),
            _ => (address, 16),
        };
        Self {
            octets: address.to_le_bytes(),
            length: if address == 0 { 0 } else { length },
            port,
        }
    }

    /// Returns the address's 4 or 16 bytes in network order; `None` if it is unknown.
    #[must_use]
    pub fn address(&self) -> Option<&[u8]> {
        match self.length {
            0 => None,
            length => Some(&self.octets[..usize::from(length)]),
        }
    }

    /// Returns the address, padded with zeros.
    pub(crate) fn octets(&self) -> &[u8; 16] {
        &self.octets
    }

    /// Returns the address's bytes for modification; empty if it is unknown.
    pub(crate) fn address_mut(&mut self) -> &mut [u8] {
        &mut self.octets[..usize::from(self.length)]
    }

    /// Returns whether the address or the port is known.
    pub(crate) fn is_known(&self) -> bool {
        self.length != 0 || self.port != 0
    }

    /// Returns whether both addresses may be the same. An unknown address may be any.
    pub(crate) fn may_be_at(&self, other: &Self) -> bool {
        self.length == 0
            || other.length == 0
            || (self.length == other.length && self.octets == other.octets)
    }

    /// Returns the address, if it is known.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        match self.length {
            0 => None,
            4 => Some(IpAddr::from([
                self.octets[0],
                self.octets[1],
                self.octets[2],
                self.octets[3],
            ])),
            _ => Some(IpAddr::from(self.octets)),
        }
    }

    /// Returns the endpoint with its port only.
    #[must_use]
    pub fn without_address(self) -> Self {
        Self {
            port: self.port,
            ..Self::default()
        }
    }
}

impl From<(IpAddr, u16)> for Endpoint {
    fn from((ip, port): (IpAddr, u16)) -> Self {
        match ip {
            IpAddr::V4(address) => {
                let mut mapped = [0; 16];
                mapped[..4].copy_from_slice(&address.octets());
                Self::from_abi(AF_INET, mapped, port)
            }
            IpAddr::V6(address) => Self::from_abi(AF_INET6, address.octets(), port),
        }
    }
}

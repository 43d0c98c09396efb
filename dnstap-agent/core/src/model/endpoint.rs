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
    /// An endpoint from the ABI's form: `octets` as in [`EventHeader::peer_addr`], of a socket of `family`.
    pub(crate) fn from_abi(family: u8, octets: [u8; 16], port: u16) -> Self {
        const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
        let mut endpoint = Self {
            octets,
            length: 16,
            port,
        };
        if family == AF_INET {
            endpoint = Self::v4([octets[0], octets[1], octets[2], octets[3]], port);
        } else if octets[..12] == MAPPED {
            endpoint = Self::v4([octets[12], octets[13], octets[14], octets[15]], port);
        }
        if endpoint.octets == [0; 16] {
            endpoint.length = 0;
        }
        endpoint
    }

    fn v4(address: [u8; 4], port: u16) -> Self {
        let mut octets = [0; 16];
        octets[..4].copy_from_slice(&address);
        Self {
            octets,
            length: 4,
            port,
        }
    }

    /// The address's 4 or 16 bytes in network order; `None` if it is not known.
    #[must_use]
    pub fn address(&self) -> Option<&[u8]> {
        match self.length {
            0 => None,
            length => Some(&self.octets[..usize::from(length)]),
        }
    }

    /// The address's bytes, to be replaced; empty if it is not known.
    pub(crate) fn address_mut(&mut self) -> &mut [u8] {
        &mut self.octets[..usize::from(self.length)]
    }

    /// The address, if it is known.
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

    /// Forgets the address and keeps the port.
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

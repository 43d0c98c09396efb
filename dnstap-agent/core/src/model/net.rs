//! Subnets.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use dnstap_ebpf::MAPPED_PREFIX;
use ipnet::{IpNet, Ipv4Net};

/// A subnet: `192.0.2.0/24`, `2001:db8::/32`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net(IpNet);

impl Net {
    /// All addresses of IPv4.
    pub const ALL_OF_IPV4: Self = Self(IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)));

    /// Returns whether the address is in the subnet. `::/0` contains no IPv4 addresses.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }

    /// Returns the address and the prefix length. IPv4 is in the IPv4-mapped form (RFC 4291 section
    /// 2.5.5.2).
    #[must_use]
    pub fn mapped(&self) -> (Ipv6Addr, u32) {
        match self.0 {
            IpNet::V4(net) => (
                net.addr().to_ipv6_mapped(),
                MAPPED_PREFIX + u32::from(net.prefix_len()),
            ),
            IpNet::V6(net) => (net.addr(), net.prefix_len().into()),
        }
    }
}

impl FromStr for Net {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let net = text
            .parse()
            .or_else(|_no_prefix| text.parse::<IpAddr>().map(IpNet::from))
            .map_err(|_neither| {
                format!("{text:?} is no subnet, such as 192.0.2.0/24 or 2001:db8::/32")
            })?;
        if net != net.trunc() {
            return Err(format!("{text}: the address has bits behind the prefix"));
        }
        let (address, prefix) = Self(net).mapped();
        // Both ways to write an IPv4 subnet give the same value.
        if let Some(address) = address.to_ipv4_mapped().filter(|_| prefix >= MAPPED_PREFIX) {
            let length = u8::try_from(prefix - MAPPED_PREFIX).unwrap_or_default();
            return Ok(Self(Ipv4Net::new_assert(address, length).into()));
        }
        Ok(Self(net))
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
    #[case::mapped("::ffff:192.0.2.0/120", "192.0.2.9", true)]
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
        let expected = expected.map(|(address, prefix)| (address.parse().unwrap(), prefix));
        assert_eq!(text.parse().ok().map(|net: Net| net.mapped()), expected);
    }
}

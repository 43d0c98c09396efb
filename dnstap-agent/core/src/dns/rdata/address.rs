//! Writes addresses as `dig` does. With a width, std writes them in one piece, which is faster for
//! JSON than one number after the other.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

/// Writes an IPv4 address.
pub(super) fn v4(address: [u8; 4], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "{:1}", Ipv4Addr::from(address))
}

/// Writes an IPv6 address as `inet_ntop` does, and so `dig`: if the upper 96 bits are zero, it ends
/// in four decimal numbers, unless only the lower 16 bits are set.
pub(super) fn v6(address: [u8; 16], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let number = u128::from_be_bytes(address);
    match u32::try_from(number) {
        Ok(lower @ 0x1_0000..) => write!(f, "::{}", Ipv4Addr::from(lower)),
        _ => write!(f, "{:1}", Ipv6Addr::from(number)),
    }
}

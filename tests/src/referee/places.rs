//! Addresses and ports of the servers and their upstream in the network of a trial.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// Port on which each server waits.
pub(super) const OWN: u16 = 5_301;
/// Port of the upstream server.
pub(super) const UPSTREAM: u16 = 5_302;
/// Ports of encrypted traffic.
pub(super) const TLS: u16 = 853;
pub(super) const HTTPS: u16 = 443;

/// Returns the name of the executable of a server that is followed by its name.
pub(super) fn name_of_restarts() -> String {
    format!("referee{}", std::process::id())
}

/// Returns the server's address for IPv4 or IPv6.
pub(super) fn address(ipv6: bool) -> SocketAddr {
    if ipv6 {
        (Ipv6Addr::LOCALHOST, OWN).into()
    } else {
        (Ipv4Addr::LOCALHOST, OWN).into()
    }
}

//! The demo's servers: two `named` in a scratch folder, on loopback addresses and two free high ports.
//!
//! `options { port N; }` is the port to which a `named` sends its own queries, and also the default port on which it
//! listens. It is the upstream's port here, so the resolver finds its upstream without ports in the DNS data. Both
//! share 127.0.0.1, because `named` listens only on addresses that an interface has.

use std::{fmt, net::UdpSocket, path::Path};

use anyhow::Result;

use crate::{
    child::Child,
    named::{self, Files, common},
    ui,
};

/// Address of the tapped server, and on another port of the upstream server.
pub(super) const SERVER: &str = "127.0.0.1";
/// IPv6 address of the tapped server, if the machine has IPv6.
pub(super) const SERVER_V6: &str = "::1";

/// The zone of the tapped server itself.
pub(super) const HERE: &str = "example.test";
/// A name in it whose response does not fit into 512 bytes.
pub(super) const BIG: &str = "big.example.test";
/// The zone for which it must ask the upstream.
pub(super) const FAR: &str = "far.test";

/// The two servers. They stop when this is dropped.
pub(super) struct Lab {
    resolver: Child,
    _upstream: Child,
    port: u16,
    upstream_port: u16,
    ipv6: bool,
}

impl Lab {
    /// Starts both servers and returns when they answer.
    pub(super) fn start(named: &Path, scratch: &Path) -> Result<Self> {
        let ipv6 = UdpSocket::bind((SERVER_V6, 0)).is_ok();
        if !ipv6 {
            ui::warn("this machine has no ::1, so there are no questions over IPv6");
        }
        let addresses: &[&str] = if ipv6 {
            &[SERVER, SERVER_V6]
        } else {
            &[SERVER]
        };
        let [port, upstream_port] = named::free_ports(addresses)?;
        let upstream = named::start(
            named,
            &scratch.join("upstream"),
            &upstream_files(upstream_port),
            None,
        )?;
        let files = resolver_files(port, upstream_port, ipv6);
        let resolver = named::start(named, &scratch.join("resolver"), &files, None)?;
        Ok(Self {
            resolver,
            _upstream: upstream,
            port,
            upstream_port,
            ipv6,
        })
    }

    /// Returns the process id of the server to tap.
    pub(super) fn resolver_pid(&self) -> u32 {
        self.resolver.id()
    }

    /// Returns the port of the tapped server.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Returns whether the resolver also answers at [`SERVER_V6`].
    pub(super) fn has_ipv6(&self) -> bool {
        self.ipv6
    }
}

impl fmt::Display for Lab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (pid, port, upstream) = (self.resolver.id(), self.port, self.upstream_port);
        write!(
            f,
            "named, PID {pid}, answers at port {port}; its upstream is at port {upstream}"
        )
    }
}

fn resolver_files(port: u16, upstream_port: u16, ipv6: bool) -> Files {
    let v6 = if ipv6 { "::1;" } else { "none;" };
    let text = "0123456789abcdef".repeat(12);
    vec![
        (
            "named.conf",
            format!(
                "controls {{ }};\noptions {{\n{}  listen-on port {port} {{ {SERVER}; }};\n  listen-on-v6 port {port} {{ {v6} }};\n  \
                 recursion yes;\n  query-source address {SERVER};\n}};\n\
                 zone \".\" {{ type hint; file \"root.hint\"; }};\n\
                 zone \"{HERE}\" {{ type primary; file \"here.zone\"; }};\n",
                common(upstream_port)
            ),
        ),
        (
            "root.hint",
            format!(". 3600 NS ns.{FAR}.\nns.{FAR}. 3600 A {SERVER}\n"),
        ),
        (
            "here.zone",
            format!(
                "$TTL 300\n@ SOA ns hostmaster 1 3600 900 86400 300\n@ NS ns\nns A {SERVER}\n\
                 www A 192.0.2.1\nwww AAAA 2001:db8::1\n\
                 big TXT \"1{text}\"\nbig TXT \"2{text}\"\nbig TXT \"3{text}\"\nbig TXT \"4{text}\"\n"
            ),
        ),
    ]
}

fn upstream_files(port: u16) -> Files {
    vec![
        (
            "named.conf",
            format!(
                "controls {{ }};\noptions {{\n{}  listen-on {{ {SERVER}; }};\n  listen-on-v6 {{ none; }};\n  \
                 recursion no;\n}};\n\
                 zone \".\" {{ type primary; file \"root.zone\"; }};\n\
                 zone \"{FAR}\" {{ type primary; file \"far.zone\"; }};\n",
                common(port)
            ),
        ),
        (
            "root.zone",
            format!(
                "$TTL 3600\n@ SOA ns.{FAR}. hostmaster.{FAR}. 1 3600 900 86400 300\n@ NS ns.{FAR}.\n\
                 {FAR}. NS ns.{FAR}.\nns.{FAR}. A {SERVER}\n"
            ),
        ),
        (
            "far.zone",
            format!(
                "$TTL 300\n@ SOA ns hostmaster 1 3600 900 86400 300\n@ NS ns\nns A {SERVER}\n\
                 www A 192.0.2.2\nmail A 192.0.2.3\n"
            ),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_server_listens_or_asks_beyond_loopback() {
        for files in [
            resolver_files(5300, 5301, true),
            resolver_files(5300, 5301, false),
            upstream_files(5300),
        ] {
            let (_, configuration) = &files[0];
            let loopback = ["127.0.0.1;", "::1;", "none;"];
            for line in configuration
                .lines()
                .filter(|line| line.contains("listen-on"))
            {
                assert!(
                    loopback
                        .iter()
                        .any(|address| line.contains(&format!("{{ {address} }}"))),
                    "{line}"
                );
            }
            assert!(!configuration.contains("forward"));
        }
    }
}

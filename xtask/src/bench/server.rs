//! The servers of one run: the measured `named`, and an upstream that stands for the rest of the Internet.

use std::{fmt::Write as _, path::Path};

use anyhow::Result;

use crate::{
    child::Child,
    named::{self, Files, common},
};

/// Numbers of names with short responses, and with responses of 4 KiB.
pub(super) const HOSTS: usize = 1_000;
pub(super) const LARGE: usize = 100;
const ADDRESS: &str = "127.0.0.1";

/// Both servers. They stop when this is dropped.
pub(super) struct Server {
    pub(super) named: Child,
    _upstream: Child,
    pub(super) port: u16,
}

impl Server {
    /// Starts both servers. The measured one runs only on `cpu`, and writes its own dnstap to `dnstap` if that is
    /// given.
    pub(super) fn start(
        named: &Path,
        folder: &Path,
        dnstap: Option<&Path>,
        cpu: Option<usize>,
        other: Option<usize>,
    ) -> Result<Self> {
        let [port, upstream_port] = named::free_ports(&[ADDRESS])?;
        let upstream = named::start(
            named,
            &folder.join("upstream"),
            &upstream_files(upstream_port),
            other,
        )?;
        let files = files(port, upstream_port, dnstap);
        Ok(Self {
            named: named::start(named, &folder.join("named"), &files, cpu)?,
            _upstream: upstream,
            port,
        })
    }
}

/// Returns the files of the measured server. Its own dnstap goes to `dnstap`, if that is given.
pub(super) fn files(port: u16, upstream_port: u16, dnstap: Option<&Path>) -> Files {
    let dnstap = dnstap.map_or(String::new(), |socket| {
        format!(
            "  dnstap {{ all; }};\n  dnstap-output unix \"{}\";\n",
            socket.display()
        )
    });
    let mut zone =
        format!("$TTL 300\n@ SOA ns hostmaster 1 3600 900 86400 300\n@ NS ns\nns A {ADDRESS}\n");
    for host in 0..HOSTS {
        let (high, low) = (host / 256, host % 256);
        // Writing to a string does not fail.
        writeln!(
            zone,
            "h{host} A 192.0.{high}.{low}\nh{host} AAAA 2001:db8::{host:x}"
        )
        .unwrap_or_default();
    }
    let text = "0123456789abcdef".repeat(15);
    for (host, part) in (0..LARGE).flat_map(|host| (0..16).map(move |part| (host, part))) {
        writeln!(zone, "big{host} TXT \"{part:x}{text}\"").unwrap_or_default();
    }
    vec![
        (
            "named.conf",
            format!(
                "controls {{ }};\noptions {{\n{}  listen-on port {port} {{ {ADDRESS}; }};\n  listen-on-v6 port {port} {{ ::1; }};\n  \
                 recursion yes;\n  qname-minimization off;\n  max-udp-size 4096;\n  tcp-clients 1000;\n  \
                 query-source address {ADDRESS};\n{dnstap}}};\n\
                 zone \".\" {{ type hint; file \"root.hint\"; }};\n\
                 zone \"here.test\" {{ type primary; file \"here.zone\"; }};\n",
                common(upstream_port)
            ),
        ),
        (
            "root.hint",
            format!(". 3600 NS ns.far.test.\nns.far.test. 3600 A {ADDRESS}\n"),
        ),
        ("here.zone", zone),
    ]
}

/// Returns the files of the upstream server.
pub(super) fn upstream_files(port: u16) -> Files {
    vec![
        (
            "named.conf",
            format!(
                "controls {{ }};\noptions {{\n{}  listen-on {{ {ADDRESS}; }};\n  listen-on-v6 {{ none; }};\n  recursion no;\n}};\n\
                 zone \".\" {{ type primary; file \"root.zone\"; }};\n\
                 zone \"far.test\" {{ type primary; file \"far.zone\"; }};\n",
                common(port)
            ),
        ),
        (
            "root.zone",
            format!(
                "$TTL 3600\n@ SOA ns.far.test. hostmaster.far.test. 1 3600 900 86400 300\n@ NS ns.far.test.\n\
                 far.test. NS ns.far.test.\nns.far.test. A {ADDRESS}\n"
            ),
        ),
        (
            "far.zone",
            format!(
                "$TTL 3600\n@ SOA ns hostmaster 1 3600 900 86400 300\n@ NS ns\nns A {ADDRESS}\n* A 192.0.2.2\n"
            ),
        ),
    ]
}

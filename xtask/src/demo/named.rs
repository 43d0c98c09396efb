//! The demo's servers: two `named` in a scratch folder, on loopback addresses and two free high ports.
//!
//! `options { port N; }` is the port that a `named` sends its own queries to, beside the default of the one it listens on.
//! With the upstream's port there, the resolver finds its upstream without a trace of ports in the DNS data. Both share
//! 127.0.0.1, because `named` listens only on addresses that an interface has.

use std::{
    fmt, fs,
    net::{TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    child::{Child, Log},
    ui,
};

/// Where the tapped server answers, and on another port the server that plays the rest of the world.
pub(super) const SERVER: &str = "127.0.0.1";
/// Where it answers over IPv6, if the machine has that.
pub(super) const SERVER_V6: &str = "::1";

/// The zone of the tapped server itself.
pub(super) const HERE: &str = "example.test";
/// A name in it whose answer does not fit 512 bytes.
pub(super) const BIG: &str = "big.example.test";
/// The zone that it has to ask upstream for.
pub(super) const FAR: &str = "far.test";

/// How long a `named` may take to come up.
const PATIENCE: Duration = Duration::from_secs(20);
/// Ports that are tried.
const ATTEMPTS: usize = 20;

/// The two servers; they stop when this goes.
pub(super) struct Lab {
    resolver: Child,
    _upstream: Child,
    port: u16,
    upstream_port: u16,
    ipv6: bool,
}

impl Lab {
    /// Starts both and returns when they answer.
    pub(super) fn start(named: &Path, scratch: &Path) -> Result<Self> {
        let ipv6 = UdpSocket::bind((SERVER_V6, 0)).is_ok();
        if !ipv6 {
            ui::warn("this machine has no ::1, so there are no questions over IPv6");
        }
        let [port, upstream_port] = free_ports(ipv6)?;
        let upstream = server(
            named,
            &scratch.join("upstream"),
            &upstream_files(upstream_port),
        )?;
        let files = resolver_files(port, upstream_port, ipv6);
        let resolver = server(named, &scratch.join("resolver"), &files)?;
        Ok(Self {
            resolver,
            _upstream: upstream,
            port,
            upstream_port,
            ipv6,
        })
    }

    /// Process id of the server to tap.
    pub(super) fn resolver_pid(&self) -> u32 {
        self.resolver.id()
    }

    /// Port of the tapped server.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Whether the resolver answers at [`SERVER_V6`] too.
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

type Files = Vec<(&'static str, String)>;

fn server(named: &Path, folder: &Path, files: &Files) -> Result<Child> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let options = format!("options {{ directory \"{}\";\n", folder.display());
    for (name, text) in files {
        let path: PathBuf = folder.join(name);
        fs::write(&path, text.replace("options {\n", &options))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let mut command = Command::new(named);
    command
        .args(["-g", "-n", "1", "-c"])
        .arg(folder.join("named.conf"));
    let mut server = Child::spawn(&command, Log::Kept)?;
    // The whole end of the line: its first words at start are "running on Linux".
    server.wait_for("running", PATIENCE, |line| line.ends_with(" running"))?;
    Ok(server)
}

/// What both have in common: nothing outside of the scratch folder, no control channel, no traffic of their own.
fn common(port: u16) -> String {
    format!(
        "  port {port};\n  pid-file none;\n  session-keyfile none;\n  lock-file none;\n  dnssec-validation no;\n  \
         empty-zones-enable no;\n  notify no;\n  max-cache-size 16m;\n"
    )
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

/// Two ports that are free on every address of the lab, over UDP and TCP.
fn free_ports(ipv6: bool) -> Result<[u16; 2]> {
    let addresses: &[&str] = if ipv6 {
        &[SERVER, SERVER_V6]
    } else {
        &[SERVER]
    };
    let mut found = None;
    for _ in 0..ATTEMPTS {
        let probe = UdpSocket::bind((SERVER, 0)).context("cannot bind a loopback port")?;
        let port = probe
            .local_addr()
            .context("a bound socket has no address")?
            .port();
        drop(probe);
        let free = |address: &&str| {
            UdpSocket::bind((*address, port)).is_ok() && TcpListener::bind((*address, port)).is_ok()
        };
        if !addresses.iter().all(free) {
            continue;
        }
        match found {
            Some(other) if other != port => return Ok([other, port]),
            _ => found = Some(port),
        }
    }
    bail!("no two ports are free on {}", addresses.join(" and "))
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

    #[test]
    fn the_two_ports_differ_and_are_free() {
        let [one, other] = free_ports(false).expect("loopback has free ports");
        assert_ne!(one, other);
        for port in [one, other] {
            UdpSocket::bind((SERVER, port)).expect("it is free");
        }
    }
}

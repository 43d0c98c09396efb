//! The servers: how each is started, what it is asked, and how the documentation names its messages.
//!
//! All run in a network of their own, so that the ports are always the same. A package that is only unpacked is laid over `/usr`, in
//! a mount namespace of the server's own: programs find their modules where they expect them.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::Result;

use super::{dns::Profile, toys};
use crate::{
    environment,
    lab::{Ports, foreign, named, write, zones},
    toy,
};

/// Where each server waits.
pub(super) const OWN: u16 = 5_301;
/// Where the server is that it asks.
pub(super) const UPSTREAM: u16 = 5_302;
/// Ports of ciphertext.
pub(super) const TLS: u16 = 853;
pub(super) const HTTPS: u16 = 443;

/// A server.
pub(crate) struct Entry {
    /// What it is called on the command line.
    pub(crate) name: &'static str,
    /// What it is, for the table.
    pub(crate) about: &'static str,
    pub(super) profile: Profile,
    pub(super) start: fn(&Path) -> Result<Command>,
    /// The zones that it is asked for.
    pub(super) asked: &'static [Asked],
    /// It has a copy of `moving.lab`.
    pub(super) secondary: bool,
    /// Its clients come through a proxy.
    pub(super) proxied: bool,
    /// The upstream keeps TCP connections, for servers that give up otherwise.
    pub(super) patient: bool,
    /// Very many queries on one connection.
    pub(super) flood: bool,
    /// It is ended and started again, and followed by its name.
    pub(super) restarts: bool,
    /// It also has listeners for DNS over TLS and HTTPS.
    pub(super) encrypted: bool,
}

/// Of which zone a server is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// `auth.lab`, its own, and a transfer of `big.lab`.
    Authority,
    /// `auth.lab`, without transfers.
    Own,
    /// `up.lab`, which it asks the upstream for.
    Upstream,
    /// `moving.lab`, which it forwards.
    Forwarded,
}

impl Asked {
    pub(super) const fn zone(self) -> &'static str {
        match self {
            Self::Authority | Self::Own => "auth.lab",
            Self::Upstream => "up.lab",
            Self::Forwarded => "moving.lab",
        }
    }
}

const PLAIN: Entry = Entry {
    name: "",
    about: "",
    profile: Profile::Generic,
    start: |_| Ok(Command::new("false")),
    asked: &[Asked::Own],
    secondary: false,
    proxied: false,
    patient: false,
    flood: false,
    restarts: false,
    encrypted: false,
};

/// All servers, in the order of the table.
pub(crate) const SERVERS: &[Entry] = &[
    Entry {
        name: "named",
        about: "BIND: authority, secondary, and resolver of a zone of the upstream",
        start: bind,
        asked: &[Asked::Authority, Asked::Upstream],
        secondary: true,
        ..PLAIN
    },
    Entry {
        name: "named-restarts",
        about: "BIND under another name, followed by that name, ended by TERM and KILL under load and started again",
        start: |folder| {
            let own = bind(folder)?;
            // A name that no other process has.
            let copy = folder.join(name_of_restarts());
            std::fs::copy(own.get_program(), &copy)?;
            let mut command = Command::new(copy);
            command.args(own.get_args());
            Ok(command)
        },
        restarts: true,
        ..PLAIN
    },
    Entry {
        name: "unbound",
        about: "Unbound: resolver and forwarder",
        profile: Profile::Recursive,
        start: |folder| Ok(started(environment::server("UNBOUND", "unbound", "unbound")?, &["-dd"], folder, "unbound.conf", &foreign::unbound(folder, PORTS, None))?),
        asked: &[Asked::Upstream, Asked::Forwarded],
        ..PLAIN
    },
    Entry {
        name: "knot",
        about: "Knot DNS: authority and secondary",
        profile: Profile::Authoritative,
        start: |folder| Ok(started(environment::server("KNOTD", "knot", "knotd")?, &[], folder, "knot.conf", &foreign::knot(folder, PORTS, None))?),
        asked: &[Asked::Authority],
        secondary: true,
        ..PLAIN
    },
    Entry {
        name: "nsd",
        about: "NSD: authority and secondary, several processes",
        profile: Profile::Authoritative,
        start: |folder| Ok(started(environment::server("NSD", "nsd", "nsd")?, &["-d"], folder, "nsd.conf", &foreign::nsd(folder, PORTS))?),
        asked: &[Asked::Authority],
        secondary: true,
        ..PLAIN
    },
    Entry {
        name: "pdns",
        about: "PowerDNS Authoritative Server, BIND backend: authority and secondary",
        profile: Profile::Authoritative,
        start: |folder| pdns(folder, &[]),
        asked: &[Asked::Authority],
        secondary: true,
        ..PLAIN
    },
    Entry {
        name: "pdns-proxied",
        about: "the same, behind a proxy that names the clients (PROXY v2)",
        profile: Profile::Authoritative,
        start: |folder| pdns(folder, &["--proxy-protocol-from=127.0.0.0/8,::1"]),
        asked: &[Asked::Own],
        proxied: true,
        ..PLAIN
    },
    Entry {
        name: "pdns-recursor",
        about: "PowerDNS Recursor: resolver and forwarder",
        profile: Profile::Recursive,
        start: recursor,
        asked: &[Asked::Upstream, Asked::Forwarded],
        ..PLAIN
    },
    Entry {
        name: "dnsdist",
        about: "dnsdist: UDP and TCP to an upstream; also DNS over TLS and HTTPS, which is ciphertext",
        profile: Profile::Forwarder,
        start: |folder| dnsdist(folder, false),
        asked: &[Asked::Upstream],
        patient: true,
        encrypted: true,
        ..PLAIN
    },
    Entry {
        name: "dnsdist-proxy",
        about: "dnsdist that names its clients to the upstream (PROXY v2)",
        profile: Profile::Forwarder,
        start: |folder| dnsdist(folder, true),
        asked: &[Asked::Upstream],
        patient: true,
        ..PLAIN
    },
    Entry {
        name: "dnsdist-hasty",
        about: "dnsdist with an upstream that ends each connection behind an answer, which it does not expect",
        profile: Profile::Forwarder,
        start: |folder| dnsdist(folder, false),
        asked: &[Asked::Upstream],
        ..PLAIN
    },
    Entry {
        name: "dnsmasq",
        about: "dnsmasq: forwarder, a process for each TCP connection",
        profile: Profile::Forwarder,
        start: dnsmasq,
        asked: &[Asked::Upstream],
        ..PLAIN
    },
    Entry {
        name: "kresd",
        about: "Knot Resolver: stub of an upstream",
        profile: Profile::Recursive,
        start: kresd,
        asked: &[Asked::Upstream],
        ..PLAIN
    },
    Entry {
        name: "gdnsd",
        about: "gdnsd: authority",
        profile: Profile::Authoritative,
        start: gdnsd,
        asked: &[Asked::Own],
        ..PLAIN
    },
    Entry {
        name: "yadifa",
        about: "YADIFA: authority",
        profile: Profile::Authoritative,
        start: yadifa,
        asked: &[Asked::Authority],
        ..PLAIN
    },
    Entry {
        name: "go",
        about: "a server in Go (miekg/dns, as CoreDNS): several listeners, and a client of the upstream",
        start: go,
        asked: &[Asked::Own, Asked::Upstream],
        ..PLAIN
    },
    Entry {
        name: "python",
        about: "a server in Python (asyncio)",
        start: |folder| python(folder, "asyncio_server.py", include_str!("../../referee/asyncio_server.py")),
        ..PLAIN
    },
    Entry {
        name: "python-fork",
        about: "a server in Python that forks for each datagram and connection",
        start: |folder| python(folder, "forking_server.py", include_str!("../../referee/forking_server.py")),
        ..PLAIN
    },
    Entry {
        name: "node",
        about: "a server in Node.js, many buffers in a write",
        start: |folder| script("referee-node", "node", folder, "server.js", include_str!("../../referee/server.js")),
        ..PLAIN
    },
    Entry {
        name: "java",
        about: "a server in Java (NIO)",
        start: |folder| script("referee-java", "java", folder, "Server.java", include_str!("../../referee/Server.java")),
        ..PLAIN
    },
    Entry {
        name: "toy-writers",
        about: "a server of the tests: four threads write to one connection without a lock",
        start: |_| toy("writers"),
        flood: true,
        ..PLAIN
    },
    Entry {
        name: "toy-buffers",
        about: "a server of the tests: answers in up to 256 buffers of one call",
        start: |_| toy("buffers"),
        flood: true,
        ..PLAIN
    },
];

/// The name of a server that is followed by its name.
pub(super) fn name_of_restarts() -> String {
    format!("referee{}", std::process::id())
}

/// The server's address for IPv4 or IPv6.
pub(super) fn address(ipv6: bool) -> SocketAddr {
    if ipv6 {
        (Ipv6Addr::LOCALHOST, OWN).into()
    } else {
        (Ipv4Addr::LOCALHOST, OWN).into()
    }
}

const PORTS: Ports = Ports {
    tapped: OWN,
    second: 0,
    upstream: UPSTREAM,
    control: 0,
};

/// A program, ready to run: of the path, else of the folder where `cargo xtask referee` unpacks it.
fn program(folder: &str, name: &str) -> Result<Command> {
    let unpacked = environment::server_folder(folder)?.join("usr");
    let there = ["sbin", "bin"].map(|part| unpacked.join(part).join(name));
    if !there.iter().any(|path| path.exists()) {
        return Ok(Command::new(environment::tool(name)?));
    }
    let mut command = Command::new(environment::tool("unshare")?);
    let lay = r#"mount -t overlay overlay -o "lowerdir=$0:/usr" /usr && exec "$@""#;
    command
        .args(["--mount", "--propagation", "private", "sh", "-c", lay])
        .arg(unpacked)
        .arg(name)
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    Ok(command)
}

fn started(
    program: PathBuf,
    words: &[&str],
    folder: &Path,
    file: &str,
    text: &str,
) -> Result<Command> {
    own_zones(folder, |_| true)?;
    let mut command = Command::new(program);
    command.args(words).arg("-c").arg(write(folder, file, text)?);
    Ok(command)
}

/// Zone files of `auth.lab`, `big.lab` and `dyn.lab`, of these lines.
fn own_zones(folder: &Path, keep: impl Fn(&str) -> bool) -> Result<()> {
    for (zone, records) in zones::of_tapped()? {
        let lines: Vec<_> = records.lines().filter(|line| keep(line)).collect();
        write(folder, zone, &(lines.join("\n") + "\n"))?;
    }
    Ok(())
}

fn bind(folder: &Path) -> Result<Command> {
    own_zones(folder, |_| true)?;
    let zone = |name| format!("zone \"{name}\" {{ type primary; file \"{name}\"; }};\n");
    let text = format!(
        "controls {{ }};\noptions {{\n{}listen-on port {OWN} {{ 127.0.0.1; }};\nlisten-on-v6 port {OWN} {{ ::1; }};\n\
         recursion yes;\nallow-recursion {{ any; }};\nallow-transfer {{ any; }};\nmax-udp-size 1232;\nnotify no;\n}};\n{}{}\
         zone \"up.lab\" {{ type static-stub; server-addresses {{ 127.0.0.1; }}; }};\n\
         zone \"moving.lab\" {{ type secondary; file \"moving.copy\"; primaries {{ 127.0.0.1 port {UPSTREAM}; }}; }};\n",
        named::common(folder, UPSTREAM)?,
        zone("auth.lab"),
        zone("big.lab"),
    );
    let mut command = Command::new(environment::named()?);
    command
        .args(["-g", "-n", "2", "-c"])
        .arg(write(folder, "named.conf", &text)?);
    Ok(command)
}

fn pdns(folder: &Path, more: &[&str]) -> Result<Command> {
    own_zones(folder, |_| true)?;
    let zone = |name| {
        format!("zone \"{name}\" {{ type master; file \"{}/{name}\"; }};\n", folder.display())
    };
    let text = format!(
        "options {{ directory \"{}\"; }};\n{}{}\
         zone \"moving.lab\" {{ type slave; file \"{}/moving.copy\"; masters {{ 127.0.0.1:{UPSTREAM}; }}; }};\n",
        folder.display(),
        zone("auth.lab"),
        zone("big.lab"),
        folder.display()
    );
    let file = write(folder, "pdns-zones.conf", &text)?;
    let mut command = program("pdns", "pdns_server")?;
    command
        .args([
            "--daemon=no",
            "--guardian=no",
            "--launch=bind",
            "--local-address=127.0.0.1,::1",
            "--secondary=yes",
            "--allow-axfr-ips=127.0.0.0/8,::1",
            "--allow-notify-from=127.0.0.0/8",
            "--receiver-threads=2",
            "--distributor-threads=2",
        ])
        .args(more)
        .arg(format!("--local-port={OWN}"))
        .arg(format!("--config-dir={}", folder.display()))
        .arg(format!("--socket-dir={}", folder.display()))
        .arg(format!("--bind-config={}", file.display()));
    Ok(command)
}

fn recursor(folder: &Path) -> Result<Command> {
    let mut command = program("pdns-recursor", "pdns_recursor")?;
    command
        .args([
            "--daemon=no",
            "--local-address=127.0.0.1,::1",
            "--dnssec=off",
            "--allow-from=127.0.0.0/8,::1",
            "--dont-query=",
            "--threads=2",
        ])
        .arg(format!("--local-port={OWN}"))
        .arg(format!("--forward-zones=up.lab=127.0.0.1:{UPSTREAM}"))
        .arg(format!("--forward-zones-recurse=moving.lab=127.0.0.1:{UPSTREAM}"))
        .arg(format!("--config-dir={}", folder.display()))
        .arg(format!("--socket-dir={}", folder.display()));
    Ok(command)
}

fn dnsdist(folder: &Path, proxy: bool) -> Result<Command> {
    let mut text = format!(
        "setLocal(\"127.0.0.1:{OWN}\")\naddLocal(\"[::1]:{OWN}\")\nsetACL({{\"127.0.0.0/8\", \"::1/128\"}})\n\
         newServer({{address=\"127.0.0.1:{UPSTREAM}\", useProxyProtocol={proxy}, checkInterval=1, retries=0}})\n"
    );
    if !proxy {
        let (certificate, key) = (folder.join("tls.crt"), folder.join("tls.key"));
        let mut command = Command::new(environment::tool("openssl")?);
        command
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=referee", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&certificate);
        crate::process::output(command)?;
        let pair = format!("\"{}\", \"{}\"", certificate.display(), key.display());
        text += &format!(
            "addTLSLocal(\"127.0.0.1:{TLS}\", {pair})\naddDOHLocal(\"127.0.0.1:{HTTPS}\", {pair}, \"/dns-query\")\n"
        );
    }
    let mut command = program("dnsdist", "dnsdist")?;
    command
        .args(["--supervised", "--disable-syslog", "-C"])
        .arg(write(folder, "dnsdist.conf", &text)?);
    Ok(command)
}

fn dnsmasq(folder: &Path) -> Result<Command> {
    let mut command = program("dnsmasq", "dnsmasq")?;
    command
        .args([
            "--keep-in-foreground",
            "--no-resolv",
            "--no-hosts",
            "--listen-address=127.0.0.1,::1",
            "--bind-interfaces",
            "--user=root",
            "--cache-size=0",
            "--log-facility=-",
        ])
        .arg(format!("--server=127.0.0.1#{UPSTREAM}"))
        .arg(format!("--port={OWN}"))
        .arg(format!("--pid-file={}", folder.join("dnsmasq.pid").display()))
        .arg(format!("--conf-file={}", write(folder, "dnsmasq.conf", "")?.display()));
    Ok(command)
}

fn kresd(folder: &Path) -> Result<Command> {
    let text = format!(
        "net.listen('127.0.0.1', {OWN}, {{ kind = 'dns' }})\nnet.listen('::1', {OWN}, {{ kind = 'dns' }})\n\
         trust_anchors.remove('.')\nmodules = {{ 'policy' }}\ncache.size = 10 * MB\n\
         policy.add(policy.all(policy.STUB({{ '127.0.0.1@{UPSTREAM}' }})))\n"
    );
    let mut command = program("kresd", "kresd")?;
    command
        .args(["-n", "-c"])
        .arg(write(folder, "kresd.conf", &text)?)
        .arg(folder);
    Ok(command)
}

fn gdnsd(folder: &Path) -> Result<Command> {
    // Answers have to fit 16 KiB.
    own_zones(folder, |line| !line.starts_with("t20000") && !line.starts_with("t60000"))?;
    for part in ["gdnsd/zones", "gdnsd/run", "gdnsd/state"] {
        std::fs::create_dir_all(folder.join(part))?;
    }
    std::fs::copy(folder.join("auth.lab"), folder.join("gdnsd/zones/auth.lab"))?;
    let at = folder.join("gdnsd");
    let text = format!(
        "options => {{\n listen => [ \"127.0.0.1:{OWN}\", \"[::1]:{OWN}\" ]\n run_dir => \"{0}/run\"\n state_dir => \"{0}/state\"\n}}\n",
        at.display()
    );
    write(&at, "config", &text)?;
    let mut command = program("gdnsd", "gdnsd")?;
    command.arg("-c").arg(at).arg("start");
    Ok(command)
}

fn yadifa(folder: &Path) -> Result<Command> {
    own_zones(folder, |_| true)?;
    let zone = |name| {
        format!("<zone>\n type primary\n domain {name}\n file {name}\n allow-transfer any\n</zone>\n")
    };
    let text = format!(
        "<main>\n server-port {OWN}\n listen 127.0.0.1, ::1\n daemon off\n chroot off\n uid root\n gid root\n\
         \x20allow-query any\n allow-transfer any\n data-path \"{0}\"\n log-path \"{0}\"\n keys-path \"{0}\"\n xfr-path \"{0}\"\n\
         \x20pid-file \"{0}/yadifad.pid\"\n</main>\n{1}{2}",
        folder.display(),
        zone("auth.lab"),
        zone("big.lab")
    );
    let mut command = program("yadifa", "yadifad")?;
    command.arg("-c").arg(write(folder, "yadifad.conf", &text)?);
    Ok(command)
}

fn go(_: &Path) -> Result<Command> {
    let program = environment::server_folder("referee-go")?.join("server");
    if !program.is_file() {
        let missing = "the server in Go is not built: run `cargo xtask referee`";
        return Err(environment::Skip(missing.into()).into());
    }
    let mut command = Command::new(program);
    command
        .arg(OWN.to_string())
        .arg(format!("127.0.0.1:{UPSTREAM}"));
    Ok(command)
}

fn python(folder: &Path, file: &str, text: &str) -> Result<Command> {
    write(folder, "answers.py", include_str!("../../referee/answers.py"))?;
    script("referee-python", "python3", folder, file, text)
}

fn script(package: &str, name: &str, folder: &Path, file: &str, text: &str) -> Result<Command> {
    let mut command = program(package, name)?;
    command.arg(write(folder, file, text)?).arg(OWN.to_string());
    Ok(command)
}

fn toy(manner: &str) -> Result<Command> {
    let mut command = Command::new(toy::program());
    command
        .args([toys::ARGUMENT, manner, &OWN.to_string()])
        .stdin(Stdio::null());
    Ok(command)
}

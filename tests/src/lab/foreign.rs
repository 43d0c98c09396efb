//! Unbound, Knot and NSD with the zones of the lab, each below a `named` that records their queries.
//!
//! ```text
//!   clients ── port A ──► Unbound       ── port B ──► upstream ──► fstrm_capture
//!                         or Knot, NSD  ◄── NOTIFY ──  (as in the lab)
//! ```
//!
//! Unbound answers `auth.lab` itself, asks the root and `up.lab` as a resolver, `moving.lab` as a forwarder. Knot and NSD are
//! primaries of `auth.lab` and `big.lab`, Knot also of `dyn.lab`, and secondaries of `moving.lab`.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    process::Command,
    time::SystemTime,
};

use anyhow::{Result, ensure};
use tempfile::TempDir;

use super::{Ports, free_port, named, scratch, write, zones};
use crate::{
    environment,
    lab::named::Named,
    process::{Line, Running, Watch},
    receive::Socket,
    record::Record,
    reference::Reference,
};

/// Server software.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Make {
    /// The resolver.
    Unbound,
    /// An authoritative server that receives and sends many datagrams at once.
    Knot,
    /// An authoritative server of several processes, with new ones after each reload.
    Nsd,
}

impl fmt::Display for Make {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Unbound => "unbound",
            Self::Knot => "knot",
            Self::Nsd => "nsd",
        })
    }
}

/// The running servers. When this is dropped, they are ended and the folder is removed.
pub(crate) struct Foreign {
    /// Software of the server.
    pub(crate) make: Make,
    process: Running,
    upstream: Named,
    reference: Reference,
    ports: Ports,
    scratch: TempDir,
}

impl Foreign {
    /// Starts the servers and waits until they answer. Unbound and Knot send their own dnstap to `collector`, which
    /// must be running already. (NSD's own dnstap drops messages in a burst, so it is not used for comparison.)
    pub(crate) fn start(make: Make, collector: Option<&Socket>) -> Result<Self> {
        let scratch = scratch()?;
        let folder = scratch.path();
        let ports = Ports {
            tapped: free_port()?,
            second: 0,
            upstream: free_port()?,
            control: 0,
        };
        let command = command(make)?;
        let socket = folder.join("reference.sock");
        let mut reference = Reference::start(folder, &socket)?;
        let upstream = named::start_upstream(folder, ports, Some(&socket))?;
        reference.connected()?;
        for (zone, records) in zones::of_tapped()? {
            write(folder, zone, &records)?;
        }
        let text = match make {
            Make::Unbound => unbound(folder, ports, collector),
            Make::Knot => knot(folder, ports, collector),
            Make::Nsd => nsd(folder, ports),
        };
        let mut process = run(command, folder, make, &text)?;
        process.wait_for_each(match make {
            Make::Unbound => &[("running", |line| line.contains("start of service"))],
            Make::Knot => &[
                ("running", |line| line.contains("server started")),
                UPDATED_KNOT,
            ],
            Make::Nsd => &[
                ("running", |line| line.contains("nsd started")),
                UPDATED_NSD,
            ],
        })?;
        Ok(Self {
            make,
            process,
            upstream,
            reference,
            ports,
            scratch,
        })
    }

    /// Returns the id of the server's first process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Returns the server's address for IPv4 or IPv6.
    pub(crate) fn server(&self, ipv6: bool) -> SocketAddr {
        SocketAddr::new(loopback(ipv6), self.ports.tapped)
    }

    /// Returns the upstream server's address.
    pub(crate) fn upstream_server(&self) -> SocketAddr {
        SocketAddr::new(loopback(false), self.ports.upstream)
    }

    /// Returns the scratch folder, for the test's own files.
    pub(crate) fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// Waits until the server has its next version of `moving.lab`.
    pub(crate) fn wait_for_transfer(&mut self) -> Result<()> {
        let (what, updated) = match self.make {
            Make::Nsd => UPDATED_NSD,
            _ => UPDATED_KNOT,
        };
        self.process.wait_for(what, updated)?;
        Ok(())
    }

    /// Makes the server read its zones again.
    pub(crate) fn reload(&self) -> Result<()> {
        self.process.signal(libc::SIGHUP)
    }

    /// Ends the server, then the upstream.
    pub(crate) fn stop(self) -> Result<Upstream> {
        let finished = self.process.stop(libc::SIGTERM)?;
        ensure!(
            finished.status.success(),
            "{} ended with {}\n{}",
            self.make,
            finished.status,
            finished.lines.join("\n")
        );
        self.upstream.stop()?;
        Ok(Upstream {
            records: self.reference.finish()?,
            _scratch: self.scratch,
        })
    }
}

/// Records of the upstream. The folder exists until this is dropped.
pub(crate) struct Upstream {
    records: Vec<Record>,
    _scratch: TempDir,
}

impl Upstream {
    /// Returns the server's queries to the upstream since `start`, and the responses.
    pub(crate) fn since(&self, start: SystemTime) -> Result<Vec<Record>> {
        let start = start.duration_since(SystemTime::UNIX_EPOCH)?;
        let since = self.records.iter().filter(|record| record.time >= start);
        Ok(since.cloned().collect())
    }
}

const UPDATED_KNOT: Line = ("the transfer", |line| {
    line.contains("[moving.lab.] refresh") && line.contains("zone updated")
});
const UPDATED_NSD: Line = ("the transfer", |line| {
    line.contains("zone moving.lab serial") && line.contains("is updated to")
});

fn loopback(ipv6: bool) -> IpAddr {
    if ipv6 {
        Ipv6Addr::LOCALHOST.into()
    } else {
        Ipv4Addr::LOCALHOST.into()
    }
}

/// Starts the server in the foreground, with its log on standard error.
fn run(mut command: Command, folder: &Path, make: Make, text: &str) -> Result<Running> {
    let file = write(folder, &format!("{make}.conf"), text)?;
    match make {
        Make::Unbound => command.arg("-dd"),
        Make::Knot => &mut command,
        Make::Nsd => command.arg("-d"),
    };
    command.arg("-c").arg(file);
    Running::start(&make.to_string(), command, Watch::Stderr)
}

fn command(make: Make) -> Result<Command> {
    Ok(Command::new(match make {
        Make::Unbound => environment::server("UNBOUND", "unbound", "unbound")?,
        Make::Knot => environment::server("KNOTD", "knot", "knotd")?,
        Make::Nsd => environment::server("NSD", "nsd", "nsd")?,
    }))
}

/// Configures Unbound: two threads, both ways to ask the upstream. It waits long for a response, because it would not
/// read a response after its time-out.
pub(crate) fn unbound(folder: &Path, ports: Ports, collector: Option<&Socket>) -> String {
    let Ports {
        tapped, upstream, ..
    } = ports;
    let folder = folder.display();
    let upstreams = |role: &str| {
        format!("  {role}-addr: 127.0.0.1@{upstream}\n  {role}-addr: ::1@{upstream}\n")
    };
    let (stub, forward) = (upstreams("stub"), upstreams("forward"));
    let to = match collector {
        None => "  dnstap-enable: no\n".to_owned(),
        Some(Socket::Unix(path)) => format!(
            "  dnstap-enable: yes\n  dnstap-socket-path: \"{}\"\n",
            path.display()
        ),
        Some(Socket::Tcp(port)) => {
            format!("  dnstap-enable: yes\n  dnstap-ip: 127.0.0.1@{port}\n  dnstap-tls: no\n")
        }
    };
    let messages = ["client", "resolver", "forwarder"].map(|who| {
        format!(
            "  dnstap-log-{who}-query-messages: yes\n  dnstap-log-{who}-response-messages: yes\n"
        )
    });
    let messages = messages.concat();
    format!(
        "server:\n  verbosity: 1\n  chroot: \"\"\n  username: \"\"\n  directory: \"{folder}\"\n  pidfile: \"\"\n\
         \x20 use-syslog: no\n  logfile: \"\"\n  num-threads: 2\n  port: {tapped}\n\
         \x20 interface: 127.0.0.1\n  interface: ::1\n\
         \x20 access-control: 127.0.0.0/8 allow\n  access-control: ::1 allow\n\
         \x20 do-not-query-localhost: no\n  infra-cache-min-rtt: 10000\n  module-config: \"iterator\"\n\
         remote-control:\n  control-enable: no\n\
         auth-zone:\n  name: auth.lab\n  zonefile: \"{folder}/auth.lab\"\n  for-upstream: no\n\
         stub-zone:\n  name: .\n{stub}\
         stub-zone:\n  name: up.lab\n{stub}\
         forward-zone:\n  name: moving.lab\n{forward}\
         dnstap:\n{to}{messages}"
    )
}

/// Configures Knot: two threads each for UDP and TCP.
pub(crate) fn knot(folder: &Path, ports: Ports, collector: Option<&Socket>) -> String {
    let Ports {
        tapped, upstream, ..
    } = ports;
    let own = match collector {
        Some(Socket::Unix(path)) => path,
        _ => Path::new(""),
    };
    // A module outside of Knot's own folders is configured by its file.
    let (declared, used) = if collector.is_some() {
        let module = environment::server_folder("knot")
            .map(|server| server.join("usr/lib/x86_64-linux-gnu/knot/modules-3.2/dnstap.so"))
            .ok()
            .filter(|module| module.exists());
        let module = module.map_or(String::new(), |module| {
            format!(
                "module:\n  - id: mod-dnstap\n    file: \"{}\"\n",
                module.display()
            )
        });
        let declared = format!(
            "{module}mod-dnstap:\n  - id: own\n    sink: \"unix:{}\"\n    log-queries: on\n    log-responses: on\n",
            own.display()
        );
        (declared, "    global-module: mod-dnstap/own\n")
    } else {
        (String::new(), "")
    };
    let folder = folder.display();
    format!(
        "{declared}server:\n    rundir: \"{folder}\"\n    listen: [ 127.0.0.1@{tapped}, ::1@{tapped} ]\n\
         \x20   udp-workers: 2\n    tcp-workers: 2\n\
         log:\n  - target: stderr\n    any: info\n\
         database:\n    storage: \"{folder}\"\n\
         remote:\n  - id: upstream\n    address: 127.0.0.1@{upstream}\n\
         acl:\n  - id: all\n    address: [ 127.0.0.0/8, \"::1\" ]\n    action: [ transfer, update, notify ]\n\
         template:\n  - id: default\n    storage: \"{folder}\"\n    file: \"%s\"\n    acl: all\n    zonefile-sync: -1\n{used}\
         zone:\n  - domain: auth.lab\n  - domain: big.lab\n  - domain: dyn.lab\n    notify: upstream\n\
         \x20 - domain: moving.lab\n    file: moving.copy\n    master: upstream\n"
    )
}

/// Configures NSD: two processes that answer, in addition to the first one and the one for transfers.
pub(crate) fn nsd(folder: &Path, ports: Ports) -> String {
    let Ports {
        tapped, upstream, ..
    } = ports;
    let folder = folder.display();
    let transfers = "  provide-xfr: 0.0.0.0/0 NOKEY\n  provide-xfr: ::0/0 NOKEY\n";
    format!(
        "server:\n  server-count: 2\n  ip-address: 127.0.0.1@{tapped}\n  ip-address: ::1@{tapped}\n\
         \x20 username: \"\"\n  chroot: \"\"\n  zonesdir: \"{folder}\"\n  database: \"\"\n\
         \x20 pidfile: \"{folder}/nsd.pid\"\n  xfrdfile: \"\"\n  zonelistfile: \"{folder}/zonelist\"\n  xfrdir: \"{folder}\"\n\
         \x20 verbosity: 2\nremote-control:\n  control-enable: no\n\
         zone:\n  name: auth.lab\n  zonefile: auth.lab\n{transfers}\
         zone:\n  name: big.lab\n  zonefile: big.lab\n{transfers}\
         zone:\n  name: moving.lab\n  zonefile: moving.copy\n  allow-notify: 127.0.0.1 NOKEY\n\
         \x20 request-xfr: 127.0.0.1@{upstream} NOKEY\n"
    )
}

//! A tree of name servers in a network namespace of its own, on the standard port. Every server is tapped twice and
//! writes its own dnstap.
//!
//! ```text
//!   client ─► forwarder ─► recursive ─► root ─► tld ─► zone ──NOTIFY──► secondary ◄─ client
//!   client ───────────────────┘  (validates)          primary ◄─ SOA, AXFR, IXFR ──┘
//!             DoT, DoH ───────┘                               ◄─ forwarded UPDATE ─┘
//! ```
//!
//! One tap uses BIND's types, and is compared with the server's own record. The other uses the profile's types.

mod configuration;
mod zones;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

pub(crate) use self::configuration::KEY;
use crate::{
    environment::{self, Combination, Skip},
    lab,
    lab::named::Named,
    record::{self, Record},
    system::network,
    tap::{Summary, Tap},
};

/// Address of IPv4 clients: the kernel uses the first one of the network.
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 53, 0, 1);
/// The port of DNS.
pub(crate) const PORT: u16 = 53;
/// The port of DNS over TLS.
pub(crate) const TLS_PORT: u16 = 853;
/// The port of DNS over HTTPS.
pub(crate) const HTTPS_PORT: u16 = 443;

/// Port on which the primary accepts queries with PROXY headers, if it can: BIND 9.20.
pub(crate) const PROXY_PORT: u16 = 5_300;

/// Role of a server of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Serves the signed root.
    Root,
    /// Serves the signed `lab`.
    Tld,
    /// Primary of the zones below.
    Zone,
    /// Resolves and validates, with the tree's root and trust anchor.
    Recursive,
    /// Sends everything to the recursive one.
    Forwarder,
    /// Secondary of `big.lab` and `dyn.lab`, forwards updates.
    Secondary,
}

impl Role {
    /// All roles, in the order in which the servers start: each after those that it asks.
    pub(crate) const ALL: [Self; 6] = [
        Self::Root,
        Self::Tld,
        Self::Zone,
        Self::Recursive,
        Self::Forwarder,
        Self::Secondary,
    ];

    /// Returns its name, which is also the name of its folder.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Tld => "tld",
            Self::Zone => "zone",
            Self::Recursive => "recursive",
            Self::Forwarder => "forwarder",
            Self::Secondary => "secondary",
        }
    }

    /// Returns its address for IPv4 or IPv6. All addresses differ.
    pub(crate) fn address(self, ipv6: bool) -> IpAddr {
        let number = self as u8 + 2;
        if ipv6 {
            Ipv6Addr::new(0xfd53, 0, 0, 0, 0, 0, 0, number.into()).into()
        } else {
            Ipv4Addr::new(10, 53, 0, number).into()
        }
    }

    /// Returns the address and port on which it serves DNS.
    pub(crate) fn server(self, ipv6: bool) -> SocketAddr {
        SocketAddr::new(self.address(ipv6), PORT)
    }

    /// Returns the addresses on which it accepts queries with PROXY headers, over IPv4 and IPv6. There are none before
    /// BIND 9.20.
    pub(crate) fn proxy_servers(self) -> Result<Vec<SocketAddr>> {
        let able = self == Self::Zone && environment::named_version()? >= (9, 20);
        let families = if able { &[false, true][..] } else { &[] };
        let server = |ipv6: &bool| SocketAddr::new(self.address(*ipv6), PROXY_PORT);
        Ok(families.iter().map(server).collect())
    }

    /// Returns the role of an address of the tree.
    pub(crate) fn of(address: IpAddr) -> Option<Self> {
        Self::ALL.into_iter().find(|role| {
            [false, true]
                .map(|ipv6| role.address(ipv6))
                .contains(&address)
        })
    }
}

/// The running servers and their taps. When this is dropped, they are ended and the folder is removed.
pub(crate) struct Tree {
    servers: Vec<Server>,
    scratch: TempDir,
}

struct Server {
    role: Role,
    named: Named,
    mimic: Tap,
    plain: Tap,
    attached: Duration,
}

/// Records of a server and its taps.
pub(crate) struct Recorded {
    /// Role of the server.
    pub(crate) role: Role,
    /// Time when both taps were attached, since 1970.
    pub(crate) attached: Duration,
    /// Records of the server's own dnstap.
    pub(crate) reference: Vec<Record>,
    /// Records and summary of the tap with `--mimic bind`.
    pub(crate) mimic: (Vec<Record>, Summary),
    /// Records and summary of the other tap.
    pub(crate) plain: (Vec<Record>, Summary),
}

/// Runs `work` in a namespace that has the tree's addresses.
pub(crate) fn isolated<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let servers = Role::ALL.map(|role| [role.address(false), role.address(true)]);
    let addresses = [&[CLIENT.into()], servers.as_flattened()].concat();
    network::isolated(&addresses, work)
        .map_err(|error| Skip(format!("no network namespace: {error}")))?
}

impl Tree {
    /// Starts all servers. Each is tapped twice as soon as it answers.
    pub(crate) fn start(how: &Combination) -> Result<Self> {
        if environment::named_version()? < (9, 18) {
            return Err(Skip("BIND before 9.18 serves neither TLS nor HTTPS".into()).into());
        }
        let scratch = lab::scratch()?;
        let zones = zones::write(scratch.path(), environment::big_records()?)?;
        let mut tree = Self {
            servers: Vec::new(),
            scratch,
        };
        for role in Role::ALL {
            let folder = tree.folder(role);
            fs::create_dir(&folder).with_context(|| format!("making {}", folder.display()))?;
            let named = configuration::start(role, &folder, &zones)?;
            let tap = |name: &str, more: &[&str]| {
                Tap::attach_with(
                    &folder.join(format!("{name}.fstrm")),
                    &folder.join(format!("{name}.json")),
                    named.pid(),
                    how,
                    more,
                )
            };
            let (mimic, plain) = (tap("mimic", &["--mimic", "bind"])?, tap("plain", &[])?);
            tree.servers.push(Server {
                role,
                named,
                mimic,
                plain,
                attached: SystemTime::now().duration_since(UNIX_EPOCH)?,
            });
        }
        Ok(tree)
    }

    /// Returns a server.
    pub(crate) fn named(&mut self, role: Role) -> &mut Named {
        &mut self.servers[role as usize].named
    }

    /// Returns the scratch folder, for the test's own files.
    pub(crate) fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    fn folder(&self, role: Role) -> PathBuf {
        self.scratch.path().join(role.name())
    }

    /// Ends the taps, then the servers, and reads what all have recorded.
    pub(crate) fn finish(mut self) -> Result<Vec<Recorded>> {
        let mut servers = Vec::new();
        let mut tapped = Vec::new();
        for server in std::mem::take(&mut self.servers) {
            tapped.push((
                server.role,
                server.attached,
                server.mimic.stop()?,
                server.plain.stop()?,
            ));
            servers.push(server.named);
        }
        // The leaves end first, so that no server loses a server that it asks.
        servers.into_iter().rev().try_for_each(Named::stop)?;
        let mut recorded = Vec::new();
        for (role, attached, mimic, plain) in tapped {
            let reference = self.folder(role).join(configuration::DNSTAP);
            recorded.push(Recorded {
                role,
                attached,
                reference: record::read(&reference).context("reading the reference")?,
                mimic: (mimic.records()?, mimic.summary),
                plain: (plain.records()?, plain.summary),
            });
        }
        Ok(recorded)
    }
}

//! The lab: private name servers on loopback, on free ports, with files in a scratch folder. It never uses a service of
//! the system.
//!
//! ```text
//!   clients ── port A ──► tapped ── port B ──► upstream
//!                         auth.lab, big.lab,   the root, up.lab,
//!                         dyn.lab primary      moving.lab primary
//!                         moving.lab secondary  ◄─ NOTIFY, IXFR
//! ```
//!
//! All servers use both loopback addresses. BIND asks all other servers on the port of its option `port`. That is the
//! port of the upstream, which serves the root, so nothing leaves the host.

pub(crate) mod foreign;
pub(crate) mod named;
pub(crate) mod services;
pub(crate) mod zones;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

pub(crate) use self::zones::{AUTH_HOSTS, UP_HOSTS};
use crate::{environment, lab::named::Named, record::Record, reference::Reference};

/// Parts of the lab that a test needs.
#[derive(Clone, Copy, Default)]
pub(crate) struct Wanted {
    /// Whether the test needs the upstream server, for recursion and transfers.
    pub(crate) upstream: bool,
    /// Whether the tapped server runs under [`system::confine`](crate::system::confine).
    pub(crate) confined: bool,
    /// Whether the test needs the tapped server's own dnstap.
    pub(crate) reference: bool,
}

/// The running servers. When this is dropped, they are ended and the folder is removed.
pub(crate) struct Lab {
    /// The server under test.
    pub(crate) tapped: Named,
    /// The server that it asks.
    pub(crate) upstream: Option<Named>,
    reference: Option<Reference>,
    ports: Ports,
    scratch: TempDir,
}

/// The lab's ports, the same on all its addresses.
#[derive(Clone, Copy)]
pub(crate) struct Ports {
    /// Port of the tapped server.
    pub(crate) tapped: u16,
    /// Second port of the tapped server, IPv4 only.
    pub(crate) second: u16,
    /// Port of the upstream server.
    pub(crate) upstream: u16,
    /// Port for `rndc` of the tapped server.
    pub(crate) control: u16,
}

impl Lab {
    /// Starts the servers and waits until they answer.
    pub(crate) fn start(wanted: Wanted) -> Result<Self> {
        let scratch = scratch()?;
        let folder = scratch.path();
        let ports = Ports {
            tapped: free_port()?,
            second: free_port()?,
            upstream: free_port()?,
            control: free_port()?,
        };
        let upstream = if wanted.upstream {
            Some(named::start_upstream(folder, ports, None)?)
        } else {
            None
        };
        let socket = folder.join("dnstap.sock");
        let mut reference = if wanted.reference {
            Some(Reference::start(folder, &socket)?)
        } else {
            None
        };
        let tapped = named::start_tapped(folder, ports, wanted, &socket)?;
        if let Some(reference) = &mut reference {
            reference.connected()?;
        }
        Ok(Self {
            tapped,
            upstream,
            reference,
            ports,
            scratch,
        })
    }

    /// Returns the tapped server's address for IPv4 or IPv6.
    pub(crate) fn server(&self, ipv6: bool) -> SocketAddr {
        let address: IpAddr = if ipv6 {
            Ipv6Addr::LOCALHOST.into()
        } else {
            Ipv4Addr::LOCALHOST.into()
        };
        SocketAddr::new(address, self.ports.tapped)
    }

    /// Returns the tapped server's address with its second port.
    pub(crate) fn second_server(&self) -> SocketAddr {
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), self.ports.second)
    }

    /// Returns the upstream server's address.
    pub(crate) fn upstream_server(&self) -> SocketAddr {
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), self.ports.upstream)
    }

    /// Returns the scratch folder, for the test's own files.
    pub(crate) fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// Ends the servers regularly, the tapped one first, and returns the tapped server's own records.
    pub(crate) fn finish(mut self) -> Result<Vec<Record>> {
        self.tapped.stop()?;
        if let Some(upstream) = self.upstream.take() {
            upstream.stop()?;
        }
        self.reference
            .context("the lab was started without a reference")?
            .finish()
    }
}

/// Makes a scratch folder that other users may enter. It is removed when dropped.
pub(crate) fn scratch() -> Result<TempDir> {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::Builder::new()
        .prefix("dnstap-tests-")
        .disable_cleanup(environment::keep_scratch())
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir()
        .context("making a scratch folder")?;
    Ok(folder)
}

/// Writes a file of the lab and returns its path.
pub(crate) fn write(folder: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

/// Returns a port that is now free for UDP and TCP on both addresses of the lab.
pub(crate) fn free_port() -> Result<u16> {
    loop {
        let probe = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = probe.local_addr()?.port();
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
            && UdpSocket::bind((Ipv6Addr::LOCALHOST, port)).is_ok()
            && TcpListener::bind((Ipv6Addr::LOCALHOST, port)).is_ok();
        if free {
            return Ok(port);
        }
    }
}

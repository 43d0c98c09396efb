//! The lab: private name servers on loopback, on free ports, from a scratch folder; never a system's service.
//!
//! ```text
//!   clients ── port A ──► tapped ── port B ──► upstream
//!                         auth.lab, big.lab,   the root, up.lab,
//!                         dyn.lab primary      moving.lab primary
//!                         moving.lab secondary  ◄─ NOTIFY, IXFR
//! ```
//!
//! All on both loopback addresses. BIND asks all other servers on the port of its option `port`: that is the upstream's, which
//! serves the root, so nothing ever leaves the host.

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

/// What a test wants of the lab.
#[derive(Clone, Copy, Default)]
pub(crate) struct Wanted {
    /// The upstream server, for recursion and transfers.
    pub(crate) upstream: bool,
    /// The tapped server's own dnstap.
    pub(crate) reference: bool,
}

/// The running servers. Dropped: ended, folder removed.
pub(crate) struct Lab {
    /// The server under test.
    pub(crate) tapped: Named,
    /// The server above it.
    pub(crate) upstream: Option<Named>,
    reference: Option<Reference>,
    ports: Ports,
    scratch: TempDir,
}

/// The lab's ports, the same on all its addresses.
#[derive(Clone, Copy)]
pub(crate) struct Ports {
    /// The tapped server's.
    pub(crate) tapped: u16,
    /// The tapped server's second one, IPv4 only.
    pub(crate) second: u16,
    /// The upstream server's.
    pub(crate) upstream: u16,
    /// `rndc` of the tapped server.
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

    /// The tapped server's address for IPv4 or IPv6.
    pub(crate) fn server(&self, ipv6: bool) -> SocketAddr {
        let address: IpAddr = if ipv6 {
            Ipv6Addr::LOCALHOST.into()
        } else {
            Ipv4Addr::LOCALHOST.into()
        };
        SocketAddr::new(address, self.ports.tapped)
    }

    /// Where the tapped server listens besides: on its second port.
    pub(crate) fn second_server(&self) -> SocketAddr {
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), self.ports.second)
    }

    /// The upstream server's address.
    pub(crate) fn upstream_server(&self) -> SocketAddr {
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), self.ports.upstream)
    }

    /// The scratch folder, for the test's own files.
    pub(crate) fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// Ends the servers, the tapped one first and in order, and returns what it recorded itself.
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

/// A scratch folder that other users may enter, removed when dropped.
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

/// A port that is free now for UDP and TCP on both addresses of the lab.
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

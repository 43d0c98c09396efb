//! A `named` with all kinds of listeners of BIND: DNS, DNS over TLS and HTTPS, over HTTP without TLS, the control
//! channel, the statistics channel.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use super::{free_port, named, scratch, write};
use crate::{
    environment::{self, Skip},
    lab::named::Named,
    process,
    record::Record,
    reference::Reference,
};

/// Strings in the large record `big.services.lab`, which takes more than 16 KiB.
const BIG: usize = 80;

/// The running server. When this is dropped, it is ended and the folder is removed.
pub(crate) struct Services {
    /// The server.
    pub(crate) named: Named,
    /// Ports on 127.0.0.1.
    pub(crate) ports: Ports,
    reference: Option<Reference>,
    scratch: TempDir,
}

/// Ports of the listeners.
pub(crate) struct Ports {
    /// DNS.
    pub(crate) dns: u16,
    /// DNS over TLS.
    pub(crate) tls: u16,
    /// DNS over HTTPS.
    pub(crate) https: u16,
    /// DNS over HTTP/2 without TLS, as behind a proxy that ends it.
    pub(crate) http: u16,
    /// Statistics, HTTP.
    pub(crate) statistics: u16,
    control: u16,
}

impl Services {
    /// Starts the server and waits until it answers. A [`Skip`] before BIND 9.18, which has no TLS.
    pub(crate) fn start() -> Result<Self> {
        Self::start_with(false)
    }

    /// Like [`Self::start`], and the server's own dnstap is received.
    pub(crate) fn start_recorded() -> Result<Self> {
        Self::start_with(true)
    }

    fn start_with(recorded: bool) -> Result<Self> {
        if environment::named_version()? < (9, 18) {
            return Err(
                Skip("BIND before 9.18 listens neither for TLS nor for HTTP".into()).into(),
            );
        }
        let scratch = scratch()?;
        let ports = Ports {
            dns: free_port()?,
            tls: free_port()?,
            https: free_port()?,
            http: free_port()?,
            statistics: free_port()?,
            control: free_port()?,
        };
        let socket = scratch.path().join("dnstap.sock");
        let mut reference = if recorded {
            Some(Reference::start(scratch.path(), &socket)?)
        } else {
            None
        };
        let named = if recorded {
            let tls = certificate(scratch.path())?;
            start(scratch.path(), &ports, &tls, &named::own_dnstap(&socket))?
        } else {
            start(scratch.path(), &ports, "", "")?
        };
        if let Some(reference) = &mut reference {
            reference.connected()?;
        }
        Ok(Self {
            named,
            ports,
            reference,
            scratch,
        })
    }

    /// Ends the server regularly and returns its own records.
    pub(crate) fn finish(self) -> Result<Vec<Record>> {
        self.named.stop()?;
        let reference = self.reference.context("started without a reference")?;
        reference.finish()
    }

    /// Returns the server's address with this port.
    pub(crate) fn at(port: u16) -> SocketAddr {
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)
    }

    /// Returns the scratch folder, for the test's own files.
    pub(crate) fn folder(&self) -> &Path {
        self.scratch.path()
    }
}

/// Makes a certificate, which some clients want to be complete even if they do not check it. Returns the statement for it.
fn certificate(folder: &Path) -> Result<String> {
    let mut command = Command::new(environment::tool("openssl")?);
    command.current_dir(folder).args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
        "-keyout",
        "lab.key",
        "-out",
        "lab.pem",
        "-subj",
        "/CN=services.lab",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
    ]);
    process::output(command)?;
    let file = |name: &str| folder.join(name).display().to_string();
    Ok(format!(
        "tls lab {{ cert-file \"{}\"; key-file \"{}\"; }};\n",
        file("lab.pem"),
        file("lab.key")
    ))
}

/// Starts the server. `tls`: statement of its certificate `lab`; empty: it makes one itself. `options`: more options.
fn start(folder: &Path, ports: &Ports, tls: &str, options: &str) -> Result<Named> {
    let certificate = if tls.is_empty() { "ephemeral" } else { "lab" };
    let Ports {
        dns,
        tls: dot,
        https,
        http,
        statistics,
        control,
    } = ports;
    let key = named::KEY;
    let zone = write(
        folder,
        "services.lab",
        &format!(
            "$TTL 3600\n@ SOA ns root 1 3600 900 86400 60\n@ NS ns\nns A 127.0.0.1\n* A 192.0.2.1\nbig TXT{}\n",
            format!(" {}", "x".repeat(250)).repeat(BIG)
        ),
    )?;
    let text = format!(
        "{tls}{key}controls {{ inet 127.0.0.1 port {control} allow {{ 127.0.0.1; }} keys {{ lab; }}; }};\n\
         statistics-channels {{ inet 127.0.0.1 port {statistics} allow {{ 127.0.0.1; }}; }};\n\
         options {{\n{}\
         listen-on port {dns} {{ 127.0.0.1; }};\n\
         listen-on port {dot} tls {certificate} {{ 127.0.0.1; }};\n\
         listen-on port {https} tls {certificate} http default {{ 127.0.0.1; }};\n\
         listen-on port {http} tls none http default {{ 127.0.0.1; }};\n\
         listen-on-v6 {{ none; }};\nrecursion no;\nnotify no;\n{options}}};\n\
         zone \"services.lab\" {{ type primary; file \"{}\"; }};\n",
        named::common(folder, *dns)?,
        zone.display()
    );
    let rndc = write(
        folder,
        "rndc.conf",
        &format!(
            "{key}options {{ default-key lab; default-server 127.0.0.1; default-port {control}; }};\n"
        ),
    )?;
    named::start(folder, "services", &text, Some(rndc), &[named::RUNNING])
}

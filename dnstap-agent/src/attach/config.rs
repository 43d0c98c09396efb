//! What the pipeline is told about the process and by the command line.

use std::{collections::BTreeSet, fs};

use tracing::info;

use crate::{
    cli::Attach,
    pipeline::PipelineConfig,
    profile::{executable_name, serves_dns},
    target::{OpenSocket, Target},
};

/// The pipeline's configuration for `target`, which has these `sockets` open.
pub(super) fn pipeline_config(
    options: &Attach,
    target: &Target,
    sockets: &[OpenSocket],
) -> PipelineConfig {
    let messages = &options.messages;
    let ports = dns_ports(sockets);
    let executable = executable_name(target.pid, &target.name);
    let chosen = messages
        .profile
        .choose(&executable, serves_dns(sockets, &ports));
    info!(executable, profile = chosen.name, "messages are named");
    PipelineConfig {
        identity: identity(options),
        version: concat!("dnstap-agent ", env!("CARGO_PKG_VERSION")).into(),
        existing_sockets: sockets.iter().map(|socket| socket.inode).collect(),
        dns_ports: ports,
        profile: chosen.profile(),
        ..PipelineConfig::default()
    }
}

/// Ports on which the process serves DNS: those where it waits for both datagrams and connections (RFC 7766 section 5).
fn dns_ports(sockets: &[OpenSocket]) -> Vec<u16> {
    let waits = |port: u16, tcp: bool| {
        sockets
            .iter()
            .any(|socket| socket.listening && socket.tcp == tcp && socket.local.port() == port)
    };
    let ports: BTreeSet<u16> = sockets.iter().map(|socket| socket.local.port()).collect();
    ports
        .into_iter()
        .filter(|&port| waits(port, false) && waits(port, true))
        .collect()
}

/// The dnstap identity: what the option says, else the host's name.
fn identity(options: &Attach) -> Vec<u8> {
    options
        .identity
        .clone()
        .unwrap_or_else(|| {
            fs::read_to_string("/proc/sys/kernel/hostname")
                .map(|name| name.trim_end().to_owned())
                .unwrap_or_default()
        })
        .into_bytes()
}

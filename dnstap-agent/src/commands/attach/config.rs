//! Configuration of the pipeline from the command line, and facts about each server.

use std::{collections::BTreeSet, fs};

use anyhow::{Context as _, Result, anyhow};
use dnstap_core::{
    classify::{Naming, bind::BindRules},
    encode::Extra,
    model::{Role, TypeSet},
    pair::PairLimits,
    pipeline::{Filter, PipelineConfig, Server},
    privacy::{CryptoPan, Method, MethodName, Privacy},
};
use tracing::info;

use super::Job;
use crate::{
    cli::{Filters, Messages, Mimic},
    host::{
        exit::{Exit, ExitWith},
        version::server_version,
    },
    sources::{
        probes::Probe,
        processes::{
            OpenSocket,
            executable::{completed, executable_name, serves_dns},
            open_sockets_among,
        },
        socket::KernelFilter,
    },
};

/// Returns the pipeline's configuration, except for what differs between servers.
pub(super) fn pipeline_config(job: &Job<'_>) -> Result<PipelineConfig> {
    let messages = job.messages;
    let pair_limits = PairLimits::default();
    Ok(PipelineConfig {
        privacy: privacy(messages)?,
        identity: identity(job.identity),
        proxies: messages.proxy_from.clone(),
        server: Server {
            version: version(messages.server_version.clone()),
            naming: match &messages.mimic {
                Some(mimic) => bind_naming(mimic, None),
                None => Naming::Profile(messages.profile.choose("", true).profile()),
            },
            ..Server::default()
        },
        extra: Extra {
            fields: messages.extra.clone(),
        },
        filter: pipeline_filter(&messages.filters),
        unsolicited: messages.unsolicited,
        unsure: job.tapping.probes.contains(&Probe::Encrypted),
        report_unanswered: messages.unanswered_events.is_some(),
        events: job.events.kinds(),
        pair_limits: PairLimits {
            age_ns: messages.unanswered.map_or(pair_limits.age_ns, |age| {
                u64::try_from(age.as_nanos()).unwrap_or(u64::MAX)
            }),
            ..pair_limits
        },
        ..PipelineConfig::default()
    })
}

/// Returns the privacy settings. Reads the key.
fn privacy(messages: &Messages) -> Result<Privacy> {
    let addresses = match messages.anonymise {
        None => None,
        Some(MethodName::Truncate(prefixes)) => Some(Method::Truncate(prefixes)),
        Some(MethodName::CryptoPan) => {
            let path = messages.anonymise_key.as_ref();
            let path = path.context("--anonymise cryptopan without its key")?;
            let bytes = fs::read(path).map_err(|error| error.to_string());
            let keyed = bytes.and_then(|bytes| CryptoPan::from_file(&bytes));
            let keyed = keyed.map_err(|problem| {
                anyhow!(ExitWith(
                    Exit::NoInput,
                    format!("cannot use the key in {}: {problem}", path.display())
                ))
            })?;
            Some(Method::CryptoPan(Box::new(keyed)))
        }
    };
    Ok(Privacy {
        addresses,
        no_names: messages.no_payload_names,
    })
}

/// Returns the filter of the pipeline.
pub(super) fn pipeline_filter(filters: &Filters) -> Filter {
    Filter {
        only: TypeSet::union(&filters.only),
        exclude: filters.exclude.clone(),
        sampled: filters.sample.is_some(),
    }
}

/// Returns the filter of the kernel side. A role is left out if none of the `servers` has wanted
/// messages in it, unless `all_roles` are needed.
pub(super) fn kernel_filter<'s>(
    filters: &Filters,
    all_roles: bool,
    servers: &(impl Iterator<Item = &'s Server> + Clone),
) -> KernelFilter {
    let filter = pipeline_filter(filters);
    let mut without = vec![Role::Responder, Role::Initiator];
    without.retain(|role| {
        let wanted = |server: &Server| filter.wants_role(&server.naming, *role);
        !all_roles && !servers.clone().any(wanted)
    });
    KernelFilter {
        ports: filters.ports.clone(),
        nets: filters.nets.clone(),
        without,
        sample: filters.sample,
    }
}

/// Most descriptors of a process that are searched for listening sockets. Servers open these first,
/// so they have low numbers. There is a limit, because any program can have the name of a server,
/// and the search runs on the thread that reads the ring.
const DESCRIPTORS: usize = 4_096;

/// Returns the facts about the server that process `pid` runs; `None` if the process has ended.
pub(super) fn find_server(messages: &Messages, pid: u32) -> Option<Server> {
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    let executable = executable_name(pid, comm.trim_end());
    let sockets = open_sockets_among(DESCRIPTORS, pid).unwrap_or_default();
    let dns_ports = dns_ports(&sockets);
    let found = server_version(pid, &executable);
    let serves = serves_dns(&sockets, &dns_ports);
    Some(Server {
        naming: naming(messages, &executable, serves, found.clone()),
        version: version(messages.server_version.clone().or(found)),
        netns: network_namespace(pid),
        dns_ports,
    })
}

/// Returns the facts about a server that has ended, of which only its executable's name is known.
pub(super) fn find_ended_server(messages: &Messages, name: &str) -> Server {
    Server {
        // A process that has ended so soon is no server.
        naming: naming(messages, &completed(name), false, None),
        version: version(messages.server_version.clone()),
        ..Server::default()
    }
}

fn naming(messages: &Messages, executable: &str, serves: bool, found: Option<String>) -> Naming {
    if let Some(mimic) = &messages.mimic {
        return bind_naming(mimic, found);
    }
    let chosen = messages.profile.choose(executable, serves);
    info!(
        executable,
        profile = chosen.name,
        "messages are named by profile"
    );
    Naming::Profile(chosen.profile())
}

fn bind_naming(mimic: &Mimic, found: Option<String>) -> Naming {
    let version = mimic.bind_version.clone().or(found).unwrap_or_default();
    info!(version, "messages are named as by BIND");
    Naming::Bind(BindRules::of_version(&version))
}

/// Returns the server's version, or the agent's own.
fn version(server: Option<String>) -> Vec<u8> {
    server
        .unwrap_or_else(|| concat!("dnstap-agent ", env!("CARGO_PKG_VERSION")).to_owned())
        .into_bytes()
}

/// Returns the inode number of a process's network namespace: `/proc/PID/ns/net` is a link to
/// `net:[NUMBER]`.
fn network_namespace(pid: u32) -> Option<u64> {
    let link = fs::read_link(format!("/proc/{pid}/ns/net")).ok()?;
    let number = link.to_str()?.strip_prefix("net:[")?.strip_suffix(']')?;
    number.parse().ok()
}

/// Returns the ports on which the process serves DNS: those with both a bound UDP socket and a
/// listening TCP socket (RFC 7766 section 5).
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

/// Returns the dnstap identity: the option's value, otherwise the host's name.
fn identity(given: Option<&str>) -> Vec<u8> {
    let host = || {
        let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        name.trim_end().to_owned()
    };
    given.map_or_else(host, str::to_owned).into_bytes()
}

//! What the pipeline is told about the process and by the command line.

use std::{collections::BTreeSet, fs};

use anyhow::{Result, anyhow, bail};
use tracing::info;

use crate::{
    anonymise::{CryptoPan, Method, MethodName, Privacy},
    classify::{Naming, Role, bind::BindRules},
    cli::{Attach, Messages},
    encode::Extra,
    exit::{Exit, ExitWith},
    pair::PairLimits,
    pipeline::{Filter, PipelineConfig, TypeSet},
    profile::{executable_name, serves_dns},
    tap::KernelFilter,
    target::{OpenSocket, Target},
    version::server_version,
};

/// The pipeline's configuration for `target`, which has these `sockets` open.
pub(super) fn pipeline_config(
    options: &Attach,
    target: &Target,
    sockets: &[OpenSocket],
) -> Result<PipelineConfig> {
    let messages = &options.messages;
    let ports = dns_ports(sockets);
    let executable = executable_name(target.pid, &target.name);
    let found = server_version(target.pid, &executable);
    let version = messages.server_version.clone().or_else(|| found.clone());
    let pair_limits = PairLimits::default();
    Ok(PipelineConfig {
        privacy: privacy(messages)?,
        identity: identity(options),
        version: version
            .unwrap_or_else(|| concat!("dnstap-agent ", env!("CARGO_PKG_VERSION")).to_owned())
            .into_bytes(),
        existing_sockets: sockets.iter().map(|socket| socket.inode).collect(),
        extra: Extra {
            fields: messages.extra.clone(),
            netns: network_namespace(target.pid),
        },
        naming: naming(messages, &executable, found, serves_dns(sockets, &ports)),
        filter: Filter {
            only: TypeSet::union(&messages.only),
            exclude: messages.exclude.clone(),
        },
        report_unanswered: messages.unanswered_events.is_some(),
        dns_ports: ports,
        pair_limits: PairLimits {
            age_ns: messages.unanswered.map_or(pair_limits.age_ns, |age| {
                u64::try_from(age.as_nanos()).unwrap_or(u64::MAX)
            }),
            ..pair_limits
        },
        ..PipelineConfig::default()
    })
}

/// What is to be hidden; reads the key.
fn privacy(messages: &Messages) -> Result<Privacy> {
    let addresses = match (messages.anonymise, &messages.anonymise_key) {
        (None, _) => None,
        (Some(MethodName::Truncate(prefixes)), None) => Some(Method::Truncate(prefixes)),
        (Some(MethodName::CryptoPan), Some(path)) => {
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
        (Some(MethodName::Truncate(_)), Some(_)) => {
            bail!(usage("--anonymise truncate has no key"))
        }
        (Some(MethodName::CryptoPan), None) => {
            bail!(usage("--anonymise cryptopan needs --anonymise-key FILE"))
        }
    };
    Ok(Privacy {
        addresses,
        no_names: messages.no_payload_names,
    })
}

fn usage(problem: &str) -> ExitWith {
    ExitWith(Exit::Usage, problem.to_owned())
}

/// What the kernel side leaves out, of what `config` does not deliver and what the options say besides.
pub(super) fn kernel_filter(messages: &Messages, config: &PipelineConfig) -> KernelFilter {
    let mut without = vec![Role::Responder, Role::Initiator];
    without.retain(|role| !config.filter.wants_role(&config.naming, *role));
    KernelFilter {
        ports: messages.ports.clone(),
        nets: messages.nets.clone(),
        without,
        sample: messages.sample,
    }
}

fn naming(messages: &Messages, executable: &str, version: Option<String>, serves: bool) -> Naming {
    if let Some(mimic) = &messages.mimic {
        let version = mimic.bind_version.clone().or(version).unwrap_or_default();
        info!(executable, version, "messages are named as by BIND");
        return Naming::Bind(BindRules::of_version(&version));
    }
    let chosen = messages.profile.choose(executable, serves);
    info!(
        executable,
        profile = chosen.name,
        "messages are named by profile"
    );
    Naming::Profile(chosen.profile())
}

/// Inode number of a process's network namespace: `/proc/PID/ns/net` is a link to `net:[NUMBER]`.
fn network_namespace(pid: u32) -> Option<u64> {
    let link = fs::read_link(format!("/proc/{pid}/ns/net")).ok()?;
    let number = link.to_str()?.strip_prefix("net:[")?.strip_suffix(']')?;
    number.parse().ok()
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

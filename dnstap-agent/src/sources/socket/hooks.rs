//! Attaching of hooks: chooses the first candidate of which the kernel accepts all programs.

use std::{any::Any, fs::File, os::fd::AsFd as _};

use anyhow::{Context as _, Result, anyhow};
use aya::{
    Btf, Ebpf, Endianness,
    maps::ProgramArray,
    programs::{
        BtfTracePoint, CgroupAttachMode, CgroupSockAddr, FEntry, FExit, Program, ProgramError,
        RawTracePoint, UProbe,
    },
};
use dnstap_ebpf::Hook;

use super::{
    HookChoice,
    btf::Btf as Types,
    offsets, preemption,
    programs::{all, load},
    take,
};
use crate::{
    host::{
        cgroup,
        exit::{Exit, ExitWith},
    },
    sources::probes::{Programs, Site},
};

/// Raw tracepoint that reports the end of connections; its program has the same name.
pub(super) const CONNECTIONS: &str = "inet_sock_set_state";

/// Tracepoint at which operations of `io_uring` are done; its program has the same name.
const COMPLETIONS: &str = "io_uring_complete";

/// Suffix of the second program's name.
const SECOND: &str = "_second";

/// Function that takes datagrams from their socket; shows their local address to hook `fentry`.
const SKB_CONSUME_UDP: &str = "skb_consume_udp";

/// Tracepoint at which packets are copied to processes; lets hooks `fentry` and `socket` tell
/// several datagrams from one.
const COPIES: &str = "skb_copy_datagram_iovec";

/// Links that keep programs attached; dropping one detaches.
type Links = Vec<Box<dyn Any + Send>>;

/// Result of attaching.
pub(super) struct Attached {
    /// The hook in use.
    pub(super) hook: Hook,
    pub(super) links: Links,
    /// Hooks that were refused before it, with the reasons.
    pub(super) refused: Vec<(Hook, String)>,
    /// Limits of the hook in use on this kernel.
    pub(super) degraded: Vec<String>,
}

/// Attaches the chosen hook, or the first that works.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    types: &Types<'_>,
    choice: HookChoice,
    copies: Copies,
) -> Result<Attached> {
    let candidates: &[Hook] = match choice {
        HookChoice::Auto => &Hook::ALL,
        HookChoice::Fentry => &[Hook::Fentry],
        HookChoice::Socket => &[Hook::Socket],
        HookChoice::Syscall => &[Hook::Syscall],
    };
    let mut refused = Vec::new();
    let mut degraded = Vec::new();
    for &hook in candidates {
        let attached = match hook {
            Hook::Socket => socket(ebpf, types, copies),
            Hook::Syscall => syscall(ebpf, copies, &mut degraded),
            Hook::Fentry => fentry(ebpf, types, copies, &mut degraded),
        };
        match attached {
            Ok(links) => {
                log_verified(ebpf);
                return Ok(Attached {
                    hook,
                    links,
                    refused: refused.into_iter().map(in_one_line).collect(),
                    degraded,
                });
            }
            Err(error) => refused.push((hook, format!("{error:#}"))),
        }
    }
    let reasons: Vec<_> = refused
        .iter()
        .map(|(hook, reason)| format!("hook {}: {reason}", hook.name()))
        .collect();
    Err(anyhow!("{}", reasons.join("; "))).context(ExitWith(
        Exit::NoPermission,
        "the kernel refuses to be hooked (`dnstap-agent check` tells more)".into(),
    ))
}

/// Cuts the verifier's log off the reason; it may have megabytes.
fn in_one_line((hook, reason): (Hook, String)) -> (Hook, String) {
    (hook, one_line(&reason))
}

/// The same of the reason alone.
pub(super) fn one_line(reason: &str) -> String {
    let line = reason.lines().next().unwrap_or_default();
    line.chars().take(300).collect()
}

/// Attaches fexit to the four socket functions, and fentry to `skb_consume_udp`, without which
/// wildcard sockets have no local address.
fn fentry(
    ebpf: &mut Ebpf,
    types: &Types<'_>,
    copies: Copies,
    degraded: &mut Vec<String>,
) -> Result<Links> {
    offsets::check_prototypes(types)?;
    let typedef = format!("btf_trace_{COPIES}");
    let mut wanted = offsets::TRACED.map(|(function, _)| function).to_vec();
    wanted.push(&typedef);
    let btf = names(types, &wanted)?;
    let functions = [
        "inet_recvmsg",
        "inet6_recvmsg",
        "inet_sendmsg",
        "inet6_sendmsg",
    ];
    let programs: Vec<_> = functions
        .into_iter()
        .chain([COPIES])
        .flat_map(|name| copies.with_place(name))
        .collect();
    let optional = (SKB_CONSUME_UDP.to_owned(), SKB_CONSUME_UDP);
    let mut loaded = load(ebpf, programs.iter().chain([&optional]), Some(&btf));
    let skb_consume_udp = loaded.remove(SKB_CONSUME_UDP);
    all(loaded)?;
    let mut links = tracepoint_with_types(ebpf, COPIES, copies)?;
    for function in functions {
        // A trampoline first runs the program that was attached last.
        for name in copies.of(function).into_iter().rev() {
            let program: &mut FExit = program(ebpf, &name)?;
            let link = program
                .attach()
                .with_context(|| format!("cannot attach to the exit of {function}"))?;
            links.push(Box::new(program.take_link(link)?));
        }
    }
    match skb_consume_udp
        .unwrap_or(Ok(()))
        .and_then(|()| attach_skb_consume_udp(ebpf))
    {
        Ok(link) => links.push(link),
        Err(error) => degraded.push(format!(
            "no local address on UDP sockets bound to none: {error:#}"
        )),
    }
    Ok(links)
}

fn attach_skb_consume_udp(ebpf: &mut Ebpf) -> Result<Box<dyn Any + Send>> {
    let program: &mut FEntry = program(ebpf, SKB_CONSUME_UDP)?;
    let link = program
        .attach()
        .with_context(|| format!("cannot attach to {SKB_CONSUME_UDP}"))?;
    Ok(Box::new(program.take_link(link)?))
}

/// Attaches to `sock_send_length`, `sock_recv_length`, and the cgroup programs that know the peers
/// of received datagrams.
fn socket(ebpf: &mut Ebpf, types: &Types<'_>, copies: Copies) -> Result<Links> {
    let mut links = Links::new();
    // A socket belongs to the cgroup in which it was created. For an inherited or activated socket
    // this is not the cgroup of the process, so the programs are attached to the root.
    let root = cgroup::root()?;
    let cgroup = File::open(&root)
        .with_context(|| format!("cannot open the cgroup root {}", root.display()))?;
    let tracepoints = [COPIES, "sock_recv_length", "sock_send_length"];
    let typedefs = tracepoints.map(|tracepoint| format!("btf_trace_{tracepoint}"));
    let btf = names(types, &typedefs.each_ref().map(String::as_str))?;
    let of_cgroup = ["recvmsg4", "recvmsg6"];
    let programs: Vec<_> = tracepoints
        .into_iter()
        .flat_map(|name| copies.with_place(name))
        .chain(of_cgroup.map(|name| (name.to_owned(), name)))
        .collect();
    all(load(ebpf, &programs, Some(&btf)))?;
    for program in of_cgroup {
        links.push(cgroup_recvmsg(ebpf, program, &cgroup)?);
    }
    for tracepoint in tracepoints {
        links.extend(tracepoint_with_types(ebpf, tracepoint, copies)?);
    }
    Ok(links)
}

fn tracepoint_with_types(ebpf: &mut Ebpf, tracepoint: &str, copies: Copies) -> Result<Links> {
    let mut links = Links::new();
    for name in copies.of(tracepoint) {
        let program: &mut BtfTracePoint = program(ebpf, &name)?;
        let link = program
            .attach()
            .with_context(|| format!("cannot attach to raw tracepoint {tracepoint}"))?;
        links.push(Box::new(program.take_link(link)?) as Box<dyn Any + Send>);
    }
    Ok(links)
}

/// Attaches to `sys_exit`, with the programs that continue long batches, and to `io_uring_complete`, without which
/// operations of polled rings are not counted.
fn syscall(ebpf: &mut Ebpf, copies: Copies, degraded: &mut Vec<String>) -> Result<Links> {
    let mut array = ProgramArray::try_from(take(ebpf, "CONTINUE")?)?;
    let programs: Vec<_> = copies
        .of("sys_exit")
        .into_iter()
        .flat_map(|name| [format!("{name}_next"), name])
        .map(|name| (name, "sys_exit"))
        .collect();
    all(load(ebpf, &programs, None))?;
    let mut links = Links::new();
    for (index, name) in (0..).zip(copies.of("sys_exit")) {
        let next: &mut RawTracePoint = program(ebpf, &format!("{name}_next"))?;
        array.set(index, next.fd()?, 0)?;
        links.push(raw_tracepoint(ebpf, &name, "sys_exit")?);
    }
    // The kernel empties a program array when its last user-space reference is closed.
    links.push(Box::new(array));
    let completions = all(load(ebpf, &[(COMPLETIONS.to_owned(), COMPLETIONS)], None))
        .and_then(|()| raw_tracepoint(ebpf, COMPLETIONS, COMPLETIONS));
    match completions {
        Ok(link) => links.push(link),
        Err(error) => degraded.push(format!(
            "no count of what io_uring does without a system call: {}",
            one_line(&format!("{error:#}"))
        )),
    }
    Ok(links)
}

/// Attaches to `sched_process_fork`, `sched_process_exec` and `sched_process_exit`, whose programs
/// maintain the set of tapped processes.
pub(super) fn processes(ebpf: &mut Ebpf, copies: Copies) -> Result<Links> {
    let tracepoints = [
        "sched_process_exit",
        "sched_process_exec",
        "sched_process_fork",
    ];
    let programs: Vec<_> = tracepoints
        .into_iter()
        .flat_map(|name| copies.with_place(name))
        .collect();
    all(load(ebpf, &programs, None))?;
    let mut links = Links::new();
    for tracepoint in tracepoints {
        for name in copies.of(tracepoint) {
            links.push(raw_tracepoint(ebpf, &name, tracepoint)?);
        }
    }
    Ok(links)
}

/// Returns the part of the kernel's BTF that the programs name. aya would take long and much memory
/// to read all of it.
fn names(types: &Types<'_>, wanted: &[&str]) -> Result<Btf> {
    Btf::parse(&types.names_alone(wanted)?, Endianness::default())
        .context("cannot read the kernel's BTF")
}

/// Attaches [`CONNECTIONS`].
pub(super) fn connections(ebpf: &mut Ebpf) -> Result<Links> {
    all(load(ebpf, &[(CONNECTIONS.to_owned(), CONNECTIONS)], None))?;
    Ok(vec![raw_tracepoint(ebpf, CONNECTIONS, CONNECTIONS)?])
}

/// Loads the programs of these functions, for whoever attaches them.
pub(super) fn probes(ebpf: &mut Ebpf, sites: &[Site]) -> Programs {
    let wanted: Vec<_> = sites
        .iter()
        .map(|site| (site.program().to_owned(), site.program()))
        .collect();
    let mut loaded = load(ebpf, &wanted, None);
    let of = |site: &Site| {
        let loaded = loaded.remove(site.program()).unwrap_or(Ok(()));
        let program = loaded.and_then(|()| {
            let program: &mut UProbe = program(ebpf, site.program())?;
            Ok(program.fd()?.as_fd().try_clone_to_owned()?)
        });
        let program = program.map_err(|error| one_line(&format!("{error:#}")));
        (*site, program)
    };
    sites.iter().map(of).collect()
}

/// Number of programs attached for each message (`thread/once.rs` of the eBPF side).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copies {
    /// One program, which the kernel does not interrupt.
    One,
    /// A second program, which runs when the first one is interrupted.
    Two,
}

impl Copies {
    /// Returns the number that this kernel needs.
    pub(super) fn needed() -> Self {
        if preemption::is_possible() {
            Self::Two
        } else {
            Self::One
        }
    }

    /// Returns the names of the programs by that of the first, in the order in which they must run.
    fn of(self, name: &str) -> Vec<String> {
        let mut copies = vec![name.to_owned()];
        if self == Self::Two {
            copies.push(format!("{name}{SECOND}"));
        }
        copies
    }

    /// Returns the programs with the function or tracepoint that they are attached to and named
    /// after.
    fn with_place(self, name: &'static str) -> impl Iterator<Item = (String, &'static str)> {
        self.of(name).into_iter().map(move |copy| (copy, name))
    }
}

/// Returns the name of the first program for either of the two.
pub(super) fn first_of(name: &str) -> &str {
    name.strip_suffix(SECOND).unwrap_or(name)
}

fn raw_tracepoint(ebpf: &mut Ebpf, name: &str, tracepoint: &str) -> Result<Box<dyn Any + Send>> {
    let program: &mut RawTracePoint = program(ebpf, name)?;
    let link = program
        .attach(tracepoint)
        .with_context(|| format!("cannot attach to raw tracepoint {tracepoint}"))?;
    Ok(Box::new(program.take_link(link)?))
}

fn cgroup_recvmsg(ebpf: &mut Ebpf, name: &str, cgroup: &File) -> Result<Box<dyn Any + Send>> {
    let program: &mut CgroupSockAddr = program(ebpf, name)?;
    let link = program
        .attach(cgroup, CgroupAttachMode::Single)
        .with_context(|| format!("cannot attach {name} to the root cgroup"))?;
    Ok(Box::new(program.take_link(link)?))
}

/// Logs how many instructions the kernel's verifier had to walk, which determines how long loading
/// takes.
fn log_verified(ebpf: &Ebpf) {
    for (name, program) in ebpf.programs() {
        if let Ok(info) = program.info() {
            tracing::debug!(
                program = name,
                instructions = info.verified_instruction_count(),
                "verified"
            );
        }
    }
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = ebpf
        .program_mut(name)
        .with_context(|| format!("the eBPF object has no program {name}"))?;
    program
        .try_into()
        .with_context(|| format!("program {name} is of another type"))
}

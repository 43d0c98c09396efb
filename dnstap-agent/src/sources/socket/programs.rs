//! Loads the programs of a hook in parallel, each in a thread. The kernel verifies each program
//! separately, which takes most of the time of attaching.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    thread::{self, ScopedJoinHandle},
};

use anyhow::{Context as _, Result, anyhow};
use aya::{
    Btf, Ebpf,
    programs::{Program, ProgramError},
};

/// Most times that a program is loaded again because of a signal; a load takes up to a second.
const INTERRUPTIONS: usize = 100;

/// Loads programs in parallel; each is given with what it will be attached to. Returns the result
/// of each.
pub(super) fn load<'p>(
    ebpf: &mut Ebpf,
    wanted: impl IntoIterator<Item = &'p (String, &'static str)>,
    btf: Option<&Btf>,
) -> BTreeMap<&'p str, Result<()>> {
    let wanted: BTreeMap<_, _> = wanted
        .into_iter()
        .map(|(name, attached_to)| (name.as_str(), *attached_to))
        .collect();
    thread::scope(|scope| {
        let mut loading = BTreeMap::new();
        for (name, program) in ebpf.programs_mut() {
            if let Some((name, attached_to)) = wanted.get_key_value(name) {
                let load = move || uninterrupted(|| load_one(program, attached_to, btf));
                loading.insert(*name, thread::Builder::new().spawn_scoped(scope, load));
            }
        }
        let missing = wanted
            .keys()
            .filter(|name| !loading.contains_key(*name))
            .map(|name| (*name, Err(anyhow!("the eBPF object has no program {name}"))))
            .collect::<Vec<_>>();
        let loaded = loading.into_iter().map(|(name, thread)| {
            let loaded = match thread.map(ScopedJoinHandle::join) {
                Ok(Ok(loaded)) => loaded.map_err(anyhow::Error::from),
                Ok(Err(_panic)) => Err(anyhow!("its thread panicked")),
                Err(error) => Err(anyhow!("the system gives no thread: {error}")),
            };
            (name, loaded.with_context(|| format!("cannot load {name}")))
        });
        loaded.chain(missing).collect()
    })
}

/// Makes the kernel verify a program that will be attached to `attached_to`, once. The program may
/// already be loaded, if a hook was refused because of another program.
fn load_one(
    program: &mut Program,
    attached_to: &str,
    btf: Option<&Btf>,
) -> Result<(), ProgramError> {
    let done = match (program, btf) {
        (Program::FExit(program), Some(btf)) => program.load(attached_to, btf),
        (Program::FEntry(program), Some(btf)) => program.load(attached_to, btf),
        (Program::BtfTracePoint(program), Some(btf)) => program.load(attached_to, btf),
        (Program::RawTracePoint(program), _) => program.load(),
        (Program::CgroupSockAddr(program), _) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    };
    match done {
        Err(ProgramError::AlreadyLoaded) => Ok(()),
        done => done,
    }
}

/// Returns the first error, if there is one.
pub(super) fn all(loaded: BTreeMap<&str, Result<()>>) -> Result<()> {
    loaded.into_values().collect()
}

/// Loads a program. The verifier gives up (`EAGAIN`) on a signal, even if the process ignores it,
/// such as SIGCONT (`bpf_check` in kernel/bpf/verifier.c). Then the program is loaded again, as
/// libbpf does.
fn uninterrupted(mut load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    let mut done = load();
    for _ in 0..INTERRUPTIONS {
        match &done {
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.kind() == ErrorKind::WouldBlock =>
            {
                done = load();
            }
            _ => break,
        }
    }
    done
}

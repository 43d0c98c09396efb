//! The filter of system calls. It refuses (EPERM) calls that no part of the agent makes once it is
//! attached, and that an attacker who controls the agent would make.
//!
//! It is not a list of allowed calls: the calls of the C library, its name services and TLS differ
//! by version, so such a list would fail on some machine after years. All refused calls that need
//! privileges also fail because the capabilities are gone. The filter refuses those that need none
//! as well, and makes their defects unreachable.
//!
//! Threads stay possible, new namespaces do not. `clone3` hides its flags from the filter, so the
//! filter reports it as missing (ENOSYS). The C library then uses `clone`, whose flags are visible.

use std::{collections::BTreeMap, env::consts::ARCH};

use anyhow::{Context as _, Result};
use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter_all_threads,
};

use super::NeededPrivileges;

/// Calls that are refused with any arguments.
const REFUSED: &[c_long] = &[
    // Memory and descriptors of other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Ways around this filter, and other large parts of the kernel that the agent has no use for.
    libc::SYS_io_uring_setup,
    libc::SYS_userfaultfd,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_personality,
    // Other users and namespaces.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_setns,
    libc::SYS_unshare,
    // File systems.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_mount_setattr,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    // The machine as a whole.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// System call that attaches probes. It is refused unless probes are to be attached to new
/// processes. Loading programs is refused in any case (see bpf(2) below).
const TRACING: c_long = libc::SYS_perf_event_open;

/// Calls that are refused unless the agent has to run programs.
const PROGRAMS: [c_long; 2] = [libc::SYS_execve, libc::SYS_execveat];

/// Allowed commands of bpf(2), which read and write maps and describe programs (`enum bpf_cmd`,
/// linux/bpf.h): `BPF_MAP_LOOKUP_ELEM` to `BPF_MAP_GET_NEXT_KEY`, and `BPF_OBJ_GET_INFO_BY_FD`.
const BPF_ELEMENTS: (u64, u64) = (1, 4);
const BPF_INFO: u64 = 15;

/// Flags of clone(2) for new namespaces (linux/sched.h).
const NEW_NAMESPACES: [i32; 8] = [
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWTIME,
];

/// Installs the filter for all threads, including later ones.
pub(super) fn install(privileges: NeededPrivileges) -> Result<()> {
    for program in programs(privileges)? {
        apply_filter_all_threads(&program).context("the kernel refuses the filter")?;
    }
    Ok(())
}

/// Builds two filters, because a filter has one error number for all calls that it refuses.
fn programs(privileges: NeededPrivileges) -> Result<[BpfProgram; 2]> {
    let mut refusals = refusals()?;
    if !privileges.commands {
        refusals.extend(PROGRAMS.map(|call| (call, vec![])));
    }
    if !privileges.probes {
        refusals.insert(TRACING, vec![]);
    }
    let refused = program(refusals, libc::EPERM)?;
    let missing = program([(libc::SYS_clone3, vec![])].into(), libc::ENOSYS)?;
    Ok([refused, missing])
}

/// Returns the rules for each refused system call. A call is refused if one of its rules matches,
/// or always if it has none.
fn refusals() -> Result<BTreeMap<c_long, Vec<SeccompRule>>> {
    let mut refusals: BTreeMap<_, _> = REFUSED.iter().map(|&call| (call, vec![])).collect();
    // AND within a rule, OR between rules.
    let command = |operation, value| SeccompCondition::new(0, Dword, operation, value);
    let (first, last) = BPF_ELEMENTS;
    let below = SeccompRule::new(vec![command(SeccompCmpOp::Lt, first)?])?;
    let above = SeccompRule::new(vec![
        command(SeccompCmpOp::Gt, last)?,
        command(SeccompCmpOp::Ne, BPF_INFO)?,
    ])?;
    refusals.insert(libc::SYS_bpf, vec![below, above]);
    let mut namespaces = Vec::new();
    for flag in NEW_NAMESPACES {
        let flag = u64::from(flag.cast_unsigned());
        let set = SeccompCondition::new(0, Dword, SeccompCmpOp::MaskedEq(flag), flag)?;
        namespaces.push(SeccompRule::new(vec![set])?);
    }
    refusals.insert(libc::SYS_clone, namespaces);
    Ok(refusals)
}

fn program(rules: BTreeMap<c_long, Vec<SeccompRule>>, errno: i32) -> Result<BpfProgram> {
    let arch = TargetArch::try_from(ARCH).context("no filter for this processor")?;
    let refuse = SeccompAction::Errno(errno.cast_unsigned());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)?;
    Ok(filter.try_into()?)
}

#[cfg(test)]
mod tests {
    use std::{io, process::Command, thread};

    use super::*;

    /// Returns the error number, or 0, of a system call without memory arguments in a thread that
    /// has the filter.
    #[expect(unsafe_code, reason = "any system call, by its number")]
    fn filtered(call: c_long, arguments: [c_long; 2]) -> i32 {
        within(NeededPrivileges::default(), move || {
            // SAFETY: the callers name calls and arguments that touch no memory of this process.
            let result = unsafe { libc::syscall(call, arguments[0], arguments[1], 0, 0, 0) };
            if result < 0 {
                io::Error::last_os_error().raw_os_error().expect("an errno")
            } else {
                0
            }
        })
    }

    /// Runs a test in a thread of its own, so that only this thread has the filter.
    fn within<T: Send + 'static>(
        privileges: NeededPrivileges,
        test: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let thread = thread::spawn(move || {
            for program in programs(privileges).expect("a program") {
                seccompiler::apply_filter(&program).expect("the kernel takes it");
            }
            test()
        });
        thread.join().expect("no panic")
    }

    #[test]
    fn what_is_refused_fails_and_the_process_lives_on() {
        // Without the filter the results would be 0, EFAULT or ENOENT, ESRCH, EINVAL.
        assert_eq!(filtered(libc::SYS_unshare, [0, 0]), libc::EPERM);
        assert_eq!(filtered(libc::SYS_execve, [0, 0]), libc::EPERM);
        assert_eq!(
            filtered(libc::SYS_ptrace, [16, i64::from(i32::MAX)]),
            libc::EPERM
        );
        assert_eq!(filtered(libc::SYS_setuid, [-1, 0]), libc::EPERM);
    }

    #[test]
    fn programs_are_started_where_that_is_asked_for_alone() {
        let start = || Command::new("true").status();
        let error = within(NeededPrivileges::default(), start).expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        let commands = NeededPrivileges {
            commands: true,
            ..NeededPrivileges::default()
        };
        assert!(within(commands, start).expect("allowed").success());
    }

    #[test]
    fn probes_are_attached_where_that_is_asked_for_alone() {
        #[expect(unsafe_code, reason = "a system call without an attribute")]
        let open = || {
            // SAFETY: the kernel refuses the null pointer.
            unsafe { libc::syscall(libc::SYS_perf_event_open, 0, 0, -1, -1, 0) };
            io::Error::last_os_error().raw_os_error()
        };
        assert_eq!(within(NeededPrivileges::default(), open), Some(libc::EPERM));
        let probes = NeededPrivileges {
            probes: true,
            ..NeededPrivileges::default()
        };
        assert_eq!(within(probes, open), Some(libc::EFAULT));
    }

    #[test]
    fn maps_are_used_and_nothing_is_loaded() {
        for (command, refused) in [
            (0, true),
            (5, true),
            (28, true),
            (1, false),
            (4, false),
            (15, false),
        ] {
            // The attribute has size 0 and a null address: the kernel returns EINVAL or EPERM,
            // after the filter.
            let error = filtered(libc::SYS_bpf, [command, 0]);
            if refused {
                assert_eq!(error, libc::EPERM, "{command}");
            } else if rustix::process::geteuid().is_root() {
                assert_ne!(error, libc::EPERM, "{command}");
            }
        }
    }

    #[test]
    fn threads_are_started_and_namespaces_are_not() {
        assert!(within(NeededPrivileges::default(), || thread::spawn(|| 7)
            .join()
            .is_ok_and(|seven| seven == 7)));
        // Without the filter the result would be EINVAL, because a thread shares more than that.
        let flags = c_long::from(libc::CLONE_NEWUSER | libc::CLONE_THREAD);
        assert_eq!(filtered(libc::SYS_clone, [flags, 0]), libc::EPERM);
        assert_eq!(filtered(libc::SYS_clone3, [0, 0]), libc::ENOSYS);
    }
}

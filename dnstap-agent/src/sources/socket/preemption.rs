//! Finds out whether the kernel may preempt a thread in kernel mode, and so interrupt one of our
//! programs.
//!
//! Only then is a second program per hook of use (`thread/once.rs` of the eBPF side), and only then
//! does the agent attach it. The second program costs the server a look-up for each message, and
//! half of the time that attaching takes. If preemption is enabled while the tap runs (by
//! `sched/preempt` in debugfs), messages may be missed. The kernel counts them (`programs` in the
//! summary), like all messages for which no program could run.

use std::{
    cell::LazyCell,
    collections::HashMap,
    fs::{self, File},
    io::{self, ErrorKind, Read as _},
};

use procfs::{ConfigSetting, FromRead as _, KernelConfig, ProcError};
use rustix::{
    fs::{Mode, OFlags, openat},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
    thread::{CapabilitySet, capabilities},
};

/// Files with the output of `uname -v` and `uname -r`.
const VERSION: &str = "/proc/sys/kernel/version";
const RELEASE: &str = "/proc/sys/kernel/osrelease";

/// File in which a kernel with selectable preemption shows its mode, such as `none (voluntary) full
/// lazy`: at the usual mount point of debugfs, and within debugfs.
const MODE: &str = "/sys/kernel/debug/sched/preempt";
const MODE_IN_DEBUGFS: &str = "sched/preempt";

/// Returns whether the kernel may preempt. If this cannot be found out, returns true.
pub(super) fn is_possible() -> bool {
    let Ok(version) = fs::read_to_string(VERSION) else {
        return true;
    };
    let release = fs::read_to_string(RELEASE).unwrap_or_default();
    // Each of these is read only if it is needed.
    let mode = LazyCell::new(|| {
        let mode = fs::read_to_string(MODE).or_else(|error| match error.kind() {
            ErrorKind::NotFound if release_is_from(&release, DEBUGFS_STAYS) == Some(true) => {
                mode_in_debugfs()
            }
            _ => Err(error),
        });
        mode.inspect_err(
            |error| tracing::debug!(%error, "the preemption model in force is not known"),
        )
        .ok()
    });
    let command_line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let config = LazyCell::new(kernel_config);
    let is_configured = |option: &str| matches!(config.get(option), Some(ConfigSetting::Yes));
    judge(
        &version,
        &release,
        || mode.as_deref(),
        &command_line,
        is_configured,
    )
}

/// Reads [`MODE`] if debugfs is not mounted, as in small systems and in containers. The file system
/// is opened without being mounted (Linux 5.2), and closed again. Must not be used before
/// [`DEBUGFS_STAYS`].
fn mode_in_debugfs() -> io::Result<String> {
    // If system calls are filtered, the calls below may kill the process. A process without this
    // capability could not use them anyway.
    if !capabilities(None)?
        .effective
        .contains(CapabilitySet::SYS_ADMIN)
    {
        return Err(ErrorKind::PermissionDenied.into());
    }
    let context = fsopen("debugfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let root = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    let file = openat(
        &root,
        MODE_IN_DEBUGFS,
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut mode = String::new();
    File::from(file).read_to_string(&mut mode)?;
    Ok(mode)
}

/// Returns the kernel's configuration (some thousand lines): from the kernel itself, from `/boot`,
/// or from the folder of its modules, which containers with eBPF have more often.
fn kernel_config() -> HashMap<String, ConfigSetting> {
    procfs::kernel_config()
        .or_else(|_| {
            let release = fs::read_to_string(RELEASE)?;
            let path = format!("/lib/modules/{}/config", release.trim());
            Ok::<_, ProcError>(KernelConfig::from_file(path)?.0)
        })
        .unwrap_or_default()
}

/// First major release of Linux that ignores a boot option naming one of the two models without
/// preemption (7.2 does, on x86).
const ALWAYS_PREEMPTS: (u32, u32) = (7, 0);

/// First release of Linux in which opening debugfs again does not change its permissions
/// (b8de524ce46e, "debugfs: Only clobber mode/uid/gid on remount if asked").
const DEBUGFS_STAYS: (u32, u32) = (6, 1);

/// Returns whether the release in `uname -r` is `first` or later; `None` if it cannot be parsed.
fn release_is_from(release: &str, first: (u32, u32)) -> Option<bool> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    let mut part = || parts.next()?.parse().ok();
    Some((part()?, part()?) >= first)
}

/// Decides by `uname -v`, which names every preemption model except the two without preemption. If
/// the model is selected at boot, decides by the current mode, or else by the boot option and the
/// configured default.
fn judge<'m>(
    version: &str,
    release: &str,
    mode: impl FnOnce() -> Option<&'m str>,
    command_line: &str,
    is_configured: impl Fn(&str) -> bool,
) -> bool {
    if !version.contains("PREEMPT") {
        return false;
    }
    if !version.contains("PREEMPT_DYNAMIC") {
        return true;
    }
    let in_force = mode().and_then(|mode| mode.split_once('(')?.1.split_once(')'));
    let chosen = command_line
        .split_whitespace()
        .rev()
        .find_map(|word| word.strip_prefix("preempt="))
        .filter(|_| release_is_from(release, ALWAYS_PREEMPTS) == Some(false));
    match in_force.map(|(model, _)| model).or(chosen) {
        Some(model) => !matches!(model, "none" | "voluntary"),
        None => !["CONFIG_PREEMPT_NONE", "CONFIG_PREEMPT_VOLUNTARY"]
            .into_iter()
            .any(is_configured),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const DYNAMIC: &str = "#1 SMP PREEMPT_DYNAMIC Debian 6.12.118-1 (2026-08-30)";
    const OLD: &str = "6.12.118+deb13-cloud-amd64\n";
    const NEW: &str = "7.2.0-cloud-amd64\n";

    #[rstest]
    #[case::none("#1 SMP Debian 5.10.262-1 (2026-07-31)", OLD, None, "", "", false)]
    #[case::always("#1 SMP PREEMPT Debian", OLD, None, "", "", true)]
    #[case::real_time("#1 SMP PREEMPT_RT Debian", OLD, None, "preempt=none", "", true)]
    #[case::in_force_none(
        DYNAMIC,
        OLD,
        Some("(none) voluntary full lazy\n"),
        "preempt=full",
        "",
        false
    )]
    #[case::in_force_voluntary(DYNAMIC, OLD, Some("none (voluntary) full\n"), "", "", false)]
    #[case::in_force_full(
        DYNAMIC,
        OLD,
        Some("none voluntary (full)\n"),
        "",
        "CONFIG_PREEMPT_NONE",
        true
    )]
    #[case::in_force_lazy(DYNAMIC, NEW, Some("full (lazy)\n"), "preempt=none", "", true)]
    #[case::chosen_voluntary(DYNAMIC, OLD, None, "quiet preempt=full preempt=voluntary", "", false)]
    #[case::chosen_full(DYNAMIC, OLD, None, "preempt=full quiet", "CONFIG_PREEMPT_NONE", true)]
    #[case::chosen_in_vain(DYNAMIC, NEW, None, "preempt=none", "", true)]
    #[case::chosen_by_whom(DYNAMIC, "", None, "preempt=none", "", true)]
    #[case::default_none(DYNAMIC, OLD, None, "quiet", "CONFIG_PREEMPT_NONE", false)]
    #[case::default_voluntary(DYNAMIC, OLD, None, "quiet", "CONFIG_PREEMPT_VOLUNTARY", false)]
    #[case::default_lazy(DYNAMIC, OLD, None, "quiet", "CONFIG_PREEMPT_LAZY", true)]
    #[case::unknown(DYNAMIC, OLD, None, "quiet", "", true)]
    #[case::unreadable(DYNAMIC, OLD, Some(""), "quiet", "", true)]
    fn it_may_unless_it_is_known_that_it_does_not(
        #[case] version: &str,
        #[case] release: &str,
        #[case] mode: Option<&str>,
        #[case] command_line: &str,
        #[case] configured: &str,
        #[case] expected: bool,
    ) {
        let is_configured = |option: &str| option == configured;
        assert_eq!(
            judge(version, release, || mode, command_line, is_configured),
            expected
        );
    }

    #[rstest]
    #[case::before("5.14.0-427.el9_4.x86_64", Some(false))]
    #[case::first("6.1.0-49-amd64", Some(true))]
    #[case::later("7.2.0", Some(true))]
    #[case::short("6", None)]
    #[case::no_number("", None)]
    fn a_release_is_compared_as_numbers(#[case] release: &str, #[case] expected: Option<bool>) {
        assert_eq!(release_is_from(release, DEBUGFS_STAYS), expected);
    }

    #[test]
    fn only_a_kernel_that_can_do_both_is_asked_what_it_does() {
        for version in ["#1 SMP Debian 5.10.262-1", "#1 SMP PREEMPT_RT Debian"] {
            let asked = || unreachable!("the answer would change nothing");
            judge(version, OLD, asked, "", |_| unreachable!("nor would this"));
        }
    }
}

//! Whether the kernel may take the CPU from a thread that is in the kernel, and so from a program of ours amid its work.
//!
//! Only then is a second program of use to each hook (`thread/once.rs` of the eBPF side), and only then does the agent attach it: it costs
//! the server a look-up for each message, and half of the time that attaching takes. A kernel that is told to preempt while it is
//! tapped (by `sched/preempt` in debugfs) may miss messages, which the kernel counts (`programs` in the summary) like any that no
//! program could be run for.

use std::{cell::LazyCell, fs};

use procfs::ConfigSetting;

/// Where a kernel that can do both says what it does: `none (voluntary) full lazy`.
const MODE: &str = "/sys/kernel/debug/sched/preempt";

/// Whether it may. If that cannot be found out, it may.
pub(super) fn is_possible() -> bool {
    let Ok(version) = fs::read_to_string("/proc/sys/kernel/version") else {
        return true;
    };
    let mode = fs::read_to_string(MODE).ok();
    let command_line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    // Some thousand lines, which are read only if it comes to that.
    let config = LazyCell::new(|| procfs::kernel_config().unwrap_or_default());
    let is_configured = |option: &str| matches!(config.get(option), Some(ConfigSetting::Yes));
    judge(&version, mode.as_deref(), &command_line, is_configured)
}

/// By `uname -v`, which names every preemption model but the two without; where it is chosen at boot, by the model in force, or by
/// what was chosen and what is chosen by default.
fn judge(
    version: &str,
    mode: Option<&str>,
    command_line: &str,
    is_configured: impl Fn(&str) -> bool,
) -> bool {
    if !version.contains("PREEMPT") {
        return false;
    }
    if !version.contains("PREEMPT_DYNAMIC") {
        return true;
    }
    let in_force = mode.and_then(|mode| mode.split_once('(')?.1.split_once(')'));
    let chosen = command_line
        .split_whitespace()
        .rev()
        .find_map(|word| word.strip_prefix("preempt="));
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

    #[rstest]
    #[case::none("#1 SMP Debian 5.10.262-1 (2026-07-31)", None, "", "", false)]
    #[case::always("#1 SMP PREEMPT Debian", None, "", "", true)]
    #[case::real_time("#1 SMP PREEMPT_RT Debian", None, "preempt=none", "", true)]
    #[case::in_force_none(
        DYNAMIC,
        Some("(none) voluntary full lazy\n"),
        "preempt=full",
        "",
        false
    )]
    #[case::in_force_voluntary(DYNAMIC, Some("none (voluntary) full\n"), "", "", false)]
    #[case::in_force_full(
        DYNAMIC,
        Some("none voluntary (full)\n"),
        "",
        "CONFIG_PREEMPT_NONE",
        true
    )]
    #[case::in_force_lazy(DYNAMIC, Some("none voluntary full (lazy)\n"), "", "", true)]
    #[case::chosen_voluntary(DYNAMIC, None, "quiet preempt=full preempt=voluntary", "", false)]
    #[case::chosen_full(DYNAMIC, None, "preempt=full quiet", "CONFIG_PREEMPT_NONE", true)]
    #[case::default_none(DYNAMIC, None, "quiet", "CONFIG_PREEMPT_NONE", false)]
    #[case::default_voluntary(DYNAMIC, None, "quiet", "CONFIG_PREEMPT_VOLUNTARY", false)]
    #[case::default_lazy(DYNAMIC, None, "quiet", "CONFIG_PREEMPT_LAZY", true)]
    #[case::unknown(DYNAMIC, None, "quiet", "", true)]
    fn it_may_unless_it_is_known_that_it_does_not(
        #[case] version: &str,
        #[case] mode: Option<&str>,
        #[case] command_line: &str,
        #[case] configured: &str,
        #[case] expected: bool,
    ) {
        let is_configured = |option: &str| option == configured;
        assert_eq!(judge(version, mode, command_line, is_configured), expected);
    }
}

//! Makes `docs/kernel-support.md` from the matrix's results.

use std::{collections::BTreeMap, fmt::Write as _};

use super::{
    plan::{BIND, TOGETHER},
    qemu::Acceleration,
    releases::{HOOKS, WHY_NO_SOCKET},
    report::{RINGS, Row},
};
use crate::tally::Tally;

/// Returns the page for the documentation.
pub(super) fn page(
    rows: &[Row],
    binds: &BTreeMap<&str, String>,
    acceleration: Acceleration,
    date: &str,
) -> String {
    let mut text = format!(
        "# Kernel support\n\
         \n\
         Written by `cargo xtask vm`, last on {date}. Do not edit it by hand. The command boots Debian's kernels,\n\
         unmodified and without modules, in virtual machines ({acceleration}). In each it\n\
         runs this project's integration tests against real `named`s.\n\
         \n\
         ## Hooks and rings\n\
         \n\
         Tests with BIND {BIND}. For the last column, taps with every combination run at the same time, and each record is\n\
         compared with BIND's own dnstap. The first choice, fentry with `bpf`, is also compared alone.\n\n| kernel |"
    );
    let combinations = || {
        HOOKS
            .iter()
            .flat_map(|hook| RINGS.map(|ring| (*hook, ring)))
    };
    for (hook, ring) in combinations() {
        write!(text, " {hook}, {ring} |").unwrap_or_default();
    }
    text += " all at once |\n|---|---|---|---|---|---|---|---|\n";
    for row in rows {
        write!(text, "| {} |", row.version()).unwrap_or_default();
        for (hook, ring) in combinations() {
            let cell = if row.source.hooks.contains(&hook) {
                cell(row.combination(hook, ring))
            } else {
                "none [1]".to_owned()
            };
            write!(text, " {cell} |").unwrap_or_default();
        }
        let together = row.count(|phase| phase.bind == BIND, TOGETHER);
        writeln!(text, " {} |", cell(together)).unwrap_or_default();
    }
    write!(
        text,
        "\n[1] {WHY_NO_SOCKET}; `--hook auto` uses another.\n\n"
    )
    .unwrap_or_default();
    text += "The rings: `perf` is the perf ring buffer, `bpf` the BPF ring buffer of Linux 5.8 and later.\n\n";

    text += "## Kernels and servers\n\n| kernel | release | all tests |";
    for (name, version) in binds {
        write!(text, " BIND {name} ({version}) |").unwrap_or_default();
    }
    text += "\n|---|---|---|";
    text += &"---|".repeat(binds.len());
    text.push('\n');
    for row in rows {
        let release = row
            .outcome
            .kernel
            .as_ref()
            .map_or("did not start", |(release, _)| release);
        write!(
            text,
            "| {} | `{release}` | {} |",
            row.version(),
            row.tally()
        )
        .unwrap_or_default();
        let run = row.binds();
        for name in binds.keys() {
            write!(
                text,
                " {} |",
                run.get(name).map_or_else(String::new, |tally| cell(*tally))
            )
            .unwrap_or_default();
        }
        text.push('\n');
    }
    for row in rows {
        for problem in row.problems() {
            write!(text, "\n{}: **{problem}**\n", row.version()).unwrap_or_default();
        }
    }

    text += &costs(rows, acceleration);
    text
}

/// Describes the time in the kernel's BPF programs for each message, and how reliable that number is.
fn costs(rows: &[Row], acceleration: Acceleration) -> String {
    let measured = |row: &Row| HOOKS.map(|hook| RINGS.map(|ring| row.nanoseconds(hook, ring)));
    if rows
        .iter()
        .flat_map(|row| measured(row).concat())
        .all(|cost| cost.is_none())
    {
        return String::new();
    }
    let mut text = String::from(
        "\n## Time per message\n\n\
         Nanoseconds in the tap's programs for each message seen, as the kernel counts them (`kernel.bpf_stats_enabled`),\n\
         for ring `bpf` / ring `perf`. The sum includes runs without a message: system calls of other processes with the\n\
         `syscall` hook, and reads that return nothing with all hooks.",
    );
    if acceleration == Acceleration::Emulated {
        text += " The processor is emulated, which makes everything about\n\
                 thirty times slower. Use the figures only to compare the hooks with each other.";
    }
    text += "\n\n| kernel | fentry | socket | syscall |\n|---|---|---|---|\n";
    for row in rows {
        write!(text, "| {} |", row.version()).unwrap_or_default();
        for costs in measured(row) {
            let costs =
                costs.map(|cost| cost.map_or_else(|| "–".to_owned(), |cost| cost.to_string()));
            write!(text, " {} |", costs.join(" / ")).unwrap_or_default();
        }
        text.push('\n');
    }
    text
}

fn cell(tally: Tally) -> String {
    let mut parts = vec![format!("{} passed", tally.passed)];
    if tally.failed > 0 {
        parts.push(format!("**{} failed**", tally.failed));
    }
    if tally.skipped > 0 {
        parts.push(format!("{} skipped", tally.skipped));
    }
    parts.join(", ")
}

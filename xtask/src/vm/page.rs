//! `docs/kernel-support.md`, from the matrix's results.

use std::{collections::BTreeMap, fmt::Write as _};

use super::{
    plan::{BIND, TOGETHER},
    qemu::Acceleration,
    releases::{HOOKS, WHY_NO_SOCKET},
    report::{RINGS, Row},
};
use crate::tally::Tally;

/// The page for the documentation.
pub(super) fn page(
    rows: &[Row],
    binds: &BTreeMap<&str, String>,
    acceleration: Acceleration,
    date: &str,
) -> String {
    let mut text = format!(
        "# Kernel support\n\n\
         Written by `cargo xtask vm`, last on {date}; not by hand. It boots Debian's kernels, unmodified and without modules, in virtual\n\
         machines ({acceleration}), and runs this project's integration tests inside of them against real `named`s.\n\n\
         ## Hooks and rings\n\n\
         Tests with BIND {BIND}. The last column is the one that attaches every combination at the same time and compares what each\n\
         has recorded with BIND's own dnstap; fentry with `bpf`, the first choice, is compared by itself as well.\n\n| kernel |"
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

/// Time in the kernel's BPF programs for each message, and what that number is worth.
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
         Nanoseconds that the kernel spent in the tap's programs per message seen, by its own account (`kernel.bpf_stats_enabled`),\n\
         with all runs that found nothing to do in the sum: system calls of other processes for the syscall hook, empty reads\n\
         for all. Ring `bpf` / ring `perf`.",
    );
    if acceleration == Acceleration::Emulated {
        text += " The processor was emulated, which makes everything some thirty times slower: compare\n\
                 the hooks with each other, not with a clock.";
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

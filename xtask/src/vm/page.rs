//! Makes `docs/kernel-support.md` from the matrix's results.

use std::{collections::BTreeMap, fmt::Write as _};

use super::{
    plan::{BIND, TOGETHER},
    qemu::Acceleration,
    releases::{HOOKS, WHY_NO_SOCKET},
    report::{RINGS, Row},
};
use crate::tally::Tally;

/// Facts about kernels, which no run can find out. They are the end of the page.
const NEEDS: &str = include_str!("needs.md");

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
    text += NEEDS;
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

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;
    use crate::paths;

    /// Kinds of maps: aya's names, and the kernel's.
    const MAPS: [(&str, &str); 8] = [
        ("Array", "`ARRAY`"),
        ("HashMap", "`HASH`"),
        ("LpmTrie", "`LPM_TRIE`"),
        ("LruHashMap", "`LRU_HASH`"),
        ("PerCpuArray", "`PERCPU_ARRAY`"),
        ("PerfEventByteArray", "`PERF_EVENT_ARRAY`"),
        ("ProgramArray", "`PROG_ARRAY`"),
        ("RingBuf", "`RINGBUF`"),
    ];

    /// Adds the sources below a folder to `text`.
    fn sources(folder: &Path, text: &mut String) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                sources(&path, text);
            } else {
                text.push_str(&fs::read_to_string(&path).expect("a source"));
            }
        }
    }

    fn programs() -> String {
        let mut text = String::new();
        sources(&paths::root().join("dnstap-ebpf/src"), &mut text);
        text
    }

    #[test]
    fn every_helper_that_the_programs_call_is_among_the_needs() {
        let text = programs();
        let called: BTreeSet<_> = text
            .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '('))
            .filter_map(|word| word.split_once('('))
            .map(|(name, _)| name)
            .filter(|name| name.starts_with("bpf_"))
            .collect();
        assert!(called.contains("bpf_ktime_get_ns"), "{called:?}");
        let missing: Vec<_> = called
            .iter()
            .filter(|name| !NEEDS.contains(&format!("`{name}`")))
            .collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn every_kind_of_map_of_the_programs_is_among_the_needs() {
        let text = programs();
        let mut maps = 0;
        for after in text.split("#[map]").skip(1) {
            let (_, rest) = after.split_once(": ").expect("a type");
            let kind = rest
                .split(|c: char| !c.is_ascii_alphanumeric())
                .next()
                .unwrap_or_default();
            let (_, name) = MAPS
                .iter()
                .find(|(aya, _)| *aya == kind)
                .unwrap_or_else(|| panic!("a map of an unknown kind: {kind}"));
            assert!(NEEDS.contains(name), "{kind}");
            maps += 1;
        }
        assert!(maps > 10, "only {maps} maps");
    }

    #[test]
    fn every_tracepoint_is_among_the_needs() {
        let text = programs();
        let names: BTreeSet<_> = text
            .split("(tracepoint = \"")
            .chain(text.split("btf_tracepoint(function = \""))
            .skip(1)
            .filter_map(|rest| rest.split_once('"'))
            .map(|(name, _)| name)
            .filter(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
            .collect();
        assert!(names.contains("sock_recv_length"), "{names:?}");
        let missing: Vec<_> = names
            .iter()
            .filter(|name| !NEEDS.contains(&format!("`{name}`")))
            .collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn the_committed_page_ends_with_the_needs() {
        let page = paths::root().join("docs/kernel-support.md");
        let page = fs::read_to_string(page).expect("it is in the tree");
        assert!(page.ends_with(NEEDS));
    }
}

//! Makes `docs/kernel-support.md` from the matrix's results.

use std::{collections::BTreeMap, fmt::Write as _};

use super::{
    plan::{BIND, TOGETHER},
    qemu::Acceleration,
    releases::HOOKS,
    report::{RINGS, Row, missing},
};
use crate::{arch::Arch, tally::Tally};

/// Facts about kernels, which no run can find out. They are the end of the page.
const NEEDS: &str = include_str!("needs.md");

/// Start of the page.
const INTRODUCTION: &str = "# Kernel support

Written by `cargo xtask vm` and `cargo xtask vm --arch arm64`. Do not edit it by hand. The commands boot Debian's kernels,
unmodified and without modules, in virtual machines. In each they run this project's integration tests against real
`named`s. Each command writes the part of its architecture.
";

/// One run of all kernels of an architecture.
pub(super) struct Run<'a> {
    pub(super) arch: Arch,
    pub(super) rows: &'a [Row],
    /// Versions of BIND by their names.
    pub(super) binds: &'a BTreeMap<&'static str, String>,
    pub(super) acceleration: Acceleration,
    pub(super) date: &'a str,
}

/// Returns the page for the documentation: the results of the run, and the other architecture's results from `old`, the
/// page so far.
pub(super) fn page(old: &str, run: &Run<'_>) -> String {
    let mut text = String::from(INTRODUCTION);
    for arch in [Arch::Amd64, Arch::Arm64] {
        text += &if arch == run.arch {
            part(run)
        } else {
            section(old, title(arch)).to_owned()
        };
    }
    text += NEEDS;
    text
}

/// Returns the heading of an architecture's part.
const fn title(arch: Arch) -> &'static str {
    match arch {
        Arch::Amd64 => "\n## x86-64\n",
        Arch::Arm64 => "\n## arm64\n",
    }
}

/// Returns the section of a page that begins with this heading; nothing if there is none.
fn section<'p>(page: &'p str, heading: &str) -> &'p str {
    let Some(start) = page.find(heading) else {
        return "";
    };
    let behind = &page[start + heading.len()..];
    let end = behind.find("\n## ").unwrap_or(behind.len());
    &page[start..start + heading.len() + end]
}

/// Returns the part of an architecture.
fn part(run: &Run<'_>) -> String {
    let Run {
        arch,
        rows,
        binds,
        acceleration,
        date,
    } = run;
    let mut text = format!(
        "{}\n\
         Last run on {date}, with {acceleration}.\n\
         \n\
         ### Hooks and rings\n\
         \n\
         Tests with BIND {BIND}. For the last column, taps with every combination run at the same time, and each record is\n\
         compared with BIND's own dnstap. ",
        title(*arch)
    );
    if *arch == Arch::Amd64 {
        text += "The first choice, fentry with `bpf`, is also compared alone.";
    }
    text += "\n\n| kernel |";
    let combinations = || {
        HOOKS
            .iter()
            .flat_map(|hook| RINGS.map(|ring| (*hook, ring)))
    };
    for (hook, ring) in combinations() {
        write!(text, " {hook}, {ring} |").unwrap_or_default();
    }
    text += " all at once |\n|---|---|---|---|---|---|---|---|\n";
    let missing = missing(rows);
    for row in *rows {
        write!(text, "| {} |", row.version()).unwrap_or_default();
        for (hook, ring) in combinations() {
            let cell = match missing.iter().position(|(name, _)| *name == hook) {
                Some(note) if !row.source.hooks.contains(&hook) => format!("none [{}]", note + 1),
                _ => cell(row.combination(hook, ring)),
            };
            write!(text, " {cell} |").unwrap_or_default();
        }
        let together = row.count(|phase| phase.bind == BIND, TOGETHER);
        writeln!(text, " {} |", cell(together)).unwrap_or_default();
    }
    for (number, (_, why)) in (1..).zip(&missing) {
        write!(text, "\n[{number}] {why}; `--hook auto` uses another.\n").unwrap_or_default();
    }
    text += "\nThe rings: `perf` is the perf ring buffer, `bpf` the BPF ring buffer of Linux 5.8 and later.\n\n";

    text += "### Kernels and servers\n\n| kernel | release | all tests |";
    for (name, version) in *binds {
        write!(text, " BIND {name} ({version}) |").unwrap_or_default();
    }
    text += "\n|---|---|---|";
    text += &"---|".repeat(binds.len());
    text.push('\n');
    for row in *rows {
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
    for row in *rows {
        for problem in row.problems() {
            write!(text, "\n{}: **{problem}**\n", row.version()).unwrap_or_default();
        }
    }

    text += &costs(rows, *acceleration);
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
        "\n### Time per message\n\n\
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
    fn the_committed_page_begins_and_ends_with_what_no_run_changes() {
        let page = paths::root().join("docs/kernel-support.md");
        let page = fs::read_to_string(page).expect("it is in the tree");
        assert!(page.starts_with(INTRODUCTION));
        assert!(page.ends_with(NEEDS));
    }

    #[test]
    fn a_run_changes_the_part_of_its_architecture_alone() {
        let binds = BTreeMap::new();
        let run = |arch, date| Run {
            arch,
            rows: &[],
            binds: &binds,
            acceleration: Acceleration::Emulated,
            date,
        };
        let first = page("", &run(Arch::Arm64, "2026-01-01"));
        let both = page(&first, &run(Arch::Amd64, "2026-01-02"));
        let parts = ["2026-01-02", "## arm64", "2026-01-01"].map(|word| both.find(word));
        assert!(parts.is_sorted() && parts[0].is_some(), "{both}");
        assert_eq!(page(&both, &run(Arch::Amd64, "2026-01-02")), both);
        let later = page(&both, &run(Arch::Arm64, "2026-01-03"));
        assert_eq!(later, both.replace("2026-01-01", "2026-01-03"));
    }
}

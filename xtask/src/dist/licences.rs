//! Collects the licences of the crates that are linked into the program, from the crates themselves.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{build, exec};

/// Beginnings of the names of licence files.
const NAMES: [&str; 5] = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE"];

/// Returns one text: the crates with their licences, then each different licence text with its crates.
pub(super) fn texts() -> Result<String> {
    let crates = linked()?;
    let folders = folders()?;
    let mut all = "Crates that are linked into dnstap-agent, beside Rust's standard library (MIT OR Apache-2.0):\n\n".to_owned();
    let mut by_text: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for (name, licence) in &crates {
        writeln!(all, "{name}: {licence}")?;
        let folder = folders
            .get(name)
            .with_context(|| format!("where is {name}?"))?;
        for text in licences(folder)? {
            by_text.entry(text).or_default().insert(name);
        }
    }
    for (text, names) in &by_text {
        let names: Vec<_> = names.iter().copied().collect();
        write!(
            all,
            "\n{}\n{}\n\n{}\n",
            "-".repeat(78),
            names.join(", "),
            text.trim_end()
        )?;
    }
    Ok(all)
}

/// Returns `name-version` of each crate in the agent and in its eBPF programs, with the licence that it declares.
fn linked() -> Result<BTreeMap<String, String>> {
    let mut crates = BTreeMap::new();
    for package in [
        ["dnstap-agent", build::FEATURES],
        ["dnstap-ebpf", "--features=kernel"],
    ] {
        let tree = exec::output(
            exec::cargo()
                .args([
                    "tree",
                    "--edges=normal",
                    "--prefix=none",
                    "--format={p}\t{l}",
                ])
                .arg("--package")
                .args(package),
        )?;
        for line in tree.lines() {
            let (package, licence) = line.split_once('\t').unwrap_or((line, ""));
            let mut words = package.split(' ');
            let (Some(name), Some(version)) = (words.next(), words.next()) else {
                continue;
            };
            // Crates of the workspace have the licence of the whole.
            if package.contains('/') {
                continue;
            }
            let licence = licence.trim_end_matches(" (*)").to_owned();
            crates.insert(
                format!("{name}-{}", version.trim_start_matches('v')),
                licence,
            );
        }
    }
    Ok(crates)
}

/// Returns the folders into which cargo has unpacked the crates, by `name-version`.
fn folders() -> Result<BTreeMap<String, PathBuf>> {
    let version = exec::output(exec::cargo().args(["--version", "--verbose"]))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    // Without a platform, cargo would download the crates of other platforms.
    let metadata = exec::output(
        exec::cargo()
            .args(["metadata", "--format-version=1", "--all-features"])
            .arg("--filter-platform")
            .arg(host.context("cargo does not say for what it is")?),
    )?;
    // Only one simple member is needed, so there is no JSON parser for it.
    let manifests = metadata.split("\"manifest_path\":\"").skip(1);
    Ok(manifests
        .filter_map(|rest| Path::new(rest.split('"').next()?).parent())
        .filter_map(|folder| Some((folder.file_name()?.to_str()?.to_owned(), folder.to_owned())))
        .collect())
}

fn licences(folder: &Path) -> Result<BTreeSet<String>> {
    let mut texts = BTreeSet::new();
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?
    {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().to_uppercase();
        if NAMES.iter().any(|start| name.starts_with(start)) && entry.file_type()?.is_file() {
            texts.insert(fs::read_to_string(entry.path())?.replace("\r\n", "\n"));
        }
    }
    Ok(texts)
}

//! Makes the software bill of materials: the crates that are in the program and in its eBPF object, in the format of
//! `CycloneDX`, with `cargo-cyclonedx`. This tool writes beside each manifest, so it works on a copy of the sources.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::VERSION;
use crate::{arch::Arch, build, exec, paths, ui};

/// Version of the tool. Another one gives other bytes.
const TOOL: &str = "0.5.9";

/// The crates that are described: what their file is called, their folder, and options for their features.
const DESCRIBED: [(&str, &str, &[&str]); 2] = [
    ("dnstap-agent", "dnstap-agent", &[build::FEATURES]),
    ("dnstap-agent-ebpf", "dnstap-ebpf", &["--all-features"]),
];

/// Writes both files to `dist`. Returns their paths.
pub(super) fn write(dist: &Path, time: &str) -> Result<Vec<PathBuf>> {
    let tool = ensure()?;
    let copy = dist.join("sources");
    let copied = "git ls-files -z | xargs -0 cp --parents -t \"$0\"";
    fs::create_dir(&copy).with_context(|| format!("cannot create {}", copy.display()))?;
    exec::output(
        Command::new("sh")
            .current_dir(paths::root())
            .args(["-ec", copied])
            .arg(&copy),
    )?;
    let mut written = Vec::new();
    for (name, folder, features) in DESCRIBED {
        let manifest = copy.join(folder).join("Cargo.toml");
        exec::output(
            Command::new(&tool)
                .args(["cyclonedx", "-qq", "--format=json", "--no-build-deps"])
                .args(["--target", Arch::HOST.target(), "--override-filename=sbom"])
                .args(features)
                .arg("--manifest-path")
                .arg(manifest)
                .env("SOURCE_DATE_EPOCH", time)
                .env(
                    "CARGO",
                    env::var_os("CARGO").unwrap_or_else(|| "cargo".into()),
                ),
        )?;
        let made = copy.join(folder).join("sbom.json");
        let text =
            fs::read_to_string(&made).with_context(|| format!("cannot read {}", made.display()))?;
        // Crates of the workspace are named by the path of the copy.
        let text = text.replace(&format!("file://{}", copy.display()), "file://.");
        let path = dist.join(format!("{name}-{VERSION}.cdx.json"));
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        written.push(path);
    }
    fs::remove_dir_all(&copy).with_context(|| format!("cannot remove {}", copy.display()))?;
    Ok(written)
}

/// Makes sure that the tool is installed in the cache, and returns its path.
pub(crate) fn ensure() -> Result<PathBuf> {
    let folder = paths::cache()?.join(format!("cargo-cyclonedx-{TOOL}"));
    let tool = folder.join("bin/cargo-cyclonedx");
    if !tool.exists() {
        ui::step("installing cargo-cyclonedx into the cache");
        exec::logged(
            "cargo-cyclonedx",
            exec::cargo()
                .args(["install", "cargo-cyclonedx", "--locked"])
                .args(["--version", TOOL, "--root"])
                .arg(&folder),
        )?;
    }
    Ok(tool)
}

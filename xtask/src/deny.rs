//! Checks the dependencies: each must have a compatible licence, come from the registry, and exist in only one version.
//!
//! It reads `cargo metadata`, so it needs no network. cargo-deny does the same, but has no Debian package, and building
//! it takes longer than all other lints. It also checks for known vulnerabilities, in a Git repository that a build
//! machine may not reach.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::exec;

/// Licences that are compatible with `MIT OR Apache-2.0`.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0", // tiny-keccak, which is not compiled on Linux; gives all rights away
    "BSL-1.0", // Boost: as MIT, and programs need not carry its text
    "ISC",
    "MIT",
    "MIT-0", // a crate of the JSON schema validator, which is not in releases
    "NCSA",  // libFuzzer, which is not in releases
    "Unicode-3.0",
    "Zlib",
    "bzip2-1.0.6", // libbzip2's own licence: like BSD-3-Clause, and altered versions must be marked
];

/// Crates with more than one version, and the reason.
const SEVERAL: &[(&str, &str)] = &[
    ("cpufeatures", "aes has the old one"),
    ("crypto-common", "aes has the old one"),
    ("foldhash", "hashbrown 0.15"),
    ("getrandom", "ring has the old one"),
    ("hashbrown", "the petgraph of prost-build has the old one"),
    ("itertools", "criterion and ratatui have one each"),
    ("lz4_flex", "fjall has the old one"),
    ("logos", "protox and protox-parse have one each"),
    ("logos-codegen", "logos"),
    ("logos-derive", "logos"),
    (
        "num-bigint",
        "the validator of JSON schemas has the old one",
    ),
    ("r-efi", "not compiled on Linux"),
    ("syn", "the macros of aya-ebpf have the old one"),
    ("unicode-width", "the miette of protox has the old one"),
    ("windows-sys", "not compiled on Linux"),
];

/// Checks every package of the lock file.
pub(crate) fn run() -> Result<()> {
    let metadata = exec::output(exec::cargo().args([
        "metadata",
        "--format-version=1",
        "--all-features",
        "--locked",
    ]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata is no JSON")?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    let problems = problems(packages);
    if !problems.is_empty() {
        bail!("{}", problems.join("\n"));
    }
    Ok(())
}

fn problems(packages: &[Value]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in packages {
        let text = |member: &str| package[member].as_str().unwrap_or_default();
        let (name, version) = (text("name"), text("version"));
        versions.entry(name).or_default().insert(version);
        if !allowed(text("license")) {
            problems.push(format!("{name} {version}: licence `{}`", text("license")));
        }
        // A package of this tree has no source.
        let source = text("source");
        if !source.is_empty() && !source.starts_with("registry+") {
            problems.push(format!(
                "{name} {version}: not from the registry but from {source}"
            ));
        }
    }
    for (name, versions) in &versions {
        let known = SEVERAL.iter().any(|(known, _)| known == name);
        if versions.len() > 1 && !known {
            let versions: Vec<_> = versions.iter().copied().collect();
            problems.push(format!("{name}: several versions, {}", versions.join(", ")));
        }
    }
    for (name, _) in SEVERAL {
        if versions.get(name).is_none_or(|versions| versions.len() < 2) {
            problems.push(format!("{name}: need not be accepted twice any more"));
        }
    }
    problems
}

/// Returns whether an SPDX expression allows one of [`LICENCES`]. Old crates write `/` for OR.
fn allowed(expression: &str) -> bool {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    let allowed = any(&mut words);
    allowed && words.next().is_none()
}

type Words<'a, 'w> = &'w mut std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any(words: Words<'_, '_>) -> bool {
    let mut allowed = all(words);
    while words.next_if_eq(&"OR").is_some() {
        allowed |= all(words);
    }
    allowed
}

fn all(words: Words<'_, '_>) -> bool {
    let mut allowed = one(words);
    while words.next_if_eq(&"AND").is_some() {
        allowed &= one(words);
    }
    allowed
}

fn one(words: Words<'_, '_>) -> bool {
    let Some(word) = words.next() else {
        return false;
    };
    if word == "(" {
        return any(words) & (words.next() == Some(")"));
    }
    match words.next_if_eq(&"WITH").and_then(|_| words.next()) {
        Some(exception) => LICENCES.contains(&format!("{word} WITH {exception}").as_str()),
        None => LICENCES.contains(&word),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_choice_needs_one_licence_and_a_sum_all() {
        for good in [
            "MIT",
            "MIT/Apache-2.0",
            "GPL-2.0-only OR MIT",
            "Apache-2.0 AND ISC",
            "(MIT OR GPL-3.0-only) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-2.0-only",
        ] {
            assert!(allowed(good), "{good}");
        }
        for bad in [
            "",
            "GPL-3.0-only",
            "MIT AND GPL-3.0-only",
            "(MIT OR ISC) AND MPL-2.0",
            "MIT MIT",
            "(MIT",
            "GPL-2.0-only WITH Linux-syscall-note",
        ] {
            assert!(!allowed(bad), "{bad}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_package_is_named() {
        let registry = "registry+index";
        let mut packages: Vec<_> = SEVERAL
            .iter()
            .flat_map(|(name, _)| ["1.0.0", "2.0.0"].map(|version| (*name, version)))
            .map(|(name, version)| json!({"name": name, "version": version, "license": "MIT", "source": registry}))
            .collect();
        packages.push(json!({"name": "own", "version": "1.0.0", "license": "MIT", "source": null}));
        assert_eq!(problems(&packages), Vec::<String>::new());
        packages.push(json!({"name": "a", "version": "1.0.0", "license": "AGPL-3.0-only", "source": registry}));
        packages.push(
            json!({"name": "a", "version": "2.0.0", "license": "MIT", "source": "git+somewhere"}),
        );
        assert_eq!(
            problems(&packages),
            [
                "a 1.0.0: licence `AGPL-3.0-only`",
                "a 2.0.0: not from the registry but from git+somewhere",
                "a: several versions, 1.0.0, 2.0.0"
            ]
        );
        let once = problems(&packages[2..]);
        assert!(
            once.iter().any(|problem| problem.ends_with("any more")),
            "{once:?}"
        );
    }
}

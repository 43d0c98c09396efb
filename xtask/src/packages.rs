//! Finds missing Debian packages and installs them. `apt-get update` runs at most once per task, and only if something
//! is missing, because it takes seconds and needs root.

use std::{ffi::OsString, fs, os::unix::fs::MetadataExt as _, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{exec, ui};

/// The package manager, and whether its lists are fresh.
#[derive(Default)]
pub(crate) struct Apt {
    updated: bool,
}

impl Apt {
    /// Installs those of `wanted` that are missing.
    pub(crate) fn ensure(&mut self, wanted: &[&str]) -> Result<()> {
        let missing = missing(wanted)?;
        if missing.is_empty() {
            return Ok(());
        }
        ui::step(format_args!("packages to install: {}", missing.join(" ")));
        self.install(&missing)
    }

    /// Installs the newest version of each package, or upgrades to it.
    pub(crate) fn install(&mut self, packages: &[&str]) -> Result<()> {
        if !is_root() {
            bail!(
                "packages need installing and this is not root; run this as root, then try again:\n    \
                 apt-get update && apt-get install --no-install-recommends {}",
                packages.join(" ")
            );
        }
        self.update();
        exec::logged(
            "apt-install",
            apt_get()
                .args(["install", "--yes", "--no-install-recommends"])
                .args(packages),
        )
    }

    /// Downloads packages, and the missing packages that they depend on, to `folder`. Installs nothing.
    pub(crate) fn download(&mut self, packages: &[&str], folder: &Path) -> Result<()> {
        if !is_root() {
            bail!("only root may ask apt-get what is missing; run this as root");
        }
        self.update();
        let partial = folder.join("partial");
        fs::create_dir_all(&partial)
            .with_context(|| format!("cannot create {}", partial.display()))?;
        let mut archives = OsString::from("Dir::Cache::archives=");
        archives.push(folder);
        exec::logged(
            "apt-download",
            apt_get()
                .args([
                    "install",
                    "--download-only",
                    "--yes",
                    "--no-install-recommends",
                    "-o",
                ])
                .arg(archives)
                .args(packages),
        )
    }

    /// Returns whether the archive has this package, after an update if that is possible.
    pub(crate) fn offers(&mut self, package: &str) -> bool {
        if !has_dpkg() {
            return false;
        }
        if is_root() {
            self.update();
        }
        exec::output(Command::new("apt-cache").args(["show", "--no-all-versions", package]))
            .is_ok_and(|text| text.contains("Package:"))
    }

    /// Refreshes the lists once. If a source does not answer, the task continues, because another source may have the
    /// package.
    fn update(&mut self) {
        if !self.updated {
            self.updated = true;
            if let Err(error) = exec::logged("apt-update", apt_get().arg("update")) {
                ui::warn(format_args!("{error:#}"));
            }
        }
    }
}

/// Returns the version of an installed package.
pub(crate) fn version(package: &str) -> Result<String> {
    exec::output(Command::new("dpkg-query").args(["--show", "--showformat=${Version}", package]))
}

/// Returns whether this process may install packages and load programs into the kernel.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

fn missing<'a>(wanted: &[&'a str]) -> Result<Vec<&'a str>> {
    if !has_dpkg() {
        bail!(
            "this is not Debian or Ubuntu: there is no dpkg-query to see what is installed. \
             Install what these Debian packages hold by hand, then use cargo directly (see README.md): {}",
            wanted.join(" ")
        );
    }
    // This fails if a package is unknown, but still lists the others.
    let listed = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Package} ${db:Status-Status}\n"])
        .args(wanted)
        .output()?;
    Ok(not_installed(
        wanted,
        &String::from_utf8_lossy(&listed.stdout),
    ))
}

/// Returns the packages of `wanted` that are not installed according to `dpkg-query`'s lines of `package status`.
fn not_installed<'a>(wanted: &[&'a str], listed: &str) -> Vec<&'a str> {
    let installed: Vec<_> = listed
        .lines()
        .filter_map(|line| line.strip_suffix(" installed"))
        .collect();
    wanted
        .iter()
        .copied()
        .filter(|package| !installed.contains(package))
        .collect()
}

fn has_dpkg() -> bool {
    exec::output(Command::new("dpkg-query").arg("--version")).is_ok()
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args([
        "-o",
        "DPkg::Lock::Timeout=300", // another apt-get may be running, for example at a machine's first boot
        "-o",
        "Dpkg::Use-Pty=0",
    ]);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_and_unknown_packages_are_missing() {
        let listed = "dnsperf installed\nfstrm-bin config-files\nbind9-libs not-installed\n";
        assert_eq!(
            not_installed(
                &["dnsperf", "fstrm-bin", "bind9-libs", "dnstap-ldns"],
                listed
            ),
            ["fstrm-bin", "bind9-libs", "dnstap-ldns"]
        );
    }

    #[test]
    fn nothing_is_missing_when_all_are_installed() {
        assert!(not_installed(&["a", "b"], "b installed\na installed\n").is_empty());
    }
}

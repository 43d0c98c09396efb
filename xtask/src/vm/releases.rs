//! Kernels and servers of Debian's releases for the matrix, by package name, so that the newest versions of the archive
//! are used. They are unpacked into the cache and never installed. An unpacked version is used until the archive has
//! another one.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{
    arch::Arch,
    archive::{self, Archive, Mirrors},
    paths,
};

/// A kernel of the matrix.
pub(super) struct KernelSource {
    pub(super) arch: Arch,
    /// Its name on the command line.
    pub(super) name: &'static str,
    /// The Debian release that has it.
    release: &'static str,
    /// The hooks that it must accept.
    pub(super) hooks: &'static [&'static str],
}

/// A version of BIND.
pub(super) struct BindSource {
    /// Its name in plans and reports.
    pub(super) name: &'static str,
    release: &'static str,
}

/// Every hook, best first.
pub(super) const HOOKS: [&str; 3] = ["fentry", "socket", "syscall"];
const WITHOUT_SOCKET: [&str; 2] = ["fentry", "syscall"];
const SYSCALL: [&str; 1] = ["syscall"];
/// Hooks that some kernels do not have, with the reasons.
pub(super) const WHY_NOT: [(&str, &str); 2] = [
    (
        "socket",
        "the tracepoints sock_send_length and sock_recv_length came with Linux 6.3",
    ),
    (
        "fentry",
        "on arm64, programs at functions (`CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS`) came with Linux 6.4",
    ),
];

/// Returns the kernels of an architecture, oldest first.
pub(super) const fn kernels(arch: Arch) -> &'static [KernelSource] {
    match arch {
        Arch::Amd64 => &KERNELS,
        Arch::Arm64 => &ARM64_KERNELS,
    }
}

/// All kernels for amd64, oldest first. `newest` is that of Debian's unstable release.
const KERNELS: [KernelSource; 4] = [
    KernelSource {
        arch: Arch::Amd64,
        name: "5.10",
        release: "bullseye",
        hooks: &WITHOUT_SOCKET,
    },
    KernelSource {
        arch: Arch::Amd64,
        name: "6.1",
        release: "bookworm",
        hooks: &WITHOUT_SOCKET,
    },
    KernelSource {
        arch: Arch::Amd64,
        name: "6.12",
        release: "trixie",
        hooks: &HOOKS,
    },
    KernelSource {
        arch: Arch::Amd64,
        name: "newest",
        release: "sid",
        hooks: &HOOKS,
    },
];

/// All kernels for arm64. The archive lists newer files of 5.10 for it than it has.
const ARM64_KERNELS: [KernelSource; 2] = [
    KernelSource {
        arch: Arch::Arm64,
        name: "6.1",
        release: "bookworm",
        hooks: &SYSCALL,
    },
    KernelSource {
        arch: Arch::Arm64,
        name: "6.12",
        release: "trixie",
        hooks: &HOOKS,
    },
];

/// All servers, oldest first.
pub(super) const BINDS: [BindSource; 3] = [
    BindSource {
        name: "9.16",
        release: "bullseye",
    },
    BindSource {
        name: "9.18",
        release: "bookworm",
    },
    BindSource {
        name: "9.20",
        release: "trixie",
    },
];

/// Packages with the programs of [`super::initramfs::TOOLS`], and the release that they are from, for an architecture that
/// this machine does not run.
const TOOL_PACKAGES: [&str; 7] = [
    "bind9-dnsutils",
    "bind9-utils",
    "busybox-static",
    "dnsperf",
    "dnstap-ldns",
    "fstrm-bin",
    "golang-github-dnstap-golang-dnstap-cli",
];
const TOOLS_RELEASE: &str = "bookworm";
/// Beginnings of the names of the packages with a kernel image; the packages with a version in their name have one.
const IMAGE_PREFIXES: [&str; 2] = ["linux-image-", "linux-binary-"];

/// Returns the compressed image of a kernel, ready to boot.
pub(super) fn kernel(mirrors: &Mirrors, source: &KernelSource) -> Result<PathBuf> {
    // The kernel without drivers for hardware, which a virtual machine does not need. The package depends on the newest
    // image.
    let package = format!("linux-image-cloud-{}", source.arch.debian());
    let archive = Archive::open(mirrors, source.release, source.arch)?;
    let mut images = archive.closure(&[&package])?;
    images.retain(|package| is_image(&package.name));
    let folder = base(source.arch)?.join("kernels").join(source.name);
    archive.ensure(&images, &folder)?;
    find_image(&folder)?
        .with_context(|| format!("no kernel image in {} ({images:?})", folder.display()))
}

/// Returns the folder of an unpacked BIND with all its dependencies, including the C library, and its package version.
pub(super) fn bind(
    mirrors: &Mirrors,
    source: &BindSource,
    arch: Arch,
) -> Result<(PathBuf, String)> {
    let archive = Archive::open(mirrors, source.release, arch)?;
    let closure = archive.closure(&["bind9"])?;
    let folder = base(arch)?.join("bind").join(source.name);
    archive.ensure(&closure, &folder)?;
    let version = closure
        .iter()
        .find(|package| package.name == "bind9")
        .and_then(|package| package.file.split('_').nth(1))
        .unwrap_or("?")
        .replace("%3a", ":");
    Ok((folder, version))
}

/// Returns the folder of a BIND for this machine that an earlier run has unpacked.
pub(super) fn unpacked(source: &BindSource) -> Result<Option<PathBuf>> {
    let folder = base(Arch::HOST)?.join("bind").join(source.name);
    Ok(archive::beside(&folder, "files").exists().then_some(folder))
}

/// Returns the folder of the tools for another architecture, with all libraries.
pub(super) fn tools(mirrors: &Mirrors, arch: Arch) -> Result<PathBuf> {
    let archive = Archive::open(mirrors, TOOLS_RELEASE, arch)?;
    let folder = base(arch)?.join("tools");
    archive.ensure(&archive.closure(&TOOL_PACKAGES)?, &folder)?;
    Ok(folder)
}

/// Returns whether this is the package of one kernel version, and not a package that depends on the newest.
fn is_image(package: &str) -> bool {
    IMAGE_PREFIXES
        .iter()
        .filter_map(|prefix| package.strip_prefix(prefix))
        .any(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
}

/// Finds `boot/vmlinuz-*`, or since 7.x `usr/lib/modules/*/vmlinuz`.
fn find_image(folder: &Path) -> Result<Option<PathBuf>> {
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?
    {
        let path = entry?.path();
        if path.is_symlink() {
            continue;
        }
        let is_image = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"));
        if path.is_file() && is_image {
            return Ok(Some(path));
        }
        if path.is_dir()
            && let Some(image) = find_image(&path)?
        {
            return Ok(Some(image));
        }
    }
    Ok(None)
}

/// Returns the folder for what is unpacked for an architecture.
fn base(arch: Arch) -> Result<PathBuf> {
    let folder = match arch {
        Arch::Amd64 => "vm",
        Arch::Arm64 => "vm-arm64",
    };
    Ok(paths::cache()?.join(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_packages_of_one_version_hold_an_image() {
        assert!(is_image("linux-image-6.1.0-56-cloud-amd64"));
        assert!(is_image("linux-binary-7.2.13+deb14-cloud-amd64"));
        assert!(!is_image("linux-image-cloud-amd64"));
        assert!(!is_image("linux-base-7.2.13+deb14-cloud-amd64"));
    }
}

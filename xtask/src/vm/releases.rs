//! Kernels and servers of Debian's releases for the matrix, by package name, so that the newest versions of the archive
//! are used. They are unpacked into the cache and never installed. An unpacked version is used until the archive has
//! another one.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::archive::{self, Archive, Mirrors, Package};
use crate::{paths, ui};

/// A kernel of the matrix.
pub(super) struct KernelSource {
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
/// Reason for the missing hook `socket`, the only one that some kernels do not have.
pub(super) const WHY_NO_SOCKET: &str =
    "the tracepoints sock_send_length and sock_recv_length came with Linux 6.3";

/// All kernels, oldest first. `newest` is that of Debian's unstable release.
pub(super) const KERNELS: [KernelSource; 4] = [
    KernelSource {
        name: "5.10",
        release: "bullseye",
        hooks: &WITHOUT_SOCKET,
    },
    KernelSource {
        name: "6.1",
        release: "bookworm",
        hooks: &WITHOUT_SOCKET,
    },
    KernelSource {
        name: "6.12",
        release: "trixie",
        hooks: &HOOKS,
    },
    KernelSource {
        name: "newest",
        release: "sid",
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

/// The package of the kernel without drivers for hardware, which a virtual machine does not need. It depends on the
/// newest image.
const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";
/// Beginnings of the names of the packages with a kernel image; the packages with a version in their name have one.
const IMAGE_PREFIXES: [&str; 2] = ["linux-image-", "linux-binary-"];

/// Returns the compressed image of a kernel, ready to boot.
pub(super) fn kernel(mirrors: &Mirrors, source: &KernelSource) -> Result<PathBuf> {
    let closure = open(mirrors, source.release)?.closure(KERNEL_PACKAGE)?;
    let images: Vec<_> = closure
        .iter()
        .filter(|package| is_image(&package.name))
        .collect();
    let folder = base()?.join("kernels").join(source.name);
    ensure(mirrors, source.release, &images, &folder)?;
    find_image(&folder)?.with_context(|| {
        format!(
            "no kernel image in {} ({})",
            folder.display(),
            names(&images).join(", ")
        )
    })
}

/// Returns the folder of an unpacked BIND with all its dependencies, including the C library, and its package version.
pub(super) fn bind(mirrors: &Mirrors, source: &BindSource) -> Result<(PathBuf, String)> {
    let closure = open(mirrors, source.release)?.closure("bind9")?;
    let folder = base()?.join("bind").join(source.name);
    let packages: Vec<_> = closure.iter().collect();
    ensure(mirrors, source.release, &packages, &folder)?;
    let version = closure
        .iter()
        .find(|package| package.name == "bind9")
        .and_then(|package| package.file.split('_').nth(1))
        .unwrap_or("?")
        .replace("%3a", ":");
    Ok((folder, version))
}

/// Returns the folder of a BIND that an earlier run has unpacked.
pub(super) fn unpacked(source: &BindSource) -> Result<Option<PathBuf>> {
    let folder = base()?.join("bind").join(source.name);
    Ok(archive::beside(&folder, "files").exists().then_some(folder))
}

fn open(mirrors: &Mirrors, release: &str) -> Result<Archive> {
    Archive::open(mirrors, release, &base()?.join("apt").join(release))
        .with_context(|| format!("cannot read the archive of Debian {release}"))
}

/// Unpacks the packages unless exactly these files are unpacked already.
fn ensure(mirrors: &Mirrors, release: &str, packages: &[&Package], folder: &Path) -> Result<()> {
    let files: Vec<_> = packages
        .iter()
        .map(|package| package.file.as_str())
        .collect();
    let wanted = files.join(
        "
",
    );
    let stamp = archive::beside(folder, "files");
    if fs::read_to_string(&stamp).is_ok_and(|unpacked| unpacked == wanted) {
        return Ok(());
    }
    ui::step(format_args!(
        "unpacking {} of Debian {release} (not installing it)",
        packages.last().map_or("nothing", |package| &package.file)
    ));
    open(mirrors, release)?.unpack(&names(packages), folder)?;
    fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))
}

fn names<'a>(packages: &[&'a Package]) -> Vec<&'a str> {
    packages
        .iter()
        .map(|package| package.name.as_str())
        .collect()
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

fn base() -> Result<PathBuf> {
    Ok(paths::cache()?.join("vm"))
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

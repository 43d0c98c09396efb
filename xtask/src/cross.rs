//! Compiling for another architecture than this machine's: the compiled standard library for it.
//!
//! There are two ways to get it: rustup (`rustup target add`), or Debian's package `libstd-rust-web-dev` of that
//! architecture, which fits Debian's compiler of the same version. The package is unpacked into the cache, never installed.
//! The linker is [`crate::zig`].

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};

use crate::{
    arch::Arch,
    archive::{Archive, Mirrors},
    exec, packages, paths,
    toolchain::DEBIAN_RUSTC,
};

/// Debian's compiler, and its standard library.
const COMPILER: &str = "rustc-web";
const LIBRARY: &str = "libstd-rust-web-dev";

/// Makes a command of cargo compile for `arch` if it is told that target.
pub(crate) fn prepare(command: &mut Command, arch: Arch) -> Result<()> {
    if arch == Arch::HOST || has_library(arch) {
        return Ok(());
    }
    let sysroot = debian(arch).with_context(|| {
        format!(
            "no standard library for {}: run `rustup target add {}`",
            arch.debian(),
            arch.target()
        )
    })?;
    let flags = format!(
        "CARGO_TARGET_{}_RUSTFLAGS",
        arch.target().to_uppercase().replace('-', "_")
    );
    command
        .env("RUSTC", DEBIAN_RUSTC)
        .env(flags, format!("--sysroot={sysroot}"));
    Ok(())
}

/// Returns whether cargo's own compiler has the library.
fn has_library(arch: Arch) -> bool {
    let mut rustc = Command::new("rustc");
    rustc
        .current_dir(paths::root())
        .args(["--print=target-libdir", "--target", arch.target()]);
    exec::output(&mut rustc).is_ok_and(|folder| Path::new(folder.trim_end()).exists())
}

/// Unpacks Debian's library and returns the folder of it that the compiler knows as `sysroot`.
fn debian(arch: Arch) -> Result<String> {
    let installed = packages::version(COMPILER)?;
    let release = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let release = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .context("/etc/os-release names no release")?;
    let archive = Archive::open(&Mirrors::of_this_machine()?, release, arch)?;
    let mut closure = archive.closure(&[LIBRARY])?;
    closure.retain(|package| package.name == LIBRARY);
    let fits = |file: &str| file.split('_').nth(1) == Some(&installed);
    ensure!(
        closure.iter().all(|package| fits(&package.file)),
        "{COMPILER} has version {installed}, which is not that of {LIBRARY} for {}",
        arch.debian()
    );
    let folder = paths::cache()?.join(format!("rust-std-{}", arch.debian()));
    archive.ensure(&closure, &folder)?;
    Ok(folder.join("usr").display().to_string())
}

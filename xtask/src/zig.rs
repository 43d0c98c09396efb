//! A compiler and linker for an old C library: zig, as the Python packages `ziglang` and `cargo-zigbuild` bring it. They
//! are installed into the cache, never into the system.
//!
//! A program that is linked on this machine needs this machine's C library, or a newer one. zig has the symbols of every
//! version of the GNU C library, so it links for an old one, and the result starts on all later ones.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{arch::Arch, cross, exec, packages::Apt, paths, ui};

/// Oldest C library on which the program starts: that of RHEL 7, Debian 8 and Ubuntu 14.04.
pub(crate) const GLIBC: &str = "2.17";

/// Versions of both packages. Other versions give other bytes.
const PACKAGES: [&str; 2] = ["ziglang==0.17.1", "cargo-zigbuild==0.24.1"];

/// Returns the command `cargo zigbuild` for `arch` and this version of the C library.
pub(crate) fn build(arch: Arch, glibc: &str) -> Result<Command> {
    let folder = ensure()?;
    let mut path = folder.join("bin").into_os_string();
    path.push(":");
    path.push(env::var_os("PATH").unwrap_or_default());
    let mut command = exec::cargo();
    command
        .arg("zigbuild")
        .args(["--target", &format!("{}.{glibc}", arch.target())])
        .env("PATH", path)
        .env("ZIG_GLOBAL_CACHE_DIR", folder.join("cache"))
        .env("CARGO_ZIGBUILD_CACHE_DIR", folder.join("cargo-zigbuild"));
    if arch == Arch::HOST {
        command.env("CC", compiler(&folder, glibc)?);
    }
    cross::prepare(&mut command, arch)?;
    Ok(command)
}

/// Writes a compiler for this machine's architecture, for build scripts that know none but `CC`, and returns its path.
/// librdkafka's own script looks for functions with it (C11 threads are newer than [`GLIBC`]), and links a shared library
/// that is not used. zig cannot link it, so the machine's compiler does.
fn compiler(folder: &Path, glibc: &str) -> Result<PathBuf> {
    let path = folder.join("cc");
    let script = format!(
        "#!/bin/sh\n\
         case \" $* \" in *' -shared '*) exec cc \"$@\" ;; esac\n\
         exec \"{}\" zig cc -- -target {}.{glibc} -fno-sanitize=all \"$@\"\n",
        folder.join("bin/cargo-zigbuild").display(),
        Arch::HOST.multiarch(),
    );
    // A new time would make cargo build everything again.
    if fs::read_to_string(&path).ok().as_ref() != Some(&script) {
        fs::write(&path, script).with_context(|| format!("cannot write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(path)
}

/// Makes sure that both packages are installed, and returns their folder.
pub(crate) fn ensure() -> Result<PathBuf> {
    let folder = paths::cache()?.join("zig");
    let stamp = folder.join("PACKAGES");
    let wanted = PACKAGES.join("\n");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(folder);
    }
    ui::step("installing zig into the cache");
    // Debian's python3 lacks it without this package.
    if exec::output(Command::new("python3").args(["-c", "import ensurepip, venv"])).is_err() {
        Apt::default().ensure(&["python3-venv"])?;
    }
    exec::output(
        Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&folder),
    )?;
    exec::logged(
        "zig",
        Command::new(folder.join("bin/pip"))
            .args(["install", "--disable-pip-version-check"])
            .args(PACKAGES),
    )?;
    fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(folder)
}

//! Makes the Debian package from the tree and its control files, with `dpkg-deb`.
//!
//! cargo-deb makes such a package, too. It is not used, because it would have to be built first, and it needs a list of
//! files of its own, while this package has the same tree as the tarball.

use std::{
    env,
    fmt::Write as _,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::VERSION;
use crate::{arch::Arch, exec, paths};

/// Revision of the packaging, which is separate from the program's version.
const REVISION: u32 = 1;

/// Packs `tree` into `dist`. `time` is the time of the files and of the changelog's entry.
pub(super) fn build(tree: &Path, dist: &Path, time: &str, arch: Arch) -> Result<PathBuf> {
    let version = format!("{VERSION}-{REVISION}");
    let architecture = arch.debian();
    changelog(tree, &version, time)?;

    let control = tree.join("DEBIAN");
    fs::create_dir(&control).with_context(|| format!("cannot create {}", control.display()))?;
    fs::set_permissions(&control, fs::Permissions::from_mode(0o755))?;
    let write = |name: &str, text: &str, mode| -> Result<()> {
        let path = control.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(fs::set_permissions(
            &path,
            fs::Permissions::from_mode(mode),
        )?)
    };
    write("conffiles", &conffiles(tree)?, 0o644)?;
    write("md5sums", &checksums(tree)?, 0o644)?;
    for script in ["postinst", "prerm", "postrm"] {
        let from = paths::root().join("packaging/debian").join(script);
        let text =
            fs::read_to_string(&from).with_context(|| format!("cannot read {}", from.display()))?;
        write(script, &text, 0o755)?;
    }
    let size = exec::output(
        Command::new("du")
            .args(["--summarize", "--apparent-size", "-k"])
            .arg(tree),
    )?;
    let size = size.split_whitespace().next().context("du says no size")?;
    let depends = depends(&tree.join("usr/bin/dnstap-agent"))?;
    let text = format!(
        "Package: dnstap-agent\n\
         Version: {version}\n\
         Architecture: {architecture}\n\
         Maintainer: {}\n\
         Installed-Size: {size}\n\
         Depends: {depends}, systemd | systemd-standalone-sysusers | systemd-sysusers\n\
         Section: net\n\
         Priority: optional\n\
         Description: dnstap of a DNS server that is already running\n \
         Attaches to a running DNS server with eBPF and turns every message that it\n \
         receives and sends into dnstap: files, collectors, text. The server is neither\n \
         rebuilt nor reconfigured nor restarted, and never waits for a slow reader.\n",
        maintainer(),
    );
    write("control", &text, 0o644)?;

    let package = dist.join(format!("dnstap-agent_{version}_{architecture}.deb"));
    exec::output(
        Command::new("dpkg-deb")
            .args(["--root-owner-group", "--build"])
            .arg(tree)
            .arg(&package)
            .env("SOURCE_DATE_EPOCH", time),
    )?;
    fs::remove_dir_all(&control).with_context(|| format!("cannot remove {}", control.display()))?;
    Ok(package)
}

/// Lists the configuration files: everything in `/etc` belongs to the administrator.
fn conffiles(tree: &Path) -> Result<String> {
    let find = ["etc", "-type", "f", "-printf", "/%p\n"];
    exec::output(Command::new("find").current_dir(tree).args(find))
}

fn checksums(tree: &Path) -> Result<String> {
    let script = "find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum";
    exec::output(Command::new("sh").current_dir(tree).args(["-c", script]))
}

/// Libraries of the GNU C library.
const C_LIBRARY: [&str; 5] = ["libc", "libdl", "libm", "libpthread", "librt"];
/// Library, and its package, that a Rust program may need besides them.
const LIBGCC: (&str, &str) = ("libgcc_s.so.1", "libgcc-s1");

/// Returns the packages with the program's libraries. `dpkg-shlibdeps` would know only those of this machine's
/// architecture, and names a newer C library than the program needs.
fn depends(program: &Path) -> Result<String> {
    let mut readelf = Command::new("readelf");
    let dynamic = exec::output(
        readelf
            .env("LC_ALL", "C")
            .args(["--wide", "--dynamic"])
            .arg(program),
    )?;
    let mut depends = format!("libc6 (>= {})", newest_symbols(program)?);
    let libraries = dynamic
        .lines()
        .filter_map(|line| line.split_once("Shared library: [")?.1.split_once(']'));
    for (library, _) in libraries {
        if library == LIBGCC.0 {
            write!(depends, ", {}", LIBGCC.1)?;
        } else {
            let (name, _) = library.split_once(".so").unwrap_or((library, ""));
            ensure!(
                C_LIBRARY.contains(&name) || name.starts_with("ld-linux"),
                "the program needs {library}, and no package with it is known here"
            );
        }
    }
    Ok(depends)
}

/// Returns the newest version of the GNU C library whose symbols the program needs.
fn newest_symbols(program: &Path) -> Result<String> {
    let mut readelf = Command::new("readelf");
    let listed = exec::output(readelf.args(["--wide", "--version-info"]).arg(program))?;
    let versions = listed.split("GLIBC_").skip(1).filter_map(|rest| {
        let end = rest.find(|c: char| c != '.' && !c.is_ascii_digit());
        let version = &rest[..end.unwrap_or(rest.len())];
        let numbers: Option<Vec<u32>> = version.split('.').map(|part| part.parse().ok()).collect();
        Some((numbers?, version))
    });
    let newest = versions
        .max()
        .context("the program names no version of the C library")?;
    Ok(newest.1.to_owned())
}

/// Writes the packaging's changelog, which has only this version. The program's changelog is a separate file.
fn changelog(tree: &Path, version: &str, time: &str) -> Result<()> {
    let date = exec::output(
        Command::new("date")
            .args(["--utc", "--rfc-email", "--date"])
            .arg(format!("@{time}")),
    )?;
    let mut text = String::new();
    write!(
        text,
        "dnstap-agent ({version}) unstable; urgency=medium\n\n  * Built by `cargo xtask dist`.\n\n -- {}  {date}",
        maintainer()
    )?;
    let path = tree.join("usr/share/doc/dnstap-agent/changelog.Debian");
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    super::compress(&path)?;
    let compressed = path.with_extension("Debian.gz");
    Ok(fs::set_permissions(
        compressed,
        fs::Permissions::from_mode(0o644),
    )?)
}

/// Returns the maintainer: `DEBFULLNAME` and `DEBEMAIL`, as for other Debian tools.
fn maintainer() -> String {
    let variable = |name, default: &str| env::var(name).unwrap_or_else(|_| default.to_owned());
    format!(
        "{} <{}>",
        variable("DEBFULLNAME", "The dnstap-agent authors"),
        variable("DEBEMAIL", "dnstap-agent@packages.invalid")
    )
}

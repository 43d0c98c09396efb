//! DNS servers for the tests and the demo, unpacked into the cache and never installed: a server package's
//! installation would start a system service.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    exec,
    packages::{self, Apt},
    paths, ui,
};

/// The library package of BIND, and those that are built with it: they move in step, so all are brought to one version.
const BIND9_PACKAGES: &[&str] = &["bind9-libs", "bind9-utils", "bind9-dnsutils"];

/// Where the unpacked `named` is.
pub(crate) fn bind9() -> Result<PathBuf> {
    Ok(folder()?.join("usr/sbin/named"))
}

fn folder() -> Result<PathBuf> {
    Ok(paths::cache()?.join("servers/bind9"))
}

/// Path of a `named` that matches the installed BIND libraries to the letter; they have no stable interface between
/// them.
pub(crate) fn ensure_bind9(apt: &mut Apt) -> Result<PathBuf> {
    apt.ensure(BIND9_PACKAGES)?;
    let (folder, named) = (folder()?, bind9()?);
    let stamp = folder.join("VERSION");
    let unpacked = fs::read_to_string(&stamp).unwrap_or_default();
    if unpacked != packages::version("bind9-libs")? || !named.exists() {
        ui::step("unpacking BIND's server (not installing it)");
        apt.install(BIND9_PACKAGES)?; // the archive keeps only the newest version
        let version = packages::version("bind9-libs")?;
        unpack(&format!("bind9={version}"), &folder)?;
        fs::write(&stamp, version).with_context(|| format!("cannot write {}", stamp.display()))?;
    }
    exec::output(Command::new(&named).arg("-v")).context("the unpacked named does not run")?;
    Ok(named)
}

/// Where the unpacked `promtool` is.
pub(crate) fn promtool() -> Result<PathBuf> {
    Ok(paths::cache()?.join("servers/prometheus/usr/bin/promtool"))
}

/// Unpacks `promtool`, Prometheus' own judge of metrics, where the archive has it.
pub(crate) fn ensure_promtool(apt: &mut Apt) -> Result<()> {
    if !promtool()?.exists() && apt.offers("prometheus") {
        ui::step("unpacking promtool (not installing its server)");
        unpack("prometheus", &paths::cache()?.join("servers/prometheus"))?;
    }
    Ok(())
}

/// Downloads a package, `NAME=VERSION` for a certain one, and unpacks it in place of `folder`.
fn unpack(package: &str, folder: &Path) -> Result<()> {
    let downloads = folder.with_extension("download");
    for path in [folder, &downloads] {
        if path.exists() {
            fs::remove_dir_all(path)
                .with_context(|| format!("cannot remove {}", path.display()))?;
        }
        fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))?;
    }
    exec::logged(
        "apt-download",
        Command::new("apt-get")
            .arg("download")
            .arg(package)
            .current_dir(&downloads),
    )?;
    for entry in
        fs::read_dir(&downloads).with_context(|| format!("cannot list {}", downloads.display()))?
    {
        exec::output(
            Command::new("dpkg")
                .arg("-x")
                .arg(entry?.path())
                .arg(folder),
        )?;
    }
    fs::remove_dir_all(&downloads).with_context(|| format!("cannot remove {}", downloads.display()))
}

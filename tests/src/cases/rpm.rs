//! The RPM package, through its life in a root folder with a database of its own, by this machine's `rpm`. It does not
//! touch the machine's packages or users.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use tempfile::TempDir;

use super::{privileges::root, trial};
use crate::{
    environment::{self, Skip, tool},
    lab,
    process::output,
};

/// The administrator's file.
const CONFIGURATION: &str = "etc/dnstap-agent/dnstap-agent.toml";
/// The file that only the Debian package has.
const DEBIANS: &str = "/usr/share/doc/dnstap-agent/changelog.Debian.gz";

type Test = fn() -> Result<()>;

pub(super) fn trials() -> Vec<Trial> {
    let tests: [(&str, Test); 2] = [
        ("it has the files of the Debian package", files),
        (
            "installed, verified, upgraded and removed, it keeps what was configured",
            life,
        ),
    ];
    tests
        .map(|(name, test)| trial(format!("rpm: {name}"), test))
        .into()
}

fn files() -> Result<()> {
    let mut query = Command::new(tool("rpm")?);
    query
        .args(["--query", "--package"])
        .args(["--queryformat", "[%{FILEMODES:perms} %{FILENAMES}\\n]"])
        .arg(package()?);
    let (ours, _) = output(query)?;
    let mut unpack = Command::new(tool("dpkg-deb")?);
    unpack.arg("--contents").arg(environment::package()?);
    let (theirs, _) = output(unpack)?;
    let ours: BTreeSet<_> = ours.lines().filter(|line| !line.starts_with('d')).collect();
    // `-rw-r--r-- root/root 123 2026-01-01 00:00 ./etc/file`
    let theirs: BTreeSet<_> = theirs
        .lines()
        .filter(|line| !line.starts_with('d'))
        .filter_map(|line| Some((line.split(' ').next()?, line.split(" .").last()?)))
        .filter(|(_, path)| *path != DEBIANS)
        .map(|(mode, path)| format!("{mode} {path}"))
        .collect();
    let theirs: BTreeSet<_> = theirs.iter().map(String::as_str).collect();
    ensure!(
        ours == theirs && ours.len() > 30,
        "only in one of them: {:?}",
        ours.symmetric_difference(&theirs).collect::<Vec<_>>()
    );
    Ok(())
}

/// Checks that the package asks for no C library newer than 2.17, and for nothing that is unknown.
pub(super) fn requirements() -> Result<()> {
    let mut query = Command::new(tool("rpm")?);
    query
        .args(["--query", "--requires", "--package"])
        .arg(package()?);
    let (listed, _) = output(query)?;
    for line in listed.lines() {
        // `libc.so.6(GLIBC_2.17)(64bit)`
        if let Some((_, version)) = line.split_once("(GLIBC_") {
            let version = version.split(')').next().unwrap_or_default();
            let minor: u32 = version.split('.').nth(1).unwrap_or_default().parse()?;
            ensure!(version.starts_with("2.") && minor <= 17, "{line}");
            continue;
        }
        let known = [
            "/bin/sh", "config(", "ld-linux", "lib", "rpmlib(", "rtld(", "systemd",
        ];
        ensure!(
            known.iter().any(|start| line.starts_with(start)),
            "what is {line}?"
        );
    }
    ensure!(listed.contains("libc.so.6(GLIBC_2."), "{listed}");
    Ok(())
}

fn life() -> Result<()> {
    let host = Host::new()?;
    let package = package()?;
    host.rpm(&["--install"], &package)?;
    let users = fs::read_to_string(host.path("etc/passwd"))?;
    ensure!(
        users.lines().any(|line| line.starts_with("dnstap-agent:")),
        "no user: {users}"
    );
    host.rpm(
        &["--verify", "--nouser", "--nogroup"],
        Path::new("dnstap-agent"),
    )?;
    let mut version = Command::new(host.path("usr/bin/dnstap-agent"));
    version.arg("--version");
    output(version)?;

    let mine = "[attach]\npid = 1\n";
    fs::write(host.path(CONFIGURATION), mine)?;
    host.rpm(&["--upgrade", "--force"], &package)?;
    ensure!(
        fs::read_to_string(host.path(CONFIGURATION))? == mine,
        "the configuration is lost"
    );
    host.rpm(&["--erase"], Path::new("dnstap-agent"))?;
    ensure!(
        !host.path("usr/bin/dnstap-agent").exists()
            && !host.path("usr/share/doc/dnstap-agent").exists(),
        "files stay"
    );
    let saved = host.path(&format!("{CONFIGURATION}.rpmsave"));
    ensure!(
        fs::read_to_string(&saved).with_context(|| format!("no {}", saved.display()))? == mine,
        "the saved configuration is another one"
    );
    Ok(())
}

/// Finds the package: beside the Debian one.
fn package() -> Result<PathBuf> {
    let beside = environment::package()?;
    let folder = beside.parent().context("a folder")?;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "rpm") {
            return Ok(path);
        }
    }
    Err(Skip(format!("no RPM package in {}", folder.display())).into())
}

/// A root folder with the programs that the package's scripts run.
struct Host {
    folder: TempDir,
}

impl Host {
    fn new() -> Result<Self> {
        root()?;
        tool("rpm")?;
        let host = Self {
            folder: lab::scratch()?,
        };
        fs::create_dir_all(host.path("etc"))?;
        for file in ["etc/passwd", "etc/group"] {
            fs::write(host.path(file), "")?;
        }
        host.bring(&tool("sh")?, "bin/sh")?;
        host.bring(&tool("systemd-sysusers")?, "usr/bin/systemd-sysusers")?;
        Ok(host)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Copies a program and its libraries.
    fn bring(&self, program: &Path, to: &str) -> Result<()> {
        let mut ldd = Command::new(tool("ldd")?);
        ldd.arg(program);
        let (listed, _) = output(ldd)?;
        let libraries = listed
            .split_whitespace()
            .filter(|word| word.starts_with('/'))
            .map(|word| (Path::new(word), word.trim_start_matches('/')));
        for (from, to) in libraries.chain([(program, to)]) {
            let to = self.path(to);
            fs::create_dir_all(to.parent().context("a folder")?)?;
            fs::copy(from, &to)?;
            fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
        }
        Ok(())
    }

    /// Runs `rpm` in this root. What the package depends on is not in its database.
    fn rpm(&self, action: &[&str], what: &Path) -> Result<()> {
        let mut command = Command::new(tool("rpm")?);
        command
            .arg("--root")
            .arg(self.folder.path())
            .args(action)
            .arg("--nodeps")
            .arg(what);
        let (said, complaints) = output(command)?;
        // rpm does not fail for a script that does.
        ensure!(
            said.is_empty() && !complaints.contains("scriptlet failed"),
            "{said}{complaints}"
        );
        Ok(())
    }
}

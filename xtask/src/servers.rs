//! DNS servers for the tests and the demo. They are unpacked into the cache and never installed, because the
//! installation of a server package would start a system service.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    exec,
    packages::{self, Apt},
    paths, ui, vm,
};

/// The library package of BIND, and the packages that are built with it. All must have the same version.
const BIND9_PACKAGES: &[&str] = &["bind9-libs", "bind9-utils", "bind9-dnsutils"];

/// Returns the path of the unpacked `named`.
pub(crate) fn bind9() -> Result<PathBuf> {
    Ok(folder()?.join("usr/sbin/named"))
}

fn folder() -> Result<PathBuf> {
    Ok(paths::cache()?.join("servers/bind9"))
}

/// Returns the path of a `named` with exactly the version of the installed BIND libraries: they have no stable
/// interface between them.
pub(crate) fn ensure_bind9(apt: &mut Apt) -> Result<PathBuf> {
    apt.ensure(BIND9_PACKAGES)?;
    let (folder, named) = (folder()?, bind9()?);
    let stamp = folder.join("VERSION");
    let unpacked = fs::read_to_string(&stamp).unwrap_or_default();
    if unpacked != packages::version("bind9-libs")? || !named.exists() {
        ui::step("unpacking BIND's server (not installing it)");
        apt.install(BIND9_PACKAGES)?; // the archive keeps only the newest version
        let version = packages::version("bind9-libs")?;
        unpack(&[&format!("bind9={version}")], &folder)?;
        fs::write(&stamp, version).with_context(|| format!("cannot write {}", stamp.display()))?;
    }
    exec::output(Command::new(&named).arg("-v")).context("the unpacked named does not run")?;
    Ok(named)
}

/// Servers that the tests tap in addition to `named`: their folder, the program, the option that prints the version and
/// ends, and the packages in the folder.
const OTHERS: [(&str, &str, &str, &[&str]); 3] = [
    ("unbound", "unbound", "-V", &["unbound"]),
    ("knot", "knotd", "-V", &["knot", "knot-module-dnstap"]),
    ("nsd", "nsd", "-v", &["nsd"]),
];

/// Unpacks those of [`OTHERS`] that the archive has, and installs the libraries that they need.
pub(crate) fn ensure_others(apt: &mut Apt) -> Result<()> {
    for (folder, program, version, packages) in OTHERS {
        let folder = paths::cache()?.join("servers").join(folder);
        let program = folder.join("usr/sbin").join(program);
        let runs = || exec::output(Command::new(&program).arg(version));
        if runs().is_ok() || !packages.iter().all(|package| apt.offers(package)) {
            continue;
        }
        ui::step(format_args!(
            "unpacking {} (not installing it)",
            packages.join(" and ")
        ));
        let libraries = unpack(packages, &folder)?;
        let libraries: Vec<&str> = libraries.iter().map(String::as_str).collect();
        // The libraries must have the same version as the server.
        apt.install(&libraries)?;
        runs().with_context(|| format!("the unpacked {} does not run", program.display()))?;
    }
    Ok(())
}

/// More servers for the referee: their folder, the program, and its packages. They are unpacked with all dependencies
/// that the machine lacks. The tests mount the folder over `/usr`, only for the server.
const REFEREES: [(&str, &str, &[&str]); 7] = [
    ("pdns", "pdns_server", &["pdns-server", "pdns-backend-bind"]),
    ("pdns-recursor", "pdns_recursor", &["pdns-recursor"]),
    ("dnsdist", "dnsdist", &["dnsdist"]),
    ("dnsmasq", "dnsmasq", &["dnsmasq-base"]),
    ("kresd", "kresd", &["knot-resolver"]),
    ("gdnsd", "gdnsd", &["gdnsd"]),
    ("yadifa", "yadifad", &["yadifa"]),
];

/// Languages of the referee's own servers: a program, and the package that has it. None of the packages starts a
/// service.
const LANGUAGES: [(&str, &str); 4] = [
    ("python3", "python3"),
    ("node", "nodejs"),
    ("javac", "openjdk-17-jdk-headless"),
    ("go", "golang-go"),
];

/// Prepares the referee's servers. A server that is not available is reported, and is a line of its table.
pub(crate) fn ensure_referees(apt: &mut Apt) -> Result<()> {
    apt.ensure(&["openssl"])?;
    for (folder, program, packages) in REFEREES {
        let folder = paths::cache()?.join("servers").join(folder);
        let unpacked = ["sbin", "bin"].map(|part| folder.join("usr").join(part).join(program));
        if on_the_path(program) || unpacked.iter().any(|path| path.exists()) {
            continue;
        }
        ui::step(format_args!("unpacking {program} (not installing it)"));
        if let Err(error) = unpack_whole(apt, packages, &folder) {
            ui::warn(format_args!("no {program}: {error:#}"));
        }
    }
    for (program, package) in LANGUAGES {
        if on_the_path(program) {
            continue;
        }
        if let Err(error) = apt.ensure(&[package]) {
            ui::warn(format_args!("no {program}: {error:#}"));
        }
    }
    if let Err(error) = build_in_go() {
        ui::warn(format_args!("no server in Go: {error:#}"));
    }
    Ok(())
}

/// Builds the referee's server in Go; the tree has only its source.
fn build_in_go() -> Result<()> {
    let program = paths::cache()?.join("servers/referee-go/server");
    let mut build = Command::new("go");
    build
        .args(["build", "-mod=readonly", "-o"])
        .arg(program)
        .arg(".")
        .current_dir(paths::root().join("tests/referee/go"));
    exec::logged("go-build", &mut build)
}

fn on_the_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .any(|folder| folder.join(program).is_file())
}

/// Downloads packages with their missing dependencies, and unpacks all of them. They replace the content of `folder`.
fn unpack_whole(apt: &mut Apt, packages: &[&str], folder: &Path) -> Result<()> {
    let downloads = folder.with_extension("download");
    emptied(folder)?;
    emptied(&downloads)?;
    apt.download(packages, &downloads)?;
    for entry in
        fs::read_dir(&downloads).with_context(|| format!("cannot list {}", downloads.display()))?
    {
        let package = entry?.path();
        if package.extension().is_some_and(|end| end == "deb") {
            exec::output(Command::new("dpkg").arg("-x").arg(&package).arg(folder))?;
        }
    }
    fs::remove_dir_all(&downloads).with_context(|| format!("cannot remove {}", downloads.display()))
}

/// Makes an empty folder.
fn emptied(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
}

/// Returns the path of the unpacked `promtool`.
pub(crate) fn promtool() -> Result<PathBuf> {
    Ok(paths::cache()?.join("servers/prometheus/usr/bin/promtool"))
}

/// Unpacks `promtool`, Prometheus' own checker of metrics, if the archive has it.
pub(crate) fn ensure_promtool(apt: &mut Apt) -> Result<()> {
    if !promtool()?.exists() && apt.offers("prometheus") {
        ui::step("unpacking promtool (not installing its server)");
        unpack(&["prometheus"], &paths::cache()?.join("servers/prometheus"))?;
    }
    Ok(())
}

/// The BIND of a later Debian release than this machine's. Its own dnstap has types and times that the older one lacks.
pub(crate) const NEXT_BIND: &str = "9.20";

/// Script that executes a program in a root with the libraries of another release, and with this machine's folder for
/// scratch files. Only this process sees the mounts, so nothing is left when it ends. Process id and arguments stay the
/// same.
const IN_ITS_ROOT: &str = r#"#!/bin/sh
exec unshare --mount sh -ec '
tmp=${TMPDIR:-/tmp}
mount -t tmpfs tmpfs "$0"
cd "$0"
mkdir -p dev etc proc run sys usr var program "./$tmp"
mount --bind "$1/usr" usr
for libraries in lib lib64
do
    if [ -d "$1/$libraries" ]
    then
        mkdir "$libraries"
        mount --bind "$1/$libraries" "$libraries"
    else
        ln -s "usr/$libraries" "$libraries"
    fi
done
mount --bind "$2" program
program=$3
mount --bind "$tmp" "./$tmp"
mount --rbind /dev dev
mount --rbind /sys sys
mount -t proc proc proc
shift 3
exec chroot . "$program" "$@"
' "#;

/// Returns a program that executes the `named` of [`NEXT_BIND`].
pub(crate) fn ensure_next_bind() -> Result<PathBuf> {
    let program = wrapped("named-next", NEXT_BIND, None)?;
    exec::output(Command::new(&program).arg("-v"))
        .with_context(|| format!("BIND {NEXT_BIND} does not run here"))?;
    Ok(program)
}

/// Tests of the packed program on Debian releases, each with the BIND of the matrix that the release has. The unpacked BIND
/// comes with all its libraries, so it is a root folder of that release.
pub(crate) const RELEASES: [(&str, &str); 3] = [
    ("the packed program on Debian 11", "9.16"),
    ("the packed program on Debian 12", "9.18"),
    ("the packed program on Debian 13", "9.20"),
];

/// Returns a program that executes `program` with the libraries of the Debian release that has this BIND.
pub(crate) fn on_release(bind: &str, program: &Path) -> Result<PathBuf> {
    wrapped(&format!("agent-with-{bind}"), bind, Some(program))
}

/// Writes a script with this name that executes `program` in the root of a BIND, or that BIND's own `named`.
fn wrapped(name: &str, bind: &str, program: Option<&Path>) -> Result<PathBuf> {
    let release = vm::bind(bind)?;
    let folder = paths::cache()?.join("servers");
    let (root, script) = (folder.join(format!("root-{bind}")), folder.join(name));
    fs::create_dir_all(&root).with_context(|| format!("cannot create {}", root.display()))?;
    let program = program.map_or_else(|| release.join("usr/sbin/named"), Path::to_owned);
    let text = in_its_root(&root, &release, &program);
    fs::write(&script, text).with_context(|| format!("cannot write {}", script.display()))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot make {} executable", script.display()))?;
    Ok(script)
}

/// Returns a shell script that executes `program` with the libraries of the packages that are unpacked in `release`.
/// `root` is its mount point.
fn in_its_root(root: &Path, release: &Path, program: &Path) -> String {
    // A program of the release keeps its path: it finds files beside it.
    let inside = match program.strip_prefix(release.join("usr")) {
        Ok(path) => Path::new("/usr").join(path),
        Err(_) => Path::new("/program").join(program.file_name().unwrap_or_default()),
    };
    let beside = program.parent().unwrap_or(Path::new("/"));
    let [root, release, beside, inside] = [root, release, beside, &inside].map(quoted);
    format!("{IN_ITS_ROOT}{root} {release} {beside} {inside} \"$@\"\n")
}

/// Quotes a path for the shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

/// Downloads packages (`NAME=VERSION` for a certain version), and unpacks them in place of `folder`. Returns the
/// libraries that they need.
fn unpack(packages: &[&str], folder: &Path) -> Result<Vec<String>> {
    let downloads = folder.with_extension("download");
    emptied(folder)?;
    emptied(&downloads)?;
    exec::logged(
        "apt-download",
        Command::new("apt-get")
            .arg("download")
            .args(packages)
            .current_dir(&downloads),
    )?;
    let mut needed = Vec::new();
    for entry in
        fs::read_dir(&downloads).with_context(|| format!("cannot list {}", downloads.display()))?
    {
        let package = entry?.path();
        exec::output(Command::new("dpkg").arg("-x").arg(&package).arg(folder))?;
        let depends = exec::output(
            Command::new("dpkg-deb")
                .arg("--field")
                .arg(&package)
                .arg("Depends"),
        )?;
        needed.extend(libraries(&depends));
    }
    fs::remove_dir_all(&downloads)
        .with_context(|| format!("cannot remove {}", downloads.display()))?;
    Ok(needed)
}

/// Returns the libraries of a package's field `Depends`.
fn libraries(depends: &str) -> impl Iterator<Item = String> {
    depends
        .split(',')
        .filter_map(|choice| choice.split_whitespace().next())
        .filter(|name| name.starts_with("lib"))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write as _};

    use super::*;

    #[test]
    fn only_libraries_are_installed_and_the_first_where_there_is_a_choice() {
        let depends = "knot (= 3.2.6-1), adduser, libc6 (>= 2.34),\n libone | libtwo, lsb-base";
        assert_eq!(libraries(depends).collect::<Vec<_>>(), ["libc6", "libone"]);
    }

    #[test]
    fn a_program_of_another_release_keeps_process_id_and_arguments_and_leaves_no_mount() {
        if !packages::is_root() {
            // This does not use a print macro, whose text the test harness would capture.
            let _told = writeln!(
                io::stderr(),
                "SKIP a program of another release: only root may mount"
            );
            return;
        }
        let root = paths::target().join("a root's mount");
        fs::create_dir_all(&root).expect("a folder");
        let script = in_its_root(&root, Path::new("/"), Path::new("/usr/bin/sh"));
        let child = Command::new("sh")
            .args(["-c", &script, "sh", "-c", "echo $$ $0 $1; ls", "a b", "c"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("a shell");
        let pid = child.id();
        let output = child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut lines = said.lines();
        assert_eq!(lines.next(), Some(&*format!("{pid} a b c")));
        assert!(lines.any(|line| line == "lib64"), "{said}");
        let left = fs::read_dir(&root).expect("the folder").count();
        assert_eq!(left, 0);
        fs::remove_dir(&root).expect("nothing is mounted on it");
    }
}

//! A view of the archive of one Debian release for one architecture, on a machine with any. It has its own lists, state and
//! downloads, so it neither uses nor changes the machine's package manager. It needs no root and installs nothing.
//!
//! It uses the mirror of the machine's own sources. apt checks the archive's signature against Debian's keyring and
//! every download against the signed lists.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{arch::Arch, exec, paths, ui};

/// Debian's signing keys, of package `debian-archive-keyring`.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Lists that are younger than this are not fetched again.
const FRESH: Duration = Duration::from_hours(24);

/// Mirrors from which this machine gets Debian packages.
pub(crate) struct Mirrors {
    main: String,
    security: Option<String>,
}

/// One package that would be installed: its name, and its file, whose name has the version.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) file: String,
}

/// The archive of one release for one architecture.
pub(crate) struct Archive {
    folder: PathBuf,
    release: String,
}

impl Mirrors {
    /// Reads the machine's sources.
    pub(crate) fn of_this_machine() -> Result<Self> {
        let sources = exec::output(Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(CREATED_BY) $(LABEL) $(REPO_URI)",
        ]))?;
        Self::parse(&sources)
    }

    fn parse(sources: &str) -> Result<Self> {
        let of = |label| {
            sources
                .lines()
                .find_map(|line| line.strip_prefix(label))
                .map(|address| address.trim_end_matches('/').to_owned())
        };
        Ok(Self {
            main: of("Packages Debian ").context(
                "this machine's package sources (apt-get indextargets) name no Debian mirror: run `apt-get update`, \
                 or add one to /etc/apt/sources.list.d",
            )?,
            security: of("Packages Debian-Security "),
        })
    }
}

impl Archive {
    /// Opens the archive of `release` (a code name). Fetches its lists if they are old.
    pub(crate) fn open(mirrors: &Mirrors, release: &str, arch: Arch) -> Result<Self> {
        Self::try_open(mirrors, release, arch).with_context(|| {
            format!(
                "cannot read the archive of Debian {release} for {}",
                arch.debian()
            )
        })
    }

    fn try_open(mirrors: &Mirrors, release: &str, arch: Arch) -> Result<Self> {
        let folder = &paths::cache()?
            .join("apt")
            .join(format!("{release}-{}", arch.debian()));
        ensure!(
            Path::new(KEYRING).exists(),
            "{KEYRING} is missing: install debian-archive-keyring"
        );
        for sub in ["lists/partial", "archives/partial"] {
            let path = folder.join(sub);
            fs::create_dir_all(&path)
                .with_context(|| format!("cannot create {}", path.display()))?;
        }
        // Nothing is installed in this view, so all dependencies of a package are "missing".
        write(&folder.join("status"), "")?;
        write(&folder.join("apt.conf"), &configuration(folder, arch))?;
        let mut sources = format!(
            "deb [signed-by={KEYRING}] {} {release} main\n",
            mirrors.main
        );
        if let (Some(security), true) = (&mirrors.security, release != "sid") {
            sources =
                format!("{sources}deb [signed-by={KEYRING}] {security} {release}-security main\n");
        }
        let archive = Self {
            folder: folder.to_owned(),
            release: release.to_owned(),
        };
        let list = folder.join("sources.list");
        let changed = fs::read_to_string(&list).ok().as_deref() != Some(&sources);
        write(&list, &sources)?;
        let stamp = folder.join("updated");
        if changed || !is_fresh(&stamp) {
            match exec::logged(
                &format!("apt-update-{release}-{}", arch.debian()),
                archive.apt("apt-get").arg("update").arg("--error-on=any"),
            ) {
                Ok(()) => write(&stamp, "")?,
                Err(error) if stamp.exists() => {
                    ui::warn(format_args!("using the lists of an earlier run: {error:#}"));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(archive)
    }

    /// Returns all packages that these packages need, including themselves.
    pub(crate) fn closure(&self, wanted: &[&str]) -> Result<Vec<Package>> {
        let lines = exec::output(
            self.apt("apt-get")
                .args(["install", "--yes", "--print-uris", "-qq"])
                .args(wanted),
        )?;
        let packages = parse_uris(&lines);
        if packages.is_empty() {
            bail!("the archive does not say what {wanted:?} needs: {lines:?}");
        }
        Ok(packages)
    }

    /// Unpacks the packages into `folder`, unless exactly these files are unpacked there already.
    pub(crate) fn ensure(&self, packages: &[Package], folder: &Path) -> Result<()> {
        let files: Vec<_> = packages
            .iter()
            .map(|package| package.file.as_str())
            .collect();
        let wanted = files.join("\n");
        let stamp = beside(folder, "files");
        if fs::read_to_string(&stamp).is_ok_and(|unpacked| unpacked == wanted) {
            return Ok(());
        }
        ui::step(format_args!(
            "unpacking {} of Debian {} (not installing it)",
            files.last().unwrap_or(&"nothing"),
            self.release
        ));
        let names: Vec<_> = packages
            .iter()
            .map(|package| package.name.as_str())
            .collect();
        self.unpack(&names, folder)?;
        write(&stamp, &wanted)
    }

    /// Downloads packages without their dependencies, and unpacks them into the empty folder `into`.
    fn unpack(&self, packages: &[&str], into: &Path) -> Result<()> {
        let downloads = beside(into, "download");
        for path in [into, &downloads] {
            if path.exists() {
                fs::remove_dir_all(path)
                    .with_context(|| format!("cannot remove {}", path.display()))?;
            }
            fs::create_dir_all(path)
                .with_context(|| format!("cannot create {}", path.display()))?;
        }
        let name = into.file_name().unwrap_or_default().to_string_lossy();
        exec::logged(
            &format!("apt-download-{name}"),
            self.apt("apt-get")
                .arg("download")
                .args(packages)
                .current_dir(&downloads),
        )?;
        for entry in fs::read_dir(&downloads).context("cannot list the downloads")? {
            exec::output(Command::new("dpkg").arg("-x").arg(entry?.path()).arg(into))?;
        }
        fs::remove_dir_all(&downloads)
            .with_context(|| format!("cannot remove {}", downloads.display()))
    }

    /// Returns a command of apt for this view. `-c` is read after the machine's own configuration, and so overrides it.
    fn apt(&self, tool: &str) -> Command {
        let mut command = Command::new(tool);
        command
            .env("LC_ALL", "C")
            .arg("-c")
            .arg(self.folder.join("apt.conf"));
        command
    }
}

/// Returns apt's configuration for a view in `folder`.
fn configuration(folder: &Path, arch: Arch) -> String {
    let mut text = String::from(
        "Dir::Etc::sourceparts \"/dev/null\";\n\
         Dir::Etc::preferences \"/dev/null\";\n\
         Dir::Etc::preferencesparts \"/dev/null\";\n\
         APT::Sandbox::User \"root\"; // the user apt downloads as could not enter a home folder\n\
         APT::Install-Recommends \"false\";\n\
         Acquire::Languages \"none\";\n\
         Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n",
    );
    let arch = arch.debian();
    writeln!(
        text,
        "APT::Architecture \"{arch}\";\nAPT::Architectures {{ \"{arch}\"; }};"
    )
    .unwrap_or_default();
    for (name, path) in [
        ("Dir::State", ""),
        ("Dir::State::lists", "lists"),
        ("Dir::State::status", "status"),
        ("Dir::Cache", ""),
        ("Dir::Cache::archives", "archives"),
        ("Dir::Etc::sourcelist", "sources.list"),
    ] {
        let path = folder.join(path);
        writeln!(text, "{name} \"{}\";", path.display()).unwrap_or_default();
    }
    text
}

/// Reads lines `'ADDRESS' NAME_VERSION_ARCHITECTURE.deb SIZE HASH`.
fn parse_uris(lines: &str) -> Vec<Package> {
    lines
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1))
        .filter_map(|file| {
            let (name, _) = file.split_once('_')?;
            Some(Package {
                name: name.to_owned(),
                file: file.to_owned(),
            })
        })
        .collect()
}

/// Returns a path next to `folder`. Names of folders have dots, which do not begin an extension.
pub(crate) fn beside(folder: &Path, what: &str) -> PathBuf {
    let mut name = folder.as_os_str().to_owned();
    name.push(".");
    name.push(what);
    PathBuf::from(name)
}

fn is_fresh(stamp: &Path) -> bool {
    let age = |modified| SystemTime::now().duration_since(modified);
    fs::metadata(stamp)
        .and_then(|meta| meta.modified())
        .is_ok_and(|modified| age(modified).is_ok_and(|age| age < FRESH))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_one_that_the_machine_uses() {
        let sources = "DEP-11 Debian http://mirror.example/other/\nPackages Debian http://mirror.example/debian/\n\
                       Packages Debian-Security http://mirror.example/security/\n";
        let mirrors = Mirrors::parse(sources).expect("it names one");
        assert_eq!(mirrors.main, "http://mirror.example/debian");
        assert_eq!(
            mirrors.security.as_deref(),
            Some("http://mirror.example/security")
        );
    }

    #[test]
    fn sources_without_debian_are_an_error() {
        assert!(Mirrors::parse("Packages Ubuntu http://mirror.example/ubuntu/\n").is_err());
    }

    #[test]
    fn folders_with_dots_have_stamps_of_their_own() {
        assert_eq!(
            beside(Path::new("/c/6.12"), "files"),
            Path::new("/c/6.12.files")
        );
    }

    #[test]
    fn names_are_read_from_what_apt_would_fetch() {
        let lines = "'http://mirror.example/b.deb' bind9_1%3a9.20.30-1_amd64.deb 257712 SHA256:00\n\
                     'http://mirror.example/z.deb' zlib1g_1.3_amd64.deb 88720 \n";
        let names: Vec<_> = parse_uris(lines)
            .into_iter()
            .map(|package| package.name)
            .collect();
        assert_eq!(names, ["bind9", "zlib1g"]);
    }
}

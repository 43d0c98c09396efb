//! The guest's first and only file system: our own programs, the host's tools with their libraries, one root per BIND
//! with the libraries of its release, and the plans.

use std::{
    env,
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::cpio::Tree;
use crate::exec;

/// Programs of the host that the tests run, at their installed paths.
pub(super) const TOOLS: [&str; 12] = [
    "dig",
    "dnssec-keygen",
    "dnssec-signzone",
    "nsupdate",
    "rndc",
    "dnsperf",
    "fstrm_capture",
    "fstrm_dump",
    "dnstap",
    "dnstap-read",
    "dnstap-ldns",
    "busybox",
];
/// Folders of the libraries in a release's packages, and its loader.
const LIBRARY_FOLDERS: [&str; 2] = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];
const LOADER: &str = "ld-linux-x86-64.so.2";

/// Content of the file system.
pub(super) struct Contents<'a> {
    /// Our own programs, by their names in the guest.
    pub(super) programs: &'a [(&'static str, &'a Path)],
    /// Programs of the host, including busybox.
    pub(super) tools: &'a [&'static str],
    /// Name and unpacked folder of each BIND.
    pub(super) binds: &'a [(&'static str, PathBuf)],
    /// Path and text of each text file; a plan is `plans/NAME`.
    pub(super) texts: &'a [(String, String)],
}

/// Builds the file system in `folder` and returns the archive's path.
pub(super) fn build(contents: &Contents<'_>, folder: &Path) -> Result<PathBuf> {
    let mut tree = Tree::default();
    tree.console();
    tree.script("init", include_str!("init.sh").to_owned());
    for (name, path) in contents.programs {
        program(&mut tree, name, &stripped(path, folder)?, path)?;
    }
    for name in contents.tools {
        let path = installed(name)?;
        program(&mut tree, name, &path, &path)?;
    }
    for (name, unpacked) in contents.binds {
        bind(&mut tree, name, unpacked).with_context(|| format!("BIND {name}"))?;
    }
    for (path, text) in contents.texts {
        tree.script(path, text.clone());
    }
    let path = folder.join("initramfs.cpio");
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    let mut out = BufWriter::new(file);
    tree.write(&mut out)?;
    out.flush()
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Adds a program of the host as `/bin/NAME`, and the libraries of `original` at exactly the paths where the loader
/// looks for them.
fn program(tree: &mut Tree, name: &str, path: &Path, original: &Path) -> Result<()> {
    tree.copy(format!("bin/{name}"), path);
    let output = Command::new("ldd")
        .arg(original)
        .output()
        .context("cannot run ldd")?;
    // The loader fails for a static program, which needs no libraries.
    for (_, library) in libraries(&String::from_utf8_lossy(&output.stdout))? {
        if !tree.has(&library) {
            tree.copy(&library, &library);
        }
    }
    Ok(())
}

/// Adds `/bind/NAME`, a root with one `named` and its libraries, and `/bin/named-NAME`, which executes it.
fn bind(tree: &mut Tree, name: &str, unpacked: &Path) -> Result<()> {
    let folders = LIBRARY_FOLDERS.map(|folder| unpacked.join(folder));
    let loader = folders
        .iter()
        .map(|folder| folder.join(LOADER))
        .find(|path| path.exists())
        .with_context(|| format!("no {LOADER} below {}", unpacked.display()))?;
    let named = unpacked.join("usr/sbin/named");
    let listed = exec::output(
        Command::new(&loader)
            .args(["--inhibit-cache", "--library-path"])
            .arg(env::join_paths(&folders)?)
            .arg("--list")
            .arg(&named),
    )?;
    let root = Path::new("bind").join(name);
    for folder in ["dev", "proc", "tmp", "etc", "run"] {
        tree.folder(root.join(folder));
    }
    tree.copy(root.join("usr/sbin/named"), &named);
    tree.copy(root.join("lib64").join(LOADER), &loader);
    for (soname, library) in libraries(&listed)? {
        if !soname.ends_with(LOADER) {
            tree.copy(root.join(LIBRARY_FOLDERS[0]).join(soname), &library);
        }
    }
    let script = format!(
        "#!/bin/busybox sh\nexec /bin/busybox chroot /bind/{name} /usr/sbin/named \"$@\"\n"
    );
    tree.script(format!("bin/named-{name}"), script);
    Ok(())
}

/// Parses name and path of each library that a loader lists: `NAME => PATH (ADDRESS)`, or `PATH (ADDRESS)`.
fn libraries(listed: &str) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for line in listed.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            [name, "=>", "not", "found"] => bail!("library {name} is missing"),
            [name, "=>", path, _] | [name @ path, _] if path.starts_with('/') => {
                found.push((name.to_owned(), PathBuf::from(path)));
            }
            _ => {} // the kernel's own library, which is not a file
        }
    }
    Ok(found)
}

/// Makes a copy without debugging information, which is most of the size, if there is a tool for that.
fn stripped(path: &Path, folder: &Path) -> Result<PathBuf> {
    let name = path
        .file_name()
        .with_context(|| format!("{} is no program", path.display()))?;
    let copy = folder.join(name);
    let strip = exec::output(Command::new("strip").arg("-o").arg(&copy).arg(path));
    Ok(if strip.is_ok() { copy } else { path.to_owned() })
}

fn installed(name: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
        .and_then(|candidate| fs::canonicalize(candidate).ok())
        .with_context(|| format!("no program `{name}`: run `cargo xtask setup`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_both_forms_of_a_loader_s_list() {
        let listed = "\tlinux-vdso.so.1 (0x00007ff)\n\tlibc.so.6 => /lib/libc.so.6 (0x00007f0)\n\t\
                      /lib64/ld-linux-x86-64.so.2 (0x00007f1)\n";
        let found = libraries(listed).expect("nothing is missing");
        let paths: Vec<_> = found.iter().map(|(_, path)| path.as_path()).collect();
        assert_eq!(
            paths,
            [
                Path::new("/lib/libc.so.6"),
                Path::new("/lib64/ld-linux-x86-64.so.2")
            ]
        );
        assert_eq!(found[0].0, "libc.so.6");
    }

    #[test]
    fn a_library_that_is_not_found_is_an_error() {
        assert!(libraries("\tlibx.so => not found\n").is_err());
    }
}

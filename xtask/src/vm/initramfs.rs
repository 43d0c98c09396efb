//! The guest's first and only file system: our own programs, tools with their libraries, one root per BIND with the
//! libraries of its release, and the plans. The tools are the host's, or unpacked ones of the guest's architecture.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::cpio::Tree;
use crate::{arch::Arch, exec};

/// Programs that the tests run.
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
/// Folders of programs.
const PROGRAM_FOLDERS: [&str; 4] = ["usr/sbin", "sbin", "usr/bin", "bin"];

/// Content of the file system.
pub(super) struct Contents<'a> {
    pub(super) arch: Arch,
    /// Our own programs, by their names in the guest.
    pub(super) programs: &'a [(&'static str, &'a Path)],
    /// Other programs, including busybox.
    pub(super) tools: &'a [&'static str],
    /// Unpacked folder with these programs and all libraries, for an architecture that the host does not run.
    pub(super) unpacked: Option<&'a Path>,
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
        tree.copy(
            format!("bin/{name}"),
            &stripped(path, folder, contents.arch)?,
        );
        libraries(&mut tree, path, contents)?;
    }
    for name in contents.tools {
        let path = installed(name, contents.unpacked)?;
        tree.copy(format!("bin/{name}"), &path);
        libraries(&mut tree, &path, contents)?;
    }
    for (name, unpacked) in contents.binds {
        bind(&mut tree, name, unpacked, contents.arch).with_context(|| format!("BIND {name}"))?;
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

/// Adds the libraries of a program at exactly the paths where the loader looks for them.
fn libraries(tree: &mut Tree, program: &Path, contents: &Contents<'_>) -> Result<()> {
    let Some(unpacked) = contents.unpacked else {
        // The loader fails for a static program, which needs no libraries.
        let output = Command::new("ldd").arg(program).output();
        let output = output.context("cannot run ldd")?;
        for library in listed(&String::from_utf8_lossy(&output.stdout))? {
            if !tree.has(&library) {
                tree.copy(&library, &library);
            }
        }
        return Ok(());
    };
    place(
        tree,
        Path::new(""),
        &needed(program, unpacked, contents.arch)?,
        contents.arch,
    );
    Ok(())
}

/// Adds libraries to the root folder `root` of the guest.
fn place(tree: &mut Tree, root: &Path, libraries: &BTreeMap<String, PathBuf>, arch: Arch) {
    let loader = Path::new(arch.loader());
    for (name, path) in libraries {
        if loader.ends_with(name) {
            tree.copy(root.join(arch.loader().trim_start_matches('/')), path);
        } else {
            tree.copy(root.join("lib").join(arch.multiarch()).join(name), path);
        }
    }
}

/// Adds `/bind/NAME`, a root with one `named` and its libraries, and `/bin/named-NAME`, which executes it.
fn bind(tree: &mut Tree, name: &str, unpacked: &Path, arch: Arch) -> Result<()> {
    let named = unpacked.join("usr/sbin/named");
    let root = Path::new("bind").join(name);
    for folder in ["dev", "proc", "tmp", "etc", "run"] {
        tree.folder(root.join(folder));
    }
    tree.copy(root.join("usr/sbin/named"), &named);
    place(tree, &root, &needed(&named, unpacked, arch)?, arch);
    let script = format!(
        "#!/bin/busybox sh\nexec /bin/busybox chroot /bind/{name} /usr/sbin/named \"$@\"\n"
    );
    tree.script(format!("bin/named-{name}"), script);
    Ok(())
}

/// Returns name and path of each library in an unpacked folder that a program needs, or that one of these needs. The
/// loader is among them if there is any: the C library needs it.
fn needed(program: &Path, unpacked: &Path, arch: Arch) -> Result<BTreeMap<String, PathBuf>> {
    let folders = ["lib", "usr/lib"].map(|folder| unpacked.join(folder).join(arch.multiarch()));
    let mut found = BTreeMap::new();
    let mut unread = vec![program.to_owned()];
    while let Some(file) = unread.pop() {
        let mut readelf = Command::new("readelf");
        readelf.env("LC_ALL", "C").args(["--wide", "--dynamic"]);
        for name in named_libraries(&exec::output(readelf.arg(&file))?) {
            if found.contains_key(name) {
                continue;
            }
            let mut paths = folders.iter().map(|folder| folder.join(name));
            let path = paths
                .find(|path| path.exists())
                .with_context(|| format!("library {name} of {} is missing", file.display()))?;
            unread.push(path.clone());
            found.insert(name.to_owned(), path);
        }
    }
    Ok(found)
}

/// Parses the libraries that a file names: `0x01 (NEEDED) Shared library: [NAME]`.
fn named_libraries(read: &str) -> impl Iterator<Item = &str> {
    let lines = read.lines().filter(|line| line.contains("(NEEDED)"));
    lines.filter_map(|line| {
        line.split_once('[')?
            .1
            .split_once(']')
            .map(|(name, _)| name)
    })
}

/// Parses the path of each library that a loader lists: `NAME => PATH (ADDRESS)`, or `PATH (ADDRESS)`.
fn listed(libraries: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in libraries.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            [name, "=>", "not", "found"] => bail!("library {name} is missing"),
            [_, "=>", path, _] | [path, _] if path.starts_with('/') => {
                found.push(PathBuf::from(path));
            }
            _ => {} // the kernel's own library, which is not a file
        }
    }
    Ok(found)
}

/// Makes a copy without debugging information, which is most of the size, if there is a tool for that.
fn stripped(path: &Path, folder: &Path, arch: Arch) -> Result<PathBuf> {
    let name = path
        .file_name()
        .with_context(|| format!("{} is no program", path.display()))?;
    let copy = folder.join(name);
    let strip = exec::output(
        Command::new(arch.binutils("strip"))
            .arg("-o")
            .arg(&copy)
            .arg(path),
    );
    Ok(if strip.is_ok() { copy } else { path.to_owned() })
}

/// Finds a program of the host, or of an unpacked folder.
fn installed(name: &str, unpacked: Option<&Path>) -> Result<PathBuf> {
    let path = env::var_os("PATH").filter(|_| unpacked.is_none());
    let root = unpacked.unwrap_or(Path::new("/"));
    env::split_paths(&path.unwrap_or_default())
        .chain(PROGRAM_FOLDERS.map(|folder| root.join(folder)))
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
        let text = "\tlinux-vdso.so.1 (0x00007ff)\n\tlibc.so.6 => /lib/libc.so.6 (0x00007f0)\n\t\
                    /lib64/ld-linux-x86-64.so.2 (0x00007f1)\n";
        let found = listed(text).expect("nothing is missing");
        let expected = ["/lib/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(found, expected);
    }

    #[test]
    fn a_library_that_is_not_found_is_an_error() {
        assert!(listed("\tlibx.so => not found\n").is_err());
    }

    #[test]
    fn libraries_are_read_from_a_file_s_dynamic_section() {
        let read = " 0x0000000000000001 (NEEDED)             Shared library: [libuv.so.1]\n \
                    0x000000000000001d (RUNPATH)            Library runpath: [/usr/lib]\n";
        assert_eq!(named_libraries(read).collect::<Vec<_>>(), ["libuv.so.1"]);
    }
}

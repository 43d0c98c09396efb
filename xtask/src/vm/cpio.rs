//! The archive that a kernel unpacks into its first file system: cpio, format "newc".
//!
//! Format: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel. Every file is a header of ASCII
//! hexadecimal fields, the name with a NUL, and the data, both padded to four bytes.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CONSOLE: u32 = 0o020_600;

/// The files of a guest, by their path without the leading slash.
#[derive(Default)]
pub(super) struct Tree {
    nodes: BTreeMap<PathBuf, Node>,
}

enum Node {
    Folder,
    Text(String),
    Copy(PathBuf),
    /// Character device 5:1. Without it the first process has no output.
    Console,
}

impl Tree {
    /// Adds an empty folder and its parents.
    pub(super) fn folder(&mut self, path: impl AsRef<Path>) {
        for folder in relative(path.as_ref()).ancestors() {
            if !folder.as_os_str().is_empty() {
                self.nodes.entry(folder.to_owned()).or_insert(Node::Folder);
            }
        }
    }

    /// Adds an executable text.
    pub(super) fn script(&mut self, path: impl AsRef<Path>, text: String) {
        self.insert(path.as_ref(), Node::Text(text));
    }

    /// Adds an executable copy of the host's file `source`.
    pub(super) fn copy(&mut self, path: impl AsRef<Path>, source: &Path) {
        self.insert(path.as_ref(), Node::Copy(source.to_owned()));
    }

    /// Adds `/dev/console`.
    pub(super) fn console(&mut self) {
        self.insert(Path::new("dev/console"), Node::Console);
    }

    /// Returns whether this path is already used.
    pub(super) fn has(&self, path: impl AsRef<Path>) -> bool {
        self.nodes.contains_key(relative(path.as_ref()))
    }

    fn insert(&mut self, path: &Path, node: Node) {
        if let Some(parent) = path.parent() {
            self.folder(parent);
        }
        self.nodes.insert(relative(path).to_owned(), node);
    }

    /// Writes the archive. Folders come before their content.
    pub(super) fn write(&self, out: &mut impl Write) -> Result<()> {
        for (inode, (path, node)) in (1..).zip(&self.nodes) {
            let name = path.to_string_lossy();
            let (mode, device, data) = match node {
                Node::Folder => (FOLDER, (0, 0), Vec::new()),
                Node::Text(text) => (PROGRAM, (0, 0), text.clone().into_bytes()),
                Node::Console => (CONSOLE, (5, 1), Vec::new()),
                Node::Copy(source) => {
                    let data = fs::read(source)
                        .with_context(|| format!("cannot read {}", source.display()))?;
                    (PROGRAM, (0, 0), data)
                }
            };
            record(out, inode, &name, mode, device, &data).context("cannot write the initramfs")?;
        }
        record(out, 0, "TRAILER!!!", 0, (0, 0), &[]).context("cannot write the initramfs")
    }
}

fn record(
    out: &mut impl Write,
    inode: u32,
    name: &str,
    mode: u32,
    (major, minor): (u32, u32),
    data: &[u8],
) -> io::Result<()> {
    let length = |bytes: usize| u32::try_from(bytes).map_err(io::Error::other);
    let name_size = length(name.len() + 1)?;
    // ino, mode, uid, gid, nlink, mtime, filesize, device of the file, device that it is, namesize, check
    let fields = [
        inode,
        mode,
        0,
        0,
        1,
        0,
        length(data.len())?,
        0,
        0,
        major,
        minor,
        name_size,
        0,
    ];
    write!(out, "070701")?;
    for field in fields {
        write!(out, "{field:08X}")?;
    }
    out.write_all(name.as_bytes())?;
    out.write_all(&[0])?;
    pad(out, 110 + name.len() + 1)?;
    out.write_all(data)?;
    pad(out, data.len())
}

fn pad(out: &mut impl Write, written: usize) -> io::Result<()> {
    out.write_all(&[0; 3][..written.next_multiple_of(4) - written])
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_written_with_its_folder_before_it_and_a_trailer_after_it() {
        let mut tree = Tree::default();
        tree.script("/bin/x", "hello".to_owned());
        let mut bytes = Vec::new();
        tree.write(&mut bytes).expect("memory takes it");
        let fields = ["00000001", "000041ED", "00000000", "00000000", "00000001"].concat()
            + &"00000000".repeat(6)
            + "00000004"
            + "00000000";
        let folder = format!("070701{fields}bin\0");
        assert_eq!(&bytes[..folder.len()], folder.as_bytes());
        let script = &bytes[folder.len().next_multiple_of(4)..];
        assert!(
            script.starts_with(b"07070100000002000081ED"),
            "mode 0100755"
        );
        assert_eq!(&script[6 + 6 * 8..6 + 7 * 8], b"00000005", "file size");
        assert_eq!(&script[110..116], b"bin/x\0");
        let data = (110 + 6_usize).next_multiple_of(4);
        assert_eq!(&script[data..data + 8], b"hello\0\0\0");
        assert!(bytes.windows(10).any(|window| window == b"TRAILER!!!"));
        assert_eq!(bytes.len() % 4, 0);
    }
}

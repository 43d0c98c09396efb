//! A disk that can be made to hang: a file system in a file. `FIFREEZE` (`ioctl_fsfreeze(2)`) freezes it, and writers
//! wait.
#![expect(unsafe_code, reason = "ioctl(2) of a mounted file system, umount(2)")]

use std::{
    ffi::CString,
    fs::{self, File},
    io,
    os::{fd::AsRawFd as _, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::system::check;
use crate::{environment::tool, process::output};

/// `FIFREEZE` and `FITHAW` of linux/fs.h: `_IOWR('X', 119, int)` and `_IOWR('X', 120, int)`.
const FREEZE: libc::c_ulong = 0xC004_5877;
const THAW: libc::c_ulong = 0xC004_5878;

/// A mounted file system. It is unmounted when dropped.
pub(crate) struct Disk {
    at: PathBuf,
}

/// A disk that hangs until this is dropped.
pub(crate) struct Frozen(File);

impl Disk {
    /// Makes and mounts a disk of this many megabytes, with its files in `folder`.
    pub(crate) fn mount(folder: &Path, megabytes: u64) -> Result<Self> {
        let (image, at) = (folder.join("disk.image"), folder.join("disk"));
        fs::create_dir(&at)?;
        File::create(&image)?.set_len(megabytes << 20)?;
        let mut make = Command::new(tool("mkfs.ext4")?);
        make.arg("-q").arg(&image);
        output(make)?;
        let mut mount = Command::new(tool("mount")?);
        mount.args(["-o", "loop"]).arg(&image).arg(&at);
        output(mount)?;
        Ok(Self { at })
    }

    /// Returns the mount point.
    pub(crate) fn path(&self) -> &Path {
        &self.at
    }

    /// Makes the disk hang.
    pub(crate) fn freeze(&self) -> Result<Frozen> {
        let root = File::open(&self.at)?;
        // SAFETY: takes no pointers.
        check(unsafe { libc::ioctl(root.as_raw_fd(), FREEZE, 0) }).context("freezing the disk")?;
        Ok(Frozen(root))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // SAFETY: takes no pointers.
        if let Err(error) = check(unsafe { libc::ioctl(self.0.as_raw_fd(), THAW, 0) }) {
            eprintln!("the disk stays frozen: {error}");
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Ok(path) = CString::new(self.at.as_os_str().as_bytes()) {
            // SAFETY: the path is a NUL-terminated string that outlives the call.
            if unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) } != 0 {
                eprintln!("{}: {}", self.at.display(), io::Error::last_os_error());
            }
        }
    }
}

//! Listening unix sockets.
//!
//! A socket's file appears under its name only after its mode is set (it is bound under another
//! name, then renamed). So there is no moment at which a process without permission could connect.
//! A file left by a process that is gone is replaced. A socket on which a program listens is not,
//! nor is a file that is no socket. At the end the file is removed, if it still belongs to this
//! socket.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    process,
};

use socket2::{Domain, SockAddr, Socket, Type};

/// The file of a unix socket, removed when dropped.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode, because another socket may have taken the name.
    identity: (u64, u64),
}

/// Listens at `path`, for users whom the file's `mode` allows to connect. The listener does not
/// block.
pub fn listen_unix(path: &Path, mode: u32) -> io::Result<(UnixListener, SocketFile)> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(file) if !file.file_type().is_socket() => return Err(ErrorKind::AlreadyExists.into()),
        Ok(_) if is_left_behind(path) => {}
        Ok(_) => return Err(ErrorKind::AddrInUse.into()),
    }
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".{}", process::id()));
    let listener = UnixListener::bind(&new)?;
    let settled = listener
        .set_nonblocking(true)
        .and_then(|()| fs::set_permissions(&new, fs::Permissions::from_mode(mode)))
        .and_then(|()| fs::rename(&new, path))
        .and_then(|()| fs::symlink_metadata(path));
    match settled {
        Ok(file) => Ok((
            listener,
            SocketFile {
                path: path.to_owned(),
                identity: (file.dev(), file.ino()),
            },
        )),
        Err(error) => {
            // The first error is the one to report.
            let _unremoved = fs::remove_file(&new);
            Err(error)
        }
    }
}

/// Returns whether no program listens any more at the socket's file.
#[must_use]
pub fn is_left_behind(path: &Path) -> bool {
    // The socket does not block, because the backlog of a live socket may be full.
    let connected = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)
        .and_then(|socket| socket.connect(&SockAddr::unix(path)?));
    connected.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// Returns the cause and the remedy in words.
#[must_use]
pub fn explain_unix(path: &Path, error: &io::Error) -> String {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    match error.kind() {
        ErrorKind::NotFound => format!("folder {} does not exist; create it", folder.display()),
        ErrorKind::AlreadyExists => {
            "there is a file of that name that is no socket; remove it or name another".to_owned()
        }
        ErrorKind::AddrInUse => {
            "another process listens there already; end it or name another".to_owned()
        }
        ErrorKind::PermissionDenied => format!(
            "permission denied; this user may not create files in {}",
            folder.display()
        ),
        _ => error.to_string(),
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|file| (file.dev(), file.ino()) == self.identity);
        if ours {
            // Another process may have removed the file in between.
            let _gone = fs::remove_file(&self.path);
        }
    }
}

//! Owns the sockets to listen on: all are tried, every problem is told at once with its cause and its fix.
//!
//! A unix socket's file appears under its name only when its mode is set (bound under another name, then renamed), so there
//! is no moment at which the wrong process could connect. A file left behind by a process that is gone is replaced; a
//! socket that somebody listens on and a file that is no socket are not. At the end the file is removed if it is still ours.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process,
};

use tokio::net::{TcpListener, UnixListener, UnixStream};

use crate::socket::{Address, Listener, Tls, acceptor};

/// A socket that can be connected to.
pub(super) struct Bound {
    /// As given, with the port that the system chose if it was 0.
    pub(super) name: String,
    pub(super) listener: Listener,
    /// Of a unix socket.
    pub(super) file: Option<SocketFile>,
}

/// The file of a unix socket, removed when dropped.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode: the name may have become that of another socket.
    identity: (u64, u64),
}

/// Listens on all of them, or tells what is wrong with each that cannot be.
pub(super) async fn all(addresses: &[Address], mode: u32) -> Result<Vec<Bound>, String> {
    let mut bound = Vec::new();
    let mut problems = Vec::new();
    for address in addresses {
        let result = match address {
            Address::Unix(path) => unix(path, mode)
                .await
                .map_err(|error| explain(path, &error)),
            Address::Tcp { host, port } => {
                tcp(host, *port).await.map_err(|error| error.to_string())
            }
            Address::Tls(at) => tls(at).await.map_err(|error| error.to_string()),
        };
        match result {
            Ok(socket) => bound.push(socket),
            Err(problem) => problems.push(format!("cannot listen on {address}: {problem}")),
        }
    }
    if problems.is_empty() {
        Ok(bound)
    } else {
        Err(problems.join("\n"))
    }
}

async fn tcp(host: &str, port: u16) -> io::Result<Bound> {
    let listener = TcpListener::bind((host, port)).await?;
    let name = format!("tcp:{}", listener.local_addr()?);
    Ok(Bound {
        name,
        listener: Listener::Tcp(listener),
        file: None,
    })
}

async fn tls(at: &Tls) -> io::Result<Bound> {
    let acceptor = acceptor(at)?;
    let listener = TcpListener::bind((at.host.as_str(), at.port)).await?;
    let name = format!("tls:{}", listener.local_addr()?);
    Ok(Bound {
        name,
        listener: Listener::Tls(listener, acceptor),
        file: None,
    })
}

async fn unix(path: &Path, mode: u32) -> io::Result<Bound> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(file) if !file.file_type().is_socket() => return Err(ErrorKind::AlreadyExists.into()),
        Ok(_) => match UnixStream::connect(path).await {
            // Nobody listens: it was left behind.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            _ => return Err(ErrorKind::AddrInUse.into()),
        },
    }
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".{}", process::id()));
    let listener = UnixListener::bind(&new)?;
    let settled = fs::set_permissions(&new, fs::Permissions::from_mode(mode))
        .and_then(|()| fs::rename(&new, path))
        .and_then(|()| fs::symlink_metadata(path));
    match settled {
        Ok(file) => Ok(Bound {
            name: format!("unix:{}", path.display()),
            listener: Listener::Unix(listener),
            file: Some(SocketFile {
                path: path.to_owned(),
                identity: (file.dev(), file.ino()),
            }),
        }),
        Err(error) => {
            // The first error is the one to tell.
            let _unremoved = fs::remove_file(&new);
            Err(error)
        }
    }
}

/// The cause and the fix in words.
fn explain(path: &Path, error: &io::Error) -> String {
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
            // Removed by somebody else in between: all the better.
            let _gone = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_file_has_the_mode_and_goes_with_the_socket() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let bound = unix(&path, 0o620).await.expect("bound");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o620);
        UnixStream::connect(&path).await.expect("it listens");
        drop(bound);
        assert_eq!(fs::read_dir(folder.path()).expect("there").count(), 0);
    }

    #[tokio::test]
    async fn a_socket_left_behind_is_replaced_and_a_live_one_or_a_file_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
        let live = unix(&path, 0o660).await.expect("replaced");

        let file = folder.path().join("file");
        fs::write(&file, "precious").expect("written");
        let addresses = [path.clone(), file.clone(), path.join("below")].map(Address::Unix);
        let problems = all(&addresses, 0o660).await.err().expect("none of them");
        let told: Vec<_> = problems.lines().collect();
        assert!(told[0].contains("another process listens"), "{problems}");
        assert!(told[1].contains("is no socket"), "{problems}");
        assert_eq!(told.len(), 3, "{problems}");
        assert_eq!(fs::read(&file).expect("there"), b"precious");
        UnixStream::connect(&path).await.expect("still there");
        drop(live);
    }

    #[tokio::test]
    async fn a_file_that_became_anothers_is_left() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let first = unix(&path, 0o660).await.expect("bound");
        fs::remove_file(&path).expect("there");
        let second = unix(&path, 0o660).await.expect("bound");
        drop(first);
        UnixStream::connect(&path).await.expect("still there");
        drop(second);
    }
}

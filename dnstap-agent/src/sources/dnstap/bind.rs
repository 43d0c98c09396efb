//! Listening sockets: all are tried, and all problems are reported at once, each with cause and
//! remedy.

use std::{io, path::Path};

use tokio::net::{TcpListener, UnixListener};

use crate::host::net::{Address, Listener, SocketFile, Tls, acceptor, explain_unix, listen_unix};

/// A listening socket.
pub(crate) struct Bound {
    /// Name as given, with the port that the system chose if it was 0.
    pub(crate) name: String,
    pub(super) listener: Listener,
    /// File of a unix socket.
    pub(super) file: Option<SocketFile>,
}

/// Listens on all sockets, or reports the problem of each one that fails.
pub(crate) fn all(addresses: &[Address], mode: u32) -> Result<Vec<Bound>, String> {
    let mut bound = Vec::new();
    let mut problems = Vec::new();
    for address in addresses {
        let result = match address {
            Address::Unix(path) => unix(path, mode).map_err(|error| explain_unix(path, &error)),
            Address::Tcp { host, port } => tcp(host, *port).map_err(|error| error.to_string()),
            Address::Tls(at) => tls(at).map_err(|error| error.to_string()),
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

/// Binds synchronously. The runtime would look the name up in a thread, which might still run when
/// the sandbox starts.
fn listen(host: &str, port: u16) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind((host, port))?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

fn tcp(host: &str, port: u16) -> io::Result<Bound> {
    let listener = listen(host, port)?;
    let name = format!("tcp:{}", listener.local_addr()?);
    Ok(Bound {
        name,
        listener: Listener::Tcp(listener),
        file: None,
    })
}

fn tls(at: &Tls) -> io::Result<Bound> {
    let acceptor = acceptor(at)?;
    let listener = listen(&at.host, at.port)?;
    let name = format!("tls:{}", listener.local_addr()?);
    Ok(Bound {
        name,
        listener: Listener::Tls(listener, acceptor),
        file: None,
    })
}

fn unix(path: &Path, mode: u32) -> io::Result<Bound> {
    let (listener, file) = listen_unix(path, mode)?;
    Ok(Bound {
        name: format!("unix:{}", path.display()),
        listener: Listener::Unix(UnixListener::from_std(listener)?),
        file: Some(file),
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use tokio::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn the_file_has_the_mode_and_goes_with_the_socket() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let bound = unix(&path, 0o620).expect("bound");
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
        let live = unix(&path, 0o660).expect("replaced");

        let file = folder.path().join("file");
        fs::write(&file, "precious").expect("written");
        let addresses = [path.clone(), file.clone(), path.join("below")].map(Address::Unix);
        let problems = all(&addresses, 0o660).err().expect("none of them");
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
        let first = unix(&path, 0o660).expect("bound");
        fs::remove_file(&path).expect("there");
        let second = unix(&path, 0o660).expect("bound");
        drop(first);
        UnixStream::connect(&path).await.expect("still there");
        drop(second);
    }
}

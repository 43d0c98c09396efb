//! The status socket: it reads one word (`text` or `json`) and writes one answer. Only the owner
//! can use its file.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    time::timeout,
};
use tracing::{debug, warn};

use super::{Newest, published};
use crate::host::net::{SocketFile, explain_unix, is_left_behind, listen_unix};

/// Time limit for a client.
const PATIENCE: Duration = Duration::from_secs(5);

/// Returns the default folder of status sockets: systemd's `RuntimeDirectory=`, otherwise
/// `/run/dnstap-agent`.
#[must_use]
pub(crate) fn folder() -> PathBuf {
    std::env::var_os("RUNTIME_DIRECTORY").map_or_else(|| "/run/dnstap-agent".into(), PathBuf::from)
}

pub(super) type Bound = (std::os::unix::net::UnixListener, SocketFile);

/// Binds the socket at `path`. A file left behind is replaced, a live socket is not. The error says
/// the problem in words.
pub(super) fn listen(path: &Path) -> Result<Bound, String> {
    listen_unix(path, 0o600).map_err(|error| explain_unix(path, &error))
}

/// Binds a socket with a name of its own in `folder`, after removing sockets of ended processes
/// there.
pub(super) fn listen_in(folder: &Path, name: &str) -> Result<Bound, String> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(folder)
        .map_err(|error| error.to_string())?;
    for path in sockets(folder).unwrap_or_default() {
        if is_left_behind(&path) {
            // Another process may have removed it already.
            let _removed = fs::remove_file(path);
        }
    }
    listen(&folder.join(format!("{name}-{}.sock", process::id())))
}

/// Returns the status sockets in a folder.
pub(crate) fn sockets(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "sock") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Answers clients until it is dropped. It serves one at a time, because there are few and each has
/// a time limit.
pub(super) async fn serve(listener: UnixListener, newest: Newest, subject: String) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                match timeout(PATIENCE, answer(stream, newest.clone(), &subject)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => debug!(%error, "a connection to the status socket"),
                    Err(_elapsed) => debug!("a connection to the status socket took too long"),
                }
            }
            Err(error) => {
                warn!(%error, "cannot take a connection on the status socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(mut stream: UnixStream, newest: Newest, subject: &str) -> io::Result<()> {
    let mut word = String::new();
    let (read, mut write) = stream.split();
    BufReader::new(read.take(16)).read_line(&mut word).await?;
    let Some(published) = published::first(newest).await else {
        return Ok(());
    };
    let text = match word.trim_end() {
        "json" => format!("{}\n", published.to_json(subject)),
        "text" => published.to_text(subject),
        _ => "ask for text or json\n".to_owned(),
    };
    write.write_all(text.as_bytes()).await?;
    write.shutdown().await
}

//! `pdns serve`: answers queries of a store over HTTP, for the programs that analysts use. The interfaces are version 2
//! of the DNSDB API with its Streaming API Framing, and CIRCL's passive DNS.
//!
//! Each request has its own thread, at most [`CONNECTIONS`] at a time. The thread waits for the reader, so an answer is
//! never in memory as a whole. Without keys, the server listens on loopback addresses only.

mod paths;

use std::{
    convert::Infallible,
    future::ready,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use data_encoding::BASE64;
use dnstap_pdns::{Answer, Store, StoreError, cof, dnsdb};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Bytes, Frame, Incoming},
    header::{self, HeaderValue},
};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::{net::TcpListener, sync::mpsc};
use tracing::{info, warn};

use self::paths::{Asked, Lookup, Style};
use super::{now, refused};
use crate::{
    cli::Serve as Options,
    host::{
        exit::{Exit, ExitWith},
        http::{self, Limits},
        shutdown::Shutdown,
    },
};

/// Largest number of connections at a time. Further connections wait.
const CONNECTIONS: usize = 16;

/// Limits on clients. A large answer may take long.
const LIMITS: Limits = Limits {
    connections: CONNECTIONS,
    head: Duration::from_secs(10),
    connection: Duration::from_mins(10),
};

/// Number of pieces of an answer that may wait for the reader.
const PIECES: usize = 4;

/// Approximate size of a piece, in bytes.
const PIECE: usize = 16 << 10;

/// Runs `pdns serve` until SIGINT or SIGTERM. An error carries [`ExitWith`].
pub(super) fn run(options: &Options) -> Result<Exit> {
    let keys = match &options.keys {
        Some(path) => {
            let message = || ExitWith(Exit::NoInput, format!("cannot read {}", path.display()));
            let text = std::fs::read_to_string(path).with_context(message)?;
            Some(Keys::read(&text))
        }
        None if options.listen.ip().is_loopback() => None,
        None => {
            let message = format!(
                "{} is not a loopback address; add --keys, or listen on 127.0.0.1",
                options.listen
            );
            return Err(anyhow!(ExitWith(Exit::Usage, message)));
        }
    };
    let served = Arc::new(Served {
        store: Store::open(&options.db).map_err(refused)?,
        keys,
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(CONNECTIONS)
        .build()
        .context("cannot start the server")?;
    runtime.block_on(async {
        let mut shutdown = Shutdown::listen().context("cannot wait for signals")?;
        let listener = TcpListener::bind(options.listen).await.with_context(|| {
            ExitWith(
                Exit::NoInput,
                format!("cannot listen on {}", options.listen),
            )
        })?;
        let address: SocketAddr = listener.local_addr().context("cannot tell the address")?;
        info!(%address, "answers");
        tokio::select! {
            why = shutdown.asked() => info!("ends: {why}"),
            () = http::serve(listener, "queries", LIMITS, move |request| {
                ready(answer(&request, &served))
            }) => {}
        }
        anyhow::Ok(())
    })?;
    // This closes the connections. A thread that still writes an answer ends when it has no reader.
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(Exit::Ok)
}

struct Served {
    store: Store,
    keys: Option<Keys>,
}

/// SHA-256 of each key. All keys take the same time to compare, so the time does not show how much of a key is right.
struct Keys(Vec<[u8; 32]>);

impl Keys {
    /// Reads a key from each line. Skips empty lines, and lines that begin with `#`.
    fn read(text: &str) -> Self {
        let lines = text.lines().map(str::trim);
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self(lines.map(|line| Sha256::digest(line).into()).collect())
    }

    fn has(&self, key: &[u8]) -> bool {
        let hash: [u8; 32] = Sha256::digest(key).into();
        let differs = |one: &[u8; 32]| one.iter().zip(hash).fold(0, |sum, (a, b)| sum | (a ^ b));
        self.0
            .iter()
            .fold(false, |found, one| found | (differs(one) == 0))
    }

    /// Returns whether the request has a valid key: in `X-API-Key`, or as the password of basic authentication.
    fn allow<T>(&self, request: &Request<T>) -> bool {
        let header = |name: &str| request.headers().get(name).map(HeaderValue::as_bytes);
        if let Some(key) = header("x-api-key") {
            return self.has(key);
        }
        let basic = header("authorization").and_then(|value| value.strip_prefix(b"Basic "));
        let pair = basic.and_then(|basic| BASE64.decode(basic).ok());
        pair.is_some_and(|pair| {
            let colon = pair.iter().position(|byte| *byte == b':');
            colon.is_some_and(|colon| self.has(&pair[colon + 1..]))
        })
    }
}

fn answer(request: &Request<Incoming>, served: &Arc<Served>) -> Response<Lines> {
    if *request.method() != Method::GET {
        return Lines::whole(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
    }
    if served
        .keys
        .as_ref()
        .is_some_and(|keys| !keys.allow(request))
    {
        return Lines::whole(StatusCode::FORBIDDEN, "no such key\n".to_owned());
    }
    let uri = request.uri();
    match paths::read(uri.path(), uri.query().unwrap_or_default(), now()) {
        Ok(Asked::Ping) => Lines::whole(StatusCode::OK, "{\"ping\":\"ok\"}\n".to_owned()),
        Ok(Asked::RateLimit) => {
            let rate = json!({"rate": {"limit": "unlimited", "reset": "n/a", "remaining": "n/a"}});
            Lines::whole(StatusCode::OK, format!("{rate}\n"))
        }
        Ok(Asked::Lookup(lookup)) => {
            let (sender, receiver) = mpsc::channel(PIECES);
            let served = Arc::clone(served);
            tokio::task::spawn_blocking(move || {
                let mut output = Output {
                    sender,
                    text: String::new(),
                };
                // An error means that the reader has gone.
                let _gone = look(&served.store, &lookup, &mut output);
            });
            let mut response = Response::new(Lines(receiver));
            response.headers_mut().insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/x-ndjson"),
            );
            response
        }
        Err(paths::Wrong::Path) => {
            let known = "there are /dnsdb/v2/lookup, /dnsdb/v2/summarize, /dnsdb/v2/ping, /dnsdb/v2/rate_limit and /pdns/query\n";
            Lines::whole(StatusCode::NOT_FOUND, known.to_owned())
        }
        Err(paths::Wrong::Query(why)) => {
            Lines::whole(StatusCode::BAD_REQUEST, format!("{}\n", why.escape_debug()))
        }
    }
}

/// The reader has gone.
struct Gone;

/// Writes the answers, one on each line.
fn look(store: &Store, lookup: &Lookup, output: &mut Output) -> Result<(), Gone> {
    let mut found = store.ask(&lookup.query).skip(lookup.offset);
    let is_framed = lookup.style != Style::Circl;
    if is_framed {
        output.line("{\"cond\":\"begin\"}")?;
    }
    let mut sum: Option<(Answer, u64)> = None;
    let mut failed = None;
    for item in found.by_ref().take(lookup.limit) {
        match (item, lookup.style) {
            (Ok(answer), Style::Circl) => output.line(&cof(&answer).to_string())?,
            (Ok(answer), Style::Lookup) => {
                output.line(&json!({"obj": dnsdb(&answer)}).to_string())?;
            }
            (Ok(answer), Style::Summarize) => {
                sum = Some(match sum {
                    None => (answer, 1),
                    Some((mut sum, number)) => {
                        sum.seen = sum.seen.and(answer.seen);
                        (sum, number + 1)
                    }
                });
            }
            (Err(error), _) => {
                warn!("cannot answer: {error}");
                failed = Some(error);
                break;
            }
        }
    }
    if let Some((sum, number)) = sum {
        let object = json!({"obj": {"count": sum.seen.count, "num_results": number,
            "time_first": sum.seen.first, "time_last": sum.seen.last}});
        output.line(&object.to_string())?;
    }
    if is_framed {
        output.line(&end(failed.as_ref(), found.next().is_some()))?;
    }
    output.send()
}

/// Returns the last line, which says how the answers ended.
fn end(failed: Option<&StoreError>, is_more: bool) -> String {
    let end = match (failed, is_more) {
        // The text of the error itself would show the path of a folder.
        (Some(_), _) => json!({"cond": "failed", "msg": "the store cannot be read"}),
        (None, true) => json!({"cond": "limited", "msg": "Result limit reached"}),
        (None, false) => json!({"cond": "succeeded"}),
    };
    end.to_string()
}

struct Output {
    sender: mpsc::Sender<Bytes>,
    text: String,
}

impl Output {
    fn line(&mut self, line: &str) -> Result<(), Gone> {
        let is_first = self.text.is_empty();
        self.text.push_str(line);
        self.text.push('\n');
        // The first line is sent at once, so that the client knows that an answer comes.
        if is_first && self.sender.capacity() == PIECES || self.text.len() >= PIECE {
            self.send()?;
        }
        Ok(())
    }

    fn send(&mut self) -> Result<(), Gone> {
        let piece = std::mem::take(&mut self.text).into();
        self.sender.blocking_send(piece).map_err(|_closed| Gone)
    }
}

/// Body of a response, which is sent piece by piece.
struct Lines(mpsc::Receiver<Bytes>);

impl Lines {
    fn whole(status: StatusCode, text: String) -> Response<Self> {
        let (sender, receiver) = mpsc::channel(1);
        // The channel has room for one piece.
        let _sent = sender.try_send(text.into());
        let mut response = Response::new(Self(receiver));
        *response.status_mut() = status;
        response
    }
}

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.0.poll_recv(context);
        piece.map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_by_either_header_and_nothing_else_is() {
        let keys = Keys::read("# of ours\nsecret\n\n other \n");
        let allowed = |name: &str, value: &str| {
            let request = Request::builder()
                .header(name, value)
                .body(())
                .expect("a request");
            keys.allow(&request)
        };
        assert!(allowed("X-API-Key", "secret") && allowed("X-API-Key", "other"));
        assert!(allowed(
            "Authorization",
            &format!("Basic {}", BASE64.encode(b"me:secret"))
        ));
        for wrong in ["", "secre", "secretx", "# of ours"] {
            assert!(!allowed("X-API-Key", wrong), "{wrong}");
        }
        assert!(!allowed(
            "Authorization",
            &format!("Basic {}", BASE64.encode(b"secret"))
        ));
        assert!(!allowed("Authorization", "Bearer secret"));
        assert!(!allowed("Host", "secret"));
        assert!(!Keys::read("").has(b""));
    }
}

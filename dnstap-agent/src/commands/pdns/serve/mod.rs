//! `pdns serve`: answers queries of a store over HTTP, for the programs that analysts use. The interfaces are version 2
//! of the DNSDB API with its Streaming API Framing, and CIRCL's passive DNS.
//!
//! It also has a page for people ([`page`]) and metrics ([`counts`]).
//!
//! Each request has its own thread, at most [`CONNECTIONS`] at a time. The thread waits for the reader, so an answer is
//! never in memory as a whole. Without keys, the server listens on loopback addresses only.

mod counts;
mod keys;
mod page;
mod paths;

use std::{
    convert::Infallible,
    future::ready,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use dnstap_pdns::{Answer, Store, StoreError, cof, dnsdb};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Bytes, Frame, Incoming},
    header::{self, HeaderValue},
};
use serde_json::json;
use tokio::{net::TcpListener, sync::mpsc};
use tracing::{info, warn};

use self::{
    counts::Counts,
    keys::{Access, Keys},
    paths::{Asked, Lookup, Style},
};
use super::{now, refused};
use crate::{
    cli::Serve as Options,
    host::{
        exit::{Exit, ExitWith},
        http::{self, Limits},
        net::{Tls, acceptor},
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
            Some(Keys::read(&text).with_context(message)?)
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
    let tls = options.tls_cert.clone().zip(options.tls_key.clone());
    let tls = tls.map(|own| acceptor(&Tls::of_server(options.listen, own)));
    let tls = tls
        .transpose()
        .map_err(|error| anyhow!(ExitWith(Exit::NoInput, format!("cannot use TLS: {error}"))))?;
    let served = Arc::new(Served {
        store: Store::open(&options.db).map_err(refused)?,
        keys,
        counts: Counts::default(),
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
        let scheme = if tls.is_some() { "https" } else { "http" };
        info!("answers at {scheme}://{address}/");
        tokio::select! {
            why = shutdown.asked() => info!("ends: {why}"),
            () = http::serve(listener, tls, "queries", LIMITS, move |request| {
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
    counts: Counts,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

fn answer(request: &Request<Incoming>, served: &Arc<Served>) -> Response<Lines> {
    let counts = &served.counts;
    let uri = request.uri();
    if *request.method() != Method::GET {
        count(&counts.invalid);
        return Lines::whole(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
    }
    // The page itself shows no data. It asks for the key.
    if uri.path() == "/" {
        count(&counts.other);
        return page::response();
    }
    let now = now();
    let asked = paths::read(uri.path(), uri.query().unwrap_or_default(), now);
    let uses_limit = matches!(asked, Ok(Asked::Lookup(_)));
    let keys = served.keys.as_ref();
    let access = keys.map_or(Access::Granted(None), |keys| {
        keys.check(request, uses_limit, now)
    });
    let rate = match access {
        Access::Granted(rate) => rate,
        Access::Denied => {
            count(&counts.denied);
            return Lines::whole(StatusCode::FORBIDDEN, "no such key\n".to_owned());
        }
        Access::Exhausted(rate) => {
            count(&counts.exhausted);
            let text = format!(
                "this key has no requests left; it has {} again soon\n",
                rate.limit
            );
            let mut response = Lines::whole(StatusCode::TOO_MANY_REQUESTS, text);
            let wait = rate.reset.saturating_sub(now);
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(wait));
            return response;
        }
    };
    count(match asked {
        Ok(Asked::Lookup(_)) => &counts.lookups,
        Ok(_) => &counts.other,
        Err(_) => &counts.invalid,
    });
    match asked {
        Ok(Asked::Ping) => Lines::whole(StatusCode::OK, "{\"ping\":\"ok\"}\n".to_owned()),
        Ok(Asked::RateLimit) => {
            let rate = match rate {
                None => json!({"limit": "unlimited", "reset": "n/a", "remaining": "n/a"}),
                Some(rate) => {
                    json!({"limit": rate.limit, "reset": rate.reset, "remaining": rate.remaining})
                }
            };
            Lines::whole(StatusCode::OK, format!("{}\n", json!({"rate": rate})))
        }
        Ok(Asked::Metrics) => match counts.encode() {
            Ok(text) => Lines::typed(text, prometheus::TEXT_FORMAT),
            Err(error) => Lines::whole(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        Ok(Asked::Lookup(lookup)) => {
            let (sender, receiver) = mpsc::channel(PIECES);
            let served = Arc::clone(served);
            tokio::task::spawn_blocking(move || {
                let mut output = Output {
                    sender,
                    text: String::new(),
                };
                let counts = &served.counts;
                count(&counts.at_work);
                // An error means that the reader has gone.
                if look(&served, &lookup, &mut output).is_err() {
                    count(&counts.abandoned);
                }
                counts.at_work.fetch_sub(1, Relaxed);
            });
            let mut response = Response::new(Lines(receiver));
            response.headers_mut().insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/x-ndjson"),
            );
            response
        }
        Err(paths::Wrong::Path) => {
            let known = "there are /, /metrics, /dnsdb/v2/lookup, /dnsdb/v2/summarize, /dnsdb/v2/ping, /dnsdb/v2/rate_limit and /pdns/query\n";
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
fn look(served: &Served, lookup: &Lookup, output: &mut Output) -> Result<(), Gone> {
    let counts = &served.counts;
    // A look-up that finds nothing sends nothing, so it has to ask whether the client is still there.
    let reader = output.sender.clone();
    let mut found = served
        .store
        .ask_while(&lookup.query, move || !reader.is_closed());
    let is_framed = lookup.style != Style::Circl;
    if is_framed {
        output.line("{\"cond\":\"begin\"}")?;
    }
    let mut sum: Option<(Answer, u64)> = None;
    let mut failed = None;
    let mut to_skip = lookup.offset;
    let mut room = lookup.limit;
    while room > 0
        && let Some(item) = found.next()
    {
        if item.is_ok() && to_skip > 0 {
            to_skip -= 1;
            continue;
        }
        room -= 1;
        counts.answers.fetch_add(u64::from(item.is_ok()), Relaxed);
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
                counts.failed.fetch_add(1, Relaxed);
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

    fn typed(text: String, kind: &'static str) -> Response<Self> {
        let mut response = Self::whole(StatusCode::OK, text);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
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

//! The metrics endpoint: HTTP/1.1 with one answer per connection, few connections at a time, and a
//! time limit.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};
use tracing::{debug, warn};

use super::{Newest, metrics, published};

/// Most connections at a time; further ones wait.
const CONNECTIONS: usize = 16;

/// Time limit for a request and for reading the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers requests until it is dropped.
pub(super) async fn serve(listener: TcpListener, newest: Newest) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Most likely there are no descriptors left. Room appears when one is closed
                // elsewhere.
                warn!(%error, "cannot take a connection for metrics");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let newest = newest.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, newest.clone()));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            match timeout(2 * PATIENCE, connection).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(%error, "a connection for metrics"),
                Err(_elapsed) => debug!("a connection for metrics took too long"),
            }
            drop(place);
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    newest: Newest,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let get = matches!(*request.method(), Method::GET | Method::HEAD);
    Ok(match (get, request.uri().path()) {
        (false, _) => plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned()),
        (true, "/metrics") => match published::first(newest).await {
            Some(published) => match metrics::encode(&published.now) {
                Ok(text) => plain(StatusCode::OK, text),
                Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            },
            None => plain(StatusCode::SERVICE_UNAVAILABLE, "it is ending\n".to_owned()),
        },
        (true, _) => plain(StatusCode::NOT_FOUND, "there is /metrics\n".to_owned()),
    })
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(metrics::CONTENT_TYPE),
    );
    response
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    use super::*;
    use crate::observe::{Publisher, summary::conservation::tests::snapshot};

    #[tokio::test]
    async fn metrics_are_at_their_path_and_nothing_else_is() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let (publisher, newest) = Publisher::new();
        let server = tokio::spawn(serve(listener, newest));
        publisher.publish(snapshot());
        for (line, status, content) in [
            ("GET /metrics HTTP/1.1", "200", "dnstap_agent_unaccounted"),
            ("GET / HTTP/1.1", "404", "there is /metrics"),
            ("POST /metrics HTTP/1.1", "405", "only GET"),
            ("what?", "400", ""),
        ] {
            let mut stream = TcpStream::connect(address).await.expect("it listens");
            let request = format!("{line}\r\nHost: localhost\r\n\r\n");
            stream.write_all(request.as_bytes()).await.expect("written");
            let mut answer = String::new();
            // The endpoint closes each connection after its answer.
            stream.read_to_string(&mut answer).await.expect("answered");
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(content),
                "{line}: {answer}"
            );
        }
        server.abort();
    }
}

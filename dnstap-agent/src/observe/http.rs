//! The metrics endpoint: HTTP/1.1 with one answer per connection, few connections at a time, and a
//! time limit.

use std::time::Duration;

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header,
};
use tokio::net::TcpListener;

use super::{Newest, metrics, published};
use crate::host::http::{self, Limits};

/// Most connections at a time; further ones wait.
const CONNECTIONS: usize = 16;

/// Time limit for a request and for reading the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers requests until it is dropped.
pub(super) async fn serve(listener: TcpListener, newest: Newest) {
    let limits = Limits {
        connections: CONNECTIONS,
        head: PATIENCE,
        connection: 2 * PATIENCE,
    };
    http::serve(listener, None, "metrics", limits, move |request| {
        answer(request, newest.clone())
    })
    .await;
}

async fn answer(request: Request<Incoming>, newest: Newest) -> Response<Full<Bytes>> {
    let get = matches!(*request.method(), Method::GET | Method::HEAD);
    match (get, request.uri().path()) {
        (false, _) => plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned()),
        (true, "/metrics") => match published::first(newest).await {
            Some(published) => match metrics::encode(&published.now) {
                Ok(text) => plain(StatusCode::OK, text),
                Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            },
            None => plain(StatusCode::SERVICE_UNAVAILABLE, "it is ending\n".to_owned()),
        },
        (true, _) => plain(StatusCode::NOT_FOUND, "there is /metrics\n".to_owned()),
    }
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

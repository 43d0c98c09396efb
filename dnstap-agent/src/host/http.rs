//! An HTTP/1.1 server that takes few connections at a time, each with one answer and a time limit.

use std::{convert::Infallible, sync::Arc, time::Duration};

use hyper::{
    Request, Response,
    body::{Body, Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

/// Limits on clients.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Largest number of connections at a time. Further connections wait.
    pub(crate) connections: usize,
    /// Time limit for the head of a request.
    pub(crate) head: Duration,
    /// Time limit for a connection, which includes the time that the client takes to read the answer.
    pub(crate) connection: Duration,
}

/// Answers requests by `answer` until it is dropped. `tls`: clients must use TLS. `what` names the server in the log.
pub(crate) async fn serve<A, F, B>(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    what: &'static str,
    limits: Limits,
    answer: A,
) where
    A: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<B>> + Send,
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(limits.connections));
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Most likely there are no descriptors left. One becomes free when a connection is closed.
                warn!(%error, "cannot take a connection for {what}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (answer, tls) = (answer.clone(), tls.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = answer(request);
                async { Ok::<_, Infallible>(answer.await) }
            });
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new())
                .header_read_timeout(limits.head)
                .keep_alive(false);
            let connection = async {
                match tls {
                    None => http.serve_connection(TokioIo::new(stream), service).await,
                    Some(tls) => match timeout(limits.head, tls.accept(stream)).await {
                        Ok(Ok(stream)) => {
                            http.serve_connection(TokioIo::new(stream), service).await
                        }
                        Ok(Err(error)) => {
                            debug!(%error, "a client that does not agree on TLS, for {what}");
                            Ok(())
                        }
                        Err(_elapsed) => {
                            debug!("a client that does not begin TLS, for {what}");
                            Ok(())
                        }
                    },
                }
            };
            match timeout(limits.connection, connection).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(%error, "a connection for {what}"),
                Err(_elapsed) => debug!("a connection for {what} took too long"),
            }
            drop(place);
        });
    }
}

//! One connection to a collector: handshake, writes, and the detection of its end.

use std::{
    future::poll_fn,
    io::{self, ErrorKind},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::BytesMut;
use dnstap_proto::frame_streams::{Client, ClientState};
use tokio::{
    io::{AsyncRead as _, AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _, ReadBuf},
    time::timeout,
};

use crate::host::net::{Address, Stream};

/// An open stream to a collector.
#[derive(Debug)]
pub(super) struct Connection {
    stream: Stream,
    client: Client,
    input: BytesMut,
}

impl Connection {
    /// Connects and does the handshake up to START.
    pub(super) async fn open(
        address: &Address,
        content_type: &[u8],
        patience: Duration,
    ) -> io::Result<Self> {
        let opening = async {
            let mut stream = Stream::connect(address).await?;
            let mut out = Vec::new();
            let client = Client::connect(content_type, &mut out).map_err(io::Error::other)?;
            stream.write_all(&out).await?;
            stream.flush().await?;
            let mut connection = Self {
                stream,
                client,
                input: BytesMut::new(),
            };
            connection.hear_until(ClientState::Open).await?;
            Ok(connection)
        };
        timeout(patience, opening).await.unwrap_or_else(|_elapsed| {
            Err(io::Error::new(
                ErrorKind::TimedOut,
                format!("no connection and no answer to the handshake within {patience:?}"),
            ))
        })
    }

    /// Writes some of `bytes` and returns how many the system has accepted. The collector must not
    /// send anything while the stream is open, so any byte from it ends the connection.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        poll_fn(|cx| {
            if let Poll::Ready(reason) = self.poll_ended(cx) {
                return Poll::Ready(Err(reason));
            }
            match ready!(Pin::new(&mut self.stream).poll_write(cx, bytes)) {
                Ok(0) => Poll::Ready(Err(ErrorKind::WriteZero.into())),
                written => Poll::Ready(written),
            }
        })
        .await
    }

    /// Flushes bytes that TLS may still hold.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        self.stream.flush().await
    }

    /// Waits until the collector ends the connection. Returns the reason.
    pub(super) async fn ended(&mut self) -> io::Error {
        poll_fn(|cx| self.poll_ended(cx)).await
    }

    /// Returns whether the collector, or over TCP its host, has accepted all written bytes.
    pub(super) fn is_drained(&self) -> bool {
        self.stream.is_drained()
    }

    /// Sends STOP and waits for FINISH, after which the collector has read everything.
    pub(super) async fn finish(&mut self, patience: Duration) -> io::Result<()> {
        let finishing = async {
            let mut out = Vec::new();
            self.client.stop(&mut out);
            self.stream.write_all(&out).await?;
            self.stream.flush().await?;
            self.hear_until(ClientState::Finished).await?;
            // TLS announces the end of a connection. A collector that has already gone does not
            // need that.
            let _unheard = self.stream.shutdown().await;
            Ok(())
        };
        timeout(patience, finishing)
            .await
            .unwrap_or_else(|_elapsed| {
                Err(io::Error::new(
                    ErrorKind::TimedOut,
                    format!("no FINISH within {patience:?}"),
                ))
            })
    }

    /// Handles the collector's control frames until this state is reached.
    async fn hear_until(&mut self, state: ClientState) -> io::Result<()> {
        while self.client.state() != state {
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(gone());
            }
            let mut out = Vec::new();
            self.client
                .receive(&mut self.input, &mut out)
                .map_err(io::Error::other)?;
            self.stream.write_all(&out).await?;
            self.stream.flush().await?;
        }
        Ok(())
    }

    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let mut space = [0; 64];
        let mut buffer = ReadBuf::new(&mut space);
        Poll::Ready(
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer)) {
                Err(error) => error,
                Ok(()) if buffer.filled().is_empty() => gone(),
                Ok(()) => {
                    io::Error::other("the collector spoke where Frame Streams lets it say nothing")
                }
            },
        )
    }
}

fn gone() -> io::Error {
    io::Error::new(
        ErrorKind::UnexpectedEof,
        "the collector closed the connection",
    )
}

//! Connections: to a peer, from a listener, and their state in the system.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
};
use tokio_rustls::{TlsAcceptor, TlsStream};

use super::{Address, connector};

/// Time after which a peer that no longer answers counts as dead. TCP alone would notice after a
/// quarter of an hour or never.
const DEAD_PEER: Duration = Duration::from_mins(1);

/// A connection.
#[derive(Debug)]
pub enum Stream {
    /// Over a unix socket.
    Unix(UnixStream),
    /// Over TCP.
    Tcp(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Connects. If a name has several addresses, uses the first that answers.
    pub async fn connect(address: &Address) -> io::Result<Self> {
        match address {
            Address::Unix(path) => UnixStream::connect(path).await.map(Self::Unix),
            Address::Tcp { host, port } => {
                tcp(TcpStream::connect((host.as_str(), *port)).await?).map(Self::Tcp)
            }
            Address::Tls(tls) => {
                let (connector, name) = connector(tls)?;
                let stream = tcp(TcpStream::connect((tls.host.as_str(), tls.port)).await?)?;
                let stream = connector.connect(name, stream).await?;
                Ok(Self::Tls(Box::new(stream.into())))
            }
        }
    }

    /// Returns whether all written bytes have been accepted: over a unix socket read by the peer,
    /// over TCP acknowledged by its host. Returns false if the connection is broken, or the system
    /// does not tell.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        if let Self::Tls(stream) = self
            && stream.get_ref().1.wants_write()
        {
            return false;
        }
        // The order matters: a peer that ends first marks the connection and then discards the
        // bytes that it has not read.
        matches!(unsent(self.as_fd()), Ok(0)) && self.is_silent()
    }

    /// Returns whether the peer has sent nothing and has not ended. Asks the system, because the
    /// runtime may not have noticed yet.
    fn is_silent(&self) -> bool {
        let descriptor = self.as_fd();
        let peeked = SockRef::from(&descriptor).peek(&mut [MaybeUninit::uninit()]);
        peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Stops receiving; bytes that the peer has already sent can still be read. Over TCP the system
    /// goes on accepting bytes.
    pub fn refuse_more(&self) -> io::Result<()> {
        let descriptor = self.as_fd();
        SockRef::from(&descriptor).shutdown(std::net::Shutdown::Read)
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
            Self::Tls(stream) => stream.get_ref().0.as_fd(),
        }
    }
}

/// Sets the options of all our TCP connections.
fn tcp(stream: TcpStream) -> io::Result<TcpStream> {
    // Messages are already gathered before they are written. Nagle's algorithm would only delay
    // them.
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    let idle = DEAD_PEER / 2;
    let keepalive = TcpKeepalive::new()
        .with_time(idle)
        .with_interval(idle / 3)
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(DEAD_PEER))?;
    Ok(stream)
}

/// Returns the number of bytes that were written but not yet accepted: `SIOCOUTQ`, see unix(7) and
/// tcp(7).
#[expect(unsafe_code, reason = "an ioctl that no crate of ours wraps")]
fn unsent(descriptor: BorrowedFd<'_>) -> io::Result<libc::c_int> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the request, which has the number of TIOCOUTQ, writes one int to the pointer, which is that of `bytes`; the
    // descriptor is open as long as it is borrowed.
    let result = unsafe { libc::ioctl(descriptor.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(bytes)
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}

/// A socket that accepts connections.
#[expect(missing_debug_implementations, reason = "the acceptor has none")]
pub enum Listener {
    /// On a unix socket.
    Unix(UnixListener),
    /// On a TCP port.
    Tcp(TcpListener),
    /// On a TCP port, for TLS.
    Tls(TcpListener, TlsAcceptor),
}

/// An accepted connection before its TLS handshake, which the peer may delay.
#[expect(missing_debug_implementations, reason = "the acceptor has none")]
pub struct Arrival(Stream, Option<TlsAcceptor>);

impl Arrival {
    /// Does the TLS handshake, if the listener uses TLS.
    pub async fn settle(self) -> io::Result<Stream> {
        match self {
            Self(Stream::Tcp(stream), Some(acceptor)) => {
                let stream = acceptor.accept(stream).await?;
                Ok(Stream::Tls(Box::new(stream.into())))
            }
            Self(stream, _) => Ok(stream),
        }
    }
}

impl Listener {
    /// Accepts the next connection. Also returns the peer's name as far as it is known.
    pub async fn accept(&self) -> io::Result<(Arrival, String)> {
        match self {
            Self::Unix(listener) => {
                let (stream, _unnamed) = listener.accept().await?;
                let peer = match stream.peer_cred() {
                    Ok(peer) => format!("pid {} uid {}", peer.pid().unwrap_or(0), peer.uid()),
                    Err(_unknown) => "unknown".to_owned(),
                };
                Ok((Arrival(Stream::Unix(stream), None), peer))
            }
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Arrival(Stream::Tcp(tcp(stream)?), None), peer.to_string()))
            }
            Self::Tls(listener, acceptor) => {
                let (stream, peer) = listener.accept().await?;
                let arrival = Arrival(Stream::Tcp(tcp(stream)?), Some(acceptor.clone()));
                Ok((arrival, peer.to_string()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn drained_is_what_the_peer_has_read_and_not_what_it_left() {
        let (ours, mut theirs) = UnixStream::pair().expect("sockets");
        let mut ours = Stream::Unix(ours);
        assert!(ours.is_drained());
        ours.write_all(b"four").await.expect("room");
        assert!(!ours.is_drained());
        theirs.read_exact(&mut [0; 4]).await.expect("four");
        assert!(ours.is_drained());
        ours.write_all(b"more").await.expect("room");
        drop(theirs);
        assert_eq!(unsent(ours.as_fd()).ok(), Some(0), "thrown away");
        assert!(!ours.is_drained(), "and that is not read");
    }

    #[tokio::test]
    async fn a_peer_whose_host_is_gone_is_given_up_after_a_while() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let host = "127.0.0.1".to_owned();
        let stream = Stream::connect(&Address::Tcp { host, port })
            .await
            .expect("connected");
        let descriptor = stream.as_fd();
        let socket = SockRef::from(&descriptor);
        // The first limits bytes that are not acknowledged, the others a connection without writes.
        assert_eq!(socket.tcp_user_timeout().ok(), Some(Some(DEAD_PEER)));
        assert_eq!(socket.keepalive().ok(), Some(true));
        let silence = socket.tcp_keepalive_time().expect("told")
            + socket.tcp_keepalive_interval().expect("told")
                * socket.tcp_keepalive_retries().expect("told");
        assert_eq!(silence, DEAD_PEER);
    }

    #[tokio::test]
    async fn what_was_sent_before_more_is_refused_can_be_read() {
        let (ours, mut theirs) = UnixStream::pair().expect("sockets");
        let mut ours = Stream::Unix(ours);
        theirs.write_all(b"before").await.expect("room");
        ours.refuse_more().expect("connected");
        let refused = theirs.write_all(b"after").await.expect_err("refused");
        assert_eq!(refused.kind(), io::ErrorKind::BrokenPipe);
        let mut read = Vec::new();
        ours.read_to_end(&mut read).await.expect("readable");
        assert_eq!(read, b"before");
    }
}

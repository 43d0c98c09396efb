//! Owns how a socket is named: `unix:PATH` and `tcp:HOST:PORT`.

use std::{fmt, path::PathBuf, str::FromStr};

use thiserror::Error;

/// A socket to connect to or to listen on.
///
/// ```
/// use dnstap_agent::socket::Address;
///
/// assert_eq!("unix:/run/dnstap.sock".parse(), Ok(Address::Unix("/run/dnstap.sock".into())));
/// let tcp: Address = "tcp:[2001:db8::1]:6000".parse()?;
/// assert_eq!(tcp, Address::Tcp { host: "2001:db8::1".into(), port: 6000 });
/// assert_eq!(tcp.to_string(), "tcp:[2001:db8::1]:6000");
/// # Ok::<(), dnstap_agent::socket::AddressError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// A unix socket's path.
    Unix(PathBuf),
    /// A TCP port of a host.
    Tcp {
        /// A name or an address, this without brackets.
        host: String,
        /// Never 0 where a peer is named; 0 to listen on any free port.
        port: u16,
    },
}

/// What is wrong with the name of a socket.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AddressError {
    /// Neither of the known kinds.
    #[error("`{0}` is no socket; valid are `unix:PATH` and `tcp:HOST:PORT`")]
    UnknownKind(String),
    /// `unix:` alone.
    #[error("`{0}` does not say which path")]
    NoPath(String),
    /// No host, no port, or no port that could be.
    #[error(
        "`{0}` is not HOST:PORT; an IPv6 address stands in brackets, `[::1]:6000`, a port is between 1 and 65535"
    )]
    HostPort(String),
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.split_once(':') {
            Some(("unix", "")) => Err(AddressError::NoPath(text.to_owned())),
            Some(("unix", path)) => Ok(Self::Unix(path.into())),
            Some(("tcp", rest)) => {
                let (host, port) = host_port(rest)?;
                Ok(Self::Tcp { host, port })
            }
            _ => Err(AddressError::UnknownKind(text.to_owned())),
        }
    }
}

/// `HOST:PORT`, `[ADDRESS]:PORT`.
fn host_port(text: &str) -> Result<(String, u16), AddressError> {
    let wrong = || AddressError::HostPort(text.to_owned());
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let host = match bare {
        Some(address) => address,
        None if host.contains([':', '[', ']']) => return Err(wrong()),
        None => host,
    };
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse() {
        Ok(port) if digits && !host.is_empty() => Ok((host.to_owned(), port)),
        _ => Err(wrong()),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("unix:/run/a:b")]
    #[case("unix:relative")]
    #[case("tcp:127.0.0.1:6000")]
    #[case("tcp:[::1]:6000")]
    #[case("tcp:collector.example:65535")]
    fn every_kind_is_understood_and_printed_back(#[case] text: &str) {
        assert_eq!(
            text.parse::<Address>().map(|address| address.to_string()),
            Ok(text.to_owned())
        );
    }

    #[rstest]
    #[case("unix:")]
    #[case("/run/a")]
    #[case("udp:localhost:1")]
    #[case("tcp:")]
    #[case("tcp:localhost")]
    #[case("tcp:localhost:")]
    #[case("tcp::6000")]
    #[case("tcp:::1:6000")]
    #[case("tcp:[::1]")]
    #[case("tcp:localhost:65536")]
    #[case("tcp:localhost:+1")]
    fn anything_else_is_refused(#[case] text: &str) {
        text.parse::<Address>().expect_err("must be refused");
    }
}

//! Owns how a socket is named: `unix:PATH`, `tcp:HOST:PORT` and `tls:HOST:PORT,OPTION=VALUE,...`.

use std::{fmt, net::Ipv6Addr, path::PathBuf, str::FromStr};

use thiserror::Error;

/// A socket to connect to or to listen on.
///
/// ```
/// use dnstap_agent::host::net::Address;
///
/// assert_eq!("unix:/run/dnstap.sock".parse(), Ok(Address::Unix("/run/dnstap.sock".into())));
/// let tcp: Address = "tcp:[2001:db8::1]:6000".parse()?;
/// assert_eq!(tcp, Address::Tcp { host: "2001:db8::1".into(), port: 6000 });
/// assert_eq!(tcp.to_string(), "tcp:[2001:db8::1]:6000");
/// # Ok::<(), dnstap_agent::host::net::AddressError>(())
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
    /// TLS on a TCP port of a host.
    Tls(Box<Tls>),
}

/// A TCP port of a host where TLS is spoken, and what proves who is who. All files hold PEM and are read again for each
/// connection to a peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tls {
    /// A name or an address, this without brackets.
    pub host: String,
    /// As for TCP.
    pub port: u16,
    /// `ca=`: certificates of the authorities that the peer's must come from. Without it, a server's must come from those
    /// that the system trusts, and a client's is not asked for.
    pub ca: Option<PathBuf>,
    /// `cert=`, `key=`: the own certificate, with those between it and the authority, and its private key.
    pub own: Option<(PathBuf, PathBuf)>,
    /// `name=`: the name that the server's certificate must have, if it is not `host`.
    pub name: Option<String>,
}

/// What is wrong with the name of a socket.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AddressError {
    /// Neither of the known kinds.
    #[error("`{0}` is no socket; valid are `unix:PATH`, `tcp:HOST:PORT` and `tls:HOST:PORT`")]
    UnknownKind(String),
    /// `unix:` alone.
    #[error("`{0}` does not say which path")]
    NoPath(String),
    /// No host, no port, or no port that could be.
    #[error(
        "`{0}` is not HOST:PORT; an IPv6 address stands in brackets, `[::1]:6000`, a port is between 1 and 65535"
    )]
    HostPort(String),
    /// An option that there is not, has no value, or lacks its companion.
    #[error(
        "`{0}`: valid after tls:HOST:PORT are `,ca=FILE`, `,cert=FILE` together with `,key=FILE`, and `,name=NAME`"
    )]
    TlsOption(String),
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
            Some(("tls", rest)) => tls(rest).map(|tls| Self::Tls(Box::new(tls))),
            _ => Err(AddressError::UnknownKind(text.to_owned())),
        }
    }
}

impl Address {
    /// The port, unless it is a unix socket.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Unix(_) => None,
            Self::Tcp { port, .. } => Some(*port),
            Self::Tls(tls) => Some(tls.port),
        }
    }
}

/// `HOST:PORT,OPTION=VALUE,...`.
fn tls(text: &str) -> Result<Tls, AddressError> {
    let mut parts = text.split(',');
    let (host, port) = host_port(parts.next().unwrap_or_default())?;
    let (mut ca, mut cert, mut key, mut name) = (None, None, None, None);
    for option in parts {
        let wrong = || AddressError::TlsOption(option.to_owned());
        let (slot, value) = match option.split_once('=').ok_or_else(wrong)? {
            ("ca", value) => (&mut ca, value),
            ("cert", value) => (&mut cert, value),
            ("key", value) => (&mut key, value),
            ("name", value) => (&mut name, value),
            _ => return Err(wrong()),
        };
        if value.is_empty() || slot.replace(value.to_owned()).is_some() {
            return Err(wrong());
        }
    }
    let own = match (cert, key) {
        (Some(cert), Some(key)) => Some((cert.into(), key.into())),
        (None, None) => None,
        _ => return Err(AddressError::TlsOption(text.to_owned())),
    };
    Ok(Tls {
        host,
        port,
        ca: ca.map(PathBuf::from),
        own,
        name,
    })
}

/// `HOST:PORT`, `[ADDRESS]:PORT`.
fn host_port(text: &str) -> Result<(String, u16), AddressError> {
    let wrong = || AddressError::HostPort(text.to_owned());
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let host = match bare {
        Some(address) if is_ipv6(address) => address,
        Some(_) => return Err(wrong()),
        None if host.contains([':', '[', ']']) => return Err(wrong()),
        None => host,
    };
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse() {
        Ok(port) if digits && !host.is_empty() => Ok((host.to_owned(), port)),
        _ => Err(wrong()),
    }
}

/// An IPv6 address, which may name its zone (`fe80::1%eth0`, RFC 4007 section 11).
fn is_ipv6(text: &str) -> bool {
    let (address, zone) = text.split_once('%').unwrap_or((text, ""));
    address.parse::<Ipv6Addr>().is_ok() && !zone.contains(['[', ']'])
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp { host, port } => write!(f, "tcp:{}:{port}", Host(host)),
            Self::Tls(tls) => {
                write!(f, "tls:{}:{}", Host(&tls.host), tls.port)?;
                if let Some(ca) = &tls.ca {
                    write!(f, ",ca={}", ca.display())?;
                }
                if let Some((cert, key)) = &tls.own {
                    write!(f, ",cert={},key={}", cert.display(), key.display())?;
                }
                match &tls.name {
                    Some(name) => write!(f, ",name={name}"),
                    None => Ok(()),
                }
            }
        }
    }
}

/// A host in front of a port.
struct Host<'a>(&'a str);

impl fmt::Display for Host<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.contains(':') {
            write!(f, "[{}]", self.0)
        } else {
            f.write_str(self.0)
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
    #[case("tcp:[fe80::1%eth0]:6000")]
    #[case("tcp:collector.example:65535")]
    #[case("tls:collector.example:6000")]
    #[case("tls:[::1]:6000,ca=/ca.pem,cert=/c.pem,key=/k.pem,name=collector.example")]
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
    #[case("tcp:[::1]]:6000")]
    #[case("tcp:[a[b]:6000")]
    #[case("tcp:[localhost]:6000")]
    #[case("tcp:localhost:65536")]
    #[case("tcp:localhost:+1")]
    #[case("tls:localhost")]
    #[case("tls:localhost:1,")]
    #[case("tls:localhost:1,ca=")]
    #[case("tls:localhost:1,cert=/c.pem")]
    #[case("tls:localhost:1,ca=a,ca=b")]
    #[case("tls:localhost:1,insecure=yes")]
    fn anything_else_is_refused(#[case] text: &str) {
        text.parse::<Address>().expect_err("must be refused");
    }
}

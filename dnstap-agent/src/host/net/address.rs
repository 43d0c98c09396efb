//! Names of sockets: `unix:PATH`, `tcp:HOST:PORT` and `tls:HOST:PORT,OPTION=VALUE,...`. The URLs of
//! other programs (`tcp://HOST:PORT`) have the same meaning.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    os::unix::net::SocketAddr,
    path::PathBuf,
    str::FromStr,
};

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
/// assert_eq!("tcp://[2001:db8::1]:6000".parse(), Ok(tcp));
/// # Ok::<(), dnstap_agent::host::net::AddressError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// Path of a unix socket.
    Unix(PathBuf),
    /// A TCP port of a host.
    Tcp {
        /// Host name or address; an address has no brackets.
        host: String,
        /// Port; never 0 for a peer. When listening, 0 means any free port.
        port: u16,
    },
    /// TLS on a TCP port of a host.
    Tls(Box<Tls>),
}

/// TLS on a TCP port of a host, with its certificates. All files hold PEM and are read again for
/// each connection to a peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tls {
    /// Host name or address; an address has no brackets.
    pub host: String,
    /// Port, as for TCP.
    pub port: u16,
    /// `ca=`: certificates of the authorities that must have signed the peer's certificate. Without
    /// it, a server's certificate is checked against the system's authorities, and a client needs
    /// no certificate.
    pub ca: Option<PathBuf>,
    /// `cert=`, `key=`: this side's certificate, with the intermediate ones, and its private key.
    pub own: Option<(PathBuf, PathBuf)>,
    /// `name=`: name that the server's certificate must have, if it is not `host`.
    pub name: Option<String>,
}

impl Tls {
    /// Names the TLS of a server at this address. `own`: its certificate and private key.
    #[must_use]
    pub fn of_server(address: std::net::SocketAddr, own: (PathBuf, PathBuf)) -> Self {
        Self {
            host: address.ip().to_string(),
            port: address.port(),
            ca: None,
            own: Some(own),
            name: None,
        }
    }
}

/// Mistakes in the name of a socket.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AddressError {
    /// The kind is not known.
    #[error("`{0}` is no socket; valid are `unix:PATH`, `tcp:HOST:PORT` and `tls:HOST:PORT`")]
    UnknownKind(String),
    /// The path is missing.
    #[error(
        "`{0}` does not say which path; valid is `unix:PATH`, for example `unix:/run/dnstap.sock`"
    )]
    NoPath(String),
    /// No unix socket can have this path.
    #[error(
        "`{0}` cannot be the path of a unix socket, which has at most 107 bytes, none of them zero"
    )]
    Path(String),
    /// The host or the port is missing or invalid.
    #[error(
        "`{0}` is not HOST:PORT as in `tcp:collector.example:6000` or `tcp:[::1]:6000`: a host is a name or an address (IPv6 in \
         brackets), a port is between 1 and 65535"
    )]
    HostPort(String),
    /// The option is unknown, has no value, or lacks its companion.
    #[error(
        "`{0}`: valid after tls:HOST:PORT are `,ca=FILE`, `,cert=FILE` together with `,key=FILE`, and `,name=NAME`"
    )]
    TlsOption(String),
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let unknown = || AddressError::UnknownKind(text.to_owned());
        let (kind, rest) = text.split_once(':').ok_or_else(unknown)?;
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        match kind {
            "unix" => unix(text, rest.into()),
            "tcp" => {
                let (host, port) = host_port(rest)?;
                Ok(Self::Tcp { host, port })
            }
            "tls" => tls(rest).map(|tls| Self::Tls(Box::new(tls))),
            _ => Err(unknown()),
        }
    }
}

impl Address {
    /// Returns the port, unless it is a unix socket.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Unix(_) => None,
            Self::Tcp { port, .. } => Some(*port),
            Self::Tls(tls) => Some(tls.port),
        }
    }
}

fn unix(text: &str, path: PathBuf) -> Result<Address, AddressError> {
    if path.as_os_str().is_empty() {
        return Err(AddressError::NoPath(text.to_owned()));
    }
    match SocketAddr::from_pathname(&path) {
        Ok(_possible) => Ok(Address::Unix(path)),
        Err(_impossible) => Err(AddressError::Path(text.to_owned())),
    }
}

/// Parses `HOST:PORT,OPTION=VALUE,...`.
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

/// Parses `HOST:PORT` or `[ADDRESS]:PORT`.
fn host_port(text: &str) -> Result<(String, u16), AddressError> {
    let wrong = || AddressError::HostPort(text.to_owned());
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let host = match bare {
        Some(address) if is_ipv6(address) => address,
        None if is_name(host) => host,
        _ => return Err(wrong()),
    };
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse() {
        Ok(port) if digits => Ok((host.to_owned(), port)),
        _ => Err(wrong()),
    }
}

/// Returns whether the text can be a host name or is an IPv4 address. No host name ends in a number
/// (RFC 3696 section 2).
fn is_name(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    let is_label = |label: &str| {
        let characters = |char: char| char.is_alphanumeric() || matches!(char, '-' | '_');
        (1..=63).contains(&label.len()) && label.chars().all(characters)
    };
    let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    let last = name.rsplit('.').next().unwrap_or_default();
    if is_number(last) {
        return name.parse::<Ipv4Addr>().is_ok();
    }
    name.len() <= 253 && name.split('.').all(is_label)
}

/// Returns whether the text is an IPv6 address, perhaps with a zone (`fe80::1%eth0`, RFC 4007
/// section 11).
fn is_ipv6(text: &str) -> bool {
    let (address, zone) = text.split_once('%').unwrap_or((text, ""));
    let is_zone = |byte: u8| byte.is_ascii_graphic() && !b"[]/".contains(&byte);
    address.parse::<Ipv6Addr>().is_ok() && zone.bytes().all(is_zone)
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

/// Prints a host in front of a port, an IPv6 address in brackets.
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
    #[case("tcp://127.0.0.1:6000", "tcp:127.0.0.1:6000")]
    #[case("tcp://[::1]:6000", "tcp:[::1]:6000")]
    #[case(
        "tls://collector.example.:6000,ca=/ca.pem",
        "tls:collector.example.:6000,ca=/ca.pem"
    )]
    #[case("unix:///run/dnstap.sock", "unix:/run/dnstap.sock")]
    #[case("unix://run/a b", "unix:run/a b")]
    fn a_url_means_the_same(#[case] url: &str, #[case] text: &str) {
        assert_eq!(url.parse::<Address>(), text.parse());
        url.parse::<Address>().expect("valid");
    }

    #[rstest]
    #[case("unix:")]
    #[case("unix://")]
    #[case(&format!("unix:/{}", "x".repeat(107)))]
    #[case("unix:/a\0")]
    #[case("tcp://")]
    #[case("tcp:///a:1")]
    #[case("tcp://localhost")]
    #[case("tcp://localhost:1/path")]
    #[case("tcp://user@localhost:1")]
    #[case("tcp:// localhost:1")]
    #[case("tcp:local host:1")]
    #[case("tcp:local/host:1")]
    #[case("tcp:a..b:1")]
    #[case("tcp:.:1")]
    #[case("tcp:256.1.1.1:1")]
    #[case("tcp:1.2.3:1")]
    #[case(&format!("tcp:{}:1", "x".repeat(64)))]
    #[case("tcp:localhost: 1")]
    #[case("http://localhost:1")]
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
    #[case("tcp:[fe80::1%eth 0]:6000")]
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

//! Reads dnstap files and keeps what the tests compare: one [`Record`] per frame.
//!
//! Reading is strict: a frame that is not a complete dnstap message of type MESSAGE, with addresses that fit its
//! socket family and a time, is an error and not a record.

use std::{
    fmt,
    fs::File,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use dnstap_proto::{
    Dnstap, SocketFamily, SocketProtocol,
    frame_streams::{DNSTAP_CONTENT_TYPE, Reader},
    message,
};
use prost::Message as _;

use crate::wire;

/// One dnstap message. An address is `None` if the frame has none; a missing port is 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// `AUTH_QUERY`, `AUTH_RESPONSE`, ...
    pub(crate) kind: message::Type,
    /// Transport protocol.
    pub(crate) protocol: SocketProtocol,
    /// Address of the client.
    pub(crate) query_address: Option<IpAddr>,
    /// Port of the client.
    pub(crate) query_port: u16,
    /// Address of the server.
    pub(crate) response_address: Option<IpAddr>,
    /// Port of the server.
    pub(crate) response_port: u16,
    /// The DNS message that the record is about: the query of a `*_QUERY`, the response of a `*_RESPONSE`.
    pub(crate) message: Vec<u8>,
    /// Time when that message was seen, since 1970.
    pub(crate) time: Duration,
    /// Time when the query of a response was seen, since 1970, if the frame has it.
    pub(crate) query_time: Option<Duration>,
}

impl Record {
    /// Makes the record that `message` should give, from `client` to `server` or back. The kind is `AUTH_QUERY` or
    /// `AUTH_RESPONSE` by its QR bit, and the time is zero.
    pub(crate) fn expected(
        protocol: SocketProtocol,
        client: SocketAddr,
        server: SocketAddr,
        message: Vec<u8>,
    ) -> Self {
        Self {
            kind: plain_kind(wire::is_response(&message)),
            protocol,
            query_address: Some(client.ip().to_canonical()),
            query_port: client.port(),
            response_address: Some(server.ip().to_canonical()),
            response_port: server.port(),
            message,
            time: Duration::ZERO,
            query_time: None,
        }
    }

    /// Reduces the kind to "query" or "response", for servers without a known role.
    pub(crate) fn with_plain_kind(mut self) -> Self {
        self.kind = plain_kind(self.is_response());
        self
    }

    /// Returns whether the record has a `*_RESPONSE` type.
    pub(crate) fn is_response(&self) -> bool {
        is_response_kind(self.kind)
    }

    /// Returns whether the tapped server was the client.
    pub(crate) fn is_initiators(&self) -> bool {
        use message::Type::{
            ForwarderQuery, ForwarderResponse, ResolverQuery, ResolverResponse, StubQuery,
            StubResponse, ToolQuery, ToolResponse,
        };
        matches!(
            self.kind,
            ForwarderQuery
                | ForwarderResponse
                | ResolverQuery
                | ResolverResponse
                | StubQuery
                | StubResponse
                | ToolQuery
                | ToolResponse
        )
    }

    fn parse(frame: &[u8]) -> Result<Self> {
        let dnstap = Dnstap::decode(frame).context("not a dnstap message")?;
        ensure!(
            dnstap.r#type() == dnstap_proto::dnstap::Type::Message,
            "not of type MESSAGE"
        );
        let body = dnstap.message.context("no message")?;
        let kind = body.r#type();
        let (bytes, seconds, nanoseconds) = if is_response_kind(kind) {
            (
                body.response_message.clone(),
                body.response_time_sec,
                body.response_time_nsec,
            )
        } else {
            (
                body.query_message.clone(),
                body.query_time_sec,
                body.query_time_nsec,
            )
        };
        let family = body.socket_family();
        let query_time = body
            .query_time_sec
            .filter(|_| is_response_kind(kind))
            .map(|seconds| Duration::new(seconds, body.query_time_nsec()));
        Ok(Self {
            kind,
            protocol: body.socket_protocol(),
            query_address: address(family, body.query_address.as_deref())
                .context("query_address")?,
            query_port: u16::try_from(body.query_port()).context("query_port")?,
            response_address: address(family, body.response_address.as_deref())
                .context("response_address")?,
            response_port: u16::try_from(body.response_port()).context("response_port")?,
            message: bytes
                .with_context(|| format!("{} without its DNS message", kind.as_str_name()))?
                .into(),
            time: Duration::new(seconds.context("no time")?, nanoseconds.unwrap_or(0)),
            query_time,
        })
    }
}

impl fmt::Display for Record {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = |address: Option<IpAddr>| {
            address.map_or_else(|| "?".to_owned(), |address| address.to_string())
        };
        write!(
            formatter,
            "{} {} [{}]:{} -> [{}]:{} {}",
            self.kind.as_str_name(),
            self.protocol.as_str_name(),
            address(self.query_address),
            self.query_port,
            address(self.response_address),
            self.response_port,
            wire::describe(&self.message),
        )
    }
}

/// Returns all records of a complete Frame Streams file.
pub(crate) fn read(path: &Path) -> Result<Vec<Record>> {
    let (records, end) = read_up_to_the_end(path)?;
    end.with_context(|| {
        format!(
            "{} ends badly after {} frames",
            path.display(),
            records.len()
        )
    })?;
    Ok(records)
}

/// Returns the records of a file up to its end, and whether it ended correctly, with STOP.
pub(crate) fn read_up_to_the_end(path: &Path) -> Result<(Vec<Record>, Result<()>)> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut records = Vec::new();
    let mut reader = match Reader::new(file, DNSTAP_CONTENT_TYPE) {
        Ok(reader) => reader,
        Err(error) => return Ok((records, Err(error.into()))),
    };
    loop {
        match reader.next_frame() {
            Ok(Some(frame)) => {
                let record = Record::parse(&frame.payload)
                    .with_context(|| format!("{}: frame {}", path.display(), records.len()))?;
                records.push(record);
            }
            Ok(None) => return Ok((records, Ok(()))),
            Err(error) => return Ok((records, Err(error.into()))),
        }
    }
}

/// Returns `AUTH_QUERY` or `AUTH_RESPONSE`, which stand for "a query" and "a response".
pub(crate) fn plain_kind(response: bool) -> message::Type {
    if response {
        message::Type::AuthResponse
    } else {
        message::Type::AuthQuery
    }
}

/// Returns whether the kind is a response: responses have even numbers.
fn is_response_kind(kind: message::Type) -> bool {
    kind as i32 % 2 == 0
}

fn address(family: SocketFamily, bytes: Option<&[u8]>) -> Result<Option<IpAddr>> {
    let Some(bytes) = bytes else { return Ok(None) };
    Ok(Some(match family {
        SocketFamily::Inet => IpAddr::from(<[u8; 4]>::try_from(bytes)?),
        SocketFamily::Inet6 => IpAddr::from(<[u8; 16]>::try_from(bytes)?),
        #[expect(unreachable_patterns, reason = "families that the format may gain")]
        other => bail!("family {other:?} with an address"),
    }))
}

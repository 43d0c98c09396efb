//! Collectors behind sockets, which receive Frame Streams over `unix:PATH`, `tcp:HOST:PORT` and
//! `tls:HOST:PORT,...`.

mod backoff;
mod connection;
#[cfg(test)]
mod tests;
mod writer;

use self::writer::CollectorWriter;
use super::{
    queue::{
        Policy,
        sink_thread::{Inlet, no_runtime},
    },
    report::{SinkState, Takes},
    sink::{About, Mistake, Opened, Sink, Typed},
};
use crate::host::{
    net::{self, Address, AddressError},
    sandbox::NeededPrivileges,
};

/// A collector. It need not be reachable at the start, and may go away and return.
#[derive(Debug, PartialEq)]
pub(super) struct Collector(pub(super) Address);

impl Typed for Collector {
    fn parse(form: &str, rest: &str) -> Result<Self, Mistake> {
        let text = format!("{form}:{rest}");
        let address = text
            .parse()
            .and_then(|address: Address| match address.port() {
                Some(0) => Err(AddressError::HostPort(text.clone())),
                _ => Ok(address),
            });
        match address {
            Ok(address) => Ok(Self(address)),
            Err(error) => Err(Mistake::Other(error.to_string())),
        }
    }
}

impl Sink for Collector {
    fn name(&self) -> String {
        self.0.to_string()
    }

    /// Needs file access for unix sockets and certificates.
    fn privileges(&self) -> NeededPrivileges {
        NeededPrivileges {
            paths: !matches!(self.0, Address::Tcp { .. }),
            ..NeededPrivileges::default()
        }
    }

    fn policy(&self) -> Policy {
        Policy::DropOldest
    }

    fn shows_events(&self) -> bool {
        true
    }

    fn open(&self, takes: Takes, _: &About) -> Result<Opened, String> {
        let address = self.0.clone();
        if let Address::Tls(tls) = &address {
            net::connector(tls).map_err(|error| error.to_string())?;
        }
        let content_type = takes.content_type();
        Ok(Box::new(move |account| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| no_runtime(&error))?;
            account.become_state(SinkState::Waiting("not connected yet".to_owned()));
            Ok(Box::new(move |inlet: Inlet| {
                runtime.block_on(CollectorWriter::run(address, content_type, inlet));
                // Do not wait for a name look-up, which cannot be interrupted.
                runtime.shutdown_background();
            }))
        }))
    }
}

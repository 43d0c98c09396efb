//! Observation of a running command: metrics over HTTP, `status` over a unix socket, and
//! notifications to systemd.
//!
//! ```text
//! reader thread ── snapshot, once a second ──► watch ─┬─► metrics   (TCP, HTTP)
//!                                                     ├─► status    (unix socket, owner only)
//!                                                     └─► sd_notify (WATCHDOG=1, STATUS=)
//! ```
//!
//! Each client gets the newest snapshot. No client can make the reader wait. Only counts are shown,
//! never a name or an address from a DNS message.

mod families;
mod http;
pub(crate) mod metrics;
mod notify;
mod published;
mod socket;
pub(crate) mod summary;

use std::{io, net::SocketAddr, path::PathBuf, str::FromStr, sync::Arc};

use anyhow::{Result, anyhow};
use clap::Args;
use tokio::{sync::watch, task::JoinSet};
use tracing::{info, warn};

pub(crate) use self::socket::sockets;
pub(crate) use self::{
    families::Families,
    notify::{reloaded, reloading, stopping},
    published::{Published, Publisher},
    socket::folder,
};
use crate::host::{
    exit::{Exit, ExitWith},
    net::SocketFile,
};

/// Receiver of the newest snapshot; `None` before the first.
pub(crate) type Newest = watch::Receiver<Option<Arc<Published>>>;

/// Options on who may watch.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Observation")]
pub struct Observe {
    /// Serve Prometheus metrics over HTTP, at /metrics. There is no authentication: use a loopback address, such as
    /// 127.0.0.1:9353
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics: Option<SocketAddr>,

    /// Where `dnstap-agent status` finds this process, for its owner only; `none` for nowhere [default: a file in
    /// /run/dnstap-agent, or in `$RUNTIME_DIRECTORY`]
    #[arg(long, value_name = "PATH")]
    pub status_socket: Option<StatusSocket>,
}

/// Place of the status socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StatusSocket {
    /// No status socket.
    None,
    /// A socket at this path.
    Path(PathBuf),
}

impl FromStr for StatusSocket {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "" => Err("a path, or none".to_owned()),
            "none" => Ok(Self::None),
            path => Ok(Self::Path(path.into())),
        }
    }
}

/// The bound sockets. They are bound first, so that problems are known before anything is attached.
#[derive(Debug)]
pub(crate) struct Observer {
    subject: String,
    metrics: Option<std::net::TcpListener>,
    status: Option<(std::os::unix::net::UnixListener, SocketFile)>,
}

/// The running tasks. Dropping this ends them and removes the status socket.
#[derive(Debug)]
pub(crate) struct Watching {
    _tasks: JoinSet<()>,
    _file: Option<SocketFile>,
}

impl Observer {
    /// Binds the sockets that the options ask for. `name` distinguishes the status socket in its
    /// folder; `subject` describes in words what is observed.
    pub(crate) fn bind(options: &Observe, name: &str, subject: String) -> Result<Self> {
        let metrics = options.metrics.map(listen).transpose()?;
        let status = match &options.status_socket {
            Some(StatusSocket::None) => None,
            Some(StatusSocket::Path(path)) => Some(socket::listen(path).map_err(|problem| {
                anyhow!(ExitWith(
                    Exit::NoInput,
                    format!(
                        "cannot listen on --status-socket {}: {problem}",
                        path.display()
                    )
                ))
            })?),
            // The default socket was not asked for, so its failure is no error.
            None => match socket::listen_in(&folder(), name) {
                Ok(bound) => Some(bound),
                Err(problem) => {
                    info!("no status socket in {}: {problem}", folder().display());
                    None
                }
            },
        };
        Ok(Self {
            subject,
            metrics,
            status,
        })
    }

    /// Starts to answer on the current runtime, and notifies systemd that the command is ready.
    pub(crate) fn serve(self, newest: &Newest) -> io::Result<Watching> {
        let mut tasks = JoinSet::new();
        if let Some(listener) = self.metrics {
            info!("metrics on http://{}/metrics", listener.local_addr()?);
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tasks.spawn(http::serve(listener, newest.clone()));
        }
        notify::ready(&self.subject);
        tasks.spawn(notify::serve(newest.clone()));
        let mut file = None;
        if let Some((listener, its)) = self.status {
            let listener = tokio::net::UnixListener::from_std(listener)?;
            tasks.spawn(socket::serve(listener, newest.clone(), self.subject));
            file = Some(its);
        }
        Ok(Watching {
            _tasks: tasks,
            _file: file,
        })
    }
}

fn listen(address: SocketAddr) -> Result<std::net::TcpListener> {
    if !address.ip().is_loopback() {
        warn!(%address, "the metrics can be read from other hosts");
    }
    let bound = std::net::TcpListener::bind(address)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
    bound.map_err(|error| {
        anyhow!(ExitWith(
            Exit::NoInput,
            format!("cannot listen on --metrics {address}: {error}")
        ))
    })
}

//! Clients that send queries all the time, and pause while the server is restarted. Every query must be answered.

use std::{
    net::{SocketAddr, TcpStream},
    sync::{
        Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, Scope},
    time::Duration,
};

use anyhow::{Result, ensure};
use socket2::SockRef;

use crate::{
    load::client::{TcpClient, UdpClient},
    wire,
};

/// Number of queries that a client sends before it checks whether it should pause.
const ROUND: u16 = 20;
/// Pause of a client after a round. It keeps the load at a few thousand messages a second, and leaves the machine time
/// for other work.
const REST: Duration = Duration::from_millis(40);
/// Number of clients over UDP.
const UDP_CLIENTS: u16 = 2;

/// The clients' common state.
#[derive(Default)]
pub(super) struct Clients {
    stop: AtomicBool,
    /// Lock that is held for reading during a round, and for writing while the server is down.
    asking: RwLock<()>,
    answered: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Clients {
    /// Starts them.
    pub(super) fn start<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        server: SocketAddr,
    ) {
        for client in 0..=UDP_CLIENTS {
            scope.spawn(move || {
                while !self.stop.load(Ordering::Relaxed) {
                    let asking = self.asking.read().unwrap_or_else(PoisonError::into_inner);
                    let round = if client == 0 {
                        over_tcp(server)
                    } else {
                        over_udp(server)
                    };
                    drop(asking);
                    match round {
                        Ok(()) => {
                            self.answered.fetch_add(ROUND.into(), Ordering::Relaxed);
                        }
                        Err(error) => self
                            .failures
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(format!("{error:#}")),
                    }
                    thread::sleep(REST);
                }
            });
        }
    }

    /// Runs `action` while no query is in flight.
    pub(super) fn paused<T>(&self, action: impl FnOnce() -> T) -> T {
        let _asking = self.asking.write().unwrap_or_else(PoisonError::into_inner);
        action()
    }

    /// Tells the clients to end.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Returns the number of answered queries.
    pub(super) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Returns the failures, one text for each round.
    pub(super) fn failures(&self) -> Vec<String> {
        self.failures
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn over_udp(server: SocketAddr) -> Result<()> {
    let mut client = UdpClient::connect(server)?;
    for id in 0..ROUND {
        client.send(&question(id))?;
        expect(id, &client.receive()?)?;
    }
    Ok(())
}

fn over_tcp(server: SocketAddr) -> Result<()> {
    let mut client = TcpClient::connect(server)?;
    let questions: Vec<_> = (0..ROUND).map(question).collect();
    client.send_together(&questions)?;
    for _ in 0..ROUND {
        // Responses over one connection may arrive in any order.
        let answer = client.receive()?;
        ensure!(wire::is_response(&answer), "not an answer");
    }
    Ok(())
}

fn question(id: u16) -> Vec<u8> {
    wire::query(
        id,
        &format!("h{id}.soak.lab"),
        wire::TYPE_A,
        id.is_multiple_of(2),
    )
}

fn expect(id: u16, answer: &[u8]) -> Result<()> {
    ensure!(
        answer.starts_with(&id.to_be_bytes()),
        "an answer to another question"
    );
    Ok(())
}

/// Opens connections, sends a query and half of the next on each, and resets them.
pub(super) fn tear(server: SocketAddr, connections: u16) -> Result<()> {
    use std::io::Write as _;
    for id in 0..connections {
        let mut stream = TcpStream::connect(server)?;
        let framed = wire::framed(&question(id));
        stream.write_all(&framed)?;
        stream.write_all(&framed[..framed.len() / 2])?;
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    }
    Ok(())
}

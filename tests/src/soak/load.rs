//! Clients that ask all the time, and make a pause while the server is restarted: every question must be answered.

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

/// Questions that a client asks without a look at whether it should pause.
const ROUND: u16 = 20;
/// Pause of a client after a round, so that the load is some thousand messages a second and leaves room on the machine.
const REST: Duration = Duration::from_millis(40);
/// Clients over UDP.
const UDP_CLIENTS: u16 = 2;

/// The clients' common state.
#[derive(Default)]
pub(super) struct Clients {
    stop: AtomicBool,
    /// Held for reading during a round, for writing while the server is away.
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

    /// Does something while no question is under way.
    pub(super) fn paused<T>(&self, action: impl FnOnce() -> T) -> T {
        let _asking = self.asking.write().unwrap_or_else(PoisonError::into_inner);
        action()
    }

    /// Has them end.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// How many questions were answered.
    pub(super) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// What went wrong, one text for each round.
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
        // Answers over one connection may come in any order.
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

/// Opens connections, sends a question and half of the next on each, and resets them.
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

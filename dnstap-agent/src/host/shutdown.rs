//! Owns the end of a command: the signals that ask for it, and the one deadline by which everything is to be over.

use std::{
    io,
    time::{Duration, Instant},
};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// How long the end may take altogether: less than `TimeoutStopSec` of the unit, after which systemd kills.
pub const GRACE: Duration = Duration::from_secs(10);

/// The moment by which a command that begins to end now has to be over. It is handed to each part that may wait.
#[must_use]
pub fn deadline() -> Instant {
    Instant::now() + GRACE
}

/// SIGINT and SIGTERM, which ask for an end in order.
#[derive(Debug)]
pub struct Shutdown {
    interrupt: Signal,
    terminate: Signal,
}

impl Shutdown {
    /// From now on these signals do not end the process by themselves. To be called on a runtime, and before anything that a
    /// signal should not leave behind. Fails if the system takes no handler.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for one of them, and says which has come. Nothing is lost if the future is dropped.
    pub async fn asked(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "interrupted (SIGINT)",
            _ = self.terminate.recv() => "terminated (SIGTERM)",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_comes_before_systemd_kills() {
        let unit = include_str!("../../../packaging/dnstap-agent.service");
        let limit = unit
            .lines()
            .find_map(|line| line.strip_prefix("TimeoutStopSec="));
        let limit = limit.expect("it has one").parse().expect("seconds");
        // Threads that take no notice of the deadline are left behind within a second.
        assert!(GRACE + Duration::from_secs(1) < Duration::from_secs(limit));
    }

    #[tokio::test]
    async fn a_signal_is_heard_and_named() {
        let mut shutdown = Shutdown::listen().expect("handlers");
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM)
            .expect("ourselves");
        assert_eq!(shutdown.asked().await, "terminated (SIGTERM)");
    }
}

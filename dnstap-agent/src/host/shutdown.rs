//! The end of a command: the signals that ask for it, and the common deadline.

use std::{
    io,
    time::{Duration, Instant},
};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Time for the whole end: less than `TimeoutStopSec` of the unit, after which systemd kills the
/// process.
pub const GRACE: Duration = Duration::from_secs(10);

/// Returns the time by which a command that begins to end now must have ended. It is passed to each
/// part that may wait.
#[must_use]
pub fn deadline() -> Instant {
    Instant::now() + GRACE
}

/// SIGINT and SIGTERM, which ask for an orderly end.
#[derive(Debug)]
pub struct Shutdown {
    interrupt: Signal,
    terminate: Signal,
}

impl Shutdown {
    /// Installs handlers, so that these signals no longer end the process by themselves. Call this
    /// on a runtime, before creating anything that must be cleaned up. Fails if the system accepts
    /// no handler.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for a signal and returns its description. Dropping the future loses nothing.
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
        // Threads that ignore the deadline are left behind within a second.
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

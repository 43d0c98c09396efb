//! What the agent needs of the machine it runs on: exit codes, log, privileges, clocks, memory, sockets.

pub mod cgroup;
pub mod clock;
pub mod exit;
pub mod log;
pub mod memory;
pub mod net;
pub mod poll;
pub mod preflight;
pub mod sandbox;
pub mod shutdown;
pub mod units;
pub mod version;

/// Tells that the test of this thread cannot run here, past the harness, which would keep the text for itself.
#[cfg(test)]
pub(crate) fn skip(why: &str) {
    use std::io::Write as _;
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let _told = writeln!(std::io::stderr(), "SKIP {test}: {why}");
}

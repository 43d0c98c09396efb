//! Services of the host: exit codes, log, privileges, clocks, memory, sockets.

pub mod cgroup;
pub mod clock;
pub mod exit;
pub(crate) mod http;
pub(crate) mod kafka;
pub mod log;
pub mod memory;
pub mod net;
pub mod poll;
pub mod preflight;
pub mod sandbox;
pub mod shutdown;
pub mod units;
pub mod version;

/// Reports that this thread's test cannot run here. Writes past the test harness, which would hide
/// the text.
#[cfg(test)]
pub(crate) fn skip(why: &str) {
    use std::io::Write as _;
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let _told = writeln!(std::io::stderr(), "SKIP {test}: {why}");
}

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

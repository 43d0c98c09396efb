//! The agent's library: from the records of the kernel's ring to dnstap outputs.
//!
//! The modules, from the top down. A module imports only modules below it (`cargo xtask modules
//! --graph`):
//!
//! ```text
//! commands   what each command does: attach, receive, read, report, top, status, check
//! config     command line, environment and file together
//! cli        what may be typed
//! observe    summary, metrics, status socket, systemd
//! sources    where messages come from: the tap, programs that send dnstap, files
//! sinks      where frames go: files, collectors, functions of this process
//! report     the page of `report`: what it counts, and how it looks
//! tally      counts of messages, for `top` and `report`
//! select     which messages `read` and `report` are asked for
//! formats    text, JSON, YAML, packets
//! host       what the agent needs of the machine: log, exit codes, privileges, clocks, sockets
//! ```
//!
//! The crate `dnstap-core` handles messages between a source and a sink.

// `print!` and `eprint!` panic if the reader is gone; `log::say` does not.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod cli;
mod commands;
pub mod config;
pub mod formats;
pub mod host;
mod observe;
mod report;
pub mod select;
pub mod sinks;
pub mod sources;
mod tally;

pub use commands::run;

//! The agent's library: from the records of the kernel's ring to dnstap outputs.
//!
//! The modules, from the top down. A module imports only modules below it, which
//! `cargo xtask modules --graph` shows:
//!
//! ```text
//! commands   the commands: attach, receive, read, report, top, status, check
//! config     command line, environment and file together
//! cli        definition of the command line
//! observe    summary, metrics, status socket, systemd
//! sources    sources of messages: the tap, programs that send dnstap, files
//! sinks      outputs for frames: files, collectors, functions of this process
//! report     the page of `report`: its counts and its layout
//! tally      counts of messages, for `top` and `report`
//! select     selection of messages for `read` and `report`
//! formats    text, JSON, YAML, packets
//! host       services of the host: log, exit codes, privileges, clocks, sockets
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

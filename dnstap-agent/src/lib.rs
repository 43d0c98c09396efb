//! The agent's library: from the records of the kernel's ring to dnstap outputs.
//!
//! Module names tell the journey of a message:
//!
//! ```text
//! target -> tap (ring) -> event -> assemble -> stream -> classify -> pair -> anonymise -> encode -> sink
//!                         \____________________ pipeline (pure) _____________________/
//! ```
//!
//! `event` to `encode` are pure: bytes and a time in, values out; no sockets, maps or clocks.

// They panic when nobody reads any more: `log::say` does not.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod cli;
pub mod commands;
pub mod config;
pub mod formats;
pub mod host;
pub mod observe;
pub mod select;
pub mod sinks;
pub mod sources;

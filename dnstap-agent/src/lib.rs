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

pub mod attach;
pub mod check;
pub mod cli;
pub mod clock;
pub mod config;
pub mod content;
pub mod exit;
pub mod generate;
pub mod log;
pub mod memory;
pub mod observe;
pub mod pcap;
pub mod preflight;
pub mod read;
pub mod receive;
pub mod reload;
pub mod render;
pub mod sandbox;
pub mod select;
pub mod sink;
pub mod socket;
pub mod status;
pub mod summary;
pub mod tap;
pub mod target;
pub mod top;
pub mod version;

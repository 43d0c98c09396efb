//! Access to the kernel: its memory and structures, the tapped processes and sockets, configuration and counters.

pub(crate) mod config;
pub(crate) mod counters;
pub(crate) mod io_uring;
pub(crate) mod memory;
pub(crate) mod registers;
pub(crate) mod sock;
pub(crate) mod sockets;
pub(crate) mod target;

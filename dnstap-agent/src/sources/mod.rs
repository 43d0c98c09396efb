//! Where messages come from, and which processes are tapped.

pub(crate) mod file;
pub mod processes;
pub mod socket;

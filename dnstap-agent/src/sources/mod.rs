//! Where messages come from, and which processes are tapped.

pub mod processes;
pub mod socket;

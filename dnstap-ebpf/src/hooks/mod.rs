//! The hooks, one file each.

mod life;
mod server;
mod socket;

//! The hooks, one file each.

mod life;
mod socket;

//! What each command does.

pub mod attach;
pub mod check;
pub mod generate;
pub mod read;
pub mod receive;
mod reload;
pub mod status;
pub mod top;

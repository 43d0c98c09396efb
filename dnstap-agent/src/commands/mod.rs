//! What each command does.

pub mod attach;
pub mod check;
pub mod generate;
pub mod pdns;
mod progress;
pub mod read;
pub mod receive;
mod reload;
pub mod report;
pub mod status;
pub mod top;

//! The commands.

pub mod attach;
pub mod check;
pub mod generate;
mod progress;
pub mod read;
pub mod receive;
mod reload;
pub mod report;
pub mod status;
pub mod top;

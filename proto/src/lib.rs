//! dnstap messages and Frame Streams.

pub mod encode;
mod generated;

pub use encode::{DnstapRef, MessageRef, Timestamp};
pub use generated::{
    Dnstap, HttpProtocol, Message, Policy, SocketFamily, SocketProtocol, dnstap, message, policy,
};

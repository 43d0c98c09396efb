//! Reassembles messages: datagrams of several records, and messages in TCP streams.

pub mod datagrams;
pub mod tcp;

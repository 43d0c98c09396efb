//! Puts messages together again: datagrams of several records, and the messages of TCP streams.

pub mod datagrams;
pub mod tcp;

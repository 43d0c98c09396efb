//! The pure core of the agent: from a record of the kernel's ring to a dnstap frame, and the account of both.
//!
//! Everything here takes bytes and times and returns values. There are no sockets, files, maps, threads or clocks, so
//! all of it can be tested, measured and fuzzed without a kernel. The modules, in the order of a message's journey:
//!
//! ```text
//! record -> event -> reassemble -> classify -> pair -> privacy -> encode -> frame
//!           \______________________ pipeline _______________________/
//! ```
//!
//! Below them are the modules that they share: [`model`] (the values), [`dns`] (the reader of DNS messages), [`lru`],
//! [`histogram`] and `counters`. Above them is [`account`]: the sum of all counters, and the laws that they obey.

#![forbid(unsafe_code)]

pub mod model;

pub mod counters;
pub mod dns;
pub mod histogram;
pub mod lru;

pub mod event;

pub mod reassemble;

pub mod classify;

pub mod pair;

pub mod privacy;

pub mod encode;

pub mod account;

pub mod pipeline;

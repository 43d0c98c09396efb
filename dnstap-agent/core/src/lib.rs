//! The pure core of the agent: converts records of the kernel's ring to dnstap frames, and accounts
//! for both.
//!
//! All functions take bytes and times and return values. There are no sockets, files, maps, threads
//! or clocks, so everything can be tested, measured and fuzzed without a kernel. The modules, in
//! the order in which a message passes them:
//!
//! ```text
//! record -> record -> reassemble -> classify -> pair -> privacy -> encode -> frame
//!            \______________________ pipeline _______________________/
//! ```
//!
//! Below them are the modules that they share: [`model`] (values), [`dns`] (the parser of DNS
//! messages), [`lru`], [`histogram`] and `counters`. Above them is [`account`]: all counters
//! together, and the laws that they obey.

#![forbid(unsafe_code)]

pub mod model;

pub mod counters;
pub mod dns;
pub mod histogram;
pub mod lru;

pub mod record;

pub mod reassemble;

pub mod classify;

pub mod pair;

pub mod privacy;

pub mod encode;

pub mod events;

pub mod account;

pub mod pipeline;

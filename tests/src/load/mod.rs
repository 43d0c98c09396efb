//! The traffic: bulk by `dnsperf`, unusual framing by our own client, and a mixture of everything by the tools that
//! operators use.

pub(crate) mod client;
pub(crate) mod dnsperf;
pub(crate) mod exact;
pub(crate) mod mixed;
pub(crate) mod proxied;
pub(crate) mod tools;
pub(crate) mod tree;

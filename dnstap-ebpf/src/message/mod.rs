//! From a call to a record: where the message lies, whether it is wanted, and its way into the ring.

pub(crate) mod call;
pub(crate) mod coalesced;
pub(crate) mod emit;
pub(crate) mod filter;
pub(crate) mod multipath;
pub(crate) mod payload;
pub(crate) mod work;

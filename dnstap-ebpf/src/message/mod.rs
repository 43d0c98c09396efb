//! The way of a message from the call to the record: finds the bytes, applies the filters, and sends the message to the
//! ring.

pub(crate) mod call;
pub(crate) mod coalesced;
pub(crate) mod emit;
pub(crate) mod filter;
pub(crate) mod multipath;
pub(crate) mod notice;
pub(crate) mod payload;
pub(crate) mod work;

//! Passive DNS: the RRsets that a resolver received, the zone that vouches for each, the times of its first and last
//! sighting, and the number of sightings.
//!
//! ```text
//! dnstap frame ─► accept ─► message ─► bailiwick ─► front ─► store ─► query ─► output
//!                 │         │          │            │        │        │        JSON, text, CSV
//!                 │         │          │            │        │        finds the RRsets that a query is for
//!                 │         │          │            │        on disk; atomic writes; index by owner, data, address
//!                 │         │          │            combines repeated sightings in memory
//!                 │         │          finds the zone that vouches for the RRset; without one it is discarded
//!                 │         splits a response into RRsets in canonical form
//!                 accepts complete answers to the resolver's own questions
//! ```
//!
//! `collect` combines the stages up to the store. `exchange` reads and writes the lines that stores exchange, with the
//! help of `presentation`. `name` and `rdata` are the lowest layer.
//!
//! The store keeps no address of a client or a resolver, and not the address of the server that sent a response.

#![forbid(unsafe_code)]

mod accept;
mod bailiwick;
mod collect;
pub mod exchange;
mod front;
mod message;
mod name;
mod output;
mod presentation;
mod query;
mod rdata;
mod store;

pub use self::{
    accept::{Discard, PATIENCE, Pairing},
    bailiwick::ROOT_SERVERS,
    collect::{Collector, Counts, Options},
    name::{Name, NameError},
    output::{Format, cof, dnsdb},
    presentation::parse as parse_rdata,
    query::{Answer, Answers, Fence, Kinds, Names, Query, SortKey, What, addresses, sort},
    rdata::text as rdata_text,
    store::{Counted, Mark, Removed, Retention, Rrset, Seen, Stats, Store, StoreError},
};

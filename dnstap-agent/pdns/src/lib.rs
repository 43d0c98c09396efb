//! Passive DNS: which RRsets a resolver was given, on whose word, from when to when, and how often.
//!
//! ```text
//! dnstap frame ─► accept ─► message ─► bailiwick ─► front ─► store ─► query ─► output
//!                 │         │          │            │        │        │        JSON, text, CSV
//!                 │         │          │            │        │        which RRsets are asked for
//!                 │         │          │            │        on disk, atomic, found by owner, data, address
//!                 │         │          │            folds what comes again
//!                 │         │          the zone on whose word it is taken; none: left out
//!                 │         RRsets in canonical form
//!                 an answer to the resolver's own question, whole
//! ```
//!
//! `collect` puts the first half together. `exchange` reads and writes what other stores do, with `presentation`. Below all are `name` and
//! `rdata`.
//!
//! No address of a client, a resolver or a server is kept.

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

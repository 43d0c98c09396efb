//! The outputs: files in several formats, and collectors behind sockets. Several run at once; none
//! can disturb another or the tap.
//!
//! ```text
//! ring's reader, or receive: send -+-> queue (bytes-bounded) -> thread: sink
//!                                  |-> queue                 -> thread: sink
//!                                  \-> full: dropped and counted, for that sink only
//! ```
//!
//! `forms` has the table of all kinds of output, and `sink` the interface of a kind. `queue` passes
//! the messages to a sink's thread, `report` has the sink's account, and `set` all sinks of a
//! command while they are added and removed. `file`, `collector`, `kafka`, `page`,
//! `passive` and `function` are the kinds.
//!
//! [`SinkSet::send`] never blocks. Each sink accounts for every message it was sent
//! ([`SinkReport`]): `sent = written + dropped (by reason) + still queued`.
//!
//! An output that cannot be opened is an error before the tap starts, with cause and remedy. An
//! output that fails later ends permanently, gives the reason in its report, and counts the
//! messages that it misses. A full disk is different: it may get room again. A collector need not
//! be reachable at the start, and may go away and return.

mod batch;
mod collector;
mod file;
mod forms;
mod function;
mod kafka;
mod page;
mod passive;
mod queue;
mod report;
mod set;
mod sink;

pub use self::{
    batch::Batch,
    forms::{OutputSpec, SpecError},
    function::Consumer,
    report::{Broker, Delay, Dropped, Files, Health, Records, SinkReport, SinkState, Takes},
    set::{OpenError, Reopener, SinkOptions, SinkSet},
};

//! Owns the outputs: files of several forms, collectors behind sockets; several at once, none able to harm another or the tap.
//!
//! ```text
//! ring's reader, or receive: send -+-> queue (bytes-bounded) -> thread: sink
//!                                  |-> queue                 -> thread: sink
//!                                  \-> full: dropped and counted, for that sink only
//! ```
//!
//! `forms` has the table of all kinds of output, `sink` what each of them has to say. `queue` takes the messages to a sink's
//! thread, `report` has its account, `set` all sinks of a command while they come and go. `file`, `collector`, `page`,
//! `passive` and `function` are the kinds.
//!
//! [`SinkSet::send`] never blocks. Each sink accounts for every message it was sent ([`SinkReport`]):
//! `sent = written + dropped (by reason) + still queued`.
//!
//! It refuses to guess: an output that cannot be opened is an error before the tap starts, with the cause and the fix.
//! An output that fails later ends for good, says why in its report, and counts what it misses; but a full disk may get
//! room again. A collector need not be there at the start, and may go and come back.

mod batch;
mod collector;
mod file;
mod forms;
mod function;
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
    report::{Delay, Dropped, Files, Health, SinkReport, SinkState, Takes},
    set::{OpenError, Reopener, SinkOptions, SinkSet},
};

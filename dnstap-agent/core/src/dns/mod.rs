//! The parser of DNS messages (RFC 1035 section 4). It borrows the bytes, and accepts any bytes
//! without a panic.
//!
//! - `judge` decides whether bytes are a DNS message, and what it asks. The tap uses it, because it
//!   sees bytes at unknown positions.
//! - `message` reads header, questions and records of a message in place. It serves code that shows
//!   or selects messages.
//! - `name` reads names, compressed or not.
//! - `rdata` prints record data in presentation form. `edns` reads the OPT record and its options.
//! - `mnemonics` has the mnemonics of types, classes, opcodes and response codes.

mod edns;
mod judge;
mod message;
mod mnemonics;
mod name;
mod rdata;
mod wire;

#[cfg(test)]
pub(crate) use self::judge::fixture;
pub(crate) use self::{
    edns::option_places,
    judge::{Fit, Flags, HEADER, Message, PREFIX, are_messages, extent, fit, fit_in, frame, split},
};
pub use self::{
    edns::{Member, Opt, OptOption, Value as OptValue, error_purpose, option_name},
    message::{Dns, FLAGS, Question, Record, Records},
    mnemonics::{Class, Opcode, Rcode, Type},
    name::{LONGEST_NAME, Label, Name, Quoted},
    rdata::Rdata,
    wire::WireError,
};

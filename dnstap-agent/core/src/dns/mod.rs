//! The reader of DNS messages (RFC 1035 section 4). It borrows the bytes, and takes any bytes without a panic.
//!
//! - `judge`: is this a DNS message at all, and what does it ask? For the tap, which sees bytes at unknown places.
//! - `message`: header, questions and records of a message, where they lie. For those that show or choose messages.
//! - `name`: names, compressed or not.
//! - `rdata`: record data in presentation form. `edns`: the OPT record and its options.
//! - `mnemonics`: words for types, classes, opcodes and response codes.

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

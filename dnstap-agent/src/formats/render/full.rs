//! The lines below the line of text: every question and record, indented by two spaces. If a frame
//! has a query and a response, the other message follows, indented by four.
//!
//! ```text
//!   question example.com. IN A
//!   answer example.com. 3600 IN A 192.0.2.7
//!   edns version 0, udp 1232, do
//!     option 10 COOKIE: client 0011223344556677
//! ```

use std::io::{self, Write as _};

use data_encoding::HEXLOWER;
use dnstap_core::dns::{Dns, Opt, Rdata, WireError};
use dnstap_proto::Dnstap;

use super::{colour::Colours, edns::Edns, socket, text};
use crate::formats::counted;

const SECTIONS: [&str; 4] = ["question", "answer", "authority", "additional"];

/// Appends the lines for all records in a frame's messages.
pub(super) fn records(dnstap: &Dnstap, colours: Colours, out: &mut Vec<u8>) {
    let Some(message) = &dnstap.message else {
        return;
    };
    socket::dns(message)
        .map_or(Ok(()), |bytes| write("  ", bytes, out))
        .and_then(|()| match socket::other_dns(message) {
            Some(other) => write_other(socket::is_response(message), other, colours, out),
            None => Ok(()),
        })
        .unwrap_or_else(|_| unreachable!("a Vec takes all"));
}

/// Appends the other message of the frame: the query of a response, or the response of a query.
fn write_other(
    is_query: bool,
    bytes: &[u8],
    colours: Colours,
    out: &mut Vec<u8>,
) -> io::Result<()> {
    let what = if is_query { "query" } else { "response" };
    write!(out, "  with {what} {}b ", bytes.len())?;
    match Dns::parse(bytes) {
        Ok(dns) => text::write_dns(&dns, colours, out)?,
        Err(error) => write!(out, "malformed: {error}")?,
    }
    writeln!(out)?;
    write("    ", bytes, out)
}

fn write(indent: &str, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    match write_records(indent, bytes, out)? {
        Ok(0) => Ok(()),
        Ok(trailing) => writeln!(out, "{indent}trailing {}", counted(trailing as u64, "byte")),
        Err(error) => {
            writeln!(out, "{indent}malformed: {error}")?;
            writeln!(out, "{indent}bytes {}", HEXLOWER.encode_display(bytes))
        }
    }
}

/// Appends the records. Returns the number of bytes behind the last record, or the error.
fn write_records(
    indent: &str,
    bytes: &[u8],
    out: &mut Vec<u8>,
) -> io::Result<Result<usize, WireError>> {
    let dns = match Dns::parse(bytes) {
        Ok(dns) => dns,
        Err(error) => return Ok(Err(error)),
    };
    for question in dns.questions() {
        match question {
            Ok(question) => writeln!(
                out,
                "{indent}{} {} {} {}",
                SECTIONS[0], question.name, question.class, question.kind
            )?,
            Err(error) => return Ok(Err(error)),
        }
    }
    let mut records = dns.records();
    for record in &mut records {
        match record {
            Ok((3, record)) if record.is_opt() => {
                for line in Edns(Opt::of(record)).to_string().lines() {
                    writeln!(out, "{indent}{line}")?;
                }
            }
            Ok((section, record)) => writeln!(
                out,
                "{indent}{} {} {} {} {} {}",
                SECTIONS[section],
                record.name,
                record.ttl,
                record.class,
                record.kind,
                Rdata::of(&record)
            )?,
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(records.rest().len()))
}

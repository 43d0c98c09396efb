//! Owns the lines below the line of text: every question and record, two spaces in.
//!
//! ```text
//!   question example.com. IN A
//!   answer example.com. 3600 IN A 192.0.2.7
//!   edns version 0, udp 1232, do, options \# 12 000a0008...
//! ```

use std::io::{self, Write as _};

use dnstap_core::dns::{Dns, Record, WireError};
use dnstap_proto::Dnstap;

use super::{rdata, socket};

const SECTIONS: [&str; 4] = ["question", "answer", "authority", "additional"];

/// Appends the lines of a message's records; nothing if it has none that can be read.
pub(super) fn records(dnstap: &Dnstap, out: &mut Vec<u8>) {
    let dns = dnstap
        .message
        .as_ref()
        .and_then(socket::dns)
        .and_then(|bytes| Dns::parse(bytes).ok());
    if let Some(dns) = dns {
        write(&dns, out).unwrap_or_else(|_| unreachable!("a Vec takes all"));
    }
}

fn write(dns: &Dns<'_>, out: &mut Vec<u8>) -> io::Result<()> {
    for question in dns.questions() {
        match question {
            Ok(question) => writeln!(
                out,
                "  {} {} {} {}",
                SECTIONS[0], question.name, question.class, question.kind
            )?,
            Err(error) => return malformed(error, out),
        }
    }
    for record in dns.records() {
        match record {
            Ok((3, record)) if record.is_opt() => edns(dns, &record, out)?,
            Ok((section, record)) => writeln!(
                out,
                "  {} {} {} {} {} {}",
                SECTIONS[section],
                record.name,
                record.ttl,
                record.class,
                record.kind,
                rdata::text(dns.bytes(), &record)
            )?,
            Err(error) => return malformed(error, out),
        }
    }
    Ok(())
}

/// RFC 6891 section 6.1.2: class and TTL mean other things in an OPT record.
fn edns(dns: &Dns<'_>, record: &Record<'_>, out: &mut Vec<u8>) -> io::Result<()> {
    let [_, version, flags, _] = record.ttl.to_be_bytes();
    let dnssec_ok = if flags & 0x80 == 0 { "" } else { ", do" };
    write!(
        out,
        "  edns version {version}, udp {}{dnssec_ok}",
        record.class.0
    )?;
    if record.length > 0 {
        write!(out, ", options {}", rdata::hexadecimal(dns.bytes(), record))?;
    }
    writeln!(out)
}

fn malformed(error: WireError, out: &mut Vec<u8>) -> io::Result<()> {
    writeln!(out, "  malformed: {error}")
}

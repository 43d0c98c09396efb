//! YAML as BIND's `dnstap-read -y` writes it, for scripts that parse that: the same keys in the
//! same order, and the DNS message a second time as a block of text.
//!
//! BIND separates documents by `---` behind each but the last. Here it is written before each but
//! the first, with the same result. If BIND cannot parse a message, its YAML has no message. Fields
//! that BIND does not know are left out here, too. Texts are quoted if they would not be YAML
//! otherwise; BIND never quotes them.

use std::io::{self, Write as _};

use data_encoding::HEXLOWER;
use dnstap_core::{
    dns::{Class, Dns, FLAGS, Opcode, Opt, OptOption, Question, Rcode, Rdata, Record, Type},
    model,
};
use dnstap_proto::{Dnstap, Message, SocketFamily, SocketProtocol};

use super::{edns::Shown, extra, socket, time::Clock, yaml};
use crate::formats::counted;

/// Indentation of the DNS message's lines.
const INDENT: &str = "    ";

/// Columns at which TTL, class, type and data begin in a record's line of text (RFC 1035 section
/// 5.1 does not define any).
const TTL: usize = 24;
const CLASS: usize = 32;
const TYPE: usize = 40;
const DATA: usize = 48;

/// Columns of a tab.
const TAB: usize = 8;

/// Names of the counts and sections, in ordinary messages and in updates (RFC 2136 section 2).
const COUNTS: [[&str; 4]; 2] = [
    ["QUESTION", "ANSWER", "AUTHORITY", "ADDITIONAL"],
    ["ZONE", "PREREQ", "UPDATE", "ADDITIONAL"],
];
const SECTIONS: [[&str; 4]; 2] = [
    ["QUESTION", "ANSWER", "AUTHORITY", "ADDITIONAL"],
    ["ZONE", "PREREQUISITE", "UPDATE", "ADDITIONAL"],
];

/// Appends the YAML document of a message.
pub(super) fn document(dnstap: &Dnstap, clock: &mut Clock, is_first: bool, out: &mut Vec<u8>) {
    if !is_first {
        out.extend_from_slice(b"---\n");
    }
    write(dnstap, clock, out).unwrap_or_else(|_| unreachable!("a Vec takes all"));
}

fn write(dnstap: &Dnstap, clock: &mut Clock, out: &mut Vec<u8>) -> io::Result<()> {
    writeln!(out, "type: MESSAGE")?;
    for (key, text) in [("identity", &dnstap.identity), ("version", &dnstap.version)] {
        if let Some(text) = text {
            write!(out, "{key}: ")?;
            scalar(&extra::text(text), out)?;
            writeln!(out)?;
        }
    }
    let Some(message) = &dnstap.message else {
        return Ok(());
    };
    writeln!(out, "message:")?;
    envelope(message, clock, out)?;
    let Some(bytes) = socket::dns(message) else {
        return Ok(());
    };
    if let Ok(parsed) = Dns::parse(bytes)
        && let Ok(records) = parsed.records().collect::<Result<Vec<_>, _>>()
    {
        let key = if socket::is_response(message) {
            "response"
        } else {
            "query"
        };
        let view = View {
            dns: parsed,
            records,
        };
        writeln!(out, "  {key}_message_data:")?;
        view.data(out)?;
        writeln!(out, "  {key}_message: |")?;
        view.text(out)?;
    }
    Ok(())
}

/// Writes a string, without quotes if it is a string in YAML anyway.
fn scalar(text: &str, out: &mut Vec<u8>) -> io::Result<()> {
    if is_plain(text) {
        out.write_all(text.as_bytes())
    } else {
        yaml::write_text(text, out)
    }
}

/// Returns whether the text needs no quotes in YAML. Numbers of seconds and the like count, because
/// BIND does not quote them either.
fn is_plain(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        && !text.ends_with([':', ' '])
        && !yaml::is_known(text.as_bytes())
        && !text.contains(": ")
        && !text.contains(" #")
}

/// Writes dnstap's own fields of the message.
fn envelope(message: &Message, clock: &mut Clock, out: &mut Vec<u8>) -> io::Result<()> {
    match socket::kind(message) {
        Some(kind) => writeln!(out, "  type: {}", model::long_name(kind))?,
        None => writeln!(out, "  type: {}", message.r#type)?,
    }
    let time = if socket::is_response(message) {
        ("response", socket::response_time(message))
    } else {
        ("query", socket::query_time(message))
    };
    if let (of, Some((seconds, nanoseconds))) = time {
        let mut text = Vec::new();
        if clock.write_time(seconds, nanoseconds, 0, &mut text) {
            write!(out, "  {of}_time: !!timestamp ")?;
            out.extend_from_slice(&text);
            writeln!(out)?;
        }
    }
    let size = socket::dns(message).map_or(0, <[u8]>::len);
    writeln!(out, "  message_size: {size}b")?;
    let family = message.socket_family.map(SocketFamily::try_from);
    if let Some(Ok(family)) = family {
        writeln!(out, "  socket_family: {}", family.as_str_name())?;
    }
    let protocol = message.socket_protocol.map(SocketProtocol::try_from);
    if let Some(Ok(protocol)) = protocol {
        writeln!(out, "  socket_protocol: {}", protocol.as_str_name())?;
    }
    let addresses = [
        ("query", &message.query_address),
        ("response", &message.response_address),
    ];
    for (of, address) in addresses {
        if let Some(address) = socket::address(address.as_deref()) {
            writeln!(out, "  {of}_address: \"{address}\"")?;
        }
    }
    for (of, port) in [
        ("query", message.query_port),
        ("response", message.response_port),
    ] {
        if let Some(port) = port {
            writeln!(out, "  {of}_port: {port}")?;
        }
    }
    if let Some(zone) = socket::zone(message) {
        write!(out, "  query_zone: ")?;
        scalar(&zone.to_string(), out)?;
        writeln!(out)?;
    }
    Ok(())
}

/// A message that could be parsed to its end.
struct View<'a> {
    dns: Dns<'a>,
    /// Records with their sections.
    records: Vec<(usize, Record<'a>)>,
}

impl<'a> View<'a> {
    fn names(table: [[&'static str; 4]; 2], dns: &Dns<'_>) -> [&'static str; 4] {
        table[usize::from(dns.opcode() == Opcode::UPDATE)]
    }

    fn opt(&self) -> Option<Opt<'a>> {
        self.dns.first_opt().map(Opt::of)
    }

    /// Returns the sections' names and their lines.
    fn sections(
        &self,
        of_question: fn(&Question<'_>) -> String,
        of_record: fn(&Record<'_>) -> String,
    ) -> impl Iterator<Item = (&'static str, Vec<String>)> {
        let names = Self::names(SECTIONS, &self.dns).into_iter().enumerate();
        names.map(move |(section, name)| {
            let questions = self.dns.questions().map_while(Result::ok);
            let questions = questions.filter(|_| section == 0);
            let mut lines: Vec<_> = questions.map(|question| of_question(&question)).collect();
            lines.extend(self.section(section).map(|record| of_record(&record)));
            (name, lines)
        })
    }

    /// Returns lines for the signatures, which have a section of their own.
    fn signatures(&self, of_record: fn(&Record<'_>) -> String) -> Vec<String> {
        let records = self.records.iter();
        let signatures =
            records.filter(|(section, record)| *section == 3 && record.kind == Type::TSIG);
        signatures.map(|(_, record)| of_record(record)).collect()
    }

    /// Returns the records of a section, without those that have a section of their own.
    fn section(&self, section: usize) -> impl Iterator<Item = Record<'a>> {
        let of = self.records.iter().filter(move |(of, _)| *of == section);
        of.map(|(_, record)| *record).filter(move |record| {
            section != 3 || !(record.kind == Type::OPT || record.kind == Type::TSIG)
        })
    }

    fn flags(&self) -> String {
        let set = FLAGS.iter().filter(|(_, flag)| self.dns.has(*flag));
        set.flat_map(|(name, _)| [" ", name]).collect()
    }

    fn rcode(&self) -> Rcode {
        self.dns.full_rcode()
    }

    /// Writes the message as YAML members.
    fn data(&self, out: &mut Vec<u8>) -> io::Result<()> {
        let dns = &self.dns;
        writeln!(out, "{INDENT}opcode: {}", dns.opcode())?;
        writeln!(out, "{INDENT}status: {}", self.rcode())?;
        writeln!(out, "{INDENT}id: {}", dns.id())?;
        writeln!(out, "{INDENT}flags:{}", self.flags())?;
        if dns.has(Z) {
            writeln!(out, "{INDENT}MBZ: 0x4")?;
        }
        for (section, name) in Self::names(COUNTS, dns).into_iter().enumerate() {
            writeln!(out, "{INDENT}{name}: {}", dns.count(section))?;
        }
        if let Some(opt) = self.opt() {
            writeln!(out, "{INDENT}OPT_PSEUDOSECTION:")?;
            writeln!(out, "{INDENT}  EDNS:")?;
            writeln!(out, "{INDENT}    version: {}", opt.version())?;
            writeln!(out, "{INDENT}    flags:{}", opt_flags(&opt))?;
            if opt.z() != 0 {
                writeln!(out, "{INDENT}    MBZ: 0x{:04x}", opt.z())?;
            }
            writeln!(out, "{INDENT}    udp: {}", opt.udp_size())?;
            for option in opt.options() {
                write!(out, "{INDENT}    ")?;
                option_data(&option, out)?;
            }
        }
        for (name, lines) in self.sections(question_line, line) {
            list(&format!("{name}_SECTION"), &lines, out)?;
        }
        list("TSIG_PSEUDOSECTION", &self.signatures(line), out)
    }

    /// Writes the message as `dig` prints it.
    fn text(&self, out: &mut Vec<u8>) -> io::Result<()> {
        let dns = &self.dns;
        let (opcode, rcode, id) = (dns.opcode(), self.rcode(), dns.id());
        writeln!(
            out,
            "{INDENT};; ->>HEADER<<- opcode: {opcode}, status: {rcode}, id: {id:>6}"
        )?;
        write!(out, "{INDENT};; flags:{}", self.flags())?;
        if dns.has(Z) {
            write!(out, "{INDENT}; MBZ: 0x4")?;
        }
        let counts = Self::names(COUNTS, dns).into_iter().enumerate();
        let counts: Vec<_> = counts
            .map(|(section, name)| format!("{name}: {}", dns.count(section)))
            .collect();
        writeln!(out, "{INDENT}; {}", counts.join(", "))?;
        if let Some(opt) = self.opt() {
            writeln!(out, "{INDENT};; OPT PSEUDOSECTION:")?;
            write!(
                out,
                "{INDENT}; EDNS: version: {}, flags:{};",
                opt.version(),
                opt_flags(&opt)
            )?;
            if opt.z() != 0 {
                write!(out, " MBZ: 0x{:04x},", opt.z())?;
            }
            writeln!(out, " udp: {}", opt.udp_size())?;
            for option in opt.options() {
                write!(out, "{INDENT}; ")?;
                option_text(&option, out)?;
            }
        }
        for (name, lines) in self.sections(aligned_question, aligned) {
            block(name, &lines, out)?;
        }
        block("TSIG PSEUDO", &self.signatures(aligned), out)
    }
}

/// The bit of the header that must be zero (RFC 1035 section 4.1.1).
const Z: u16 = 0x40;

fn opt_flags(opt: &Opt<'_>) -> String {
    let set = [(" do", opt.dnssec_ok()), (" co", opt.compact_ok())];
    set.into_iter()
        .filter(|(_, is_set)| *is_set)
        .map(|(name, _)| name)
        .collect()
}

/// Writes a list of strings under a key; nothing if the list is empty.
fn list(key: &str, lines: &[String], out: &mut Vec<u8>) -> io::Result<()> {
    if !lines.is_empty() {
        writeln!(out, "{INDENT}{key}:")?;
    }
    for line in lines {
        writeln!(out, "{INDENT}  - '{}'", line.replace('\'', "''"))?;
    }
    Ok(())
}

/// Writes a section of the text; nothing if it is empty.
fn block(name: &str, lines: &[String], out: &mut Vec<u8>) -> io::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    // ";; QUESTION SECTION:", ";; TSIG PSEUDOSECTION:"
    let space = if name.ends_with("PSEUDO") { "" } else { " " };
    writeln!(out, "{INDENT};; {name}{space}SECTION:")?;
    for line in lines {
        writeln!(out, "{INDENT}{line}")?;
    }
    writeln!(out, "{INDENT}")
}

/// Returns a question as a line.
fn question_line(question: &Question<'_>) -> String {
    format!("{} {} {}", question.name, question.class, question.kind)
}

/// Returns a question as a line whose columns match those of records. The leading semicolon takes
/// no column.
fn aligned_question(question: &Question<'_>) -> String {
    let line = columns(
        &question.name.to_string(),
        &[
            (CLASS, question.class.to_string()),
            (TYPE, question.kind.to_string()),
        ],
    );
    format!(";{line}")
}

/// Returns a record as a line.
fn line(record: &Record<'_>) -> String {
    let data = data(record);
    format!(
        "{} {} {} {} {data}",
        record.name, record.ttl, record.class, record.kind
    )
}

/// Returns a record as a line with aligned columns.
fn aligned(record: &Record<'_>) -> String {
    columns(
        &record.name.to_string(),
        &[
            (TTL, record.ttl.to_string()),
            (CLASS, record.class.to_string()),
            (TYPE, record.kind.to_string()),
            (DATA, data(record)),
        ],
    )
}

/// Returns the data. BIND prints nothing for empty data in updates: with class ANY or NONE (RFC
/// 2136 section 2.4).
fn data(record: &Record<'_>) -> String {
    if record.length == 0 && matches!(record.class, Class(254 | 255)) {
        return String::new();
    }
    format!("{:#}", Rdata::of(record))
}

/// Puts texts at their columns with tabs. A text that comes too late starts in the next column.
fn columns(first: &str, others: &[(usize, String)]) -> String {
    let mut line = first.to_owned();
    let mut at = line.len();
    for (column, text) in others {
        let to = (*column).max(at + 1);
        match to / TAB - at / TAB {
            0 => line.push(' '),
            tabs => line.extend(std::iter::repeat_n('\t', tabs)),
        }
        at = to;
        line.push_str(text);
        at += text.len();
    }
    line
}

/// Returns an option's name and value. Both forms use them, except for options with [`option_data`]
/// and [`option_text`].
fn option(option: &OptOption<'_>) -> (String, String) {
    let hex: Vec<_> = option
        .data
        .iter()
        .map(|byte| HEXLOWER.encode(&[*byte]))
        .collect();
    let shown: String = option
        .data
        .iter()
        .map(|byte| match byte {
            b' '..=b'~' => char::from(*byte),
            _ => '.',
        })
        .collect();
    let dump = if option.data.is_empty() {
        String::new()
    } else {
        format!("{} (\"{shown}\")", hex.join(" "))
    };
    let member = |wanted: &str| {
        let mut members = option.members();
        members
            .find(|(name, _)| *name == wanted)
            .map(|(_, value)| Shown(value).to_string())
    };
    let known = match option.code {
        Some(1) => member("version").map(|version| {
            let id = option.data.get(6..14).and_then(|id| id.try_into().ok()).map_or(0, u64::from_be_bytes);
            let text = |name| member(name).unwrap_or_default();
            let (opcode, error, lease) = (text("opcode"), text("error"), text("lease"));
            ("LLQ", format!("Version: {version}, Opcode: {opcode}, Error: {error}, Identifier: {id}, Lifetime: {lease}"))
        }),
        Some(3) => Some(("NSID", dump.clone())),
        Some(8) => member("subnet").zip(member("scope")).map(|(subnet, scope)| {
            ("CLIENT-SUBNET", format!("{subnet}/{scope}"))
        }),
        Some(9) if option.data.is_empty() => Some(("EXPIRE", String::new())),
        Some(9) => member("expire").map(|seconds| {
            let words = seconds.parse().map(lasting).unwrap_or_default();
            ("EXPIRE", format!("{seconds} ({words})"))
        }),
        Some(10) => Some(("COOKIE", HEXLOWER.encode(option.data))),
        Some(11) if option.data.is_empty() => Some(("TCP-KEEPALIVE", String::new())),
        Some(11) => option.data.try_into().ok().map(u16::from_be_bytes).map(|tenths| {
            ("TCP-KEEPALIVE", format!("{}.{} secs", tenths / 10, tenths % 10))
        }),
        Some(12) => Some(("PAD", dump.clone())),
        Some(14) => member("tags").map(|tags| ("KEY-TAG", tags.replace(' ', ", "))),
        Some(16) => member("tag").map(|tag| ("CLIENT-TAG", tag)),
        Some(17) => member("tag").map(|tag| ("SERVER-TAG", tag)),
        _ => None,
    };
    match (known, option.code) {
        (Some((name, value)), _) => (name.to_owned(), value),
        (None, Some(code)) => (format!("OPT={code}"), dump),
        (None, None) => ("OPT".to_owned(), dump),
    }
}

/// Formats an extended error (RFC 8914): an object in one form, a line in the other.
fn error(option: &OptOption<'_>) -> Option<(String, Option<String>)> {
    if option.code != Some(15) {
        return None;
    }
    let ([high, low], text) = option.data.split_first_chunk()?;
    let mut code = u16::from_be_bytes([*high, *low]).to_string();
    if let Some((_, purpose)) = option.members().find(|(name, _)| *name == "purpose") {
        code = format!("{code} ({})", Shown(purpose));
    }
    Some((code, (!text.is_empty()).then(|| extra::escaped(text))))
}

fn option_data(of: &OptOption<'_>, out: &mut Vec<u8>) -> io::Result<()> {
    if let Some((code, text)) = error(of) {
        writeln!(out, "EDE:")?;
        writeln!(out, "{INDENT}      INFO-CODE: {code}")?;
        if let Some(text) = text {
            write!(out, "{INDENT}      EXTRA-TEXT: ")?;
            match str::from_utf8(&of.data[2..]) {
                Ok(text) => yaml::write_quoted(text, out)?,
                Err(_) => yaml::write_quoted(&text, out)?,
            }
            writeln!(out)?;
        }
        return Ok(());
    }
    match option(of) {
        (name, value) if value.is_empty() => writeln!(out, "{name}:"),
        (name, value) => {
            write!(out, "{name}: ")?;
            scalar(&value, out)?;
            writeln!(out)
        }
    }
}

fn option_text(of: &OptOption<'_>, out: &mut Vec<u8>) -> io::Result<()> {
    if let Some((code, text)) = error(of) {
        return match text {
            Some(text) => writeln!(out, "EDE: {code}: ({text})"),
            None => writeln!(out, "EDE: {code}"),
        };
    }
    match option(of) {
        (name, value) if value.is_empty() => writeln!(out, "{}:", name.replace("TCP-", "TCP ")),
        (name, _) if name == "PAD" => writeln!(out, "PAD: ({} bytes)", of.data.len()),
        (name, value) => writeln!(out, "{}: {value}", name.replace("TCP-", "TCP ")),
    }
}

/// Spells out seconds: `1 day 3 hours 46 minutes 40 seconds`.
fn lasting(mut seconds: u32) -> String {
    let mut words = Vec::new();
    for (unit, length) in [
        ("week", 604_800),
        ("day", 86_400),
        ("hour", 3_600),
        ("minute", 60),
        ("second", 1),
    ] {
        let number = seconds / length;
        seconds %= length;
        if number > 0 {
            words.push(counted(number.into(), unit));
        }
    }
    if words.is_empty() {
        words.push("0 seconds".to_owned());
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    /// Columns as BIND counts them: a tab follows if the next column is a multiple of eight.
    #[rstest]
    #[case("a.", "a.\t\t\t60\tIN")]
    #[case("a.name.of.23.characters", "a.name.of.23.characters\t60\tIN")]
    #[case("a.name.of.24..characters", "a.name.of.24..characters 60\tIN")]
    #[case(
        "a.name.of.thirty-one.characters",
        "a.name.of.thirty-one.characters\t60 IN"
    )]
    fn texts_stand_at_their_columns(#[case] name: &str, #[case] line: &str) {
        let others = [(TTL, "60".to_owned()), (CLASS, "IN".to_owned())];
        assert_eq!(columns(name, &others), line);
    }

    #[rstest]
    #[case("BIND 9.18", "BIND 9.18")]
    #[case("ns1.example", "ns1.example")]
    #[case("null", "\"null\"")]
    #[case("a: b", "\"a: b\"")]
    #[case("a #b", "\"a #b\"")]
    #[case("*.example.", "\"*.example.\"")]
    #[case("", "\"\"")]
    fn what_would_not_be_a_string_is_quoted(#[case] text: &str, #[case] written: &str) {
        let mut out = Vec::new();
        scalar(text, &mut out).expect("a Vec takes all");
        assert_eq!(out, written.as_bytes());
    }

    #[test]
    fn times_are_told_in_words() {
        assert_eq!(lasting(100_000), "1 day 3 hours 46 minutes 40 seconds");
        assert_eq!(lasting(0), "0 seconds");
    }
}

//! Rendering of an event: one flat object for JSON and YAML, and one line of text.
//!
//! The members are those of `dnstap_event.proto` with the same names. A member that is not known is left out. Domain names and
//! rdata are in presentation form, addresses are text, types and classes are mnemonics, values of enums are words.
//! `docs/dnstap-event.schema.json` describes the object. A member has the same JSON type in every line, also between kinds.
//!
//! ```text
//! 2026-11-30T17:05:00.123456Z transfer out end example.test. IN 192.0.2.1:40000 AXFR: success, serial 7, 6 messages, 3014 records, 66289 bytes in 0.015 s, key t.
//! 2026-11-30T17:05:01.000000Z NS-CHANGE move.test. IN: ns1.old.test. -> ns1.new.test. TTL 30 from 192.0.2.53:53, offered
//! ```

use std::{fmt::Write as _, net::SocketAddr};

use bytes::Bytes;
use dnstap_core::{
    dns::{Class, Dns, Name, Rdata, Record, Type},
    events::EventKind,
    model,
};
use dnstap_proto::{
    Cache, Event, Expiry, NsChange, Purge, RateLimit, SocketProtocol, Transfer, Trust, Unanswered,
    cache::Outcome,
    event::{Kind, Phase, Source},
    message,
    ns_change::Certainty,
    purge::Scope,
    rate_limit::Category,
    transfer::Direction,
};
use serde::{Serialize, Serializer, ser::SerializeMap as _};

use super::{colour::Colours, extra, socket, time::Clock};

/// An event as names and values, in their order.
#[derive(Debug, Default)]
pub(super) struct Line(Vec<(&'static str, Value)>);

/// Value of a member.
#[derive(Debug)]
enum Value {
    Text(String),
    Number(u64),
    Flag(bool),
    List(Vec<String>),
}

impl Serialize for Line {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            match value {
                Value::Text(text) => map.serialize_entry(name, text)?,
                // Databases store integers in 64 bits with sign.
                Value::Number(number) => {
                    let number = i64::try_from(*number).unwrap_or(i64::MAX);
                    map.serialize_entry(name, &number)?;
                }
                Value::Flag(flag) => map.serialize_entry(name, flag)?,
                Value::List(list) => map.serialize_entry(name, list)?,
            }
        }
        map.end()
    }
}

impl Line {
    /// Builds the members of an event.
    pub(super) fn of(event: &Event, clock: &mut Clock) -> Self {
        let mut line = Self::default();
        if let Some(seconds) = event.time_sec {
            let mut time = Vec::with_capacity(30);
            let nanoseconds = event.time_nsec.unwrap_or_default();
            let fits = seconds < i64::MAX.unsigned_abs() / 1_000_000_000;
            if fits && clock.write_time(seconds, nanoseconds, 9, &mut time) {
                line.text("time", String::from_utf8(time).ok());
            }
        }
        line.text("identity", event.identity.as_deref().map(extra::text));
        line.text("version", event.version.as_deref().map(extra::text));
        let kind = event
            .kind
            .as_ref()
            .map_or("unknown", |kind| EventKind::of(kind).name());
        line.text("kind", Some(kind));
        line.word("phase", event.phase, Phase::as_str_name);
        line.word("source", event.source, Source::as_str_name);
        line.number("pid", event.process_id);
        line.text("view", event.view.as_deref());
        match &event.kind {
            Some(Kind::Transfer(transfer)) => line.transfer(transfer),
            Some(Kind::RateLimit(limit)) => line.rate_limit(limit),
            Some(Kind::Cache(cache)) => line.cache(cache),
            Some(Kind::NsChange(change)) => line.ns_change(change),
            Some(Kind::Purge(purge)) => line.purge(purge),
            Some(Kind::Expiry(expiry)) => line.expiry(expiry),
            Some(Kind::Unanswered(query)) => line.unanswered(query),
            None => {}
        }
        line
    }

    fn transfer(&mut self, transfer: &Transfer) {
        self.word("direction", transfer.direction, Direction::as_str_name);
        self.name("zone", transfer.zone.as_ref());
        self.class(transfer.class);
        self.address("peer_address", transfer.peer_address.as_ref());
        self.number("peer_port", transfer.peer_port);
        self.kind_of_record("requested", transfer.requested);
        self.kind_of_record("answered", transfer.answered);
        self.number("old_serial", transfer.old_serial);
        self.number("new_serial", transfer.new_serial);
        self.name("tsig_key", transfer.tsig_key.as_ref());
        self.number("messages", transfer.messages);
        self.number("records", transfer.records);
        self.number("bytes", transfer.bytes);
        self.number("duration_ns", transfer.duration_ns);
        self.text("status", transfer.status.as_deref());
        self.flag("midway", transfer.midway);
        self.flag("tls", transfer.tls);
    }

    fn rate_limit(&mut self, limit: &RateLimit) {
        self.address("client_address", limit.client_address.as_ref());
        self.number("client_prefix_length", limit.client_prefix_length);
        self.name("name", limit.name.as_ref());
        self.class(limit.class);
        self.kind_of_record("type", limit.r#type);
        self.word("category", limit.category, Category::as_str_name);
        self.flag("log_only", limit.log_only);
        self.number("dropped", limit.dropped);
        self.number("slipped", limit.slipped);
        self.number("duration_ns", limit.duration_ns);
    }

    fn cache(&mut self, cache: &Cache) {
        self.word("outcome", cache.outcome, Outcome::as_str_name);
        self.flag("inferred", cache.inferred);
        self.flag("known_before", cache.known_before);
        self.name("name", cache.name.as_ref());
        self.class(cache.class);
        self.kind_of_record("type", cache.r#type);
        self.kind_of_record("covers", cache.covers);
        self.number("ttl", cache.ttl);
        self.trust("trust", cache.trust);
        self.trust("old_trust", cache.old_trust);
        let [kind, class] = [cache.r#type, cache.class].map(Option::unwrap_or_default);
        let rdata = cache.rdata.iter().map(|data| rdata(kind, class, data));
        self.list("rdata", rdata.collect());
        self.number("rdata_omitted", cache.rdata_omitted);
        self.name("bailiwick", cache.bailiwick.as_ref());
        self.address("responder_address", cache.responder_address.as_ref());
        self.number("responder_port", cache.responder_port);
    }

    fn ns_change(&mut self, change: &NsChange) {
        let names = |names: &[Bytes]| names.iter().map(|wire| name(wire)).collect();
        self.name("name", change.name.as_ref());
        self.class(change.class);
        self.list("old_servers", names(&change.old_servers));
        self.list("new_servers", names(&change.new_servers));
        self.trust("old_trust", change.old_trust);
        self.trust("new_trust", change.new_trust);
        self.address("sender_address", change.sender_address.as_ref());
        self.number("sender_port", change.sender_port);
        self.flag("forced", change.forced);
        self.word("certainty", change.certainty, Certainty::as_str_name);
        self.flag("moved_back", change.moved_back);
        self.number("ttl", change.ttl);
    }

    fn purge(&mut self, purge: &Purge) {
        self.word("scope", purge.scope, Scope::as_str_name);
        self.name("name", purge.name.as_ref());
        self.class(purge.class);
        self.kind_of_record("type", purge.r#type);
        self.number("count", purge.count);
    }

    fn expiry(&mut self, expiry: &Expiry) {
        self.name("name", expiry.name.as_ref());
        self.class(expiry.class);
        self.kind_of_record("type", expiry.r#type);
        self.kind_of_record("covers", expiry.covers);
        self.number("ttl", expiry.ttl);
        self.trust("trust", expiry.trust);
        self.flag("inferred", expiry.inferred);
    }

    fn unanswered(&mut self, query: &Unanswered) {
        let message_type = query.message_type.map(|number| {
            let known = i32::try_from(number).ok();
            match known.and_then(|number| message::Type::try_from(number).ok()) {
                Some(kind) => model::long_name(kind).to_owned(),
                None => format!("TYPE{number}"),
            }
        });
        let protocol = query.socket_protocol.map(|number| {
            let known = i32::try_from(number).ok();
            match known.and_then(|number| SocketProtocol::try_from(number).ok()) {
                Some(protocol) => socket::protocol_name(protocol).to_owned(),
                None => format!("PROTOCOL{number}"),
            }
        });
        self.text("message_type", message_type);
        self.address("client_address", query.client_address.as_ref());
        self.number("client_port", query.client_port);
        self.address("server_address", query.server_address.as_ref());
        self.number("server_port", query.server_port);
        self.name("name", query.name.as_ref());
        self.class(query.class);
        self.kind_of_record("type", query.r#type);
        self.number("waited_ns", query.waited_ns);
        self.text("socket_protocol", protocol);
    }

    fn text(&mut self, member: &'static str, text: Option<impl Into<String>>) {
        let value = text.map(|text| (member, Value::Text(text.into())));
        self.0.extend(value);
    }

    fn number(&mut self, member: &'static str, number: Option<impl Into<u64>>) {
        let value = number.map(|number| (member, Value::Number(number.into())));
        self.0.extend(value);
    }

    fn flag(&mut self, member: &'static str, flag: Option<bool>) {
        self.0.extend(flag.map(|flag| (member, Value::Flag(flag))));
    }

    fn list(&mut self, member: &'static str, list: Vec<String>) {
        if !list.is_empty() {
            self.0.push((member, Value::List(list)));
        }
    }

    fn name(&mut self, member: &'static str, wire: Option<&Bytes>) {
        self.text(member, wire.map(|wire| name(wire)));
    }

    fn address(&mut self, member: &'static str, address: Option<&Bytes>) {
        let address = socket::address(address.map(|address| &address[..]));
        self.text(member, address.map(|address| address.to_string()));
    }

    fn class(&mut self, class: Option<u32>) {
        self.text("class", class.map(class_name));
    }

    fn kind_of_record(&mut self, member: &'static str, kind: Option<u32>) {
        self.text(member, kind.map(kind_name));
    }

    fn trust(&mut self, member: &'static str, trust: Option<i32>) {
        self.word(member, trust, |trust: &Trust| trust_name(*trust));
    }

    /// Adds a value of an enum as a word, or as its number if it has no word.
    fn word<E: TryFrom<i32>>(
        &mut self,
        member: &'static str,
        number: Option<i32>,
        word: impl FnOnce(&E) -> &'static str,
    ) {
        self.text(
            member,
            number.map(|number| match E::try_from(number) {
                Ok(value) => to_word(word(&value)),
                Err(_) => format!("number-{number}"),
            }),
        );
    }

    fn find(&self, member: &str) -> Option<&Value> {
        let found = self.0.iter().find(|(name, _)| *name == member);
        found.map(|(_, value)| value)
    }

    /// Returns the text of a member; `-` if it is not known.
    fn shown(&self, member: &str) -> String {
        match self.find(member) {
            Some(Value::Text(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            Some(Value::Flag(flag)) => flag.to_string(),
            Some(Value::List(list)) => list.join(" "),
            None => "-".to_owned(),
        }
    }

    fn has(&self, member: &str) -> bool {
        matches!(self.find(member), Some(Value::Flag(true)))
    }
}

fn trust_name(trust: Trust) -> &'static str {
    match trust {
        // The name has a prefix, because names of all enums share one space.
        Trust::None => "NONE",
        other => other.as_str_name(),
    }
}

/// Returns the word for a trust.
pub(super) fn trust(trust: Trust) -> String {
    to_word(trust_name(trust))
}

/// Turns the name of an enum's value into a word.
fn to_word(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

/// Prints a name, or bytes that are no name as hexadecimal digits behind `\#`.
fn name(wire: &[u8]) -> String {
    match Name::parse(wire, 0) {
        Ok((name, end)) if end == wire.len() => name.to_string(),
        _ => generic(wire),
    }
}

fn generic(bytes: &[u8]) -> String {
    let digits = data_encoding::HEXUPPER.encode(bytes);
    format!("\\# {} {digits}", bytes.len())
        .trim_end()
        .to_owned()
}

fn class_name(number: u32) -> String {
    u16::try_from(number).map_or_else(
        |_| format!("CLASS{number}"),
        |class| Class(class).to_string(),
    )
}

fn kind_name(number: u32) -> String {
    u16::try_from(number).map_or_else(|_| format!("TYPE{number}"), |kind| Type(kind).to_string())
}

/// Prints rdata of a type and a class.
fn rdata(kind: u32, class: u32, data: &[u8]) -> String {
    let (Ok(kind), Ok(class), Ok(length)) = (
        u16::try_from(kind),
        u16::try_from(class),
        u16::try_from(data.len()),
    ) else {
        return generic(data);
    };
    // A message with one answer, whose owner is the root.
    let mut message = vec![0; 12];
    message[7] = 1;
    message.push(0);
    for field in [kind, class, 0, 0, length] {
        message.extend(field.to_be_bytes());
    }
    message.extend(data);
    let dns = Dns::parse(&message).ok();
    let record = dns.and_then(|dns| dns.records().next()?.ok());
    record.map_or_else(
        || generic(data),
        |(_, record): (_, Record<'_>)| Rdata::of(&record).to_string(),
    )
}

/// Appends the line of text.
pub(super) fn text(
    event: &Event,
    line: &Line,
    identity: bool,
    clock: &mut Clock,
    colours: Colours,
    out: &mut Vec<u8>,
) {
    match event.time_sec {
        Some(seconds) => clock.write(seconds, event.time_nsec.unwrap_or_default(), 6, out),
        None => out.push(b'-'),
    }
    let mut text = String::new();
    // Writing to a string does not fail.
    describe(event, line, colours, &mut text).unwrap_or_default();
    if identity && let Some(bytes) = &event.identity {
        let shown = extra::escaped(bytes).replace(' ', "\\x20");
        write!(text, " identity={shown}").unwrap_or_default();
    }
    out.push(b' ');
    out.extend(text.bytes());
    out.push(b'\n');
}

fn describe(event: &Event, line: &Line, colours: Colours, text: &mut String) -> std::fmt::Result {
    let is_start = event.phase == Some(Phase::Start as i32);
    match &event.kind {
        None => write!(text, "- an event of an unknown kind"),
        Some(Kind::Transfer(transfer)) => {
            describe_transfer(transfer, is_start, line, colours, text)
        }
        Some(Kind::RateLimit(limit)) => describe_limit(limit, line, colours, text),
        Some(Kind::Cache(cache)) => describe_cache(cache, line, colours, text),
        Some(Kind::NsChange(change)) => describe_ns_change(change, line, colours, text),
        Some(Kind::Purge(purge)) => describe_purge(purge, line, colours, text),
        Some(Kind::Expiry(expiry)) => {
            let sign = if line.has("inferred") { "?" } else { "" };
            write!(text, "expiry{sign} ")?;
            describe_rrset(expiry.covers, line, colours, text)?;
            write!(text, " TTL {} {}", line.shown("ttl"), line.shown("trust"))
        }
        Some(Kind::Unanswered(query)) => {
            write!(text, "unanswered {} ", line.shown("message_type"))?;
            write!(text, "{} -> ", end(line, "client_address", "client_port"))?;
            write!(text, "{} ", end(line, "server_address", "server_port"))?;
            write!(text, "{} ", line.shown("socket_protocol"))?;
            describe_rrset(None, line, colours, text)?;
            write_duration(query.waited_ns, text)
        }
    }?;
    if event.view.is_some() {
        let view = line.shown("view");
        write!(text, " view {}", extra::escaped(view.as_bytes()))?;
    }
    Ok(())
}

/// Prints name, class and type; for signatures also the type that they cover.
fn describe_rrset(
    covers: Option<u32>,
    line: &Line,
    colours: Colours,
    text: &mut String,
) -> std::fmt::Result {
    let [name, class, kind] = ["name", "class", "type"].map(|member| line.shown(member));
    write!(text, "{} {class} {kind}", colours.name(name))?;
    if covers.is_some_and(|covers| covers != 0) {
        write!(text, " ({})", line.shown("covers"))?;
    }
    Ok(())
}

fn describe_limit(
    limit: &RateLimit,
    line: &Line,
    colours: Colours,
    text: &mut String,
) -> std::fmt::Result {
    let shown = |member: &str| line.shown(member);
    write!(
        text,
        "{} {} ",
        colours.warning("rate-limit"),
        shown("phase")
    )?;
    let (address, bits) = (shown("client_address"), shown("client_prefix_length"));
    write!(text, "{address}/{bits} ")?;
    describe_rrset(None, line, colours, text)?;
    if limit.category.is_some() {
        write!(text, " {}", shown("category"))?;
    }
    if limit.dropped.is_some() || limit.slipped.is_some() {
        let (dropped, slipped) = (shown("dropped"), shown("slipped"));
        write!(text, ": {dropped} dropped, {slipped} slipped")?;
    }
    write_duration(limit.duration_ns, text)?;
    if line.has("log_only") {
        text.push_str(", only logged");
    }
    Ok(())
}

fn describe_cache(
    cache: &Cache,
    line: &Line,
    colours: Colours,
    text: &mut String,
) -> std::fmt::Result {
    let shown = |member: &str| line.shown(member);
    let sign = if line.has("inferred") { "?" } else { "" };
    write!(text, "cache {}{sign} ", shown("outcome"))?;
    describe_rrset(cache.covers, line, colours, text)?;
    write!(text, " TTL {} {}", shown("ttl"), shown("trust"))?;
    if cache.old_trust.is_some() {
        write!(text, " (was {})", shown("old_trust"))?;
    }
    if let Some(Value::List(data)) = line.find("rdata") {
        write!(text, ": {}", data.join(" | "))?;
    }
    if let Some(omitted) = cache.rdata_omitted.filter(|omitted| *omitted > 0) {
        write!(text, " and {omitted} more")?;
    }
    if cache.bailiwick.is_some() {
        write!(text, " in {}", shown("bailiwick"))?;
    }
    if cache.responder_address.is_some() {
        let responder = end(line, "responder_address", "responder_port");
        write!(text, " from {responder}")?;
    }
    Ok(())
}

fn describe_ns_change(
    change: &NsChange,
    line: &Line,
    colours: Colours,
    text: &mut String,
) -> std::fmt::Result {
    let shown = |member: &str| line.shown(member);
    write!(text, "{} ", colours.alarm("NS-CHANGE"))?;
    write!(text, "{} {}: ", colours.name(shown("name")), shown("class"))?;
    let new = colours.alarm(shown("new_servers"));
    write!(
        text,
        "{} -> {new} TTL {}",
        shown("old_servers"),
        shown("ttl")
    )?;
    if change.sender_address.is_some() {
        write!(text, " from {}", end(line, "sender_address", "sender_port"))?;
    }
    write!(text, ", {}", shown("certainty"))?;
    if change.old_trust.is_some() || change.new_trust.is_some() {
        write!(
            text,
            ", trust {} -> {}",
            shown("old_trust"),
            shown("new_trust")
        )?;
    }
    for (member, words) in [("moved_back", ", moved back"), ("forced", ", forced")] {
        if line.has(member) {
            text.push_str(words);
        }
    }
    Ok(())
}

fn describe_purge(
    purge: &Purge,
    line: &Line,
    colours: Colours,
    text: &mut String,
) -> std::fmt::Result {
    let shown = |member: &str| line.shown(member);
    write!(text, "purge {}", shown("scope"))?;
    if purge.name.is_some() {
        write!(text, " {}", colours.name(shown("name")))?;
    }
    if purge.r#type.is_some() {
        write!(text, " {} {}", shown("class"), shown("type"))?;
    }
    if purge.count.is_some() {
        write!(text, ": {} RRsets", shown("count"))?;
    }
    Ok(())
}

fn describe_transfer(
    transfer: &Transfer,
    is_start: bool,
    line: &Line,
    colours: Colours,
    text: &mut String,
) -> std::fmt::Result {
    let shown = |member: &str| line.shown(member);
    write!(text, "transfer {} {} ", shown("direction"), shown("phase"))?;
    write!(text, "{} {} ", colours.name(shown("zone")), shown("class"))?;
    write!(
        text,
        "{} {}",
        end(line, "peer_address", "peer_port"),
        shown("requested")
    )?;
    if transfer.answered.is_some() && transfer.answered != transfer.requested {
        write!(text, " as {}", shown("answered"))?;
    }
    if let Some(status) = &transfer.status {
        let is_well = matches!(status.as_str(), "success" | "up to date");
        let status = extra::escaped(status.as_bytes());
        write!(text, ": {}", colours.outcome(is_well, status))?;
    }
    match (transfer.old_serial, transfer.new_serial) {
        (Some(old), Some(new)) => write!(text, ", serial {old} -> {new}")?,
        (Some(old), None) => write!(text, ", serial {old} ->")?,
        (None, Some(new)) => write!(text, ", serial {new}")?,
        (None, None) => {}
    }
    if !is_start {
        write!(
            text,
            ", {} messages, {} records, {} bytes",
            shown("messages"),
            shown("records"),
            shown("bytes")
        )?;
    }
    write_duration(transfer.duration_ns, text)?;
    if transfer.tsig_key.is_some() {
        write!(text, ", key {}", shown("tsig_key"))?;
    }
    for (member, words) in [("midway", ", start not seen"), ("tls", ", TLS")] {
        if line.has(member) {
            text.push_str(words);
        }
    }
    Ok(())
}

/// Prints an address and a port.
fn end(line: &Line, address: &str, port: &str) -> String {
    let (address, port) = (line.shown(address), line.shown(port));
    match format!("[{address}]:0").parse::<SocketAddr>() {
        Ok(_) => format!("[{address}]:{port}"),
        Err(_) => format!("{address}:{port}"),
    }
}

/// Prints a time in seconds, ` in 0.015 s`.
fn write_duration(nanoseconds: Option<u64>, text: &mut String) -> std::fmt::Result {
    let Some(nanoseconds) = nanoseconds else {
        return Ok(());
    };
    let milliseconds = nanoseconds / 1_000_000;
    write!(
        text,
        " in {}.{:03} s",
        milliseconds / 1000,
        milliseconds % 1000
    )
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        sync::{LazyLock, Mutex},
    };

    use proptest::prelude::*;
    use serde_json::Value as Json;

    use super::*;
    use crate::formats::{Content, render::Renderer};

    static SCHEMA: LazyLock<jsonschema::Validator> = LazyLock::new(|| {
        let text = include_str!("../../../../docs/dnstap-event.schema.json");
        let schema = serde_json::from_str(text).expect("JSON");
        let options = jsonschema::options().should_validate_formats(true);
        options.build(&schema).expect("a schema")
    });

    fn render(event: &Event, content: Content, colours: bool) -> String {
        let mut out = Vec::new();
        Renderer::new(content, colours).event(event, &mut out);
        String::from_utf8(out).expect("ASCII")
    }

    /// JSON type of each member in all objects.
    static TYPES: Mutex<BTreeMap<String, &'static str>> = Mutex::new(BTreeMap::new());

    fn check(event: &Event) {
        let json = render(event, Content::Json, false);
        let object: Json = serde_json::from_str(&json).expect("JSON");
        if let Err(error) = SCHEMA.validate(&object) {
            panic!("{error}: {json}");
        }
        for (name, value) in object.as_object().expect("an object") {
            let kind = match value {
                Json::Array(_) => "array",
                Json::Bool(_) => "boolean",
                Json::Number(number) if number.is_i64() => "integer",
                Json::String(_) => "string",
                other => panic!("{name} is {other}"),
            };
            let mut types = TYPES.lock().expect("no panic while it is held");
            assert_eq!(*types.entry(name.clone()).or_insert(kind), kind, "{name}");
        }
        for (content, lines) in [(Content::Text, 1), (Content::Full, 1), (Content::Json, 1)] {
            let text = render(event, content, false);
            assert_eq!(text.lines().count(), lines, "{text}");
            assert!(
                text.trim_end()
                    .bytes()
                    .all(|byte| matches!(byte, b' '..=b'~')),
                "{text}"
            );
        }
        assert!(render(event, Content::Yaml, false).starts_with("---\n"));
    }

    fn bytes() -> impl Strategy<Value = Option<Bytes>> {
        let name = prop::collection::vec((1..10_u8, any::<u8>()), 0..5).prop_map(|labels| {
            let mut wire = Vec::new();
            for (length, byte) in labels {
                wire.push(length);
                wire.extend(std::iter::repeat_n(byte, length.into()));
            }
            wire.push(0);
            Bytes::from(wire)
        });
        let any = prop::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from);
        prop::option::of(prop_oneof![name, any])
    }

    fn number() -> impl Strategy<Value = Option<u32>> {
        prop::option::of(prop_oneof![0..300_u32, any::<u32>()])
    }

    fn word() -> impl Strategy<Value = Option<i32>> {
        prop::option::of(prop_oneof![-1..12_i32, any::<i32>()])
    }

    proptest! {
        #[test]
        fn any_event_is_as_the_schema_says(
            one in bytes(), two in bytes(), three in bytes(),
            class in number(), r#type in number(), port in number(),
            first in word(), second in word(),
            large in prop::option::of(any::<u64>()),
            text in prop::option::of(any::<String>()),
            flag in prop::option::of(any::<bool>()),
        ) {
            let all: Vec<_> = [&one, &two, &three].into_iter().flatten().cloned().collect();
            for kind in [
                None,
                Some(Kind::Transfer(Transfer {
                    direction: first, zone: one.clone(), class, peer_address: two.clone(), peer_port: port, requested: r#type,
                    answered: class, old_serial: port, new_serial: r#type, tsig_key: three.clone(), messages: large,
                    records: large, bytes: large, duration_ns: large, status: text.clone(), midway: flag, tls: flag,
                })),
                Some(Kind::RateLimit(RateLimit {
                    client_address: one.clone(), client_prefix_length: port, name: two.clone(), class, r#type, category: first,
                    log_only: flag, dropped: large, slipped: large, duration_ns: large,
                })),
                Some(Kind::Cache(Cache {
                    outcome: first, inferred: flag, known_before: flag, name: one.clone(), class, r#type, covers: port,
                    ttl: port, trust: first, old_trust: second, rdata: all.clone(), rdata_omitted: port,
                    bailiwick: two.clone(), responder_address: three.clone(), responder_port: port,
                })),
                Some(Kind::NsChange(NsChange {
                    name: one.clone(), class, old_servers: all.clone(), new_servers: all.clone(), old_trust: first,
                    new_trust: second, sender_address: two.clone(), sender_port: port, forced: flag, certainty: first,
                    moved_back: flag, ttl: port,
                })),
                Some(Kind::Purge(Purge { scope: first, name: one.clone(), class, r#type, count: large })),
                Some(Kind::Expiry(Expiry {
                    name: one.clone(), class, r#type, covers: port, ttl: port, trust: first, inferred: flag,
                })),
                Some(Kind::Unanswered(Unanswered {
                    message_type: port, client_address: one.clone(), client_port: port, server_address: two.clone(),
                    server_port: port, name: three.clone(), class, r#type, waited_ns: large, socket_protocol: class,
                })),
            ] {
                check(&Event {
                    identity: one.clone(), version: two.clone(), time_sec: large, time_nsec: port, phase: first,
                    source: second, process_id: port, view: text.clone(), kind,
                });
            }
        }
    }

    fn event(phase: Phase, kind: Kind) -> Event {
        Event {
            identity: Some(Bytes::from_static(b"ns1")),
            time_sec: Some(1_795_448_004),
            time_nsec: Some(123_456_789),
            phase: Some(phase as i32),
            source: Some(Source::Socket as i32),
            process_id: Some(7),
            kind: Some(kind),
            ..Event::default()
        }
    }

    #[test]
    fn a_transfer_is_one_line_with_its_figures() {
        let event = event(
            Phase::End,
            Kind::Transfer(Transfer {
                direction: Some(Direction::Out as i32),
                zone: Some(Bytes::from_static(b"\x04zone\0")),
                class: Some(1),
                peer_address: Some(Bytes::from_static(&[0xfd; 16])),
                peer_port: Some(40_000),
                requested: Some(251),
                answered: Some(252),
                old_serial: Some(1),
                new_serial: Some(3),
                tsig_key: Some(Bytes::from_static(b"\x01k\0")),
                messages: Some(2),
                records: Some(9),
                bytes: Some(600),
                duration_ns: Some(15_500_000),
                status: Some("success".to_owned()),
                ..Transfer::default()
            }),
        );
        let text = render(&event, Content::Text, false);
        let expected = "2026-11-23T15:33:24.123456Z transfer out end zone. IN \
            [fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd]:40000 IXFR as AXFR: success, serial 1 -> 3, 2 messages, 9 records, \
            600 bytes in 0.015 s, key k.\n";
        assert_eq!(text, expected);
        let json = render(&event, Content::Json, false);
        let start = r#"{"time":"2026-11-23T15:33:24.123456789Z","identity":"ns1","kind":"transfer","phase":"end","source":"socket","pid":7,"#;
        assert!(json.starts_with(start), "{json}");
    }

    #[test]
    fn rdata_is_in_presentation_form() {
        let event = event(
            Phase::Point,
            Kind::Cache(Cache {
                outcome: Some(Outcome::TrustRaised as i32),
                r#type: Some(15),
                class: Some(1),
                trust: Some(Trust::AuthAnswer as i32),
                old_trust: Some(Trust::None as i32),
                rdata: vec![
                    Bytes::from_static(b"\0\x0a\x04mail\x04zone\0"),
                    Bytes::from_static(b"\0"),
                ],
                ..Cache::default()
            }),
        );
        let json: Json = serde_json::from_str(&render(&event, Content::Json, false)).expect("JSON");
        assert_eq!(
            json["rdata"],
            serde_json::json!(["10 mail.zone.", "\\# 1 00"])
        );
        assert_eq!(json["outcome"], "trust-raised");
        assert_eq!(
            (&json["trust"], &json["old_trust"]),
            (&"auth-answer".into(), &"none".into())
        );
    }

    #[test]
    fn new_name_servers_are_red_on_a_terminal_and_nothing_is_elsewhere() {
        let event = event(
            Phase::Point,
            Kind::NsChange(NsChange {
                name: Some(Bytes::from_static(b"\x04zone\0")),
                class: Some(1),
                old_servers: vec![
                    Bytes::from_static(b"\x01a\0"),
                    Bytes::from_static(b"\x01b\0"),
                ],
                new_servers: vec![Bytes::from_static(b"\x01c\0")],
                sender_address: Some(Bytes::from_static(&[192, 0, 2, 53])),
                sender_port: Some(53),
                certainty: Some(Certainty::Offered as i32),
                moved_back: Some(true),
                ttl: Some(30),
                ..NsChange::default()
            }),
        );
        let plain =
            "NS-CHANGE zone. IN: a. b. -> c. TTL 30 from 192.0.2.53:53, offered, moved back\n";
        assert!(render(&event, Content::Text, false).ends_with(plain));
        let coloured = render(&event, Content::Text, true);
        assert!(
            coloured.contains("\x1b[1;31mNS-CHANGE\x1b[0m"),
            "{coloured}"
        );
    }
}

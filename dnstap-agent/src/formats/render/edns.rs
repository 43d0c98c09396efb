//! Rendering of the OPT record (RFC 6891 section 6.1.3): as a JSON object, and as lines of text.
//!
//! An option's members come from `dnstap_core::dns` and are the same in both. If they do not show
//! everything, the option's bytes follow in hexadecimal.

use std::fmt::{self, Display};

use data_encoding::HEXLOWER;
use dnstap_core::dns::{Opt, OptOption, OptValue, Quoted};
use serde::{
    Serialize, Serializer,
    ser::{SerializeMap as _, SerializeStruct as _},
};

/// An OPT record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edns<'a>(pub(super) Opt<'a>);

impl Edns<'_> {
    fn has_name(&self) -> bool {
        self.0.name().labels().next().is_some()
    }
}

/// ```text
/// edns version 0, udp 1232, do
///   option 10 COOKIE: client 0011223344556677
/// ```
impl Display for Edns<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let opt = &self.0;
        write!(f, "edns version {}, udp {}", opt.version(), opt.udp_size())?;
        if opt.dnssec_ok() {
            f.write_str(", do")?;
        }
        if opt.compact_ok() {
            f.write_str(", co")?;
        }
        if opt.z() != 0 {
            write!(f, ", z {}", opt.z())?;
        }
        if opt.extended_rcode() != 0 {
            write!(f, ", extended rcode {}", opt.extended_rcode())?;
        }
        if self.has_name() {
            write!(f, ", name {}", opt.name())?;
        }
        for option in opt.options() {
            write!(f, "\n  {}", Line(&option))?;
        }
        Ok(())
    }
}

/// An option, which prints as a line.
struct Line<'o>(&'o OptOption<'o>);

impl Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(option) = self;
        f.write_str("option")?;
        if let Some(code) = option.code {
            write!(f, " {code}")?;
        }
        if let Some(name) = option.name() {
            write!(f, " {name}")?;
        }
        let mut separator = ": ";
        if let Some(error) = option.malformed {
            write!(f, "{separator}malformed ({error})")?;
            separator = ", ";
        }
        for (name, value) in option.members() {
            write!(f, "{separator}{name} ")?;
            match value {
                OptValue::Text(text) => Quoted(text.as_bytes()).fmt(f)?,
                value => Shown(value).fmt(f)?,
            }
            separator = ", ";
        }
        if option.needs_hex() {
            write!(f, "{separator}hex {}", HEXLOWER.encode_display(option.data))?;
        }
        Ok(())
    }
}

/// A value, which prints as text.
pub(super) struct Shown<'a>(pub(super) OptValue<'a>);

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            OptValue::Number(number) => number.fmt(f),
            OptValue::Numbers(numbers) => {
                let numbers = numbers.iter().map(|number| u16::from_be_bytes(*number));
                listed(numbers, f)
            }
            OptValue::Octets(octets) => listed(octets.iter(), f),
            OptValue::Hex(bytes) => HEXLOWER.encode_display(bytes).fmt(f),
            OptValue::Text(text) => f.write_str(text),
            OptValue::Word(word) => f.write_str(word),
            OptValue::Subnet(address, length) => write!(f, "{address}/{length}"),
            OptValue::Name(name) => name.fmt(f),
        }
    }
}

fn listed(items: impl Iterator<Item = impl Display>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (nth, item) in items.enumerate() {
        let separator = if nth == 0 { "" } else { " " };
        write!(f, "{separator}{item}")?;
    }
    Ok(())
}

impl Serialize for Edns<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let opt = &self.0;
        let mut map = serializer.serialize_struct("edns", 8)?;
        map.serialize_field("udp_size", &opt.udp_size())?;
        map.serialize_field("version", &opt.version())?;
        map.serialize_field("do", &opt.dnssec_ok())?;
        map.serialize_field("co", &opt.compact_ok())?;
        if opt.z() != 0 {
            map.serialize_field("z", &opt.z())?;
        }
        if opt.extended_rcode() != 0 {
            map.serialize_field("extended_rcode", &opt.extended_rcode())?;
        }
        if self.has_name() {
            map.serialize_field("name", &format_args!("{}", opt.name()))?;
        }
        if opt.options().next().is_some() {
            map.serialize_field("options", &Options(opt))?;
        }
        map.end()
    }
}

struct Options<'o>(&'o Opt<'o>);

impl Serialize for Options<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.options().map(Object))
    }
}

/// An option, which serializes as an object.
struct Object<'a>(OptOption<'a>);

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(option) = self;
        let mut map = serializer.serialize_map(None)?;
        if let Some(code) = option.code {
            map.serialize_entry("code", &code)?;
        }
        if let Some(name) = option.name() {
            map.serialize_entry("name", name)?;
        }
        for (name, value) in option.members() {
            map.serialize_entry(name, &Member(value))?;
        }
        if option.needs_hex() {
            map.serialize_entry("hex", &HEXLOWER.encode(option.data))?;
        }
        if let Some(error) = option.malformed {
            map.serialize_entry("malformed", error)?;
        }
        map.end()
    }
}

struct Member<'a>(OptValue<'a>);

impl Serialize for Member<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            OptValue::Number(number) => serializer.serialize_u64(number),
            OptValue::Numbers(numbers) => {
                let numbers = numbers.iter().map(|number| u16::from_be_bytes(*number));
                serializer.collect_seq(numbers)
            }
            OptValue::Octets(octets) => serializer.collect_seq(octets),
            value => serializer.collect_str(&Shown(value)),
        }
    }
}

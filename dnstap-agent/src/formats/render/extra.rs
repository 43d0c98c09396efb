//! Owns what the `extra` field of dnstap shows: programs put what they like there; this agent, a JSON object.

use std::fmt::Write as _;

use serde_json::Value;

/// A field that is a JSON object; `None` if it is anything else.
pub(super) fn object(extra: &[u8]) -> Option<Value> {
    serde_json::from_slice(extra).ok().filter(Value::is_object)
}

/// A field as printable ASCII: other bytes as `\xNN`, a backslash as two.
pub(super) fn escaped(extra: &[u8]) -> String {
    let mut text = String::with_capacity(extra.len());
    for byte in extra {
        match byte {
            b'\\' => text.push_str("\\\\"),
            b' '..=b'~' => text.push(char::from(*byte)),
            // Writing to a string does not fail.
            _ => write!(text, "\\x{byte:02x}").unwrap_or_default(),
        }
    }
    text
}

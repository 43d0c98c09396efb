//! Owns how fields of bytes are shown in which programs put what they like: `extra`, where this agent puts a JSON object, `identity`,
//! `version` and the texts of a policy.

use std::{borrow::Cow, fmt::Write as _};

use serde_json::Value;

/// Longest field that is looked at as JSON, and how deep it may be: a tree takes many times its bytes, and readers of our JSON have limits
/// of their own.
const LONGEST: usize = 64 * 1024;
const DEEPEST: usize = 16;

/// A field that is a JSON object, and neither long nor deep; `None` if it is anything else.
pub(super) fn object(extra: &[u8]) -> Option<Value> {
    let object = Some(extra).filter(|extra| extra.len() <= LONGEST);
    let object = object.and_then(|extra| serde_json::from_slice(extra).ok());
    object.filter(|object: &Value| object.is_object() && is_shallow(object, DEEPEST))
}

fn is_shallow(value: &Value, most: usize) -> bool {
    let below = |value: &Value| most > 0 && is_shallow(value, most - 1);
    match value {
        Value::Array(items) => items.iter().all(below),
        Value::Object(members) => members.values().all(below),
        _ => true,
    }
}

/// A field that should be text: as it is, or with each byte that is not UTF-8 as `\xNN`, and a backslash as two.
pub(crate) fn text(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = str::from_utf8(bytes)
        && !text.contains('\\')
    {
        return text.into();
    }
    let mut shown = String::with_capacity(bytes.len() + 8);
    for chunk in bytes.utf8_chunks() {
        shown.push_str(&chunk.valid().replace('\\', "\\\\"));
        for byte in chunk.invalid() {
            // Writing to a string does not fail.
            write!(shown, "\\x{byte:02x}").unwrap_or_default();
        }
    }
    shown.into()
}

/// A field as printable ASCII: other bytes as `\xNN`, a backslash as two.
pub(crate) fn escaped(extra: &[u8]) -> String {
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

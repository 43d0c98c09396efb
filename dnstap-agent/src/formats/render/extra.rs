//! Owns how fields of bytes are shown in which programs put what they like: `extra`, where this agent puts a JSON object, `identity`,
//! `version` and the texts of a policy.

use std::{borrow::Cow, fmt::Write as _};

use serde_json::Value;

/// A field that is a JSON object; `None` if it is anything else.
pub(super) fn object(extra: &[u8]) -> Option<Value> {
    serde_json::from_slice(extra).ok().filter(Value::is_object)
}

/// A field that should be text: as it is, or with each byte that is not UTF-8 as `\xNN`, and a backslash as two.
pub(super) fn text(bytes: &[u8]) -> Cow<'_, str> {
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

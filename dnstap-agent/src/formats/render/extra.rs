//! Owns how fields of bytes are shown in which programs put what they like: `extra`, where this agent puts a JSON object, `identity`,
//! `version` and the texts of a policy.

use std::{borrow::Cow, fmt::Write as _};

use serde::{Deserialize, Serialize};

/// What this agent writes into `extra` (`encode/extra.rs` of the core, and its reports of unanswered queries), each member if it is there.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Own<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hook: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    netns: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unsolicited: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waited_ns: Option<i64>,
}

impl<'a> Own<'a> {
    /// `None` if the field is anything else, to the last byte: then members would not say all that it says.
    pub(crate) fn of(extra: &'a [u8]) -> Option<Self> {
        let own = serde_json::from_slice(extra).ok()?;
        let written = serde_json::to_vec(&own).ok()?;
        (written == extra && extra != b"{}").then_some(own)
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

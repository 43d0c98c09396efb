//! Rendering of byte fields with arbitrary content: `extra`, in which this agent puts a JSON
//! object, `identity`, `version` and texts of a policy.

use std::{borrow::Cow, fmt::Write as _};

use serde::{Deserialize, Serialize};

/// Members that this agent writes into `extra` (`encode/extra.rs` of the core, and reports of
/// unanswered queries); all are optional.
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
    /// Parses the field. Returns `None` if it is not exactly such an object, because the members
    /// would then not show everything in it.
    pub(crate) fn of(extra: &'a [u8]) -> Option<Self> {
        let own = serde_json::from_slice(extra).ok()?;
        let written = serde_json::to_vec(&own).ok()?;
        (written == extra && extra != b"{}").then_some(own)
    }
}

/// Converts a field to text. A byte that is not UTF-8 becomes `\xNN`, and a backslash becomes two.
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

/// Converts a field to printable ASCII: other bytes become `\xNN`, backslashes are doubled.
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

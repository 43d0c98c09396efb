//! Owns bytes as hexadecimal digits, two for each, in lower case.

use std::fmt;

/// Prints all of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hexadecimal<'a>(pub(super) &'a [u8]);

impl fmt::Display for Hexadecimal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

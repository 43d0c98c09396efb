//! The registered domain of a name: its public suffix (publicsuffix.org) and one more label.

use std::fmt::Write as _;

use dnstap_core::dns::{Label, Name};
use psl::{List, Psl as _};

/// Finds registered domains; reuses its memory for the next name.
#[derive(Debug, Default)]
pub(crate) struct Registered {
    /// Labels in lower case, top level first.
    labels: Vec<Vec<u8>>,
    text: String,
}

impl Registered {
    /// Returns the registered domain of the name as text, such as `example.co.uk.`. For a public
    /// suffix or the root, this is the name itself.
    pub(crate) fn of(&mut self, name: Name<'_>) -> &str {
        let mut labels: Vec<&[u8]> = name.labels().collect();
        labels.reverse();
        self.labels
            .resize_with(labels.len().max(self.labels.len()), Vec::new);
        for (own, label) in self.labels.iter_mut().zip(&labels) {
            own.clear();
            own.extend(label.iter().map(u8::to_ascii_lowercase));
        }
        let labels = &self.labels[..labels.len()];
        let suffix = List.find(labels.iter().map(Vec::as_slice)).len;
        // The suffix's length includes dots between labels. Labels are counted rather than bytes,
        // because a label may contain dots, too.
        let mut length = 0;
        let mut taken = 0;
        for label in labels {
            if taken > 0 && length >= suffix {
                break;
            }
            length += label.len() + usize::from(taken > 0);
            taken += 1;
        }
        self.text.clear();
        for label in labels.iter().take(taken + 1).rev() {
            // Writing to a string does not fail.
            write!(self.text, "{}.", Label(label)).unwrap_or_default();
        }
        if self.text.is_empty() {
            self.text.push('.');
        }
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::below_a_top_level(&["www", "Example", "com"], "example.com.")]
    #[case::below_a_suffix_of_two_labels(&["a", "b", "example", "co", "uk"], "example.co.uk.")]
    #[case::the_domain_itself(&["example", "co", "uk"], "example.co.uk.")]
    #[case::a_suffix(&["co", "uk"], "co.uk.")]
    #[case::a_wildcard(&["a", "b", "c", "ck"], "b.c.ck.")]
    #[case::an_unknown_top_level(&["a", "b", "lab"], "b.lab.")]
    #[case::a_top_level(&["com"], "com.")]
    #[case::the_root(&[], ".")]
    #[case::a_dot_within_a_label(&["a.b", "com"], "a\\.b.com.")]
    #[case::a_dot_that_looks_like_a_suffix(&["x", "co.uk"], "x.co\\.uk.")]
    #[case::markup(&["<b>", "com"], "<b>.com.")]
    fn the_registered_domain_is_one_label_below_the_public_suffix(
        #[case] labels: &[&str],
        #[case] expected: &str,
    ) {
        let mut wire = Vec::new();
        for label in labels {
            wire.push(u8::try_from(label.len()).expect("a label"));
            wire.extend(label.as_bytes());
        }
        wire.push(0);
        let (name, _) = Name::parse(&wire, 0).expect("a name");
        let mut registered = Registered::default();
        assert_eq!(registered.of(name), expected);
        assert_eq!(registered.of(name), expected, "again");
    }
}

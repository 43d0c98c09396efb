//! Losses in the shown data, and the line above all tables that sums them up.

use std::borrow::Cow;

use crate::{
    observe::summary::Loss,
    tally::{
        View,
        tables::{Table, rate},
    },
};

/// Builds the table of losses.
pub(super) fn table(losses: &[Loss]) -> Table {
    let rows = losses.iter().map(|loss| {
        vec![
            format!("{} {}", loss.hop, loss.reason),
            loss.count.to_string(),
        ]
    });
    Table {
        title: "Losses since the start".to_owned(),
        columns: &["LOSS", "COUNT"],
        rows: rows.collect(),
    }
}

/// Builds the headline: `2000 messages in 30.0 s (66.7 per second), 4000 in all; lost: none`.
pub(super) fn headline(view: &View, losses: &[Loss]) -> String {
    let View {
        messages,
        all,
        malformed,
        span,
        ..
    } = view;
    let seconds = span.map_or_else(
        || "-".to_owned(),
        |span| format!("{:.1}", span.as_secs_f64()),
    );
    let lost: Vec<_> = losses
        .iter()
        .map(|loss| format!("{} {}", loss.reason, loss.count))
        .collect();
    format!(
        "{messages} messages in {seconds} s ({} per second), {all} in all{}; lost: {}",
        rate(*messages, *span),
        match malformed {
            0 => Cow::Borrowed(""),
            malformed => format!("; malformed: {malformed}").into(),
        },
        if lost.is_empty() {
            "none".to_owned()
        } else {
            lost.join(", ")
        }
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dnstap_proto::message::Type;

    use super::*;
    use crate::tally::{Tally, tests::message};

    #[test]
    fn the_headline_is_of_the_window_and_names_losses() {
        let mut tally = Tally::new(Some(Duration::from_secs(10)), Some(0));
        for nth in 0..20 {
            tally.count(nth * 1_000_000_000, &message(Type::ClientQuery, "a", 0, 0));
        }
        let loss = Loss {
            hop: "kernel".to_owned(),
            reason: "ring_full",
            count: 7,
        };
        assert_eq!(
            headline(&tally.view(10), &[loss]),
            "10 messages in 9.0 s (1.1 per second), 20 in all; lost: ring_full 7"
        );
    }
}

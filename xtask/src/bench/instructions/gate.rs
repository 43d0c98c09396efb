//! The gate of `cargo xtask test`: the tap's cost under one load on one kernel must not rise above the recorded one.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{
    measure,
    plan::{self, UNTAPPED},
    report::Line,
};
use crate::{build, paths, results::Results, tally::Tally, ui};

/// File of the recorded figures, and the command that writes it.
const RECORDED: &str = "docs/benchmarks/recorded.json";
const RECORD: &str = "cargo xtask bench --instructions --record";
/// Allowed increase as a fraction of the recorded figure. It is larger than the difference between two runs of the same
/// programs.
const ALLOWED: f64 = 0.05;

/// Instructions per query of server and helper above the untapped server, by contender.
struct Figures {
    kernel: String,
    above: BTreeMap<String, f64>,
}

/// Counts, and compares with the recorded figures. Each hook is one test.
pub(in super::super) fn test() -> Result<Results> {
    let (now, recorded) = (counted()?, recorded()?);
    let mut results = Results::default();
    for (hook, above) in &now.above {
        let was = recorded.above.get(hook).copied();
        let (text, holds) = judge(hook, *above, was);
        println!("{text}");
        results += if holds {
            Tally::PASSED.into()
        } else {
            Results::failed(&text)
        };
    }
    if now.kernel != recorded.kernel {
        ui::note(format_args!(
            "recorded with kernel {}, counted with {}: if all figures differ alike, record them again: {RECORD}",
            recorded.kernel, now.kernel
        ));
    }
    Ok(results)
}

/// Counts, and records the figures.
pub(super) fn record() -> Result<()> {
    let now = counted()?;
    let json = json!({
        "written_by": RECORD,
        "kernel": now.kernel,
        "instructions_per_query_above_untapped": now
            .above
            .iter()
            .map(|(hook, above)| (hook.clone(), above.round().into()))
            .collect::<serde_json::Map<_, _>>(),
    });
    let path = path();
    let text = serde_json::to_string_pretty(&json)? + "\n";
    fs::write(&path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    print!("{text}");
    ui::note(path.display());
    Ok(())
}

fn counted() -> Result<Figures> {
    let agent = build::release()?;
    let counted = measure(&agent, &[plan::gate()?])?;
    let counted = counted.first().context("nothing was counted")?;
    let taps = counted.counts.iter().map(|count| &count.contender);
    Ok(Figures {
        kernel: counted.kernel.clone(),
        above: taps
            .filter(|contender| *contender != UNTAPPED)
            .filter_map(|hook| Some((hook.clone(), Line::of(&counted.counts, hook)?.above)))
            .collect(),
    })
}

fn recorded() -> Result<Figures> {
    let path = path();
    let text = fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}; write it by {RECORD}", path.display()))?;
    parse(&text).with_context(|| format!("{} is damaged; write it by {RECORD}", path.display()))
}

fn parse(text: &str) -> Option<Figures> {
    let json: Value = serde_json::from_str(text).ok()?;
    let above = json["instructions_per_query_above_untapped"].as_object()?;
    Some(Figures {
        kernel: json["kernel"].as_str()?.to_owned(),
        above: above
            .iter()
            .map(|(hook, above)| Some((hook.clone(), above.as_f64()?)))
            .collect::<Option<_>>()?,
    })
}

/// Describes a figure, and returns whether it passes the gate.
fn judge(hook: &str, now: f64, recorded: Option<f64>) -> (String, bool) {
    let what = format!("tap {hook}: {now:.0} instructions per query above the untapped server");
    let Some(recorded) = recorded else {
        return (
            format!("{what}; nothing is recorded for this hook; record it: {RECORD}"),
            false,
        );
    };
    let more = now / recorded - 1.0;
    let what = format!("{what}, recorded {recorded:.0}: {:+.1} %", 100.0 * more);
    if more > ALLOWED {
        let remedy = format!(
            "{what}, more than {:.0} %. Where: `cargo xtask bench --instructions --kernel 6.12`, `cargo xtask bench --stages`. \
             If it is worth that: `{RECORD}`",
            100.0 * ALLOWED
        );
        (remedy, false)
    } else if more < -ALLOWED {
        (
            format!("{what}. So that it stays that low: `{RECORD}`"),
            true,
        )
    } else {
        (what, true)
    }
}

fn path() -> PathBuf {
    paths::root().join(RECORDED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::in_one_line;

    #[test]
    fn what_is_recorded_can_be_read() {
        let recorded = recorded().expect("it is committed");
        let job = plan::gate().expect("its kernel is known");
        for contender in job.contenders {
            assert_eq!(
                recorded.above.contains_key(contender),
                contender != UNTAPPED
            );
        }
    }

    #[test]
    fn five_percent_more_is_allowed_and_not_more() {
        assert!(judge("fentry", 10_499.0, Some(10_000.0)).1);
        assert!(judge("fentry", 5_000.0, Some(10_000.0)).1);
        let (text, holds) = judge("fentry", 10_501.0, Some(10_000.0));
        assert!(!holds);
        assert_eq!(in_one_line(&text), text, "the report at the end cuts it");
        assert!(text.contains("10501") && text.contains("recorded 10000") && text.contains(RECORD));
        assert!(!judge("fentry", 1.0, None).1);
    }
}

//! Runs all servers, one after the other, and prints the table of their results.

use std::{collections::BTreeMap, fmt::Write as _, time::Instant};

use anyhow::{Context as _, Result, bail};

use super::{Entry, Outcome, SERVERS, entry, judge};
use crate::environment::{Combination, Skip, combinations};

/// One line of the table.
struct Row {
    entry: &'static Entry,
    outcome: Result<Outcome>,
    seconds: f64,
}

/// Runs the referee for `words`: `--server NAME`, `--hook HOOK`, each any number of times. The table goes to standard
/// output. Returns whether all results are right.
pub(crate) fn run(words: &[String]) -> Result<bool> {
    let (mut chosen, mut hooks) = (Vec::new(), Vec::new());
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("{word} what?"))?;
        match word.as_str() {
            "--server" => chosen.push(entry(value)?),
            "--hook" => hooks.push(value.clone()),
            _ => bail!("what is {word}?"),
        }
    }
    if chosen.is_empty() {
        chosen.extend(SERVERS);
    }
    let hooks = ways(&hooks);
    let mut rows = Vec::new();
    for entry in chosen {
        let start = Instant::now();
        let outcome = judge(entry, &hooks);
        let seconds = start.elapsed().as_secs_f64();
        eprintln!("{}: {seconds:.1} s", entry.name);
        match &outcome {
            Ok(outcome) => {
                for (how, judgement) in &outcome.judgements {
                    eprint!("  {how}: {judgement}");
                }
            }
            Err(error) => eprintln!("  {error:#}"),
        }
        rows.push(Row {
            entry,
            outcome,
            seconds,
        });
    }
    print!("{}", table(&rows)?);
    Ok(rows.iter().all(Row::holds))
}

/// Returns each hook once, with the first ring.
pub(crate) fn ways(hooks: &[String]) -> Vec<Combination> {
    let mut ways: Vec<Combination> = Vec::new();
    for how in combinations() {
        let wanted = hooks.is_empty() || hooks.contains(&how.hook);
        if wanted && ways.iter().all(|other| other.hook != how.hook) {
            ways.push(how);
        }
    }
    // A hook may be outside of the usual ones, such as fentry in a virtual machine.
    for hook in hooks {
        if ways.iter().all(|other| other.hook != *hook) {
            ways.push(Combination {
                hook: hook.clone(),
                ring: "bpf".into(),
            });
        }
    }
    ways
}

impl Row {
    /// Returns whether the row is right. A server that cannot be started is not a failure of the agent.
    fn holds(&self) -> bool {
        match &self.outcome {
            Ok(outcome) => outcome
                .judgements
                .iter()
                .all(|(_, judgement)| judgement.holds()),
            Err(error) => error.is::<Skip>(),
        }
    }
}

fn table(rows: &[Row]) -> Result<String> {
    let mut text = String::from(
        "| server | hook | on the wire | in the file | missing | extra | wrong | verdict |\n\
         |---|---|--:|--:|--:|--:|--:|---|\n",
    );
    for row in rows {
        let name = row.entry.name;
        match &row.outcome {
            Ok(outcome) => {
                for (hooks, line) in lines(outcome) {
                    writeln!(text, "| {name} | {hooks} | {line} |")?;
                }
            }
            Err(error) => {
                let verdict = if error.is::<Skip>() {
                    "not run"
                } else {
                    "**failed**"
                };
                writeln!(text, "| {name} | | | | | | | {verdict} |")?;
            }
        }
    }
    text.push_str("\n## The servers\n\n");
    for row in rows {
        let version = match &row.outcome {
            Ok(Outcome {
                version: Some(version),
                ..
            }) => format!("Version: {version}. "),
            _ => String::new(),
        };
        let Row { entry, seconds, .. } = row;
        writeln!(
            text,
            "- **{}**: {}.\n  {version}Run time: {seconds:.0} s.",
            entry.name, entry.about
        )?;
    }
    explanations(&mut text, rows)?;
    faults(&mut text, rows)?;
    Ok(text)
}

/// Returns the lines of the hooks; hooks with the same numbers share a line.
fn lines(outcome: &Outcome) -> Vec<(String, String)> {
    let mut lines: Vec<(String, String)> = Vec::new();
    for (how, judgement) in &outcome.judgements {
        let line = format!(
            "{} | {} | {} | {} | {} | {}",
            judgement.on_the_wire,
            judgement.in_the_file,
            judgement.missing.len(),
            judgement.extra.len(),
            judgement.wrong.len(),
            if judgement.holds() {
                "right"
            } else {
                "**wrong**"
            }
        );
        match lines.iter_mut().find(|(_, other)| *other == line) {
            Some((hooks, _)) => hooks.extend([", `", &how.hook, "`"]),
            None => lines.push((format!("`{}`", how.hook), line)),
        }
    }
    lines
}

/// Writes the known reasons for numbers that differ and are not wrong.
fn explanations(text: &mut String, rows: &[Row]) -> Result<()> {
    text.push_str("\n## Differences with a known reason\n\n");
    let mut reasons: BTreeMap<&str, BTreeMap<&str, Vec<usize>>> = BTreeMap::new();
    for row in rows {
        let Ok(outcome) = &row.outcome else {
            continue;
        };
        for (_, judgement) in &outcome.judgements {
            for (reason, count) in &judgement.explained {
                let servers = reasons.entry(reason).or_default();
                servers.entry(row.entry.name).or_default().push(*count);
            }
        }
        if outcome.encrypted > 0 {
            writeln!(
                text,
                "- Ciphertext, which the tap cannot read: {} bytes of {}",
                outcome.encrypted, row.entry.name
            )?;
        }
    }
    for (reason, servers) in reasons {
        let servers: Vec<_> = servers
            .iter()
            .map(|(name, counts)| {
                let mut counts: Vec<_> = counts.iter().map(ToString::to_string).collect();
                counts.dedup();
                format!("{name} {}", counts.join("/"))
            })
            .collect();
        let lines: Vec<_> = servers.chunks(5).map(|some| some.join(", ")).collect();
        writeln!(text, "- Messages {reason}:\n  {}", lines.join(",\n  "))?;
    }
    Ok(())
}

/// Writes the faults, and the servers that could not be run.
fn faults(text: &mut String, rows: &[Row]) -> Result<()> {
    if rows.iter().all(|row| row.holds() && row.outcome.is_ok()) {
        return Ok(());
    }
    text.push_str("\n## Wrong, or not run\n\n");
    for row in rows {
        let name = row.entry.name;
        match &row.outcome {
            Ok(outcome) => {
                for (how, judgement) in &outcome.judgements {
                    if !judgement.holds() {
                        writeln!(text, "- {name}, `{}`: {}", how.hook, judgement.in_short())?;
                    }
                }
            }
            Err(error) => {
                let reason = format!("{error:#}").replace('\n', "\n  ");
                writeln!(text, "- {name}:\n\n  ```text\n  {reason}\n  ```\n")?;
            }
        }
    }
    Ok(())
}
